//! Blocks that are resized: where they stand, or by a new one.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::SourcedAllocator;
use crate::allocator::{AllocError, Allocator, MemorySource};
use crate::pointers;
use crate::strategy::Strategy;

impl<S: Strategy, M: MemorySource> SourcedAllocator<S, M> {
    /// Moves a block to a new one for `new`, and the first `kept_bytes` with it.
    ///
    /// # Safety
    /// `block` is currently allocated here, `old` fits it, and both are at least `kept_bytes` long.
    #[inline(never)]
    pub(super) unsafe fn reallocate(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
        kept_bytes: usize,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let moved = self.allocate(new)?;
        // SAFETY: both blocks are allocated, so they do not overlap, and long enough. The old one
        // is the caller's to free.
        unsafe {
            block.copy_to_nonoverlapping(moved.cast(), kept_bytes);
            self.deallocate(block, old);
        }
        Ok(moved)
    }

    /// Makes a block fit `new` where it stands.
    ///
    /// # Safety
    /// `block` is currently allocated here, `old` fits it, and neither size is zero.
    #[inline]
    pub(super) unsafe fn resize_in_place(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<NonNull<[u8]>> {
        if !pointers::is_aligned(block, new.align()) {
            return None;
        }
        let state = self.state();
        state.unpark(&self.source);
        if state.is_direct(old) || state.is_direct(new) {
            // SAFETY: the caller's contract.
            return unsafe { self.resize_direct(block, old, new) };
        }
        let had = state.strategy.block_length(old).ok()?;
        let length = state.strategy.block_length(new).ok()?;
        let record = state.record_of(block)?;
        // SAFETY: the record is of an extent that is held, and the block is in it.
        let block = unsafe { record.as_ref().extent.own(block) };
        if length == had {
            return Some(pointers::block(block, had));
        }
        // SAFETY: as above, and the rest is the caller's contract.
        let length = unsafe {
            let extent = &record.as_ref().extent;
            if new.size() >= old.size() {
                state.strategy.grow_in_place(extent, block, old, new)?
            } else {
                state.strategy.shrink_in_place(extent, block, old, new)?
            }
        };
        #[cfg(not(loom))]
        if let Some(sites) = state.strategy.sites() {
            sites.resized(block, length);
        }
        if !S::COUNTS_ON_SOURCES {
            state.count_resized(had, length);
        }
        Some(pointers::block(block, length))
    }
}
