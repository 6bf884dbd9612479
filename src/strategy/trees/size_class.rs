//! Which bin a free block belongs to.
//!
//! ```text
//!   bin       0   1    2    3   ...  31     32       33       34   ...   59          60
//!   bytes     -   16   32   48  ...  496    512..    640..    768..      57,344..    65,536..
//!             |   '------ one size each ---'  '----- four bins an octave ------'   all the rest
//!             never used
//! ```
//!
//! Up to 496 bytes a bin holds one size, so its first block is the best fit. Above, sizes in a bin
//! differ by up to a quarter; there trees find the best fit, one tree for the four bins of an octave.
#![forbid(unsafe_code)]

use core::hint::select_unpredictable;

/// The unit of every length and address of a block, in bytes.
pub(super) const GRANULE: usize = 1 << GRANULE_SHIFT;

/// log2 of [`GRANULE`].
pub(super) const GRANULE_SHIFT: u32 = 4;

/// The first bin whose blocks differ in size.
pub(super) const FIRST_RANGE: usize = 32;

/// The bin of every block from 64 KiB on.
pub(super) const LARGE: usize = 60;

/// The bins, rounded up to a power of two so that a masked index needs no bounds check.
pub(super) const BINS: usize = 64;

/// The trees: one an octave from 512 bytes on, and one for the large blocks.
pub(super) const TREES: usize = 8;

/// What [`bin_of`] computes for [`FIRST_RANGE`] granules, less that bin.
const QUARTERS_BEFORE: u64 =
    ((FIRST_RANGE as f64).to_bits() >> (f64::MANTISSA_DIGITS - 3)) - FIRST_RANGE as u64;

const _: () = assert!(tree_of(LARGE) == TREES - 1);

/// The bin of a free block of `length` bytes, a multiple of [`GRANULE`].
///
/// No branch: which side of 512 bytes a length lies on is what a predictor guesses worst.
#[inline]
pub(super) fn bin_of(length: usize) -> usize {
    let granules = length >> GRANULE_SHIFT;
    // A floating-point number's exponent and the two bits below its leading one, which number the
    // quarter of the octave: the conversion is exact, and cheaper than a bit scan without LZCNT.
    let quarters = (granules as f64).to_bits() >> (f64::MANTISSA_DIGITS - 3);
    let range = (quarters.wrapping_sub(QUARTERS_BEFORE) as usize).min(LARGE);
    select_unpredictable(granules < FIRST_RANGE, granules, range)
}

/// The first bin all of whose blocks have at least `length` bytes, a multiple of [`GRANULE`] above
/// zero; `LARGE + 1` if there is none.
#[inline]
pub(super) fn first_bin_that_fits(length: usize) -> usize {
    bin_of(length - GRANULE) + 1
}

/// The tree of the blocks in `bin`, which is at least [`FIRST_RANGE`].
#[inline]
pub(super) const fn tree_of(bin: usize) -> usize {
    ((bin - FIRST_RANGE) >> 2) & (TREES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_rise_with_the_length_and_hold_what_the_picture_says() {
        let mut last = 0;
        for granules in 1..10_000 {
            let bin = bin_of(granules * GRANULE);
            assert!(bin == last || bin == last + 1, "{granules}");
            assert!(bin <= LARGE);
            last = bin;
        }
        assert_eq!(bin_of(496), 31);
        assert_eq!(bin_of(512), 32);
        assert_eq!(bin_of(624), 32);
        assert_eq!(bin_of(640), 33);
        assert_eq!(bin_of(57_344), 59);
        assert_eq!(bin_of(65_520), 59);
        assert_eq!(bin_of(65_536), LARGE);
        assert_eq!(bin_of(1 << 46), LARGE);
    }

    #[test]
    fn the_first_bin_that_fits_is_the_least_one_without_a_shorter_block() {
        for granules in 1..6_000 {
            let bin = first_bin_that_fits(granules * GRANULE);
            let holds_shorter = (1..granules).any(|shorter| bin_of(shorter * GRANULE) == bin);
            assert!(!holds_shorter, "{granules}");
            if bin > 1 {
                assert!(bin_of((granules - 1) * GRANULE) == bin - 1, "{granules}");
            }
        }
        assert_eq!(first_bin_that_fits(GRANULE), 1);
        assert_eq!(first_bin_that_fits(65_536), LARGE);
        assert_eq!(first_bin_that_fits(65_552), LARGE + 1);
    }
}
