//! The bits of one extent, and the summaries that make a search of them short.
//!
//! ```text
//!   cells: | words: a bit a block, set = free | whole: a bit a word | ranks: a byte a word | groups: a byte a group |
//!
//!   group 0                             group 1                                 64 words a group
//!   ┌───────────────────────────────┐   ┌──────
//!   │ word 0   word 1      word 63  │   │ word 64                               64 blocks a word
//!   │ 0111..00 1111..11    00..0000 │   │
//!   │ rank 9   rank 0      rank 0   │   │    rank: of the longest run that *starts* in the word,
//!   │          whole                │   │    at least: it may be more, never less
//!   └ group's rank: their maximum, at least ────
//! ```
//!
//! Allocating leaves the ranks as they are, an upper bound. A search that such a bound sent to a
//! word in vain sets it to the truth, so each allocation costs at most one vain visit. Freeing finds
//! the run that it completes and raises the rank of the word in which that run starts.
//!
//! First fit, by address: that keeps the free blocks in long runs at the extent's end, and the
//! search starts at the lowest group without a rover. Exact segment trees (prefix, suffix and
//! longest run at each node, as in Go's page allocator) were not chosen: each allocation and each
//! free would rewrite a path to the root; here most write one word.
//!
//! The words hold at least one bit past the last block; it and all after it stay clear, so no run
//! leaves the extent and no loop needs an end test of its own.
#![forbid(unsafe_code)]

use core::cell::Cell;

use super::rank::{self, LANE};

/// Blocks in a word, and words in a group.
pub(super) const WORD: usize = 64;

/// Where the parts of a map of some number of blocks stand among its cells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Words of bits, and the index of the first cell after them.
    pub(super) words: usize,
    /// The first cell of the groups' ranks.
    groups_at: usize,
    /// All cells.
    pub(super) cells: usize,
}

impl Shape {
    /// The shape for `blocks`.
    pub(super) const fn of(blocks: usize) -> Self {
        let words = blocks / WORD + 1;
        let groups = words.div_ceil(WORD);
        let groups_at = words + groups + words.div_ceil(LANE);
        Self { words, groups_at, cells: groups_at + groups.div_ceil(LANE) }
    }

    const fn groups(&self) -> usize {
        self.words.div_ceil(WORD)
    }

    const fn ranks_at(&self) -> usize {
        self.words + self.groups()
    }
}

/// Which indices are aligned: those that are `phase` modulo `stride`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alignment {
    /// In blocks, a power of two.
    pub(super) stride: usize,
    /// In blocks, less than the stride.
    pub(super) phase: usize,
}

impl Alignment {
    /// The first aligned index from `index` on.
    const fn first_from(self, index: usize) -> usize {
        index + (self.phase.wrapping_sub(index) & (self.stride - 1))
    }

    /// The aligned indices of a word, as bits.
    const fn mask(self, word: usize) -> u64 {
        let first = self.first_from(word * WORD) - word * WORD;
        if first >= WORD {
            return 0;
        }
        // All ones divided by 2^stride - 1 has every stride-th bit set.
        let every = if self.stride < WORD { u64::MAX / ((1 << self.stride) - 1) } else { 1 };
        every << first
    }
}

/// The bits of one extent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map<'a> {
    cells: &'a [Cell<u64>],
    shape: Shape,
}

impl<'a> Map<'a> {
    /// The map of that shape in `cells`: all zero, or as an earlier map of that shape left them.
    #[inline]
    pub(super) const fn new(cells: &'a [Cell<u64>], shape: Shape) -> Self {
        Self { cells, shape }
    }

    /// Finds and takes `blocks` adjacent free blocks; their first index.
    #[inline]
    pub(super) fn take(&self, blocks: usize) -> Option<usize> {
        let index = self.search(blocks, |word, bits| self.run_in(word, bits, blocks))?;
        self.claim(index, blocks);
        let end = index + blocks;
        // What is left of the run starts in another word, or continues a run of the word before:
        // then the rank of the word that it now starts in may not cover it yet.
        if (index ^ end) >= WORD || index % WORD == 0 {
            self.cover(end);
        }
        Some(index)
    }

