//! Where a block is cut, and where it goes back to.

use core::alloc::Layout;
use core::mem;
use core::ptr::NonNull;

use super::runs::{Alignment, Runs, UNIT};
use super::shelves::shelf_of;
use super::used::Used;
use super::{BitSet, quick_room};
use crate::pointers;
use crate::strategy::Extent;
use crate::strategy::quick::Quick;

/// A block as it was cut, and how many of its leading bytes may not be zero; more than it has for
/// all, also where nobody wants to know. A pair, so that it is returned in registers.
pub(super) type Cut = (NonNull<u8>, usize);

impl BitSet {
    /// Cuts a block; where the caller asks, it is told how much of it may not be zero.
    #[inline]
    pub(super) fn cut<const MUST_TELL: bool>(&mut self, layout: Layout) -> Option<Cut> {
        match self.pop_quick(layout) {
            Some(start) => Some((start, usize::MAX)),
            None => self.cut_from_runs::<MUST_TELL>(self.blocks_for(layout), layout.align()),
        }
    }

    /// Takes a block that waits.
    #[inline]
    pub(super) fn pop_quick(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.align() - 1 > self.last_byte {
            return None;
        }
        let blocks = self.blocks_for(layout);
        let (start, extent) = self.quick.pop(blocks)?;
        // SAFETY: a quick list's extents were added and not removed.
        Used::of(unsafe { extent.as_ref() }).count_new(blocks);
        Some(start)
    }

    #[inline(never)]
    fn cut_from_runs<const MUST_TELL: bool>(&mut self, blocks: usize, align: usize) -> Option<Cut> {
        if let Some(current) = self.current {
            // SAFETY: by the type's invariant the extent was added and not removed.
            let (extent, runs) = unsafe { (current.as_ref(), Runs::of(current.as_ref())) };
            if align - 1 <= self.last_byte {
                let (units, fresh) = (blocks << runs.step, runs.header.fresh.get());
                if let Some(first) = runs.take_touched::<true>(units) {
                    Used::of(extent).count_new(blocks);
                    return Some(Self::block_at::<MUST_TELL>(extent, runs, first, fresh));
                }
                if runs.would_touch_new(units)
                    && let cut @ Some(_) = self.cut_from_fuller::<MUST_TELL>(runs, blocks)
                {
                    return cut;
                }
            }
            let cut = self.cut_from::<MUST_TELL>(extent, runs, blocks, align);
            if cut.is_some() {
                return cut;
            }
        }
        self.cut_elsewhere::<MUST_TELL>(blocks, align)
    }

    pub(super) fn cut_from<const MUST_TELL: bool>(
        &self,
        extent: &Extent,
        runs: Runs<'_>,
        blocks: usize,
        align: usize,
    ) -> Option<Cut> {
        let (units, fresh) = (blocks << runs.step, runs.header.fresh.get());
        let first = if align - 1 <= self.last_byte {
            runs.take(units).or_else(|| runs.take_from_bin(units))
        } else {
            let phase = pointers::padding(runs.base, align) / UNIT;
            runs.take_aligned(units, Alignment { stride: align / UNIT, phase })
        }?;
        Used::of(extent).count_new(blocks);
        Some(Self::block_at::<MUST_TELL>(extent, runs, first, fresh))
    }

    /// A block that was taken at a place; `fresh` is from where on none had been before.
    #[inline]
    pub(super) fn block_at<const MUST_TELL: bool>(
        extent: &Extent,
        runs: Runs<'_>,
        first: usize,
        fresh: usize,
    ) -> Cut {
        let used_bytes = match MUST_TELL && extent.is_zeroed() {
            true => fresh.saturating_sub(first) * UNIT,
            false => usize::MAX,
        };
        // SAFETY: blocks lie between the base and the extent's end.
        (unsafe { pointers::forward(runs.base, first * UNIT) }, used_bytes)
    }

    /// Frees the blocks in the quick lists.
    pub(super) fn flush(&mut self) {
        // The lists are emptied by a copy, for giving a block to its run needs the strategy.
        let mut quick = mem::replace(&mut self.quick, Quick::new(quick_room(self.block_shift)));
        quick.drain(|extent, block, blocks| {
            // SAFETY: a block that waits is marked as taken, in an extent that was added and not
            // removed, and was freed.
            unsafe { self.release_to_run(extent, block, blocks) };
        });
    }

    /// Looks in all extents; once more after the quick lists were flushed if blocks wait in them.
    #[cold]
    fn cut_elsewhere<const MUST_TELL: bool>(&mut self, blocks: usize, align: usize) -> Option<Cut> {
        let cut = self.cut_from_shelves::<MUST_TELL>(blocks, align);
        if cut.is_some() || self.quick.is_empty() {
            return cut;
        }
        self.flush();
        self.cut_from_shelves::<MUST_TELL>(blocks, align)
    }

    /// Frees a block: into its quick list, or its run.
    ///
    /// # Safety
    /// The block is allocated in the extent, and fits the layout.
    #[inline]
    pub(super) unsafe fn release(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) {
        let blocks = self.blocks_for(layout);
        if cfg!(any(test, heapswitch_check)) {
            self.check_is_taken(extent, block, blocks);
        }
        Used::of(extent).count_freed(blocks);
        // SAFETY: a freed block, marked as taken until it is given to its run.
        if unsafe { self.quick.push(extent, block, blocks) } {
            return;
        }
        // SAFETY: as above.
        unsafe { self.release_to_run(extent, block, blocks) }
    }

    /// Frees blocks into their run.
    ///
    /// # Safety
    /// They are marked as taken, and not used any more.
    #[inline(never)]
    unsafe fn release_to_run(&mut self, extent: &Extent, block: NonNull<u8>, blocks: usize) {
        // SAFETY: blocks are taken in the extent, so that was added and not removed.
        let runs = unsafe { Runs::of(extent) };
        match runs.give_at_once::<true>(Self::place_of(runs, block), blocks).map(shelf_of) {
            // SAFETY: the caller's contract.
            None => unsafe { self.release_anywhere(extent, block, blocks) },
            Some(shelf) if shelf > runs.header.shelf.get() => self.raise(extent, shelf),
            Some(_) => {}
        }
    }

    /// [`release_to_run`](Self::release_to_run) where that takes more than a few steps.
    ///
    /// # Safety
    /// As there.
    #[inline(never)]
    unsafe fn release_anywhere(&mut self, extent: &Extent, block: NonNull<u8>, blocks: usize) {
        // SAFETY: as there.
        let runs = unsafe { Runs::of(extent) };
        let shelf = shelf_of(runs.give(Self::place_of(runs, block), blocks));
        if shelf > runs.header.shelf.get() {
            self.raise(extent, shelf);
        }
    }

    /// [`release_to_run`](Self::release_to_run) of what lies right behind an allocated block.
    ///
    /// # Safety
    /// As there.
    #[inline]
    pub(super) unsafe fn release_tail(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        blocks: usize,
    ) {
        // SAFETY: blocks are taken in the extent, so that was added and not removed.
        let runs = unsafe { Runs::of(extent) };
        match runs.give_at_once::<false>(Self::place_of(runs, block), blocks).map(shelf_of) {
            // SAFETY: the caller's contract.
            None => unsafe { self.release_anywhere(extent, block, blocks) },
            Some(shelf) if shelf > runs.header.shelf.get() => self.raise(extent, shelf),
            Some(_) => {}
        }
    }
}
