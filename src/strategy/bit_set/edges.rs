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
//! Edges are sought 64 bits at a time. Two levels above the words say which words, and which groups
//! of 64 words, have an edge, so that one step passes 4,096 or 262,144 blocks without one.
#![forbid(unsafe_code)]

use core::cell::Cell;

/// Bits in a word.
const WORD: usize = 64;

/// How many cells the levels for some number of blocks take, and where they start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// The first cell of the second level: one bit a word.
    words_at: usize,
    /// The first cell of the third level: one bit a cell of the second.
    groups_at: usize,
    /// All cells.
    pub(super) cells: usize,
}

impl Shape {
    /// The shape for `blocks`: there is one edge more than blocks.
    pub(super) const fn of(blocks: usize) -> Self {
        let words = blocks / WORD + 1;
        let groups = words.div_ceil(WORD);
        Self {
            words_at: words,
            groups_at: words + groups,
            cells: words + groups + groups.div_ceil(WORD),
        }
    }
}

/// The edges of one extent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edges<'a> {
    cells: &'a [Cell<u64>],
    shape: &'a Shape,
}

impl<'a> Edges<'a> {
    /// The edges of that shape in `cells`: all zero, or as others of that shape left them.
    #[inline]
    pub(super) const fn new(cells: &'a [Cell<u64>], shape: &'a Shape) -> Self {
        Self { cells, shape }
    }

    /// Flips an edge: marks all from here to the next flipped one as the opposite. Whether there is
    /// an edge now.
    #[inline]
    pub(super) fn flip(&self, index: usize) -> bool {
        let (word, bit) = (index / WORD, 1 << (index % WORD));
        let bits = self.cell(word) ^ bit;
        self.set_cell(word, bits);
        if bits & !bit == 0 {
            self.note(word, bits != 0);
        }
        bits & bit != 0
    }

    /// Flips two different edges; whether there is an edge now at each.
    // Measured: see `BitSet::cut_from`.
    #[inline(always)]
    pub(super) fn flip_both(&self, first: usize, second: usize) -> (bool, bool) {
        let word = first / WORD;
        if word != second / WORD {
            return (self.flip(first), self.flip(second));
        }
        let (first, second) = (1 << (first % WORD), 1 << (second % WORD));
        let bits = self.cell(word) ^ (first | second);
        self.set_cell(word, bits);
        if bits & !(first | second) == 0 {
            self.note(word, bits != 0);
        }
        (bits & first != 0, bits & second != 0)
    }

    /// Notes in the upper levels whether a word has edges.
    #[inline(never)]
    fn note(&self, word: usize, has_edges: bool) {
        let cell = self.shape.words_at + word / WORD;
        let words = with_bit(self.cell(cell), word % WORD, has_edges);
        self.set_cell(cell, words);
        if words & !(1 << (word % WORD)) == 0 {
            let group = word / WORD;
            let cell = self.shape.groups_at + group / WORD;
            self.set_cell(cell, with_bit(self.cell(cell), group % WORD, has_edges));
        }
    }

    /// Whether there is an edge.
    #[inline]
    pub(super) fn has(&self, index: usize) -> bool {
        self.cell(index / WORD) >> (index % WORD) & 1 != 0
    }

    /// The first edge after `index`. There is one: asked only where a block is free.
    #[inline]
    pub(super) fn after(&self, index: usize) -> usize {
        let from = index + 1;
        let bits = self.cell(from / WORD) >> (from % WORD);
        if bits != 0 {
            return from + bits.trailing_zeros() as usize;
        }
        self.after_word(from / WORD + 1)
    }

    #[inline(never)]
    fn after_word(&self, from: usize) -> usize {
        let words = self.cell(self.shape.words_at + from / WORD) >> (from % WORD);
        let word = if words != 0 {
            from + words.trailing_zeros() as usize
        } else {
            self.after_group(from / WORD + 1)
        };
        word * WORD + self.cell(word).trailing_zeros() as usize
    }

    #[inline(never)]
    fn after_group(&self, from: usize) -> usize {
        let mut cell = self.shape.groups_at + from / WORD;
        let mut groups = self.cell(cell) & (u64::MAX << (from % WORD));
        while groups == 0 && cell < self.shape.cells {
            cell += 1;
            groups = self.cell(cell);
        }
        let group = (cell - self.shape.groups_at) * WORD + groups.trailing_zeros() as usize;
        let words = self.cell(self.shape.words_at + group);
        group * WORD + words.trailing_zeros() as usize
    }

    /// The last edge before `index`. There is one: asked only where the block before is free.
    #[inline]
    pub(super) fn before(&self, index: usize) -> usize {
        let to = index.wrapping_sub(1);
        let bits = self.cell(to / WORD) << (63 - to % WORD);
        if bits != 0 {
            return to.wrapping_sub(bits.leading_zeros() as usize);
        }
        self.before_word((to / WORD).wrapping_sub(1))
    }

