//! The holes of one extent, in order of address.
//!
//! ```text
//!   extent     ████░░░░░░██████████░░████████████████░░░░░░░░░░░░░░░
//!                       ▲          ▲                               ▲
//!   ends                │          │                               │     a bit each, out of line
//!                     length     length                          length  the last granule's
//! ```
//!
//! A hole is known by its **last** granule. A block is cut from a hole's front, so the rest stays
//! known by the same bit, and its length is the only word that changes. The same holds where the
//! block before a hole is freed. What ends just before a block is one bit away; what begins behind
//! it is the next hole's business: its length says where it begins.
//!
//! For each 64 granules, and for each 64 times as many, a byte says how long a hole that ends there
//! may be: see [`Maxima`]. So a search passes over what is too short, and first fit stays exactly
//! first fit.

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;

use super::Fit;
use super::class::{class_of, length_of};
use super::maxima::Maxima;
use super::shelves::{Place, shelf_of};
use crate::pointers;
use crate::strategy::Extent;
use crate::strategy::bit_tree::{BitTree, MAX_NUMBERS};
use crate::units::PAGE_BYTES;

/// log2 of [`GRANULE`].
const GRANULE_SHIFT: u32 = 4;

/// What blocks are multiples of, and aligned to: the least hole has room for its length.
pub(super) const GRANULE: usize = 1 << GRANULE_SHIFT;

/// The most granules that are used of an extent: 64 GiB.
const MAX_GRANULES: usize = u32::MAX as usize;
const _: () = assert!(MAX_GRANULES <= MAX_NUMBERS && class_of(MAX_GRANULES) < 127);

/// Granules for which one byte bounds the lengths of holes: a word of the tree.
const STRETCH: usize = u64::BITS as usize;

/// What is kept about an extent, at the start of its metadata. The maxima's bytes and the tree's
/// words follow.
///
/// # Invariants
/// 1. `ends` has the last granule of each hole; the first word of that granule is the hole's length
///    in granules. Holes neither overlap nor touch.
/// 2. The maxima of the stretch that a hole ends in are at least the [value](value_of) of its
///    length.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Holes {
    ends: BitTree,
    maxima: Maxima,
    base: NonNull<u8>,
    granules: usize,
    /// Where the last search of next fit ended.
    rover: Cell<usize>,
    /// Which list of extents this one is in.
    pub(super) place: Place,
}

/// A request in granules.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) granules: usize,
    /// In bytes.
    pub(super) align: usize,
    pub(super) fit: Fit,
}

impl Request {
    #[inline]
    pub(super) fn new(layout: Layout, fit: Fit) -> Self {
        Self { granules: granules_for(layout.size()), align: layout.align(), fit }
    }
}

/// A hole that fits, and how many granules of its front alignment takes.
struct Found {
    end: usize,
    length: usize,
    front: usize,
}

/// The granules of a block of `bytes`.
#[inline]
pub(super) const fn granules_for(bytes: usize) -> usize {
    // A layout's size is at most isize::MAX, so the sum does not overflow.
    (bytes + (GRANULE - 1)) >> GRANULE_SHIFT
}

const fn usable_granules(extent_bytes: usize) -> usize {
    let granules = extent_bytes >> GRANULE_SHIFT;
    if granules < MAX_GRANULES { granules } else { MAX_GRANULES }
}

/// What a hole's length is in the maxima: its class and one, so that none is zero.
#[inline]
const fn value_of(granules: usize) -> u8 {
    class_of(granules) as u8 + 1
}

/// The metadata bytes for an extent.
pub(super) const fn metadata_bytes(extent_bytes: usize) -> usize {
    let granules = usable_granules(extent_bytes);
    let stretches = granules.div_ceil(STRETCH);
    size_of::<Holes>() + Maxima::bytes_for(stretches) + BitTree::bytes_for(granules)
}

impl Holes {
    /// The record of an extent that was added.
    ///
    /// # Safety
    /// The extent was added and not removed.
    #[inline]
    pub(super) unsafe fn of(extent: &Extent) -> &Self {
        // SAFETY: `start` wrote the record there.
        unsafe { extent.metadata().cast::<Self>().as_ref() }
    }

