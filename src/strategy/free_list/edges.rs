//! Where free and used granules meet: a bit for each such place.
//!
//! ```text
//!   granules     ████████████░░░░░░░░████░░░░████████      █ used  ░ free
//!   edges        0   0   0   1   0   1   1   1   0   0     before each granule, and at the end
//! ```
//!
//! What lies outside counts as used. A block that is taken or given changes the bits at its two
//! ends and no others, whatever lies beside it, and when it is given these bits say at once whether
//! what lies before and behind it is free.

use core::cell::Cell;
use core::ptr::NonNull;

use crate::pointers;

/// The edges of an extent.
///
/// # Invariants
/// The bit of a place is set exactly where one of the granules beside it is in a hole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edges {
    words: NonNull<Cell<u64>>,
    granules: usize,
}

impl Edges {
    /// The bytes of words for so many granules.
    pub(super) const fn bytes_for(granules: usize) -> usize {
        (granules / 64 + 1) * size_of::<u64>()
    }

    /// The edges of granules that are all used.
    ///
    /// # Safety
    /// `words` leads to [`bytes_for`](Self::bytes_for) zeroed bytes, aligned to 8, that are these
    /// edges' alone as long as they are used.
    pub(super) const unsafe fn new(words: NonNull<u8>, granules: usize) -> Self {
        Self { words: words.cast(), granules }
    }

    /// # Safety
    /// `64 * index` is at most the number of granules.
    #[inline]
    unsafe fn word<'a>(self, index: usize) -> &'a Cell<u64> {
        // SAFETY: the word is one of those that `bytes_for` counts, and changed as a cell alone.
        unsafe { pointers::element(self.words, index).as_ref() }
    }

    /// Changes the bit of a place; whether it was set.
    ///
    /// # Safety
    /// `place` is at most the number of granules.
    #[inline]
    pub(super) unsafe fn toggle(self, place: usize) -> bool {
        // SAFETY: the caller's contract.
        let word = unsafe { self.word(place / 64) };
        let (old, bit) = (word.get(), 1 << (place % 64));
        word.set(old ^ bit);
        old >> (place % 64) & 1 != 0
    }

    /// Whether the bit of a place is set; not for places behind the extent's end.
    #[inline]
    pub(super) fn is_set(self, place: usize) -> bool {
        // SAFETY: the place is at most the number of granules.
        place <= self.granules && unsafe { self.word(place / 64) }.get() >> (place % 64) & 1 != 0
    }

    /// The first place, from `place` on, whose bit is set. O(granules / 64).
    pub(super) fn next_from(self, place: usize) -> Option<usize> {
        let mut skipped = u64::MAX << (place % 64);
        for index in place / 64..=self.granules / 64 {
            // SAFETY: the index is in range.
            let rest = unsafe { self.word(index) }.get() & skipped;
            if rest != 0 {
                return Some(index * 64 + rest.trailing_zeros() as usize);
            }
            skipped = u64::MAX;
        }
        None
    }

    /// Whether no granule from `first` on to `end` is free. O(granules / 64).
    pub(super) fn are_used(self, first: usize, end: usize) -> bool {
        // An even number of edges lie before what is used.
        let (mut edges, mut at) = (0, 0);
        for index in 0..first / 64 {
            // SAFETY: `first` is a granule.
            edges += unsafe { self.word(index) }.get().count_ones();
            at = (index + 1) * 64;
        }
        while let Some(edge) = self.next_from(at)
            && edge <= first
        {
            (edges, at) = (edges + 1, edge + 1);
        }
        edges % 2 == 0 && self.next_from(first + 1).is_none_or(|edge| edge >= end)
    }

    /// The first hole that begins at `from` or behind, where `from` is not within one: its first
    /// granule and its end. O(granules / 64).
    pub(super) fn next_hole(self, from: usize) -> Option<(usize, usize)> {
        let start = self.next_from(from)?;
        Some((start, self.next_from(start + 1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_of_each_granule_whether_it_is_free() {
        for granules in [1, 63, 64, 65, 300] {
            let mut memory = vec![0_u64; Edges::bytes_for(granules) / 8];
            let words = NonNull::from(memory.as_mut_slice()).cast();
            // SAFETY: the words outlive the edges and are as many as asked.
            let edges = unsafe { Edges::new(words, granules) };
            let mut is_free = vec![false; granules];
            let mut state = 3_usize;
            for _ in 0..200 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let first = (state >> 33) % granules;
                let end = first + 1 + (state >> 20) % 90.min(granules - first);
                // A block lies in one hole, or in none.
                let was_free = is_free[first];
                if is_free[first..end].iter().any(|&other| other != was_free) {
                    continue;
                }
                let beside = |at: usize| is_free.get(at).is_some_and(|&free| free) != was_free;
                let (before, behind) = (beside(first.wrapping_sub(1)), beside(end));
                // SAFETY: neither is more than the number of granules.
                unsafe {
                    assert_eq!(edges.toggle(first), before);
                    assert_eq!(edges.toggle(end), behind);
                }
                is_free[first..end].fill(!was_free);
                for start in 0..granules {
                    let stop = granules.min(start + 3);
                    let used = is_free[start..stop].iter().all(|&free| !free);
                    assert_eq!(edges.are_used(start, stop), used);
                }
            }
            let (mut holes, mut from) = (vec![false; granules], 0);
            while let Some((start, end)) = edges.next_hole(from) {
                holes[start..end].fill(true);
                from = end + 1;
            }
            assert_eq!(holes, is_free);
        }
    }
}
