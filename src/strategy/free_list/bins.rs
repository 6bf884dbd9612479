//! The holes of one extent by length, for best fit: a list for each class.
//!
//! ```text
//!   occupied   0 1 0 0 1 1 ...       a bit for each class that has a hole
//!   heads        │     │ └▶ hole
//!                │     └──▶ hole ⇄ hole
//!                └────────▶ hole ⇄ hole ⇄ hole       linked through their last granules
//! ```
//!
//! Up to 63 granules a class is one length, so the first hole of the first class that has one is
//! the shortest that fits. Above, the first of the request's own class is taken if it fits, or else
//! the first of a longer one, which is nearly that. Only where there is none the next ones of the
//! own class are looked at too, up to a bound.
//!
//! A hole is known by its end. Where the first of a list would have the one before it, it has its
//! class, so that taking a hole out needs no other look at its length.

use core::cell::Cell;
use core::ptr::NonNull;

use super::class::FINE;
use super::granule::{GRANULE, Granule, Ground};
use super::holes::Order;
use crate::pointers;

/// Words of the classes' bits.
const WORDS: usize = 8;
const WORDS_BYTES: usize = WORDS * size_of::<u64>();

/// No hole: none ends where the extent starts.
const NONE: usize = 0;

/// Where a hole's `previous` is that and more, it is the first of the class that is the rest.
const FIRST_OF: usize = u32::MAX as usize - (WORDS * 64 - 1);

/// The most granules of an extent.
pub(super) const MAX_GRANULES: usize = FIRST_OF - 1;

/// How many holes a search looks at that look right by their class and are not.
const MOST_LOOKS: usize = 32;

/// No layout needs more granules.
const MOST_ASKED: usize = isize::MAX.unsigned_abs() / GRANULE + 1;
const _: () = assert!(FINE.class_of(MOST_ASKED) + 1 < WORDS * 64);

/// Lists of holes: the classes' bits, and the heads behind them.
///
/// # Invariants
/// - A class's bit is set exactly where it has holes; its head is then the end of the first one,
///   and else [`NONE`].
/// - Every hole of the extent is in the list of its length's class, linked both ways.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bins {
    words: NonNull<Cell<u64>>,
}

/// The last granule of a hole in a list.
#[inline]
fn last_of<'a>(ground: Ground, end: usize) -> &'a Granule {
    // SAFETY: only holes of the extent are put in, and they are taken out before they end.
    unsafe { ground.last(end) }
}

const fn classes_for(granules: usize) -> usize {
    if granules == 0 { 0 } else { FINE.class_of(granules) + 1 }
}

impl Bins {
    /// The bytes of the table for an extent of `granules`.
    pub(super) const fn bytes_for(granules: usize) -> usize {
        WORDS_BYTES + (classes_for(granules) * size_of::<u32>()).next_multiple_of(8)
    }

    /// No hole.
    ///
    /// # Safety
    /// `table` leads to [`bytes_for`](Self::bytes_for) so many zeroed bytes as the granules of the
    /// extent need, aligned to 8, that are these bins' alone as long as they are used; the ground
    /// that its functions get is that extent's.
    pub(super) const unsafe fn new(table: NonNull<u8>) -> Self {
        Self { words: table.cast() }
    }

    /// The head of a class that a hole of the extent may have.
    #[inline]
    fn head<'a>(self, class: usize) -> &'a Cell<u32> {
        // SAFETY: behind the words there is a head for each class up to that of the extent's
        // length.
        unsafe {
            let heads = pointers::element(self.words, WORDS).cast();
            pointers::element(heads, class).as_ref()
        }
    }

    #[inline]
    fn first(self, class: usize) -> usize {
        self.head(class).get() as usize
    }

    /// The word that a class's bit is in.
    #[inline]
    fn word<'a>(self, class: usize) -> &'a Cell<u64> {
        // SAFETY: the table begins with the words of all classes that there are.
        unsafe { pointers::element(self.words, class / 64).as_ref() }
    }

    /// The least class that has a hole, from `class` on, which is one of those of the words.
    #[inline]
    fn next_occupied(self, class: usize) -> Option<usize> {
        let mut from = class;
        loop {
            let rest = self.word(from).get() >> (from % 64);
            if rest != 0 {
                return Some(from + rest.trailing_zeros() as usize);
            }
            from = (from / 64 + 1) * 64;
            if from == WORDS * 64 {
                return None;
            }
        }
    }

