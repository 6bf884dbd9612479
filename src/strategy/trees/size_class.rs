//! Which bin a free block belongs to.
//!
//! ```text
//!   bin       0   1    2    3   ...  31     32        33        34   ...   62          63
//!   bytes     -   32   64   96  ...  992    1,024..   1,280..   1,536..    196,608..   229,376..
//!             |   '------ one size each --' '--- four bins an octave ---'            all the rest
//!             never used
//! ```
//!
//! Up to 992 bytes a bin holds one size, so its first block is the best fit. Above, sizes in a bin
//! differ by up to a quarter; there trees find the best fit, one tree for the four bins of an
//! octave.
#![forbid(unsafe_code)]

/// The unit of every length and address of a block, in bytes.
///
/// Measured against 16: random requests took 0.80 to 0.95 of the time, for more blocks are of the
/// same size and free blocks of one granule need no case of their own; the memory of requests up
/// to 200 bytes was 3 to 10 % more.
pub(super) const GRANULE: usize = 1 << GRANULE_SHIFT;

/// log2 of [`GRANULE`].
pub(super) const GRANULE_SHIFT: u32 = 5;

/// The first bin whose blocks differ in size.
pub(super) const FIRST_RANGE: usize = 32;

/// The bin of every block from 224 KiB on.
pub(super) const LARGE: usize = 63;

/// The bins: as many as a word has bits, so that a masked index needs no bounds check.
pub(super) const BINS: usize = 64;

/// The trees: one an octave from 1 KiB on.
pub(super) const TREES: usize = 8;

const _: () = assert!(tree_of(LARGE) == TREES - 1);

/// The bin of a free block of `length` bytes, a multiple of [`GRANULE`].
///
/// Below 64 KiB from a table, for which side of 1 KiB a length lies on is what a predictor guesses
/// worst. (Rejected: the formula alone, with conditional moves: twice the instructions, and random
/// requests took up to a tenth longer. A table up to 16 KiB: slower where blocks are longer.)
#[inline]
pub(super) fn bin_of(length: usize) -> usize {
    let granules = length >> GRANULE_SHIFT;
    match TABLE.get(granules) {
        Some(&bin) => bin as usize,
        None => range_of(granules),
    }
}

/// The bins of short blocks, by their granules.
static TABLE: [u8; 2048] = {
    let mut table = [0; 2048];
    let mut granules = 0;
    while granules < table.len() {
        let bin = if granules < FIRST_RANGE { granules } else { range_of(granules) };
        table[granules] = bin as u8;
        granules += 1;
    }
    table
};

/// The bin of a block of `granules`, at least [`FIRST_RANGE`].
#[inline]
const fn range_of(granules: usize) -> usize {
    let octave = granules.ilog2() - FIRST_RANGE.ilog2();
    // With the leading bit, the two below it are 4 plus the number of the quarter.
    let quarter = granules >> (granules.ilog2() - 2);
    let bin = FIRST_RANGE + 4 * octave as usize + quarter - 4;
    if bin < LARGE { bin } else { LARGE }
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
        assert_eq!(bin_of(992), 31);
        assert_eq!(bin_of(1_024), 32);
        assert_eq!(bin_of(1_248), 32);
        assert_eq!(bin_of(1_280), 33);
        assert_eq!(bin_of(196_608), 62);
        assert_eq!(bin_of(229_344), 62);
        assert_eq!(bin_of(229_376), LARGE);
        assert_eq!(bin_of(1 << 46), LARGE);
    }
}