    /// As [`take`](Self::take), at an aligned index.
    #[cold]
    pub(super) fn take_aligned(&self, blocks: usize, alignment: Alignment) -> Option<usize> {
        let index = self.search(blocks, |word, bits| {
            let starts = run_starts(bits, blocks) & alignment.mask(word);
            if starts != 0 {
                return Some(word * WORD + starts.trailing_zeros() as usize);
            }
            let start = (word + 1) * WORD - bits.leading_ones() as usize;
            let index = alignment.first_from(start);
            let needed = index - start + blocks;
            (bits >> 63 != 0 && self.run_from(start, needed) >= needed).then_some(index)
        })?;
        self.claim(index, blocks);
        self.cover(index + blocks);
        Some(index)
    }

    /// Takes the `blocks` from `index` on if all are free.
    #[inline]
    pub(super) fn take_at(&self, index: usize, blocks: usize) -> bool {
        if self.run_from(index, blocks) < blocks {
            return false;
        }
        self.claim(index, blocks);
        self.cover(index + blocks);
        true
    }

    /// Frees blocks. The rank that a group rose to, if one rose; `Err` if the first word shows that
    /// one of the blocks was free before.
    #[inline]
    pub(super) fn give(&self, index: usize, blocks: usize) -> Result<u8, ()> {
        let (word, bit) = (index / WORD, index % WORD);
        let before = self.word(word);
        if bit + blocks > WORD {
            return self.give_words(index, blocks);
        }
        let mask = ones(blocks) << bit;
        if before & mask != 0 {
            return Err(());
        }
        let bits = before | mask;
        self.set_word(word, bits);
        let start = bit + 1 - (bits << (63 - bit)).leading_ones() as usize;
        let end = bit + (bits >> bit).trailing_ones() as usize;
        if start == 0 || end == WORD {
            return Ok(self.join(word * WORD + start, word * WORD + end));
        }
        Ok(self.raise(word, (end - start) as u8))
    }

    /// [`give`](Self::give) for blocks in more than one word.
    #[cold]
    fn give_words(&self, index: usize, blocks: usize) -> Result<u8, ()> {
        if self.word(index / WORD) >> (index % WORD) != 0 {
            return Err(());
        }
        self.fill(index, blocks, true);
        Ok(self.join(index, index + blocks))
    }

    /// Marks a word as whole if it is, extends the free run `start..end` to where it really begins
    /// and ends, and raises the rank of the word that it begins in.
    #[inline(never)]
    fn join(&self, start: usize, end: usize) -> u8 {
        let word = start / WORD;
        if self.word(word) == u64::MAX {
            self.set_whole(word, true);
        }
        let start = self.run_start(start);
        let length = end - start;
        let more = rank::TOP_BLOCKS.saturating_sub(length);
        self.raise(start / WORD, rank::of(length + self.run_from(end, more)))
    }

    /// Makes the ranks cover the run that starts at `index`, if one does.
    #[inline]
    pub(super) fn cover(&self, index: usize) {
        if self.word(index / WORD) >> (index % WORD) & 1 != 0 {
            let _ = self.raise(index / WORD, rank::of(self.run_from(index, rank::TOP_BLOCKS)));
        }
    }

    /// Looks for `blocks` free blocks in each word whose rank promises as many, by `at(word, bits)`.
    #[inline]
    fn search(&self, blocks: usize, at: impl Fn(usize, u64) -> Option<usize>) -> Option<usize> {
        let wanted = rank::splat(rank::of(blocks));
        for lane in self.shape.groups_at..self.shape.cells {
            let mut hits = rank::at_least(self.cell(lane), wanted);
            while hits != 0 {
                let group = (lane - self.shape.groups_at) * LANE + byte_of(hits);
                if let Some(index) = self.search_group(group, wanted, &at) {
                    return Some(index);
                }
                hits &= hits - 1;
            }
        }
        None
    }

    #[inline]
    fn search_group(
        &self,
        group: usize,
        wanted: u64,
        at: &impl Fn(usize, u64) -> Option<usize>,
    ) -> Option<usize> {
        let ranks_at = self.shape.ranks_at();
        let first = ranks_at + group * (WORD / LANE);
        let end = self.shape.groups_at.min(first + WORD / LANE);
        for lane in first..end {
            let mut hits = rank::at_least(self.cell(lane), wanted);
            while hits != 0 {
                let word = (lane - ranks_at) * LANE + byte_of(hits);
                let bits = self.word(word);
                if let Some(index) = at(word, bits) {
                    return Some(index);
                }
                self.correct(word, bits);
                hits &= hits - 1;
            }
        }
        let lanes = (first..end).fold(0, |most, lane| rank::larger(most, self.cell(lane)));
        let cell = self.shape.groups_at + group / LANE;
        self.set_cell(cell, rank::with(self.cell(cell), group, rank::largest(lanes)));
        None
    }

