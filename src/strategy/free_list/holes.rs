//! The holes of one extent.
//!
//! ```text
//!   extent     ████░░░░░░██████████░░████████████████░░░░░░░░░░░░░░░     █ block  ░ hole
//!   edges          │     │         │ │               │              │    a bit each, out of line
//!   lengths        4▒▒▒▒▒4         1 1               7▒▒▒▒▒▒▒▒▒▒▒▒▒▒7    in first and last granule
//! ```
//!
//! A block is cut from a hole's front, so the rest ends where the hole did: a hole is known by its
//! **end**. What is freed learns from the [edges](Edges) whether holes lie beside it, and from
//! their last and first granules how long they are: joining takes no search.
//!
//! What finds a hole is by the fit: best fit has [`Bins`], lists of holes by length, first and next
//! fit have [`Stretches`], the holes by address.

use core::ptr::NonNull;

use super::bins::{Bins, MAX_GRANULES};
use super::class::COARSE;
use super::edges::Edges;
use super::granule::{GRANULE, Ground};
use super::shelves::{Place, shelf_of};
use super::stretches::Stretches;
use super::{Fit, maxima::MAX_VALUE};
use crate::pointers;
use crate::strategy::Extent;
use crate::units::PAGE_BYTES;

const _: () = assert!(COARSE.class_of(MAX_GRANULES) < MAX_VALUE as usize);

/// What tells where holes are that are long enough. A hole is known by its end.
pub(super) trait Order: Copy {
    /// Notes a hole whose length is written. Whether it may be longer than all that were noted.
    fn put(self, ground: Ground, end: usize, granules: usize) -> bool;

    /// Forgets a hole.
    fn remove(self, ground: Ground, end: usize);

    /// Notes that a hole is only so long any more.
    fn shorten(self, ground: Ground, end: usize, granules: usize);
}

/// How a hole for a request is found.
#[derive(Debug)]
enum Index {
    /// For first and next fit.
    ByAddress(Stretches),
    /// For best fit.
    ByLength(Bins),
}

/// What is kept about an extent, at the start of its metadata. The edges' words and the index'
/// bytes follow.
///
/// # Invariants
/// - No two holes touch, and the edges are where they begin and end.
/// - A hole's last granule has its length, and its first one has it as the length of its front.
/// - The index has every hole.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Holes {
    ground: Ground,
    edges: Edges,
    index: Index,
    granules: usize,
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

/// The granules of an extent that are used: all, but of one that is longer than holes can tell.
pub(super) const fn usable_granules(extent_bytes: usize) -> usize {
    let granules = extent_bytes / GRANULE;
    if granules < MAX_GRANULES { granules } else { MAX_GRANULES }
}

