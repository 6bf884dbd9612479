//! Where a block is cut: near by in the current extent, farther there, or in other extents.

use core::mem;
use core::ptr::NonNull;

use super::granule::GRANULE;
use super::holes::{Holes, Request};
use super::shelves::shelf_of;
use super::used::Used;
use super::{Fit, FreeList, QUICK_ROOM};
use crate::strategy::Extent;
use crate::strategy::quick::Quick;

/// How many extents of the request's own shelf are asked before better shelves are.
const SHORT_LOOK: usize = 4;

impl FreeList {
    /// Cuts a block.
    #[inline(never)]
    pub(super) fn cut(&mut self, granules: usize, align: usize) -> Option<NonNull<u8>> {
        if self.fit != Fit::Best {
            return self.cut_anywhere(granules, align);
        }
        let block = if align > GRANULE {
            self.cut_aligned(granules, align)
        } else {
            self.cut_by::<true>(granules, align)
        };
        match block {
            None => self.cut_further(granules, align),
            block => block,
        }
    }

    /// As [`cut_by`](Self::cut_by) of what is near, for larger alignments.
    fn cut_aligned(&mut self, granules: usize, align: usize) -> Option<NonNull<u8>> {
        // SAFETY: the current extent was added and not removed.
        let extent = unsafe { self.current?.as_ref() };
        // SAFETY: as above.
        let block = unsafe { Holes::of(extent) }.take_aligned(granules, align)?;
        Used::of(extent).count_new(granules);
        Some(block)
    }

    /// Cuts a block from the current extent, of which only the holes that are not much longer than
    /// needed are looked at, or all.
    #[inline(always)] // measured: with it all is one function that saves no registers
    pub(super) fn cut_by<const NEAR: bool>(
        &mut self,
        granules: usize,
        align: usize,
    ) -> Option<NonNull<u8>> {
        if align > GRANULE {
            return None;
        }
        // SAFETY: the current extent was added and not removed.
        let extent = unsafe { self.current?.as_ref() };
        // SAFETY: as above.
        let block = unsafe { Holes::of(extent) }.take_at_once::<NEAR>(granules)?;
        Used::of(extent).count_new(granules);
        Some(block)
    }

    /// Where [`cut_by`](Self::cut_by) found nothing near, in best fit.
    #[inline(never)]
    fn cut_further(&mut self, granules: usize, align: usize) -> Option<NonNull<u8>> {
        let block = self.cut_from_touched(granules, align);
        match block.or_else(|| self.cut_by::<false>(granules, align)) {
            None => self.cut_anywhere(granules, align),
            block => block,
        }
    }

    /// Cuts a block from memory of the current extent that was touched before, or else from the
    /// fullest extent that surely has room.
    #[inline(always)] // measured: as `cut_by`
    fn cut_from_touched(&mut self, granules: usize, align: usize) -> Option<NonNull<u8>> {
        if align > GRANULE {
            return None;
        }
        // SAFETY: the current extent was added and not removed.
        let extent = unsafe { self.current?.as_ref() };
        // SAFETY: as above.
        if let Some(block) = unsafe { Holes::of(extent) }.take_touched(granules) {
            Used::of(extent).count_new(granules);
            return Some(block);
        }
        self.cut_from_fullest(granules)
    }

    /// Cuts a block from the lowest shelf whose extents surely have room, so that what was freed
    /// there serves before memory that nobody has touched. The current extent is asked before
    /// others of its shelf.
    fn cut_from_fullest(&mut self, granules: usize) -> Option<NonNull<u8>> {
        let own = shelf_of(granules);
        // Each turn but the last puts an extent on a lower shelf.
        while let Some(shelf) = self.shelves.next_occupied(own + 1) {
            // SAFETY: the current extent was added and not removed.
            let shelf_of_current =
                |current: NonNull<Extent>| unsafe { Holes::of(current.as_ref()).place.shelf.get() };
            let current = self.current.filter(|&current| shelf_of_current(current) == shelf);
            let pointer = current.or(self.shelves.first(shelf))?;
            // SAFETY: every extent on a shelf was added and not removed.
            let (extent, holes) = unsafe { (pointer.as_ref(), Holes::of(pointer.as_ref())) };
            if let Some(block) = holes.take_surely(granules) {
                Used::of(extent).count_new(granules);
                self.current = Some(pointer);
                return Some(block);
            }
            // SAFETY: as above. No hole is in a class above the request's own, which is within one
            // shelf.
            unsafe { self.shelves.put_on(extent, own) };
        }
        None
    }

    fn cut_from(extent: &Extent, request: Request) -> Option<NonNull<u8>> {
        // SAFETY: callers pass extents that were added and not removed.
        let block = unsafe { Holes::of(extent) }.take(request)?;
        Used::of(extent).count_new(request.granules);
        Some(block)
    }

    /// Looks in the current extent, and in all; once more after the blocks that wait were joined
    /// to the holes.
    #[inline(never)]
    fn cut_anywhere(&mut self, granules: usize, align: usize) -> Option<NonNull<u8>> {
        let request = Request { granules, align, fit: self.fit };
        // SAFETY: the current extent was added and not removed.
        let current = self.current.map(|extent| unsafe { extent.as_ref() });
        let block = current.and_then(|extent| Self::cut_from(extent, request));
        let block = block.or_else(|| self.cut_from_shelves(request));
        if block.is_some() || self.quick.is_empty() {
            return block;
        }
        self.flush();
        self.cut_from_shelves(request)
    }

    /// Joins the blocks that wait to the holes.
    pub(super) fn flush(&mut self) {
        // The lists are emptied by a copy, for `give` needs the strategy.
        let mut quick = mem::replace(&mut self.quick, Quick::new(QUICK_ROOM));
        quick.drain(|extent, block, granules| {
            // SAFETY: a quick list's extents were added and not removed; for them the block is
            // allocated.
            unsafe { self.give(extent, block, granules) };
        });
    }

    /// Cuts a block from the fullest extent in which it is found without a long search.
    fn cut_from_shelves(&mut self, request: Request) -> Option<NonNull<u8>> {
        let shelf = shelf_of(request.granules);
        if let Some(block) = self.cut_from_shelf(shelf, SHORT_LOOK, request) {
            return Some(block);
        }
        let mut better = shelf;
        while let Some(occupied) = self.shelves.next_occupied(better + 1) {
            better = occupied;
            if let Some(block) = self.cut_from_shelf(better, usize::MAX, request) {
                return Some(block);
            }
        }
        self.cut_from_shelf(shelf, usize::MAX, request)
    }

    fn cut_from_shelf(
        &mut self,
        shelf: usize,
        mut looks: usize,
        request: Request,
    ) -> Option<NonNull<u8>> {
        let mut next = self.shelves.first(shelf);
        while let Some(pointer) = next
            && looks > 0
        {
            looks -= 1;
            // SAFETY: every extent on a shelf was added and not removed.
            let (extent, holes) = unsafe { (pointer.as_ref(), Holes::of(pointer.as_ref())) };
            next = holes.place.next.get();
            let block = Self::cut_from(extent, request);
            if block.is_some() {
                self.current = Some(pointer);
                return block;
            }
            // SAFETY: the extent is on a shelf.
            unsafe { self.shelves.put_on(extent, holes.longest()) };
        }
        None
    }
}
