//! The holes of one extent by address, for first and next fit.
//!
//! ```text
//!   granules   ░░░░██████░░░░██ ... █░░░░░░░        64 of them are a stretch
//!   ends       0 1      0   1 ...          1        a bit for the last granule of each hole
//!   maxima     9                                    how long those that end in a stretch may be
//! ```
//!
//! A block is cut from a hole's front, so its last granule stays where it is.
//! A search goes from stretch to stretch over those whose holes are too short, and so stays exactly
//! first fit.

use core::cell::Cell;
use core::ptr::NonNull;

use super::class::COARSE;
use super::granule::{Ground, WORDS_OF_GRANULE};
use super::holes::Order;
use super::maxima::Maxima;
use crate::pointers;

/// Granules of a stretch: the bits of a word.
const STRETCH: usize = u64::BITS as usize;

/// Holes in order of address.
///
/// # Invariants
/// - `ends` has the last granule of each hole, and no other.
/// - The maxima of the stretch that a hole ends in are at least the [value](value_of) of its
///   length.
#[derive(Debug)]
pub(super) struct Stretches {
    ends: NonNull<Cell<u64>>,
    maxima: Maxima,
    /// Where the last search ended, for next fit.
    rover: Cell<usize>,
}

/// What a hole's length is in the maxima: its class and one, so that none is zero.
#[inline]
const fn value_of(granules: usize) -> u8 {
    COARSE.class_of(granules) as u8 + 1
}

impl Stretches {
    /// The bytes for an extent of `granules`.
    pub(super) const fn bytes_for(granules: usize) -> usize {
        let stretches = granules.div_ceil(STRETCH);
        Maxima::bytes_for(stretches) + stretches * size_of::<u64>()
    }

    /// No hole.
    ///
    /// # Safety
    /// `bytes` leads to [`bytes_for`](Self::bytes_for) zeroed bytes, aligned to 8, that are these
    /// stretches' alone as long as they are used; the ground that its functions get is that of an
    /// extent of `granules`.
    pub(super) unsafe fn new(bytes: NonNull<u8>, granules: usize) -> Self {
        let stretches = granules.div_ceil(STRETCH);
        // SAFETY: the caller's contract; the ends lie behind the maxima, which are whole words.
        unsafe {
            let maxima = Maxima::new(bytes, stretches);
            let ends = pointers::forward(bytes, Maxima::bytes_for(stretches)).cast();
            Self { ends, maxima, rover: Cell::new(0) }
        }
    }

    /// The bits of a stretch of the extent.
    #[inline]
    fn ends_in(&self, stretch: usize) -> &Cell<u64> {
        // SAFETY: there is a word for each stretch, and it is changed as a cell alone.
        unsafe { pointers::element(self.ends, stretch).as_ref() }
    }

    /// The first hole by address that is right, of those of at least `granules`; with
    /// `goes_on`, the first from where the last search ended.
    #[inline]
    pub(super) fn first_that(
        &self,
        ground: Ground,
        granules: usize,
        goes_on: bool,
        is_right: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let from = if goes_on { self.rover.get() } else { 0 };
        let mut found = self.find_from(ground, from, granules, &is_right);
        if found.is_none() && from != 0 {
            found = self.find_from(ground, 0, granules, &is_right);
        }
        found
    }

    /// The first one whose last granule is `from` or behind.
    #[inline]
    fn find_from(
        &self,
        ground: Ground,
        from: usize,
        granules: usize,
        is_right: &impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let (value, words) = (value_of(granules), granules * WORDS_OF_GRANULE);
        let mut mask = u64::MAX << (from % STRETCH);
        let mut stretch = from / STRETCH;
        loop {
            let next = self.maxima.next_at_least(stretch, value)?;
            if next != stretch {
                (stretch, mask) = (next, u64::MAX);
            }
            let mut rest = self.ends_in(stretch).get() & mask;
            let mut longest = 0;
            while rest != 0 {
                let last = stretch * STRETCH + rest.trailing_zeros() as usize;
                // SAFETY: a hole ends with it.
                let last_granule = unsafe { ground.granule(last * WORDS_OF_GRANULE) };
                let length = last_granule.back.get() as usize;
                let first = (last + 1) * WORDS_OF_GRANULE - length;
                if length >= words && is_right(first) {
                    self.rover.set(last);
                    return Some(first);
                }
                longest = longest.max(value_of(length / WORDS_OF_GRANULE));
                rest &= rest - 1;
            }
            if mask == u64::MAX {
                self.maxima.lower(stretch, longest);
            }
            (stretch, mask) = (stretch + 1, u64::MAX);
        }
    }

    /// A length that no hole exceeds, in granules, if there are holes.
    pub(super) fn longest(&self) -> Option<usize> {
        let class = usize::from(self.maxima.most()).checked_sub(1)?;
        Some(COARSE.length_of(class + 1) - 1)
    }

    /// What is wrong about a hole, if anything is.
    pub(super) fn fault(&self, last: usize, granules: usize) -> Option<&'static str> {
        if self.ends_in(last / STRETCH).get() >> (last % STRETCH) & 1 == 0 {
            return Some("a hole's end is not noted");
        }
        let is_bounded = self.maxima.allows(last / STRETCH, value_of(granules));
        (!is_bounded).then_some("a hole is longer than its stretch's bound")
    }

    /// How many holes are noted in an extent of `granules`.
    pub(super) fn count(&self, granules: usize) -> usize {
        let stretches = 0..granules.div_ceil(STRETCH);
        stretches.map(|stretch| self.ends_in(stretch).get().count_ones() as usize).sum()
    }
}

impl Order for &Stretches {
    #[inline]
    fn put(self, _: Ground, first: usize, words: usize) {
        let last = (first + words) / WORDS_OF_GRANULE - 1;
        let (stretch, bit) = (last / STRETCH, 1 << (last % STRETCH));
        let ends = self.ends_in(stretch);
        // INVARIANT: the end is noted, and so long a hole allowed.
        ends.set(ends.get() | bit);
        self.maxima.raise(stretch, value_of(words / WORDS_OF_GRANULE));
    }

    #[inline]
    fn remove(self, _: Ground, first: usize, words: usize) {
        let last = (first + words) / WORDS_OF_GRANULE - 1;
        let ends = self.ends_in(last / STRETCH);
        // INVARIANT: the end is noted no more; the maxima may stay too high.
        ends.set(ends.get() & !(1 << (last % STRETCH)));
    }

    #[inline]
    fn cut_front(self, _: Ground, _: usize, _: usize, _: usize) {
        // The hole ends where it did, and what bounds a longer one bounds it.
    }
}
