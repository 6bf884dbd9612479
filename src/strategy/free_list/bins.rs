//! The holes of one extent by length, for best fit: a list for each class.
//!
//! ```text
//!   extent  │ none │ empty │ flags   │ heads            │ blocks and holes ...
//!                            0 1 ...   0  ▪  0  ▪ ...
//!                                         │     └▶ hole
//!                                         └──────▶ hole ⇄ hole ⇄ hole    through first granules
//! ```
//!
//! Up to 63 granules a class is one length, so the first hole of the first class that has one is
//! the shortest that fits. Above, the first of the request's own class is taken if it fits, or else
//! the first of a longer one, which is nearly that: chosen without a branch, for nobody can foresee
//! which. Only where there is none the next ones of the own class are looked at too, up to a bound.
//!
//! The heads lie in the extent itself, where a link back can lead to them as to a hole; behind the
//! last hole of a list comes the granule `none`, which may be written as a hole may. So to put a
//! hole in or take it out is the same few loads and stores for all. Where a freed block has no hole
//! beside it, the hole `empty` is taken out, which has no length and leads to itself: whether there
//! is one, again nobody can foresee, and a wrong guess costs more than these steps. A search looks
//! at eight heads at once; flags say which eight further away may have a hole, and stay when their
//! lists become empty until a search finds that.

use core::cell::Cell;
use core::hint::select_unpredictable;

use super::class::FINE;
use super::granule::{GRANULE, Granule, Ground, WORDS_OF_GRANULE, link_of};
use super::holes::Order;

/// No hole.
const NONE: usize = 0;

/// Heads that are looked at at once, and have one flag.
const GROUP: usize = 8;

/// Words of eight flags.
const FLAG_WORDS: usize = 4;
const CLASSES: usize = FLAG_WORDS * 8 * GROUP;

/// What is joined where no hole is: one without length, to which its own link leads back.
const EMPTY: usize = WORDS_OF_GRANULE;

/// Where the flags are, in bytes.
const FLAGS: usize = 2 * GRANULE;

/// Where the heads are, in words of four bytes.
const HEADS: usize = 2 * WORDS_OF_GRANULE + FLAG_WORDS * 2;

/// The most granules of an extent: all links fit, and the length of a hole that is all of it.
pub(super) const MAX_GRANULES: usize = (1 << 30) - 1;
const _: () = assert!(MAX_GRANULES * WORDS_OF_GRANULE <= u32::MAX as usize);
const _: () = assert!(link_of((MAX_GRANULES - 1) * WORDS_OF_GRANULE) <= u32::MAX as usize);
// No hole is as long as an extent, in which the heads are.
const _: () = assert!(FINE.class_of(MAX_GRANULES - 1) < CLASSES);

/// How many holes a search looks at that look right by their class and are not.
const MOST_LOOKS: usize = 32;

/// A hole that a search found: the first one of its class.
#[derive(Clone, Copy)]
pub(super) struct Found {
    class: usize,
    pub(super) first: usize,
}

/// Lists of holes.
///
/// # Invariants
/// - The head of a class that has holes is the place of the first one, and its group has a
///   flag; of one that has none it is [`NONE`].
/// - Every hole of the extent is in the list of its length's class, linked both ways.
/// - [`EMPTY`] has no length, is led to by its own link and leads to none.
/// - Behind the heads are [`GROUP`] words or more that stay zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bins {
    /// How many classes the extent's holes may have.
    classes: usize,
}

const fn classes_for(granules: usize) -> usize {
    if granules == 0 { 0 } else { FINE.class_of(granules) + 1 }
}

impl Bins {
    /// The granules that the table takes of an extent of `granules`: whole lines, so that what
    /// follows is aligned as the extent.
    pub(super) const fn granules_for(granules: usize) -> usize {
        let words = HEADS + classes_for(granules).next_multiple_of(GROUP) + GROUP;
        words.div_ceil(WORDS_OF_GRANULE).next_multiple_of(4)
    }

    /// No hole.
    ///
    /// # Safety
    /// The ground is that of all functions here: an extent of `granules`, aligned to 8, of which
    /// the first [`granules_for`](Self::granules_for) so many are these bins' alone; or as much
    /// memory and no granules.
    pub(super) unsafe fn new(ground: Ground, granules: usize) -> Self {
        for word in 0..Self::granules_for(granules) * WORDS_OF_GRANULE {
            // SAFETY: the caller's contract.
            unsafe { ground.word(word) }.set(0);
        }
        // SAFETY: as above.
        unsafe { ground.granule(EMPTY) }.previous.set(link_of(EMPTY) as u32);
        Self { classes: classes_for(granules) }
    }

