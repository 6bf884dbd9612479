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
//! For each class of lengths a **bound** says before which place no hole of that length ends. A
//! search begins there instead of at the front, and raises the bound to where it found its first;
//! a hole that appears lowers it. So first fit stays exactly first fit and seldom takes more than a
//! few steps.

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;

use super::Fit;
use super::class::{class_of, length_of};
use super::shelves::{Place, shelf_of};
use crate::pointers;
use crate::strategy::Extent;
use crate::strategy::bit_tree::{BitTree, MAX_NUMBERS};
use crate::units::PAGE_BYTES;

/// log2 of [`GRANULE`].
const GRANULE_SHIFT: u32 = 4;

/// What blocks are multiples of, and aligned to: the least hole has room for its length.
pub(super) const GRANULE: usize = 1 << GRANULE_SHIFT;

/// The most granules that are used of an extent: 64 GiB. Bounds are 32 bits wide.
const MAX_GRANULES: usize = u32::MAX as usize;
const _: () = assert!(MAX_GRANULES <= MAX_NUMBERS);

/// What is kept about an extent, at the start of its metadata. The bounds and the tree's words
/// follow.
///
/// # Invariants
/// 1. `ends` has the last granule of each hole; the first word of that granule is the hole's length
///    in granules. Holes neither overlap nor touch.
/// 2. No hole of at least `length_of(class)` granules ends before `bounds[class]`; bounds do not
///    fall from class to class.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Holes {
    ends: BitTree,
    bounds: NonNull<Cell<u32>>,
    classes: usize,
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

const fn bounds_bytes(granules: usize) -> usize {
    ((class_of(granules) + 1) * size_of::<u32>()).next_multiple_of(size_of::<u64>())
}

/// The metadata bytes for an extent.
pub(super) const fn metadata_bytes(extent_bytes: usize) -> usize {
    let granules = usable_granules(extent_bytes);
    size_of::<Holes>() + bounds_bytes(granules) + BitTree::bytes_for(granules)
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
        // SAFETY: record, bounds and words lie in the metadata, in this order, and each is aligned.
        let holes = unsafe {
            let bounds = pointers::forward(extent.metadata(), size_of::<Self>());
            let words = pointers::forward(bounds, bounds_bytes(granules)).cast();
            extent.metadata().cast::<Self>().write(Self {
                ends: BitTree::new(words, granules),
                bounds: bounds.cast(),
                classes: class_of(granules) + 1,
                base: extent.start(),
                granules,
                rover: Cell::new(0),
                place: Place::new(),
            });
            Self::of(extent)
        };
        // The bounds are zero, which is below every hole.
        if granules != 0 {
            holes.set_length(granules - 1, granules);
            holes.ends.insert(granules - 1);
        }
        holes
    }

    /// The bounds by class.
    #[inline]
    fn bounds(&self) -> &[Cell<u32>] {
        // SAFETY: the bounds follow the record in the metadata, as many as there are classes, and
        // are changed through their cells alone.
        unsafe { core::slice::from_raw_parts(self.bounds.as_ptr(), self.classes) }
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

    /// The shelf of the longest hole that the bounds allow.
    pub(super) fn longest(&self) -> usize {
        let bounds = self.bounds();
        let full = self.granules as u32;
        let classes = bounds.partition_point(|bound| bound.get() < full);
        // The last class that may have a hole: such a hole is shorter than the next class.
        classes.checked_sub(1).map_or(0, |class| shelf_of(length_of(class)))
    }

    /// A hole appeared, or became longer.
    #[inline]
    fn lower_bounds(&self, end: usize, length: usize) {
        for bound in self.bounds().iter().take(class_of(length) + 1).rev() {
            if bound.get() as usize <= end {
                return;
            }
            bound.set(end as u32);
        }
    }

    /// No hole of the class's length, or longer, ends before `end`.
    #[inline]
    fn raise_bounds(&self, class: usize, end: usize) {
        for bound in self.bounds().iter().skip(class) {
            if bound.get() as usize >= end {
                return;
            }
            bound.set(end as u32);
        }
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
            self.set_length(start + found.front - 1, found.front);
            self.ends.insert(start + found.front - 1);
            self.lower_bounds(start + found.front - 1, found.front);
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
        let class = class_of(request.granules);
        let from = self.bounds().get(class)?.get() as usize;
        match request.fit {
            Fit::First => self.find_first(from, request),
            Fit::Next => self.find_next(from, request),
            Fit::Best => self.find_best(from, request),
        }
    }

    /// The first hole that fits, in order of address.
    #[inline]
    fn find_first(&self, from: usize, request: Request) -> Option<Found> {
        let class = class_of(request.granules);
        // The first that is as long as the class, and as long as the request; both become bounds.
        let (mut of_class, mut long_enough) = (None, None);
        let mut next = self.ends.next_from(from);
        let mut found = None;
        while let Some(end) = next {
            let length = self.length(end);
            if of_class.is_none() && length >= length_of(class) {
                of_class = Some(end);
            }
            if long_enough.is_none() && length >= request.granules {
                long_enough = Some(end);
            }
            if let Some(front) = self.front_of(end, length, request) {
                found = Some(Found { end, length, front });
                break;
            }
            next = self.ends.next_from(end + 1);
        }
        let whole_class = length_of(class) == request.granules;
        let above = if whole_class { class } else { class + 1 };
        self.raise_bounds(above, long_enough.unwrap_or(self.granules));
        if !whole_class && let Some(bound) = self.bounds().get(class) {
            // Not above the next class's: the hole found is as long as the class too.
            bound.set(of_class.unwrap_or(self.granules) as u32);
        }
        found
    }

    /// The next hole that fits from where the last search ended, round the extent.
    fn find_next(&self, from: usize, request: Request) -> Option<Found> {
        let rover = self.rover.get();
        let mut next = self.ends.next_from(rover.max(from));
        while let Some(end) = next {
            let length = self.length(end);
            if let Some(front) = self.front_of(end, length, request) {
                return Some(Found { end, length, front });
            }
            next = self.ends.next_from(end + 1);
        }
        self.find_first(from, request)
    }

    /// The shortest hole that fits; among equals the first.
    fn find_best(&self, from: usize, request: Request) -> Option<Found> {
        let mut best = self.find_first(from, request)?;
        let mut next = self.ends.next_from(best.end + 1);
        while let Some(end) = next
            && best.length > request.granules
        {
            let length = self.length(end);
            if length < best.length
                && let Some(front) = self.front_of(end, length, request)
            {
                best = Found { end, length, front };
            }
            next = self.ends.next_from(end + 1);
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
            self.set_length(end, behind + length);
            self.lower_bounds(end, behind + length);
            return behind + length;
        }
        self.set_length(last, length);
        self.ends.insert(last);
        self.lower_bounds(last, length);
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
        let bounds = self.bounds();
        if !bounds.is_sorted() {
            return Some("the bounds are not in order");
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
            let class = class_of(length);
            if bounds.get(class).is_none_or(|bound| bound.get() as usize > end) {
                return Some("a hole lies before its class's bound");
            }
            from = end + 2;
            next = self.ends.next_from(end + 1);
        }
        None
    }
}