    /// Where `blocks` adjacent free blocks start in `word`, the last of them perhaps in words after.
    #[inline]
    fn run_in(&self, word: usize, bits: u64, blocks: usize) -> Option<usize> {
        let starts = run_starts(bits, blocks);
        if starts != 0 {
            return Some(word * WORD + starts.trailing_zeros() as usize);
        }
        let tail = bits.leading_ones() as usize;
        let next = (word + 1) * WORD;
        (tail != 0 && tail + self.run_from(next, blocks - tail) >= blocks).then_some(next - tail)
    }

    /// Sets a word's rank to the truth.
    #[inline(never)]
    fn correct(&self, word: usize, bits: u64) {
        let tail = bits.leading_ones() as usize;
        let after = if tail == 0 { 0 } else { self.run_from((word + 1) * WORD, rank::TOP_BLOCKS) };
        self.set_rank(word, rank::of(longest_run(bits).max(tail + after)));
    }

    /// The free blocks from `index` on, counted to at least `enough` if there are as many.
    #[inline]
    fn run_from(&self, index: usize, enough: usize) -> usize {
        let (mut word, bit) = (index / WORD, index % WORD);
        let mut length = (self.word(word) >> bit).trailing_ones() as usize;
        if bit + length < WORD {
            return length;
        }
        word += 1;
        while length < enough {
            let wholes = (self.whole(word / WORD) >> (word % WORD)).trailing_ones() as usize;
            length += wholes * WORD;
            word += wholes;
            // Go on while whole words reached the end of their group, and only then.
            if wholes == 0 || word % WORD != 0 {
                return length + self.word(word).trailing_ones() as usize;
            }
        }
        length
    }

    /// Where the run of free blocks begins that `index`, itself free, is in.
    fn run_start(&self, index: usize) -> usize {
        let (mut word, bit) = (index / WORD, index % WORD);
        let mut start = index + 1 - (self.word(word) << (63 - bit)).leading_ones() as usize;
        while start % WORD == 0 && word > 0 {
            word -= 1;
            let wholes =
                (self.whole(word / WORD) << (63 - word % WORD)).leading_ones() as usize;
            start -= wholes * WORD;
            if wholes == 0 {
                return start - self.word(word).leading_ones() as usize;
            }
            word -= wholes - 1;
        }
        start
    }

    /// Marks free blocks as taken.
    #[inline]
    fn claim(&self, index: usize, blocks: usize) {
        let (word, bit) = (index / WORD, index % WORD);
        if bit + blocks > WORD {
            return self.fill(index, blocks, false);
        }
        let before = self.word(word);
        let bits = before & !(ones(blocks) << bit);
        self.set_word(word, bits);
        if before == u64::MAX {
            self.set_whole(word, false);
        }
        if bits == 0 {
            self.set_rank(word, 0);
        }
    }

    /// Marks blocks in any number of words as free or taken.
    #[inline(never)]
    pub(super) fn fill(&self, index: usize, blocks: usize, free: bool) {
        let (mut index, end) = (index, index + blocks);
        while index < end {
            let (word, bit) = (index / WORD, index % WORD);
            let count = (WORD - bit).min(end - index);
            let mask = ones(count) << bit;
            let before = self.word(word);
            let after = if free { before | mask } else { before & !mask };
            self.set_word(word, after);
            if (before == u64::MAX) != (after == u64::MAX) {
                self.set_whole(word, free);
            }
            index += count;
        }
    }

    /// Raises a word's rank to `rank`; what its group's rank rose to, 0 if it did not.
    #[inline]
    fn raise(&self, word: usize, rank: u8) -> u8 {
        let cell = self.shape.ranks_at() + word / LANE;
        let lane = self.cell(cell);
        if rank::get(lane, word) >= rank {
            return 0;
        }
        self.set_cell(cell, rank::with(lane, word, rank));
        let group = word / WORD;
        let cell = self.shape.groups_at + group / LANE;
        let lane = self.cell(cell);
        if rank::get(lane, group) >= rank {
            return 0;
        }
        self.set_cell(cell, rank::with(lane, group, rank));
        rank
    }

    /// The extent's rank: that of its longest run, at least.
    pub(super) fn rank(&self) -> u8 {
        let lanes = self.shape.groups_at..self.shape.cells;
        rank::largest(lanes.fold(0, |most, lane| rank::larger(most, self.cell(lane))))
    }

