//! A set of numbers as bits, with the words above them that find the next one.
//!
//! ```text
//!   level 2                          0 0 1 1
//!   level 1          0 0 0 0    0 0 0 0    0 1 0 0    1 0 0 1      which words below hold a bit
//!   level 0   ...0000 0000 ...                0110 ...  0001       the numbers themselves
//! ```
//!
//! Every word of 64 bits is summed up by one bit of the level above, up to a level of one word. So
//! the next number from a place on, or the last one before it, is found in two steps a level: a
//! chunk's 4096 granules of 16 bytes take two levels, 64 GiB of them six. Adding and taking away
//! change one word, and more only where that becomes or was empty.
//!
//! The words are somebody else's: a strategy keeps them in an extent's metadata.

use core::ptr::NonNull;

use crate::pointers;

/// log2 of the bits in a word.
const WORD_SHIFT: u32 = u64::BITS.ilog2();

/// Levels for numbers below 2^36.
const MAX_LEVELS: usize = 6;

/// The most numbers a tree is for.
pub(super) const MAX_NUMBERS: usize = 1 << (WORD_SHIFT as usize * MAX_LEVELS);

/// A set of numbers below a bound.
///
/// # Invariants
/// - A bit above level 0 is set exactly where the word that it sums up is not zero.
/// - `ends[level]` is where the words of `level` end; the first level begins at 0, each further one
///   where the one before ends. `words` leads to as many.
#[derive(Debug)]
pub(super) struct BitTree {
    words: NonNull<u64>,
    levels: u32,
    ends: [u32; MAX_LEVELS],
}

/// Where the words of each level end, and how many levels there are.
const fn ends_for(numbers: usize) -> ([u32; MAX_LEVELS], u32) {
    let (mut ends, mut levels, mut end) = ([0; MAX_LEVELS], 0, 0);
    let mut words = numbers.div_ceil(u64::BITS as usize);
    while levels < MAX_LEVELS {
        end += words;
        ends[levels] = end as u32;
        levels += 1;
        if words <= 1 {
            break;
        }
        words = words.div_ceil(u64::BITS as usize);
    }
    (ends, levels as u32)
}

impl BitTree {
    /// The bytes of words for numbers below `numbers`, at most [`MAX_NUMBERS`].
    pub(super) const fn bytes_for(numbers: usize) -> usize {
        let (ends, levels) = ends_for(numbers);
        ends[levels as usize - 1] as usize * size_of::<u64>()
    }

    /// An empty set of numbers below `numbers`.
    ///
    /// # Safety
    /// `words` leads to [`bytes_for`](Self::bytes_for) zeroed bytes, aligned to 8, that are this
    /// set's alone as long as it is used.
    pub(super) const unsafe fn new(words: NonNull<u64>, numbers: usize) -> Self {
        let (ends, levels) = ends_for(numbers);
        Self { words, levels, ends }
    }

    /// A word of a level, or none behind its end.
    #[inline]
    fn word(&self, level: usize, index: usize) -> Option<NonNull<u64>> {
        let first = if level == 0 { 0 } else { *self.ends.get(level - 1)? as usize };
        let index = first + index;
        if index >= *self.ends.get(level)? as usize {
            return None;
        }
        // SAFETY: the index lies within the words by the type's invariant.
        Some(unsafe { pointers::forward(self.words.cast(), index * size_of::<u64>()).cast() })
    }

    #[inline]
    fn read(&self, level: usize, index: usize) -> Option<u64> {
        // SAFETY: words that `word` gives are valid.
        self.word(level, index).map(|word| unsafe { word.read() })
    }

    /// The bits of the 64 numbers from `64 * index` on.
    #[inline]
    pub(super) fn word_at(&self, index: usize) -> u64 {
        self.read(0, index).unwrap_or(0)
    }

    /// Whether a number is in the set.
    #[inline]
    pub(super) fn contains(&self, number: usize) -> bool {
        self.read(0, number >> WORD_SHIFT).is_some_and(|word| word >> (number & 63) & 1 != 0)
    }

    /// Adds a number.
    #[inline]
    pub(super) fn insert(&self, number: usize) {
        let mut number = number;
        for level in 0..self.levels as usize {
            let Some(word) = self.word(level, number >> WORD_SHIFT) else { return };
            // SAFETY: words that `word` gives are valid, and the set's alone.
            let old = unsafe { word.read() };
            // SAFETY: as above.
            unsafe { word.write(old | 1 << (number & 63)) };
            if old != 0 {
                return;
            }
            number >>= WORD_SHIFT;
        }
    }

    /// Takes a number away.
    #[inline]
    pub(super) fn remove(&self, number: usize) {
        let mut number = number;
        for level in 0..self.levels as usize {
            let Some(word) = self.word(level, number >> WORD_SHIFT) else { return };
            // SAFETY: words that `word` gives are valid, and the set's alone.
            let new = unsafe { word.read() } & !(1 << (number & 63));
            // SAFETY: as above.
            unsafe { word.write(new) };
            if new != 0 {
                return;
            }
            number >>= WORD_SHIFT;
        }
    }

    /// The least number in the set that is at least `number`.
    #[inline]
    pub(super) fn next_from(&self, number: usize) -> Option<usize> {
        let rest = self.read(0, number >> WORD_SHIFT)? & (u64::MAX << (number & 63));
        if rest != 0 {
            return Some((number & !63) | rest.trailing_zeros() as usize);
        }
        self.next_above(number)
    }

    /// The least number in the set behind the word of `number`.
    fn next_above(&self, number: usize) -> Option<usize> {
        let mut at = number;
        for level in 1..self.levels as usize {
            at = (at >> WORD_SHIFT) + 1;
            let rest = self.read(level, at >> WORD_SHIFT)? & (u64::MAX << (at & 63));
            if rest == 0 {
                continue;
            }
            at = (at & !63) | rest.trailing_zeros() as usize;
            for below in (0..level).rev() {
                let first = self.read(below, at)?.trailing_zeros() as usize;
                at = at << WORD_SHIFT | first;
            }
            return Some(at);
        }
        None
    }

    /// Whether the levels agree.
    pub(super) fn is_sound(&self) -> bool {
        (1..self.levels as usize).all(|level| {
            let words = |level: usize| (0..).map_while(move |index| self.read(level, index));
            words(level - 1).enumerate().all(|(index, below)| {
                let above = self.read(level, index >> WORD_SHIFT).unwrap_or(0);
                (above >> (index & 63) & 1 != 0) == (below != 0)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn finds_what_an_ordered_set_finds() {
        for numbers in [1, 63, 64, 65, 4096, 4097, 300_000] {
            let mut memory = vec![0_u64; BitTree::bytes_for(numbers) / 8];
            let words = NonNull::from(memory.as_mut_slice()).cast();
            // SAFETY: the words outlive the tree and are as many as asked.
            let tree = unsafe { BitTree::new(words, numbers) };
            let mut model = BTreeSet::new();
            let mut state = 7_usize;
            for step in 0..2000 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let number = (state >> 33) % numbers;
                if step % 3 == 2 {
                    tree.remove(number);
                    model.remove(&number);
                } else {
                    tree.insert(number);
                    model.insert(number);
                }
                let from = (state >> 20) % numbers;
                assert_eq!(tree.next_from(from), model.range(from..).next().copied());
                assert_eq!(tree.contains(from), model.contains(&from));
            }
            assert!(tree.is_sound());
            model.iter().for_each(|&number| tree.remove(number));
            assert!(memory.iter().all(|&word| word == 0));
        }
    }
}
