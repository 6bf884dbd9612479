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
//! the shortest that fits. Above, the shortest of the first few of a class is taken, which is
//! nearly that.

use core::cell::Cell;
use core::ptr::NonNull;

use super::class::FINE;
use crate::pointers;

/// Classes up to 2^32 granules, and the words of their bits.
const MAX_CLASSES: usize = FINE.class_of(u32::MAX as usize) + 1;
const WORDS: usize = MAX_CLASSES.div_ceil(64);

/// No hole: no granule has this number.
const NONE: u32 = u32::MAX;

/// Holes of one class that are looked at.
const LOOKS: usize = 8;

/// What lies in a hole's last granule.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Node {
    /// The hole's, in granules.
    pub(super) length: u32,
    next: u32,
    previous: u32,
    /// Of the list that it is in.
    class: u32,
}

/// Lists of holes, each known by the number of its last granule.
///
/// # Invariants
/// - A bit of `occupied` is set exactly where the class has holes, and its head is then the first.
/// - Every hole of the extent is in the list of its length's class, linked both ways.
#[derive(Debug)]
pub(super) struct Bins {
    base: NonNull<Node>,
    heads: NonNull<Cell<u32>>,
    classes: usize,
    occupied: [Cell<u64>; WORDS],
}

const fn classes_for(granules: usize) -> usize {
    FINE.class_of(granules) + 1
}

impl Bins {
    /// The bytes of heads for an extent of `granules`.
    pub(super) const fn bytes_for(granules: usize) -> usize {
        (classes_for(granules) * size_of::<u32>()).next_multiple_of(8)
    }

    /// No hole.
    ///
    /// # Safety
    /// `base` leads to an extent of `granules`, at most 2^32 - 1, whose holes are the caller's;
    /// `heads` to [`bytes_for`](Self::bytes_for) zeroed bytes, aligned to 4. Both are these bins'
    /// alone as long as they are used.
    pub(super) const unsafe fn new(base: NonNull<u8>, heads: NonNull<u8>, granules: usize) -> Self {
        Self {
            base: base.cast(),
            heads: heads.cast(),
            classes: classes_for(granules),
            occupied: [const { Cell::new(0) }; WORDS],
        }
    }

    /// The node of the hole that ends there.
    #[inline]
    fn node(&self, end: u32) -> *mut Node {
        // SAFETY: the holes that are put in lie in the extent.
        unsafe { pointers::forward(self.base.cast(), end as usize * super::GRANULE) }
            .cast()
            .as_ptr()
    }

    #[inline]
    fn head(&self, class: usize) -> Option<&Cell<u32>> {
        if class >= self.classes {
            return None;
        }
        // SAFETY: there are as many heads as classes.
        Some(unsafe { pointers::forward(self.heads.cast(), class * 4).cast().as_ref() })
    }

    #[inline]
    fn is_occupied(&self, class: usize) -> bool {
        self.occupied.get(class / 64).is_some_and(|word| word.get() >> (class % 64) & 1 != 0)
    }

    /// Puts a hole in whose length is written.
    #[inline]
    pub(super) fn put(&self, end: usize, granules: usize) {
        self.put_in(FINE.class_of(granules), end);
    }

    #[inline]
    fn put_in(&self, class: usize, end: usize) {
        let (Some(head), Some(word)) = (self.head(class), self.occupied.get(class / 64)) else {
            return;
        };
        let (end, bit) = (end as u32, 1 << (class % 64));
        let next = if word.get() & bit != 0 { head.get() } else { NONE };
        // SAFETY: both granules are holes', and so the strategy's alone.
        unsafe {
            (*self.node(end)).next = next;
            (*self.node(end)).previous = NONE;
            (*self.node(end)).class = class as u32;
            if next != NONE {
                (*self.node(next)).previous = end;
            }
        }
        // INVARIANT: the hole is the first of its class, which is occupied.
        head.set(end);
        word.set(word.get() | bit);
    }

