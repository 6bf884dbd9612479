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
//! known by the same bit, and its length is all that changes. The same holds where the block before
//! a hole is freed. What ends just before a block is one bit away; what begins behind it is the
//! next hole's business: its length says where it begins.
//!
//! What finds a hole beside that is by the fit. First and next fit have [`Maxima`]: for each 64
//! granules, and for each 64 times as many, a byte that says how long a hole that ends there may
//! be, so that a search passes over what is too short and stays exactly first fit. Best fit has
//! [`Bins`]: lists of holes by length.

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;

use super::Fit;
use super::bins::{Bins, Node};
use super::class::{COARSE, FINE};
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
const _: () = assert!(MAX_GRANULES <= MAX_NUMBERS && COARSE.class_of(MAX_GRANULES) < 127);

/// Granules for which one byte bounds the lengths of holes: a word of the tree.
const STRETCH: usize = u64::BITS as usize;

/// How a hole for a request is found.
#[derive(Debug)]
enum Index {
    /// For first and next fit.
    ByAddress(Maxima),
    /// For best fit.
    ByLength(Bins),
}

/// What is kept about an extent, at the start of its metadata. The index' bytes and the tree's
/// words follow.
///
/// # Invariants
/// 1. `ends` has the last granule of each hole, which begins with a [`Node`] that has the hole's
///    length. Holes neither overlap nor touch.
/// 2. The maxima of the stretch that a hole ends in are at least the [value](value_of) of its
///    length; or every hole is in the bins.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Holes {
    ends: BitTree,
    index: Index,
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
    COARSE.class_of(granules) as u8 + 1
}

const fn index_bytes(granules: usize, fit: Fit) -> usize {
    match fit {
        Fit::First | Fit::Next => Maxima::bytes_for(granules.div_ceil(STRETCH)),
        Fit::Best => Bins::bytes_for(granules),
    }
}

