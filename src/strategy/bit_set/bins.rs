//! Bins: free runs by length, exact below 8 blocks and four bins to each doubling above.
#![forbid(unsafe_code)]

/// How many bins there are: as many as a word has bits, so that one says which are not empty.
pub(super) const BINS: usize = 64;

/// The last bin, in which lengths differ without limit.
pub(super) const LAST: usize = BINS - 1;

/// The bin for runs of `blocks`. Does not fall as `blocks` grows.
///
/// From a table where runs are up to 128 KiB at the usual block size, which takes fewer
/// instructions than the formula. (Rejected: a table for all lengths, and no branch. Some branches
/// less are guessed wrong where blocks are of up to 100,000 bytes, and it takes 2 to 5 % more time
/// there and below.)
#[inline]
pub(super) fn of(blocks: usize) -> usize {
    match TABLE.get(blocks) {
        Some(&bin) => bin as usize,
        None => computed(blocks),
    }
}

static TABLE: [u8; 4096] = {
    let mut table = [0; 4096];
    let mut blocks = 0;
    while blocks < table.len() {
        table[blocks] = computed(blocks) as u8;
        blocks += 1;
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

    /// The least length in the last bin.
    const LAST_BLOCKS: usize = 7 << 14;

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