    /// Takes a hole out.
    #[inline]
    pub(super) fn remove(&self, end: usize) {
        // SAFETY: the hole is in the list, and so are those that it links.
        unsafe {
            let Node { next, previous, class, .. } = *self.node(end as u32);
            let class = class as usize;
            if next != NONE {
                (*self.node(next)).previous = previous;
            }
            if previous != NONE {
                (*self.node(previous)).next = next;
                return;
            }
            let Some(head) = self.head(class) else { return };
            head.set(next);
            if next == NONE
                && let Some(word) = self.occupied.get(class / 64)
            {
                // INVARIANT: the list is empty now.
                word.set(word.get() & !(1 << (class % 64)));
            }
        }
    }

    /// Moves a hole to the list of its new length.
    #[inline]
    pub(super) fn resize(&self, end: usize, granules: usize) {
        let class = FINE.class_of(granules);
        // SAFETY: the hole is in a list.
        if unsafe { (*self.node(end as u32)).class } as usize != class {
            self.remove(end);
            self.put_in(class, end);
        }
    }

    /// The least class from `class` on that has a hole.
    #[inline]
    fn next_occupied(&self, class: usize) -> Option<usize> {
        let mut mask = u64::MAX << (class % 64);
        for (index, word) in self.occupied.iter().enumerate().skip(class / 64) {
            let rest = word.get() & mask;
            if rest != 0 {
                return Some(index * 64 + rest.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    /// The shortest of the first `looks` holes of a class that has any, if it is long enough: its
    /// last granule and its length.
    fn shortest_of(&self, class: usize, granules: usize, looks: usize) -> Option<(usize, usize)> {
        let mut best: Option<(usize, usize)> = None;
        let mut next = self.head(class)?.get();
        for _ in 0..looks {
            if next == NONE {
                break;
            }
            // SAFETY: the hole is in the list.
            let (length, end) = unsafe { ((*self.node(next)).length as usize, next as usize) };
            if length >= granules && best.is_none_or(|(_, shortest)| length < shortest) {
                best = Some((end, length));
            }
            // SAFETY: as above.
            next = unsafe { (*self.node(next)).next };
        }
        best
    }

    /// A hole of at least `granules`, the shortest or nearly: its last granule and its length.
    #[inline]
    pub(super) fn best(&self, granules: usize) -> Option<(usize, usize)> {
        let own = FINE.class_of(granules);
        let class = self.next_occupied(own);
        if let Some(class) = class
            && FINE.is_exact(class)
        {
            return Some((self.head(class)?.get() as usize, class + 1));
        }
        self.best_of_long(class?, own, granules)
    }

    #[inline(never)]
    fn best_of_long(&self, first: usize, own: usize, granules: usize) -> Option<(usize, usize)> {
        let mut class = Some(first);
        while let Some(occupied) = class {
            let found = self.shortest_of(occupied, granules, LOOKS);
            if found.is_some() {
                return found;
            }
            class = self.next_occupied(occupied + 1);
        }
        // Only in the request's own class are holes too short for it, and perhaps others behind.
        if self.is_occupied(own) { self.shortest_of(own, granules, usize::MAX) } else { None }
    }

    /// A class that no hole's exceeds.
    pub(super) fn longest_class(&self) -> Option<usize> {
        let last = self.occupied.iter().enumerate().rev().find(|(_, word)| word.get() != 0);
        last.map(|(index, word)| index * 64 + word.get().ilog2() as usize)
    }

    /// What is wrong, if anything is; `holes` is how many there are, `length_of` tells the length
    /// of one that ends at a granule.
    pub(super) fn fault(
        &self,
        holes: usize,
        length_of: impl Fn(usize) -> Option<usize>,
    ) -> Option<&'static str> {
        let mut listed = 0;
        for class in 0..self.classes {
            let is_occupied = self.is_occupied(class);
            let (mut previous, mut next) = (NONE, self.head(class)?.get());
            if is_occupied && next == NONE {
                return Some("a class's bit disagrees with its list");
            }
            while is_occupied && next != NONE {
                // Where freed memory was written to, the links lead anywhere.
                let class_of = length_of(next as usize).map(|length| FINE.class_of(length));
                if class_of != Some(class) || listed == holes {
                    return Some("a hole's links are wrong: freed memory was written to");
                }
                // SAFETY: a hole ends there.
                let node = unsafe { &*self.node(next) };
                if node.previous != previous || node.class as usize != class {
                    return Some("a list of holes reads differently backwards");
                }
                (previous, next) = (next, node.next);
                listed += 1;
            }
        }
        (listed != holes).then_some("a hole is in no list")
    }
}