    #[inline(never)]
    fn before_word(&self, to: usize) -> usize {
        let words = self.cell(self.shape.words_at.wrapping_add(to / WORD)) << (63 - to % WORD);
        let word = if words != 0 {
            to.wrapping_sub(words.leading_zeros() as usize)
        } else {
            self.before_group((to / WORD).wrapping_sub(1))
        };
        word.wrapping_mul(WORD).wrapping_add(last_bit(self.cell(word)))
    }

    #[inline(never)]
    fn before_group(&self, to: usize) -> usize {
        let mut cell = self.shape.groups_at.wrapping_add(to / WORD);
        let mut groups = self.cell(cell) & (u64::MAX >> (63 - to % WORD));
        while groups == 0 && cell > self.shape.groups_at {
            cell -= 1;
            groups = self.cell(cell);
        }
        let group = (cell.wrapping_sub(self.shape.groups_at)) * WORD + last_bit(groups);
        group * WORD + last_bit(self.cell(self.shape.words_at + group))
    }

    /// Whether a block is free. Counts all edges up to it: for checks.
    pub(super) fn is_free(&self, index: usize) -> bool {
        let below = (0..index / WORD).map(|word| self.cell(word).count_ones()).sum::<u32>();
        let here = self.cell(index / WORD) << (63 - index % WORD);
        !(below + here.count_ones()).is_multiple_of(2)
    }

    /// Whether there is an edge between two blocks of `first..end`: for checks.
    pub(super) fn has_between(&self, first: usize, end: usize) -> bool {
        (first + 1..end).any(|index| self.has(index))
    }

    /// Calls `visit(first, blocks)` for each run of free blocks among the first `blocks`.
    pub(super) fn visit_runs(&self, blocks: usize, mut visit: impl FnMut(usize, usize)) {
        let mut start = None;
        for word in 0..self.shape.words_at {
            let mut bits = self.cell(word);
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
        let edges = (0..self.shape.words_at).map(|word| self.cell(word).count_ones()).sum::<u32>();
        let past = self.cell(blocks / WORD) & (u64::MAX << (blocks % WORD) << 1);
        if !edges.is_multiple_of(2) || past != 0 {
            return Some("a block past the extent's end is free");
        }
        for word in 0..self.shape.groups_at {
            let noted = self.cell(self.shape.words_at + word);
            let (cell, bit) = (word / WORD, word % WORD);
            let is_noted = |level: usize| self.cell(level + cell) >> bit & 1 != 0;
            if word < self.shape.words_at && is_noted(self.shape.words_at) != (self.cell(word) != 0)
            {
                return Some("the second level disagrees with a word's edges");
            }
            if word < self.shape.groups_at - self.shape.words_at
                && is_noted(self.shape.groups_at) != (noted != 0)
            {
                return Some("the third level disagrees with a group's edges");
            }
        }
        None
    }

    #[inline]
    fn cell(&self, index: usize) -> u64 {
        self.cells.get(index).map_or(0, Cell::get)
    }

    #[inline]
    fn set_cell(&self, index: usize, value: u64) {
        if let Some(cell) = self.cells.get(index) {
            cell.set(value);
        }
    }
}

#[inline]
const fn with_bit(bits: u64, index: usize, value: bool) -> u64 {
    bits & !(1 << index) | (value as u64) << index
}

/// The index of the highest set bit; 0 if none is.
#[inline]
const fn last_bit(bits: u64) -> usize {
    (63 - (bits | 1).leading_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a plain vector of bools, at sizes around the levels' limits.
    #[test]
    fn agrees_with_a_plain_model() {
        for blocks in [1, 2, 63, 64, 65, 4095, 4096, 4097, 262_143, 262_144, 300_000] {
            let shape = Shape::of(blocks);
            let cells: Vec<Cell<u64>> = (0..shape.cells).map(|_| Cell::new(0)).collect();
            let edges = Edges::new(&cells, &shape);
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
                let _ = edges.flip_both(a, b);
                model[a.min(b)..a.max(b)].iter_mut().for_each(|free| *free = !*free);
                assert_eq!(edges.fault(blocks), None);
                let mut runs = vec![];
                edges.visit_runs(blocks, |first, length| runs.push((first, first + length)));
                let mut seen = vec![false; blocks];
                for &(first, end) in &runs {
                    seen[first..end].fill(true);
                    assert_eq!((edges.after(first), edges.before(end)), (end, first));
                    assert!(edges.is_free(first) && edges.is_free(end - 1));
                    assert!(edges.has(first) && edges.has(end));
                }
                assert!(seen == model, "{blocks} blocks: {runs:?}");
            }
        }
    }
}
