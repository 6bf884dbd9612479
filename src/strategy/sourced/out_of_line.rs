//! What is not served in line, of strategies that [let blocks wait](Strategy::HAS_WAITING): one
//! function allocates, one frees, without a call where nothing rare happens.
//!
//! What is called beside that is called last, in place of the caller: so that these two need save
//! no registers for it.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::SourcedAllocator;
use super::records::Record;
use crate::allocator::{AllocError, MemorySource};
use crate::strategy::{FreedAtOnce, Strategy};

impl<S: Strategy, M: MemorySource> SourcedAllocator<S, M> {
    /// Allocates where nothing waits that fits.
    #[inline(never)]
    pub(super) fn allocate_out_of_line(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // Neither no bytes nor more than the strategy serves.
        if layout.size().wrapping_sub(1) < S::DIRECT_BYTES
            && let Some(block) = self.state().strategy.allocate_at_once(layout)
        {
            self.state().count_new(block);
            return Ok(self.noted(block));
        }
        self.allocate_further(layout)
    }

    #[inline(never)]
    fn allocate_further(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() > S::DIRECT_BYTES {
            let block = self.state().allocate_direct(&self.source, layout, false)?;
            return Ok(self.noted(block));
        }
        self.allocate_by(layout, S::allocate)
    }

    /// Frees a block that may not wait.
    ///
    /// # Safety
    /// As the trait's `deallocate`, of a layout that is not of size zero.
    #[inline(never)]
    pub(super) unsafe fn deallocate_out_of_line(&self, block: NonNull<u8>, layout: Layout) {
        let state = self.state();
        // What calls another function does so at its end, so that this one saves no registers.
        // SAFETY: the record is of the block's extent, and the rest is the caller's contract.
        unsafe {
            let Some(pointer) = state.guess(block).filter(|_| !state.is_direct(layout)) else {
                return self.deallocate_here(block, layout);
            };
            #[cfg(not(loom))]
            if state.strategy.sites().is_some() {
                return self.deallocate_here(block, layout);
            }
            let extent = &pointer.as_ref().extent;
            let Some(freed) = state.strategy.free_at_once(extent, block, layout) else {
                return self.deallocate_here(block, layout);
            };
            state.count_freed(layout);
            match freed {
                FreedAtOnce::Done => {}
                // Kept already.
                FreedAtOnce::Emptied if state.spare == Some(pointer) => {}
                _ => self.settle(pointer),
            }
        }
    }

    /// # Safety
    /// The record is of an extent that is held.
    #[cold]
    #[inline(never)]
    unsafe fn settle(&self, pointer: NonNull<Record>) {
        let state = self.state();
        // SAFETY: the caller's contract.
        unsafe {
            if state.strategy.settle(&pointer.as_ref().extent) {
                state.became_empty(&self.source, pointer);
            }
        }
    }

    /// Frees a block.
    ///
    /// # Safety
    /// As [`deallocate_out_of_line`](Self::deallocate_out_of_line).
    #[inline(never)]
    unsafe fn deallocate_here(&self, block: NonNull<u8>, layout: Layout) {
        let state = self.state();
        let Some(pointer) = state.record_of(block) else { return };
        #[cfg(not(loom))]
        if let Some(sites) = state.strategy.sites() {
            sites.forget(block);
        }
        // SAFETY: the record is of the block's extent, and the rest is the caller's contract.
        unsafe { state.free(&self.source, block, layout, pointer) };
    }
}