/// The metadata bytes for an extent.
pub(super) const fn metadata_bytes(extent_bytes: usize, fit: Fit) -> usize {
    let granules = usable_granules(extent_bytes);
    size_of::<Holes>() + index_bytes(granules, fit) + BitTree::bytes_for(granules)
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
    /// says for the fit.
    pub(super) unsafe fn start(extent: &Extent, fit: Fit) -> &Self {
        let granules = usable_granules(extent.length());
        // SAFETY: record, bytes and words lie in the metadata, in this order, and each is aligned.
        let holes = unsafe {
            let bytes = pointers::forward(extent.metadata(), size_of::<Self>());
            let words = pointers::forward(bytes, index_bytes(granules, fit)).cast();
            let index = match fit {
                Fit::First | Fit::Next => {
                    Index::ByAddress(Maxima::new(bytes, granules.div_ceil(STRETCH)))
                }
                Fit::Best => Index::ByLength(Bins::new(extent.start(), bytes, granules)),
            };
            extent.metadata().cast::<Self>().write(Self {
                ends: BitTree::new(words, granules),
                index,
                base: extent.start(),
                granules,
                rover: Cell::new(0),
                place: Place::new(),
            });
            Self::of(extent)
        };
        if granules != 0 {
            holes.appear(granules - 1, granules);
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
        // SAFETY: a hole's last granule begins with its node.
        unsafe { (*self.granule(end).cast::<Node>().as_ptr()).length as usize }
    }

    #[inline]
    fn set_length(&self, end: usize, granules: usize) {
        // SAFETY: the granule is in a hole, and so the strategy's alone.
        unsafe { (*self.granule(end).cast::<Node>().as_ptr()).length = granules as u32 };
    }

    /// Notes a new hole.
    #[inline]
    fn appear(&self, end: usize, granules: usize) {
        self.set_length(end, granules);
        match &self.index {
            Index::ByAddress(maxima) => maxima.raise(end / STRETCH, value_of(granules)),
            Index::ByLength(bins) => bins.put(end, granules),
        }
        self.ends.insert(end);
    }

    /// Notes that a hole is none any more.
    #[inline]
    fn vanish(&self, end: usize) {
        if let Index::ByLength(bins) = &self.index {
            bins.remove(end);
        }
        self.ends.remove(end);
    }

    /// Notes that a hole begins elsewhere.
    #[inline]
    fn resize(&self, end: usize, old: usize, new: usize) {
        self.set_length(end, new);
        match &self.index {
            Index::ByAddress(maxima) if new > old => maxima.raise(end / STRETCH, value_of(new)),
            Index::ByAddress(_) => {}
            Index::ByLength(bins) => bins.resize(end, new),
        }
    }

    /// The index of the granule that a block starts at.
    #[inline]
    pub(super) fn index_of(&self, block: NonNull<u8>) -> usize {
        pointers::distance(self.base, block) >> GRANULE_SHIFT
    }

    /// The shelf of the longest hole that the index allows.
    pub(super) fn longest(&self) -> usize {
        // Such a hole is shorter than the next class, which may be on the next shelf.
        let next = match &self.index {
            Index::ByAddress(maxima) => {
                usize::from(maxima.most()).checked_sub(1).map(|class| COARSE.length_of(class + 1))
            }
            Index::ByLength(bins) => bins.longest_class().map(|class| FINE.length_of(class + 1)),
        };
        next.map_or(0, |next| shelf_of(next - 1))
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
        let rest = found.length - found.front - request.granules;
        if rest == 0 {
            self.vanish(found.end);
        } else {
            self.resize(found.end, found.length, rest);
        }
        if found.front != 0 {
            self.appear(start + found.front - 1, found.front);
        }
        Some(start + found.front)
    }

    #[inline]
    fn find(&self, request: Request) -> Option<Found> {
        match &self.index {
            Index::ByLength(bins) => {
                if request.align > GRANULE {
                    return self.find_aligned(bins, request);
                }
                let (end, length) = bins.best(request.granules)?;
                Some(Found { end, length, front: 0 })
            }
            Index::ByAddress(maxima) => {
                let from = if request.fit == Fit::Next { self.rover.get() } else { 0 };
                let mut found = self.find_from(maxima, from, request);
                if found.is_none() && from != 0 {
                    found = self.find_from(maxima, 0, request);
                }
                self.rover.set(found.as_ref()?.end);
                found
            }
        }
    }

    /// The hole that fits best among those that fit wherever they begin; if there are none, the
    /// first of all.
    #[cold]
    fn find_aligned(&self, bins: &Bins, request: Request) -> Option<Found> {
        let surely = request.granules + (request.align >> GRANULE_SHIFT) - 1;
        let mut next = bins.best(surely).map(|(end, _)| end);
        let is_sure = next.is_some();
        if next.is_none() {
            next = self.ends.next_from(0);
        }
        while let Some(end) = next {
            let length = self.length(end);
            if let Some(front) = self.front_of(end, length, request) {
                return Some(Found { end, length, front });
            }
            next = if is_sure { None } else { self.ends.next_from(end + 1) };
        }
        None
    }

    /// The first hole, in order of address, that fits and ends at `from` or behind.
    #[inline]
    fn find_from(&self, maxima: &Maxima, from: usize, request: Request) -> Option<Found> {
        let value = value_of(request.granules);
        let mut mask = u64::MAX << (from % STRETCH);
        let mut stretch = from / STRETCH;
        loop {
            let next = maxima.next_at_least(stretch, value)?;
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
                maxima.lower(stretch, longest);
            }
            (stretch, mask) = (stretch + 1, u64::MAX);
        }
    }

    /// Puts granules back, and joins what touches them; the length of the hole that they are in
    /// now.
    #[inline]
    pub(super) fn give(&self, first: usize, granules: usize) -> usize {
        let last = first + granules - 1;
        let mut length = granules;
        if first != 0 && self.ends.contains(first - 1) {
            let before = self.length(first - 1);
            self.vanish(first - 1);
            length += before;
        }
        // The hole behind, if it begins right there, keeps its end.
        if let Some(end) = self.ends.next_from(last + 1)
            && let behind = self.length(end)
            && end - behind == last
        {
            self.resize(end, behind, behind + length);
            return behind + length;
        }
        self.appear(last, length);
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
            self.vanish(end);
        } else {
            self.resize(end, length, length - granules);
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
        let (mut from, mut holes) = (0, 0);
        let mut next = self.ends.next_from(0);
        while let Some(end) = next {
            let length = self.length(end);
            if length == 0 || length > end + 1 {
                return Some("a hole's length is wrong: freed memory was written to");
            }
            if end + 1 - length < from {
                return Some("two holes touch, or freed memory was written to");
            }
            if let Index::ByAddress(maxima) = &self.index
                && !maxima.allows(end / STRETCH, value_of(length))
            {
                return Some("a hole is longer than its stretch's bound");
            }
            (from, holes) = (end + 2, holes + 1);
            next = self.ends.next_from(end + 1);
        }
        match &self.index {
            Index::ByAddress(_) => None,
            Index::ByLength(bins) => bins.fault(holes, |end| {
                (end < self.granules && self.ends.contains(end)).then(|| self.length(end))
            }),
        }
    }
}
