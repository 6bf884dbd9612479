//! Heaps through the allocator trait: for collections that name their allocator.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::handle::Heap;
use super::route::free_at;
use super::state::state;
use crate::allocator::{AllocError, Allocator};
use crate::heap::check;
use crate::heap::moved::copy_before_free;
use crate::pointers;
use crate::region;
use crate::sys::IS_PASS_THROUGH;

impl Heap {
    fn allocate_block(&self, layout: Layout, is_zeroed: bool) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(pointers::block(pointers::dangling(layout.align()), 0));
        }
        let block = self.as_runner(|header| {
            // SAFETY: called as the runner; the layout is not empty.
            unsafe { (header.as_ref().operations.allocate)(header, layout, is_zeroed) }
        });
        match block.ok().flatten() {
            Some(block) => Ok(block),
            None if IS_PASS_THROUGH => pass_through(layout, is_zeroed),
            None => Err(AllocError),
        }
    }

    /// # Safety
    /// As `grow` and `shrink` of the trait.
    unsafe fn change(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
        is_zeroed: bool,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let bytes = old.size().min(new.size());
        let in_place = || {
            // SAFETY: the caller's contract.
            let length = unsafe { self.resize_in_place(block, old, new) }?;
            if is_zeroed {
                // SAFETY: the block is `length` bytes long and the caller's alone.
                unsafe { pointers::forward(block, bytes).write_bytes(0, length - bytes) };
            }
            Some(pointers::block(block, length))
        };
        if let Some(resized) = in_place() {
            return Ok(resized);
        }
        let Ok(moved) = self.allocate_block(new, is_zeroed) else {
            // What waited for requests of its length is free now, perhaps behind the block.
            return in_place().ok_or(AllocError);
        };
        // SAFETY: both blocks are allocated and do not overlap.
        unsafe {
            copy_before_free(block, moved.cast(), bytes);
            self.deallocate(block, old);
        }
        Ok(moved)
    }

    /// # Safety
    /// As `grow` and `shrink` of the trait.
    unsafe fn resize_in_place(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        if old.size() == 0 || new.size() == 0 || !pointers::is_aligned(block, new.align()) {
            return None;
        }
        let offset = region::offset_of(block.as_ptr())?;
        // An orphan that a reset left behind is no longer the strategy's.
        if old.align() != new.align() || !self.contains(block.as_ptr()) {
            // A block is later freed with the new layout: it may stay only where that makes no
            // difference to what serves it.
            let (old_length, new_length) = (self.block_length(old), self.block_length(new));
            return (old_length == new_length).then_some(new_length.ok()?);
        }
        check::resized(block);
        self.as_runner(|header| {
            // SAFETY: the block is one of this heap's; called as the runner.
            unsafe {
                let entry = region::entry_at(offset);
                (header.as_ref().operations.resize)(header, entry, block, old, new)
            }
        })
        .ok()
        .flatten()
    }
}

/// Where heaps hold nothing, the program's global allocator serves those who name one.
#[cold]
fn pass_through(layout: Layout, is_zeroed: bool) -> Result<NonNull<[u8]>, AllocError> {
    // SAFETY: the layout is not empty.
    let start = unsafe {
        if is_zeroed { std::alloc::alloc_zeroed(layout) } else { std::alloc::alloc(layout) }
    };
    let start = NonNull::new(start).ok_or(AllocError)?;
    Ok(pointers::block(start, layout.size()))
}

// SAFETY: blocks are the heap's strategy's; they stay valid until freed, also when the heap is
// moved or dropped, and every handle of the heap frees by address.
unsafe impl Allocator for &Heap {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.allocate_block(layout, false)
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.allocate_block(layout, true)
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        if layout.size() == 0 {
            return;
        }
        // SAFETY: the block is allocated, so its segment is committed.
        let found = unsafe { region::owners::find(block.as_ptr()) };
        if let Some((place, owner)) = found {
            let freed = self.as_runner(|_| {
                // SAFETY: the caller's contract.
                unsafe { free_at(block, place, owner, layout) }
            });
            if freed.is_err() {
                // SAFETY: the heap runs elsewhere: a foreign free.
                unsafe { free_at(block, place, owner, layout) };
                state().batches.flush();
            }
        } else if IS_PASS_THROUGH {
            // SAFETY: the block came from `pass_through`.
            unsafe { std::alloc::dealloc(block.as_ptr(), layout) };
        }
    }

    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract.
        unsafe { self.change(block, old, new, false) }
    }

    unsafe fn grow_zeroed(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract.
        unsafe { self.change(block, old, new, true) }
    }

    unsafe fn shrink(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract.
        unsafe { self.change(block, old, new, false) }
    }
}