    /// Writes the record of an extent that is one hole.
    ///
    /// # Safety
    /// The extent upholds its type's invariants; its metadata is as long as [`metadata_bytes`]
    /// says.
    pub(super) unsafe fn start(extent: &Extent) -> &Self {
        let granules = usable_granules(extent.length());
        let stretches = granules.div_ceil(STRETCH);
        // SAFETY: record, bytes and words lie in the metadata, in this order, and each is aligned.
        let holes = unsafe {
            let bytes = pointers::forward(extent.metadata(), size_of::<Self>());
            let words = pointers::forward(bytes, Maxima::bytes_for(stretches)).cast();
            extent.metadata().cast::<Self>().write(Self {
                ends: BitTree::new(words, granules),
                maxima: Maxima::new(bytes, stretches),
                base: extent.start(),
                granules,
                rover: Cell::new(0),
                place: Place::new(),
            });
            Self::of(extent)
        };
        if granules != 0 {
            holes.put(granules - 1, granules);
            holes.ends.insert(granules - 1);
        }
        holes
    }

    #[inline]
    fn granule(&self, index: usize) -> NonNull<u8> {
        // SAFETY: callers pass granules of the extent, or its end.
        unsafe { pointers::forward(self.base, index << GRANULE_SHIFT) }
    }

    #[inline]
    fn length(&self, end: usize) -> usize {
        // SAFETY: the first word of a hole's last granule is its length.
        unsafe { self.granule(end).cast::<usize>().read() }
    }

    #[inline]
    fn set_length(&self, end: usize, granules: usize) {
        // SAFETY: the granule is in a hole, and so the strategy's alone.
        unsafe { self.granule(end).cast::<usize>().write(granules) };
    }

    /// The index of the granule that a block starts at.
    #[inline]
    pub(super) fn index_of(&self, block: NonNull<u8>) -> usize {
        pointers::distance(self.base, block) >> GRANULE_SHIFT
    }

    /// The shelf of the longest hole that the maxima allow.
    pub(super) fn longest(&self) -> usize {
        // Such a hole is shorter than the next class, which may be on the next shelf.
        let class = usize::from(self.maxima.most()).checked_sub(1);
        class.map_or(0, |class| shelf_of(length_of(class + 1) - 1))
    }

    /// Writes a hole's length, where it appears or becomes longer.
    #[inline]
    fn put(&self, end: usize, granules: usize) {
        self.set_length(end, granules);
        self.maxima.raise(end / STRETCH, value_of(granules));
    }

    /// What alignment takes of a hole's front, if the request then fits.
    #[inline]
    fn front_of(&self, end: usize, length: usize, request: Request) -> Option<usize> {
        if length < request.granules {
            return None;
        }
        if request.align <= GRANULE {
            return Some(0);
        }
        let start = self.granule(end + 1 - length);
        let front = pointers::padding(start, request.align) >> GRANULE_SHIFT;
        (length - request.granules >= front).then_some(front)
    }

    /// Takes granules for a request; the first one's index.
    #[inline]
    pub(super) fn take(&self, request: Request) -> Option<usize> {
        let found = self.find(request)?;
        let start = found.end + 1 - found.length;
        if found.front != 0 {
            self.put(start + found.front - 1, found.front);
            self.ends.insert(start + found.front - 1);
        }
        let rest = found.length - found.front - request.granules;
        if rest == 0 {
            self.ends.remove(found.end);
        } else {
            self.set_length(found.end, rest);
        }
        self.rover.set(found.end);
        Some(start + found.front)
    }

    #[inline]
    fn find(&self, request: Request) -> Option<Found> {
        match request.fit {
            Fit::First => self.find_from(0, request),
            Fit::Next => {
                self.find_from(self.rover.get(), request).or_else(|| self.find_from(0, request))
            }
            Fit::Best => self.find_best(request),
        }
    }

    /// The first hole, in order of address, that fits and ends at `from` or behind.
    #[inline]
    fn find_from(&self, from: usize, request: Request) -> Option<Found> {
        let value = value_of(request.granules);
        let mut mask = u64::MAX << (from % STRETCH);
        let mut stretch = from / STRETCH;
        loop {
            let next = self.maxima.next_at_least(stretch, value)?;
            if next != stretch {
                (stretch, mask) = (next, u64::MAX);
            }
            let mut rest = self.ends.word_at(stretch) & mask;
            let mut longest = 0;
            while rest != 0 {
                let end = stretch * STRETCH + rest.trailing_zeros() as usize;
                let length = self.length(end);
                if let Some(front) = self.front_of(end, length, request) {
                    return Some(Found { end, length, front });
                }
                longest = longest.max(value_of(length));
                rest &= rest - 1;
            }
            if mask == u64::MAX {
                self.maxima.lower(stretch, longest);
            }
            (stretch, mask) = (stretch + 1, u64::MAX);
        }
    }