/// The metadata bytes for an extent.
pub(super) const fn metadata_bytes(extent_bytes: usize, fit: Fit) -> usize {
    let granules = usable_granules(extent_bytes);
    let index_bytes = match fit {
        Fit::First | Fit::Next => Stretches::bytes_for(granules),
        Fit::Best => Bins::bytes_for(granules),
    };
    size_of::<Holes>() + Edges::bytes_for(granules) + index_bytes
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
        // SAFETY: record, words and bytes lie in the metadata, in this order, and each is aligned.
        let holes = unsafe {
            let ground = Ground::new(extent.start());
            let words = pointers::forward(extent.metadata(), size_of::<Self>());
            let bytes = pointers::forward(words, Edges::bytes_for(granules));
            let index = match fit {
                Fit::First | Fit::Next => Index::ByAddress(Stretches::new(bytes, granules)),
                Fit::Best => Index::ByLength(Bins::new(bytes)),
            };
            let edges = Edges::new(words, granules);
            extent.metadata().cast::<Self>().write(Self {
                ground,
                edges,
                index,
                granules,
                place: Place::new(),
            });
            Self::of(extent)
        };
        if granules != 0 {
            // SAFETY: all granules are the strategy's, and in no hole yet.
            unsafe { holes.give(0, granules) };
        }
        holes
    }

    /// The granule that a block starts with.
    #[inline]
    pub(super) fn index_of(&self, block: NonNull<u8>) -> usize {
        self.ground.index_of(block)
    }

    /// The shelf of the longest hole that the index allows.
    pub(super) fn longest(&self) -> usize {
        let longest = match &self.index {
            Index::ByAddress(stretches) => stretches.longest(),
            Index::ByLength(bins) => bins.longest(),
        };
        longest.map_or(0, shelf_of)
    }

    #[inline]
    fn length(&self, end: usize) -> usize {
        // SAFETY: callers pass ends of holes.
        unsafe { self.ground.last(end) }.length.get() as usize
    }

    /// The granules that alignment takes of a hole's front.
    #[inline]
    fn front_for(&self, end: usize, align: usize) -> usize {
        if align <= GRANULE {
            return 0;
        }
        // SAFETY: the hole lies in the extent.
        let start = unsafe { self.ground.address(end - self.length(end)) };
        pointers::padding(start, align) / GRANULE
    }

    /// Whether a hole fits as it lies.
    #[inline]
    fn fits(&self, end: usize, request: Request) -> bool {
        // Neither is more than the granules of a layout, so the sum does not overflow.
        self.length(end) >= request.granules + self.front_for(end, request.align)
    }

    /// Takes granules for a request, where one look at the bins finds a hole; where they start.
    #[inline(always)] // measured: with it all is one function that saves no registers
    pub(super) fn take_at_once(&self, request: Request) -> Option<NonNull<u8>> {
        match self.index {
            Index::ByLength(bins) if request.align <= GRANULE => {
                let end = bins.best_at_once(self.ground, request.granules)?;
                Some(self.cut(bins, end, 0, request.granules))
            }
            _ => None,
        }
    }

    /// Takes granules for a request; where they start.
    pub(super) fn take(&self, request: Request) -> Option<NonNull<u8>> {
        let front_for = |end| self.front_for(end, request.align);
        match &self.index {
            Index::ByLength(bins) => {
                let end = self.best(*bins, request)?;
                Some(self.cut(*bins, end, front_for(end), request.granules))
            }
            Index::ByAddress(stretches) => {
                let goes_on = request.fit == Fit::Next;
                let fits = |end| self.fits(end, request);
                let end = stretches.first_that(self.ground, request.granules, goes_on, fits)?;
                Some(self.cut(stretches, end, front_for(end), request.granules))
            }
        }
    }

    /// The hole that fits best among those that fit wherever they begin; if there are none, one
    /// that fits as it lies.
    fn best(&self, bins: Bins, request: Request) -> Option<usize> {
        let surely = request.granules + (request.align / GRANULE).saturating_sub(1);
        let sure = bins.best(self.ground, surely);
        if sure.is_some() || request.align <= GRANULE {
            return sure;
        }
        bins.first_that(self.ground, request.granules, |end| self.fits(end, request))
    }

    /// Takes granules from a hole, behind those of its front that alignment takes; where they
    /// start.
    #[inline(always)] // measured: as `take_at_once`
    fn cut(&self, order: impl Order, end: usize, front: usize, granules: usize) -> NonNull<u8> {
        let (ground, edges) = (self.ground, self.edges);
        // SAFETY: all granules lie in the hole, so they are the strategy's, and end in the extent.
        unsafe {
            let start = end - ground.last(end).length.get() as usize;
            let first = start + front;
            // INVARIANT: what is taken will be in no hole, and holes begin or end beside it.
            edges.toggle(first);
            edges.toggle(first + granules);
            let rest = end - first - granules;
            if front != 0 {
                ground.write_length(first, front);
                order.put(ground, first, front);
            }
            if rest == 0 {
                order.remove(ground, end);
            } else {
                ground.write_length(end, rest);
                order.shorten(ground, end, rest);
            }
            ground.address(first)
        }
    }

    /// Puts granules back, and joins what touches them; the length of the hole that they are in
    /// now, if it may be longer than all others.
    ///
    /// # Safety
    /// They lie in the extent, in no hole, and are not used any more.
    #[inline(always)] // measured: as `take_at_once`
    pub(super) unsafe fn give(&self, first: usize, granules: usize) -> Option<usize> {
        // SAFETY: the caller's contract.
        unsafe {
            match &self.index {
                Index::ByLength(bins) => self.join(*bins, first, granules),
                Index::ByAddress(stretches) => self.join(stretches, first, granules),
            }
        }
    }

    /// # Safety
    /// As [`give`](Self::give).
    #[inline(always)] // measured: as `take_at_once`
    unsafe fn join(&self, order: impl Order, first: usize, granules: usize) -> Option<usize> {
        let (ground, edges) = (self.ground, self.edges);
        let (mut start, mut end) = (first, first + granules);
        // SAFETY: where an edge is, beside what is in no hole, a hole is; its granules are the
        // strategy's.
        unsafe {
            if edges.toggle(first) {
                start -= ground.last(first).length.get() as usize;
                order.remove(ground, first);
            }
            if edges.toggle(end) {
                end += ground.first(end).front.get() as usize;
                order.remove(ground, end);
            }
            let length = end - start;
            ground.write_length(end, length);
            order.put(ground, end, length).then_some(length)
        }
    }

    /// Takes `granules` that begin at `first`, right behind a block, if they are free. Whether they
    /// were.
    ///
    /// # Safety
    /// A block ends there.
    pub(super) unsafe fn take_at(&self, first: usize, granules: usize) -> bool {
        if first == self.granules || !self.edges.is_set(first) {
            return false;
        }
        // SAFETY: the granule before is a block's, so where the edge is a hole begins.
        let length = unsafe { self.ground.first(first) }.front.get() as usize;
        if length < granules {
            return false;
        }
        match &self.index {
            Index::ByLength(bins) => self.cut(*bins, first + length, 0, granules),
            Index::ByAddress(stretches) => self.cut(stretches, first + length, 0, granules),
        };
        true
    }

    /// Calls `visit` with each hole, in order of address.
    pub(super) fn visit(&self, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        let mut from = 0;
        // Found out of line: what is visited may be lost.
        while let Some((start, end)) = self.edges.next_hole(from) {
            // SAFETY: the hole lies in the extent.
            let first = unsafe { self.ground.address(start) };
            visit(pointers::block(first, (end - start) * GRANULE));
            from = end + 1;
        }
    }

    /// Calls `visit` with the whole pages of holes, but the first and the last granules.
    pub(super) fn visit_pages(&self, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        self.visit(&mut |hole| {
            // SAFETY: a hole has a granule.
            let second = unsafe { pointers::forward(hole.cast(), GRANULE) };
            let skipped = GRANULE + pointers::padding(second, PAGE_BYTES);
            let pages = (hole.len() - GRANULE).saturating_sub(skipped) & !(PAGE_BYTES - 1);
            if pages != 0 {
                // SAFETY: the skipped bytes lie in the hole, which is longer.
                visit(pointers::block(unsafe { pointers::forward(hole.cast(), skipped) }, pages));
            }
        });
    }

    /// Whether `granules` from `first` on touch no hole, so that they may be allocated. Takes a
    /// look at every word of the edges.
    pub(super) fn is_taken(&self, first: usize, granules: usize) -> bool {
        self.edges.are_used(first, first + granules)
    }

    /// Whether the extent is one hole.
    pub(super) fn is_empty(&self) -> bool {
        // SAFETY: the granule is in a hole where an edge is before it.
        let has_front = || unsafe { self.ground.first(0) }.front.get() as usize == self.granules;
        self.granules == 0 || self.edges.is_set(0) && has_front()
    }

    /// The granules that are in no hole. O(granules / 64).
    pub(super) fn taken_granules(&self) -> usize {
        let (mut from, mut taken) = (0, self.granules);
        while let Some((start, end)) = self.edges.next_hole(from) {
            (from, taken) = (end + 1, taken - (end - start));
        }
        taken
    }

    /// What is wrong, if anything is.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let (mut from, mut holes) = (0, 0);
        while let Some((start, end)) = self.edges.next_hole(from) {
            // SAFETY: a hole lies there.
            let (last, first) = unsafe { (self.ground.last(end), self.ground.first(start)) };
            let length = end - start;
            if last.length.get() as usize != length || first.front.get() as usize != length {
                return Some("a hole's length is wrong: freed memory was written to");
            }
            if let Index::ByAddress(stretches) = &self.index {
                let fault = stretches.fault(end, length);
                if fault.is_some() {
                    return fault;
                }
            }
            (from, holes) = (end + 1, holes + 1);
        }
        if self.edges.next_from(from).is_some() {
            return Some("a hole has no end");
        }
        match &self.index {
            Index::ByAddress(stretches) => (stretches.count(self.granules) != holes)
                .then_some("a hole's end is noted where none is"),
            Index::ByLength(bins) => bins.fault(self.ground, self.granules, holes, |end| {
                if end == 0 || !self.edges.is_set(end) {
                    return None;
                }
                // SAFETY: the granule lies in the extent. Only where a list was written over, and
                // leads to where a hole begins, is it a block's.
                let length = unsafe { self.ground.last(end) }.length.get() as usize;
                let start = end.checked_sub(length)?;
                (self.edges.next_hole(start) == Some((start, end))).then_some(length)
            }),
        }
    }
}