    /// Calls `visit(first, blocks)` for each run of free blocks.
    pub(super) fn visit_runs(&self, mut visit: impl FnMut(usize, usize)) {
        let mut word = 0;
        let mut taken_below = u64::MAX;
        while word < self.shape.words {
            let free = self.word(word) & taken_below;
            if free == 0 {
                (word, taken_below) = (word + 1, u64::MAX);
                continue;
            }
            let first = word * WORD + free.trailing_zeros() as usize;
            let blocks = self.run_from(first, usize::MAX);
            visit(first, blocks);
            let end = first + blocks;
            (word, taken_below) = (end / WORD, u64::MAX << (end % WORD));
        }
    }

    /// What is wrong with the map of `blocks`, if anything is.
    pub(super) fn fault(&self, blocks: usize) -> Option<&'static str> {
        let last = self.word(blocks / WORD);
        if last >> (blocks % WORD) != 0 {
            return Some("a block past the extent's end is free");
        }
        for word in 0..self.shape.words {
            let whole = self.whole(word / WORD) >> (word % WORD) & 1 != 0;
            if whole != (self.word(word) == u64::MAX) {
                return Some("a word's mark as whole disagrees with its bits");
            }
            if self.group_rank(word / WORD) < self.word_rank(word) {
                return Some("a group's rank is below one of its words'");
            }
        }
        let mut fault = None;
        self.visit_runs(|first, blocks| {
            if self.word_rank(first / WORD) < rank::of(blocks) {
                fault = Some("a word's rank is below that of a run that starts in it");
            }
            if self.run_start(first + blocks - 1) != first {
                fault = Some("a run read backwards starts elsewhere");
            }
        });
        fault
    }

    fn word_rank(&self, word: usize) -> u8 {
        rank::get(self.cell(self.shape.ranks_at() + word / LANE), word)
    }

    fn group_rank(&self, group: usize) -> u8 {
        rank::get(self.cell(self.shape.groups_at + group / LANE), group)
    }

    #[inline]
    fn set_rank(&self, word: usize, rank: u8) {
        let cell = self.shape.ranks_at() + word / LANE;
        self.set_cell(cell, rank::with(self.cell(cell), word, rank));
    }

    #[inline]
    fn set_whole(&self, word: usize, whole: bool) {
        let (cell, bit) = (self.shape.words + word / WORD, 1 << (word % WORD));
        let before = self.cell(cell);
        self.set_cell(cell, if whole { before | bit } else { before & !bit });
    }

    /// Bits of a word; past the map none is free.
    #[inline]
    fn word(&self, word: usize) -> u64 {
        self.cell(word)
    }

    #[inline]
    fn set_word(&self, word: usize, bits: u64) {
        self.set_cell(word, bits);
    }

    #[inline]
    fn whole(&self, group: usize) -> u64 {
        self.cell(self.shape.words + group)
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

/// The lowest `count` bits, of 1 to 64.
#[inline]
const fn ones(count: usize) -> u64 {
    u64::MAX >> ((WORD - count) % WORD)
}

/// Which byte the lowest set bit is in.
#[inline]
const fn byte_of(hits: u64) -> usize {
    hits.trailing_zeros() as usize / 8
}

/// The bits at which `blocks` set bits start; none if that is more than 64.
///
/// Doubles the run length that a set bit stands for: six steps reach 64.
#[inline]
const fn run_starts(bits: u64, blocks: usize) -> u64 {
    if blocks > WORD {
        return 0;
    }
    let mut starts = bits;
    let mut length = 1;
    while length < blocks {
        let step = if blocks - length < length { blocks - length } else { length };
        starts &= starts >> step;
        length += step;
    }
    starts
}

/// The length of the longest run of set bits.
const fn longest_run(bits: u64) -> usize {
    if bits == 0 {
        return 0;
    }
    // powers[k] has the starts of runs of at least 2^k; then the length is found bit by bit.
    let mut powers = [bits; 7];
    let mut power = 0;
    while power < 6 {
        powers[power + 1] = powers[power] & (powers[power] >> (1 << power));
        power += 1;
    }
    if powers[6] != 0 {
        return WORD;
    }
    let mut starts = u64::MAX;
    let mut length = 0;
    while power > 0 {
        power -= 1;
        let longer = starts & (powers[power] >> length);
        if longer != 0 {
            starts = longer;
            length += 1 << power;
        }
    }
    length
}

#[cfg(test)]
mod tests;