    /// The shortest hole that fits; among equals the first.
    fn find_best(&self, request: Request) -> Option<Found> {
        let mut best = self.find_from(0, request)?;
        let mut next = self.find_from(best.end + 1, request);
        while let Some(found) = next
            && best.length > request.granules
        {
            next = self.find_from(found.end + 1, request);
            if found.length < best.length {
                best = found;
            }
        }
        Some(best)
    }

    /// Puts granules back, and joins what touches them; the length of the hole that they are in
    /// now.
    #[inline]
    pub(super) fn give(&self, first: usize, granules: usize) -> usize {
        let last = first + granules - 1;
        let mut length = granules;
        if first != 0 && self.ends.contains(first - 1) {
            length += self.length(first - 1);
            self.ends.remove(first - 1);
        }
        // The hole behind, if it begins right there, keeps its end.
        if let Some(end) = self.ends.next_from(last + 1)
            && let behind = self.length(end)
            && end - behind == last
        {
            self.put(end, behind + length);
            return behind + length;
        }
        self.put(last, length);
        self.ends.insert(last);
        length
    }

    /// Takes `granules` that begin at `first`, if they are free. Whether they were.
    pub(super) fn take_at(&self, first: usize, granules: usize) -> bool {
        let Some(end) = self.ends.next_from(first) else { return false };
        let length = self.length(end);
        if end + 1 - length != first || length < granules {
            return false;
        }
        if length == granules {
            self.ends.remove(end);
        } else {
            self.set_length(end, length - granules);
        }
        true
    }

    /// Calls `visit` with each hole, in order of address.
    pub(super) fn visit(&self, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        let mut next = self.ends.next_from(0);
        while let Some(end) = next {
            let length = self.length(end);
            // The next one is found out of line: what is visited may be lost.
            next = self.ends.next_from(end + 1);
            visit(pointers::block(self.granule(end + 1 - length), length << GRANULE_SHIFT));
        }
    }

    /// Calls `visit` with the whole pages of holes, but the last granules.
    pub(super) fn visit_pages(&self, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        self.visit(&mut |hole| {
            let skipped = pointers::padding(hole.cast(), PAGE_BYTES);
            let pages = (hole.len() - GRANULE).saturating_sub(skipped) & !(PAGE_BYTES - 1);
            if pages != 0 {
                // SAFETY: the skipped bytes lie in the hole, which is longer.
                visit(pointers::block(unsafe { pointers::forward(hole.cast(), skipped) }, pages));
            }
        });
    }

    /// Whether `granules` from `first` on touch no hole, so that they may be allocated.
    pub(super) fn is_taken(&self, first: usize, granules: usize) -> bool {
        self.ends.next_from(first).is_none_or(|end| end + 1 - self.length(end) >= first + granules)
    }

    /// Whether the extent is one hole.
    pub(super) fn is_empty(&self) -> bool {
        self.granules == 0
            || self.ends.next_from(0) == Some(self.granules - 1)
                && self.length(self.granules - 1) == self.granules
    }

    /// What is wrong, if anything is.
    pub(super) fn fault(&self) -> Option<&'static str> {
        if !self.ends.is_sound() {
            return Some("the levels of a map disagree");
        }
        // Where the next hole may begin at the earliest: not where the one before ends.
        let mut from = 0;
        let mut next = self.ends.next_from(0);
        while let Some(end) = next {
            let length = self.length(end);
            if length == 0 || length > end + 1 {
                return Some("a hole's length is wrong: freed memory was written to");
            }
            if end + 1 - length < from {
                return Some("two holes touch, or freed memory was written to");
            }
            if !self.maxima.allows(end / STRETCH, value_of(length)) {
                return Some("a hole is longer than its stretch's bound");
            }
            from = end + 2;
            next = self.ends.next_from(end + 1);
        }
        None
    }
}
