//! Bins: free runs by length, exact up to 8 blocks and four bins to each doubling above.
#![forbid(unsafe_code)]

use core::hint::select_unpredictable;

/// How many bins there are: as many as a word has bits, so that one says which are not empty.
pub(super) const BINS: usize = 64;

/// The last bin, in which lengths differ without limit.
pub(super) const LAST: usize = BINS - 1;

/// The least length in the last bin.
const LAST_BLOCKS: usize = 7 << 14;

/// The bin for runs of `blocks`. Does not fall as `blocks` grows.
///
/// From a table, which takes half the instructions of the formula, and without a branch: on which
/// side of a limit a length lies is what a predictor guesses worst.
#[inline]
pub(super) fn of(blocks: usize) -> usize {
    let coarse = (blocks >> COARSE_SHIFT).min(COARSE_LAST) + COARSE_AT;
    TABLE[select_unpredictable(blocks < FINE, blocks, coarse)] as usize
}

/// Shorter runs have an entry for each length in the table.
const FINE: usize = 512;

/// log2 of the blocks that one entry stands for where runs are longer: all of one bin.
const COARSE_SHIFT: u32 = FINE.ilog2() - 2;

const COARSE_LAST: usize = LAST_BLOCKS >> COARSE_SHIFT;

/// Where the entry of the length zero would be, of those for longer runs.
const COARSE_AT: usize = FINE - (FINE >> COARSE_SHIFT);

static TABLE: [u8; COARSE_AT + COARSE_LAST + 1] = {
    let mut table = [0; COARSE_AT + COARSE_LAST + 1];
    let mut at = 0;
    while at < table.len() {
        table[at] = computed(if at < FINE { at } else { (at - COARSE_AT) << COARSE_SHIFT }) as u8;
        at += 1;
    }
    table
};

const fn computed(blocks: usize) -> usize {
    // The length's leading one and the two bits below it are the bin within its doubling, 4 to 7.
    let doubling = ((blocks | 4).ilog2() - 2) as usize;
    let bin = doubling * 4 + (blocks >> doubling);
    if bin < LAST { bin } else { LAST }
}

/// The first bin in which every run has at least `blocks`, which is above [`LAST`] if none is such.
#[inline]
pub(super) fn holding(blocks: usize) -> usize {
    of(blocks - 1) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_do_not_fall_and_hold_what_they_say() {
        assert_eq!((of(1), of(7), of(8), of(9), of(10), of(16)), (1, 7, 8, 8, 9, 12));
        assert_eq!((of(LAST_BLOCKS - 1), of(LAST_BLOCKS), of(usize::MAX)), (LAST - 1, LAST, LAST));
        for blocks in 1..2 * LAST_BLOCKS {
            assert!(of(blocks) <= of(blocks + 1) && of(blocks) == computed(blocks));
            let bin = holding(blocks);
            assert!(bin > LAST || bin == 0 || of(blocks - 1) < bin, "{blocks}");
            assert!(bin == of(blocks) || bin == of(blocks) + 1);
        }
    }
}