    /// A hole of at least `granules`, the shortest or nearly, where a look at one class tells: its
    /// end. `None` where [`best`](Self::best) may know more.
    #[inline]
    pub(super) fn best_at_once(self, ground: Ground, granules: usize) -> Option<usize> {
        let own = FINE.class_of(granules);
        let mut end = self.first(self.next_occupied(own)?);
        if (last_of(ground, end).length.get() as usize) < granules {
            // That may be only in the request's own class.
            end = self.first(self.next_occupied(own + 1)?);
        }
        Some(end)
    }

    /// A hole of at least `granules`, the shortest or nearly: its end.
    pub(super) fn best(self, ground: Ground, granules: usize) -> Option<usize> {
        // Perhaps only one behind the first of its own class fits.
        let is_long = |end| last_of(ground, end).length.get() as usize >= granules;
        self.best_at_once(ground, granules).or_else(|| self.first_that(ground, granules, is_long))
    }

    /// The end of the first hole that is right, from the class of `granules` on, of the first
    /// [`MOST_LOOKS`].
    pub(super) fn first_that(
        self,
        ground: Ground,
        granules: usize,
        is_right: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let (mut from, mut looks) = (FINE.class_of(granules), 0);
        while let Some(class) = self.next_occupied(from) {
            let mut next = self.first(class);
            while next != NONE {
                if is_right(next) {
                    return Some(next);
                }
                looks += 1;
                if looks == MOST_LOOKS {
                    return None;
                }
                next = last_of(ground, next).next.get() as usize;
            }
            from = class + 1;
        }
        None
    }

    /// A length that no hole exceeds, in granules, if there are holes.
    pub(super) fn longest(self) -> Option<usize> {
        let is_occupied = |word: &usize| self.word(word * 64).get() != 0;
        let word = (0..WORDS).rev().find(is_occupied)?;
        let class = word * 64 + self.word(word * 64).get().ilog2() as usize;
        Some(FINE.length_of(class + 1) - 1)
    }

    /// What is wrong, if anything is; `holes` is how many there are, `length_of` tells the length
    /// of one that ends at a place.
    pub(super) fn fault(
        self,
        ground: Ground,
        granules: usize,
        holes: usize,
        length_of: impl Fn(usize) -> Option<usize>,
    ) -> Option<&'static str> {
        let mut listed = 0;
        for class in 0..classes_for(granules) {
            let (mut previous, mut next) = (FIRST_OF + class, self.first(class));
            if (self.word(class).get() >> (class % 64) & 1 != 0) != (next != NONE) {
                return Some("a class's bit disagrees with its list");
            }
            while next != NONE {
                // Where freed memory was written to, the links lead anywhere.
                let class_of = length_of(next).map(|length| FINE.class_of(length));
                if class_of != Some(class) || listed == holes {
                    return Some("a hole's links are wrong: freed memory was written to");
                }
                let hole = last_of(ground, next);
                if hole.previous.get() as usize != previous {
                    return Some("a list of holes reads differently backwards");
                }
                (previous, next) = (next, hole.next.get() as usize);
                listed += 1;
            }
        }
        (listed != holes).then_some("a hole is in no list")
    }

    #[inline]
    fn put_in(self, ground: Ground, class: usize, end: usize) -> bool {
        let hole = last_of(ground, end);
        let next = self.first(class);
        hole.next.set(next as u32);
        hole.previous.set((FIRST_OF + class) as u32);
        // INVARIANT: the hole is the first of its class, which is occupied.
        self.head(class).set(end as u32);
        if next != NONE {
            last_of(ground, next).previous.set(end as u32);
            return false;
        }
        let word = self.word(class);
        word.set(word.get() | 1 << (class % 64));
        true
    }
}

impl Order for Bins {
    #[inline]
    fn put(self, ground: Ground, end: usize, granules: usize) -> bool {
        self.put_in(ground, FINE.class_of(granules), end)
    }

    #[inline]
    fn remove(self, ground: Ground, end: usize) {
        let hole = last_of(ground, end);
        let (next, previous) = (hole.next.get() as usize, hole.previous.get() as usize);
        if next != NONE {
            last_of(ground, next).previous.set(previous as u32);
        }
        if previous < FIRST_OF {
            last_of(ground, previous).next.set(next as u32);
            return;
        }
        // 32 bits: a compiler that sees more makes a constant of it that fits no instruction.
        let class = (previous as u32).wrapping_sub(FIRST_OF as u32) as usize;
        self.head(class).set(next as u32);
        if next == NONE {
            // INVARIANT: the list is empty now.
            let word = self.word(class);
            word.set(word.get() & !(1 << (class % 64)));
        }
    }

    #[inline]
    fn shorten(self, ground: Ground, end: usize, granules: usize) {
        let class = FINE.class_of(granules);
        if last_of(ground, end).previous.get() as usize != FIRST_OF + class {
            self.remove(ground, end);
            self.put_in(ground, class, end);
        }
    }
}