    /// Where some hole begins, or what lies behind the last hole of a list.
    #[inline]
    fn hole<'a>(self, ground: Ground, first: usize) -> &'a Granule {
        // SAFETY: only holes of the extent are put in, and they are taken out before they end;
        // the first two granules of all are in none.
        unsafe { ground.granule(first) }
    }

    /// What leads to a hole: the head of a class that a hole of the extent may have, or a hole's
    /// link.
    #[inline]
    fn link<'a>(self, ground: Ground, word: usize) -> &'a Cell<u32> {
        // SAFETY: heads are in the table, and links in holes.
        unsafe { ground.word(word) }
    }

    /// Eight groups' flags, a byte each.
    #[inline]
    fn flags<'a>(self, ground: Ground, index: usize) -> &'a Cell<u64> {
        // SAFETY: the table has the flags of all groups, from there on.
        unsafe { ground.long_word(FLAGS / size_of::<u64>() + index) }
    }

    #[inline]
    fn flag<'a>(self, ground: Ground, group: usize) -> &'a Cell<u8> {
        // SAFETY: as above.
        unsafe { ground.byte(FLAGS + group) }
    }

    /// The class's first hole.
    #[inline]
    fn first_of(self, ground: Ground, class: usize) -> Found {
        Found { class, first: self.link(ground, HEADS + class).get() as usize }
    }

    /// The first class of the eight from `class` on, one of the extent's, that has a hole.
    #[inline]
    fn near(self, ground: Ground, class: usize) -> Option<usize> {
        // SAFETY: the heads and as many words as a group has behind them are in the table.
        let occupied = unsafe { ground.set_of_eight(HEADS + class) };
        (occupied != 0).then(|| class + occupied.trailing_zeros() as usize)
    }

    /// The first class that has a hole, of the groups behind that of `class`.
    #[inline]
    fn far(self, ground: Ground, class: usize) -> Option<usize> {
        let group = class / GROUP + 1;
        let (mut index, mut skipped) = (group / 8, u64::MAX << (group % 8 * 8));
        while index < FLAG_WORDS {
            let mut rest = self.flags(ground, index).get() & skipped;
            while rest != 0 {
                let group = index * 8 + rest.trailing_zeros() as usize / 8;
                let found = self.near(ground, group * GROUP);
                if found.is_some() {
                    return found;
                }
                // INVARIANT: the lists became empty.
                self.flag(ground, group).set(0);
                rest &= rest - 1;
            }
            (index, skipped) = (index + 1, u64::MAX);
        }
        None
    }

    /// The first hole of the first class, of the eight from that of `words` on, if it is long
    /// enough; else the first one of a class behind, not much longer.
    #[inline]
    pub(super) fn best_near(self, ground: Ground, words: usize) -> Option<Found> {
        let own = FINE.class_of_words(words);
        if own >= self.classes {
            return None;
        }
        // SAFETY: as in `near`.
        let occupied = unsafe { ground.set_of_eight(HEADS + own) };
        if occupied == 0 {
            return None;
        }
        let found = self.first_of(ground, own + occupied.trailing_zeros() as usize);
        if FINE.is_exact(words) {
            return Some(found);
        }
        // It may be too short only in the request's own class. Whether it is, nobody can foresee.
        let is_long = self.hole(ground, found.first).length.get() as usize >= words;
        let others = occupied & (occupied - 1) | 1 << GROUP;
        let other = self.first_of(ground, own + others.trailing_zeros() as usize);
        let class = select_unpredictable(is_long, found.class, other.class);
        let first = select_unpredictable(is_long, found.first, other.first);
        (first != NONE).then_some(Found { class, first })
    }

    /// Where [`best_near`](Self::best_near) found none: a hole that is longer.
    #[inline]
    pub(super) fn best_far(self, ground: Ground, words: usize) -> Option<Found> {
        let own = FINE.class_of_words(words);
        Some(self.first_of(ground, self.far(ground, own)?))
    }

    /// The first hole that is right, from the class of `words` on, of the first [`MOST_LOOKS`].
    pub(super) fn first_that(
        self,
        ground: Ground,
        words: usize,
        is_right: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let (mut from, mut looks) = (FINE.class_of_words(words), 0);
        while from < self.classes
            && let Some(class) = self.near(ground, from).or_else(|| self.far(ground, from))
        {
            let mut next = self.first_of(ground, class).first;
            while next != NONE {
                if is_right(next) {
                    return Some(next);
                }
                looks += 1;
                if looks == MOST_LOOKS {
                    return None;
                }
                next = self.hole(ground, next).next.get() as usize;
            }
            from = class + 1;
        }
        None
    }

    /// A length that no hole exceeds, in granules, if there are holes.
    pub(super) fn longest(self, ground: Ground) -> Option<usize> {
        let is_occupied = |class: &usize| self.link(ground, HEADS + class).get() != 0;
        let class = (0..self.classes).rev().find(is_occupied)?;
        Some(FINE.length_of(class + 1) - 1)
    }

