//! The bit set itself: which blocks are free, kept as the edges between free and taken.
//!
//! Bit `i` is set where block `i` is free and block `i - 1` is not, or the other way round. What
//! stands before block 0 and after the last block counts as taken.
//!
//! ```text
//!   block    0   1   2   3   4   5   6   7   8   9   (10)
//!   free     .   .   x   x   x   .   .   x   x   x    .
//!   edge     0   0   1   0   0   1   0   1   0   0    1
//! ```
//!
//! Set that way, marking any number of adjacent blocks flips two bits, at its start and behind its
//! end, where a bit a block would write a word for each 64 of them. A run's end is the next edge
//! after its start. Whether a taken block's neighbour is free is one bit, the edge between them.
//! What is lost is to read off a single block's state, which takes the parity of all edges up to
//! it: only [`is_free`](Edges::is_free) needs that, in checks.
//!
//! Where all runs are asked for, edges are sought 64 bits at a time. Nobody seeks a single run's
//! end: a run has its length in its own memory, see [`runs`](super::runs). (Rejected: levels above
//! the words that say which have an edge, and a search up and down these. For blocks of
//! some KiB the levels change at most calls: search and levels took 55 of 300 instructions a call.)

use core::cell::Cell;

/// Bits in a word.
const WORD: usize = 64;

/// The words that the edges of `blocks` take: there is one edge more than blocks.
pub(super) const fn words_for(blocks: usize) -> usize {
    blocks / WORD + 1
}

/// The edges of one extent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edges<'a> {
    words: &'a [Cell<u64>],
}

impl<'a> Edges<'a> {
    /// The edges in `words`, all zero or as others left them.
    #[inline]
    pub(super) const fn new(words: &'a [Cell<u64>]) -> Self {
        Self { words }
    }

    /// Flips an edge: marks all from here to the next flipped one as the opposite. Whether there
    /// was an edge.
    ///
    /// # Safety
    /// The words are those of [`words_for`] at least `index` blocks.
    #[inline]
    pub(super) unsafe fn flip(&self, index: usize) -> bool {
        // SAFETY: by the contract there is a word for the edge.
        let word = unsafe { self.words.get_unchecked(index / WORD) };
        let bits = word.get();
        word.set(bits ^ 1 << (index % WORD));
        bits >> (index % WORD) & 1 != 0
    }

    /// Whether there is an edge.
    #[inline]
    pub(super) fn has(&self, index: usize) -> bool {
        self.word(index / WORD) >> (index % WORD) & 1 != 0
    }

    /// Whether a block is free. Counts all edges up to it: for checks.
    pub(super) fn is_free(&self, index: usize) -> bool {
        let below = (0..index / WORD).map(|word| self.word(word).count_ones()).sum::<u32>();
        let here = self.word(index / WORD) << (63 - index % WORD);
        !(below + here.count_ones()).is_multiple_of(2)
    }

    /// Whether there is an edge between two blocks of `first..end`: for checks.
    pub(super) fn has_between(&self, first: usize, end: usize) -> bool {
        (first + 1..end).any(|index| self.has(index))
    }

    /// Calls `visit(first, blocks)` for each run of free blocks among the first `blocks`.
    pub(super) fn visit_runs(&self, blocks: usize, mut visit: impl FnMut(usize, usize)) {
        let mut start = None;
        for word in 0..self.words.len() {
            let mut bits = self.word(word);
            while bits != 0 {
                let edge = word * WORD + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                match start.take() {
                    None => start = Some(edge),
                    Some(first) => visit(first, edge.min(blocks).saturating_sub(first)),
                }
            }
        }
    }

    /// What is wrong with the edges of `blocks`, if anything is.
    pub(super) fn fault(&self, blocks: usize) -> Option<&'static str> {
        let edges = self.words.iter().map(|word| word.get().count_ones()).sum::<u32>();
        let past = self.word(blocks / WORD) & (u64::MAX << (blocks % WORD) << 1);
        let is_past = !edges.is_multiple_of(2) || past != 0;
        is_past.then_some("a block past the extent's end is free")
    }

    #[inline]
    fn word(&self, index: usize) -> u64 {
        self.words.get(index).map_or(0, Cell::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a plain vector of bools, at sizes around the words' limits.
    #[test]
    fn agrees_with_a_plain_model() {
        for blocks in [1, 2, 63, 64, 65, 4095, 4096, 4097, 262_143, 262_144, 300_000] {
            let words: Vec<Cell<u64>> = (0..words_for(blocks)).map(|_| Cell::new(0)).collect();
            let edges = Edges::new(&words);
            let mut model = vec![false; blocks];
            let mut seed = 7usize;
            let mut random = |limit: usize| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 33) % limit
            };
            for _ in 0..60 {
                let (a, b) = (random(blocks + 1), random(blocks + 1));
                if a == b {
                    continue;
                }
                // SAFETY: neither is more than the count of blocks.
                let _ = unsafe { (edges.flip(a), edges.flip(b)) };
                model[a.min(b)..a.max(b)].iter_mut().for_each(|free| *free = !*free);
                assert_eq!(edges.fault(blocks), None);
                let mut runs = vec![];
                edges.visit_runs(blocks, |first, length| runs.push((first, first + length)));
                let mut seen = vec![false; blocks];
                for &(first, end) in &runs {
                    seen[first..end].fill(true);
                    assert!(edges.is_free(first) && edges.is_free(end - 1));
                    assert!(edges.has(first) && edges.has(end));
                }
                assert!(seen == model, "{blocks} blocks: {runs:?}");
            }
        }
    }
}