    /// Takes out the hole before a place, if one is there; its length, else zero.
    #[inline]
    pub(super) fn take_before(self, ground: Ground, is_hole: bool, place: usize) -> usize {
        // What ends there: the granule before, or the one that stands for none.
        let end = select_unpredictable(is_hole, place, EMPTY + WORDS_OF_GRANULE);
        let length = self.hole(ground, end - WORDS_OF_GRANULE).back.get() as usize;
        let first = select_unpredictable(is_hole, place - length, EMPTY);
        self.remove(ground, first, 0);
        length
    }

    /// Takes out the hole behind a place, if one is there; its length, else zero.
    #[inline]
    pub(super) fn take_behind(self, ground: Ground, is_hole: bool, place: usize) -> usize {
        let first = select_unpredictable(is_hole, place, EMPTY);
        self.remove(ground, first, 0);
        self.hole(ground, first).length.get() as usize
    }

    /// What is wrong, if anything is; `holes` is how many there are, `length_of` tells the length
    /// of one by its first granule.
    pub(super) fn fault(
        self,
        ground: Ground,
        holes: usize,
        length_of: impl Fn(usize) -> Option<usize>,
    ) -> Option<&'static str> {
        let empty = self.hole(ground, EMPTY);
        let lengths = (empty.length.get(), empty.back.get());
        let links = (empty.next.get() as usize, empty.previous.get() as usize);
        if (lengths, links) != ((0, 0), (NONE, link_of(EMPTY))) {
            return Some("the empty hole's links are wrong: freed memory was written to");
        }
        let mut listed = 0;
        for class in 0..self.classes {
            let mut previous = HEADS + class;
            let mut next = self.link(ground, previous).get() as usize;
            if next != NONE && self.flag(ground, class / GROUP).get() != 1 {
                return Some("a class has holes and its group no flag");
            }
            while next != NONE {
                // Where freed memory was written to, the links lead anywhere.
                let class_of = length_of(next).map(|length| FINE.class_of_words(length));
                if class_of != Some(class) || listed == holes {
                    return Some("a hole's links are wrong: freed memory was written to");
                }
                let hole = self.hole(ground, next);
                if hole.previous.get() as usize != previous {
                    return Some("a list of holes reads differently backwards");
                }
                (previous, next) = (link_of(next), hole.next.get() as usize);
                listed += 1;
            }
        }
        (listed != holes).then_some("a hole is in no list")
    }

    /// Makes a hole the first of its class, in front of `next`.
    #[inline]
    fn put_in_front(self, ground: Ground, class: usize, first: usize, next: u32) {
        let hole = self.hole(ground, first);
        // INVARIANT: the hole is the first of its class.
        hole.next.set(next);
        hole.previous.set((HEADS + class) as u32);
        self.link(ground, HEADS + class).set(first as u32);
        self.hole(ground, next as usize).previous.set(link_of(first) as u32);
    }

    #[inline]
    fn put_in(self, ground: Ground, class: usize, first: usize) {
        let next = self.link(ground, HEADS + class).get();
        self.put_in_front(ground, class, first, next);
        // INVARIANT: the group has a hole.
        self.flag(ground, class / GROUP).set(1);
    }

    /// Takes a found hole out.
    #[inline]
    pub(super) fn pop(self, ground: Ground, found: Found) {
        let next = self.hole(ground, found.first).next.get();
        // INVARIANT: the next one is the first of the class.
        self.link(ground, HEADS + found.class).set(next);
        self.hole(ground, next as usize).previous.set((HEADS + found.class) as u32);
    }

    /// Notes what is left of a found hole.
    #[inline]
    pub(super) fn replace(self, ground: Ground, found: Found, first: usize, words: usize) {
        let class = FINE.class_of_any_words(words);
        if class == found.class {
            let next = self.hole(ground, found.first).next.get();
            self.put_in_front(ground, class, first, next);
        } else {
            self.pop(ground, found);
            self.put_in(ground, class, first);
        }
    }
}

impl Order for Bins {
    #[inline]
    fn put(self, ground: Ground, first: usize, words: usize) {
        self.put_in(ground, FINE.class_of_words(words), first);
    }

    #[inline]
    fn remove(self, ground: Ground, first: usize, _: usize) {
        let hole = self.hole(ground, first);
        let (next, previous) = (hole.next.get(), hole.previous.get());
        // INVARIANT: the hole is in no list; its group's flag may stay.
        self.link(ground, previous as usize).set(next);
        self.hole(ground, next as usize).previous.set(previous);
    }

    #[inline]
    fn cut_front(self, ground: Ground, from: usize, first: usize, words: usize) {
        self.remove(ground, from, 0);
        self.put(ground, first, words);
    }
}
