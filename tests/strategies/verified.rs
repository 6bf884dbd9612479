//! An allocator that is verified after each step, as an allocator.

use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;

use heapswitch::allocator::{AllocError, Allocator, MemorySource};
use heapswitch::strategy::Strategy;
use heapswitch::strategy::context::ContextAllocator;
use heapswitch::strategy::sourced::SourcedAllocator;

/// What checks its own structures.
pub(crate) trait Verify: Allocator {
    /// Aborts where an equation of its structures fails.
    fn verify(&self);
}

impl<S: Strategy, M: MemorySource> Verify for SourcedAllocator<S, M> {
    fn verify(&self) {
        self.verify();
    }
}

impl<M: MemorySource> Verify for ContextAllocator<M> {
    fn verify(&self) {
        self.verify();
    }
}

/// The allocator, and how many steps it did.
pub(crate) struct Verified<A: Verify> {
    allocator: A,
    steps: Cell<usize>,
}

impl<A: Verify> Verified<A> {
    pub(crate) fn new(allocator: A) -> Self {
        Self { allocator, steps: Cell::new(0) }
    }

    /// After a step; of long runs, after some.
    fn stepped<T>(&self, result: T) -> T {
        let steps = self.steps.replace(self.steps.get() + 1);
        let verified_each = if cfg!(debug_assertions) { 300 } else { 600 };
        if steps < verified_each || steps.is_multiple_of(509) {
            self.allocator.verify();
        }
        result
    }
}

impl<A: Verify> Drop for Verified<A> {
    fn drop(&mut self) {
        self.allocator.verify();
    }
}

// SAFETY: every method is the allocator's.
unsafe impl<A: Verify> Allocator for Verified<A> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.stepped(self.allocator.allocate(layout))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.stepped(self.allocator.allocate_zeroed(layout))
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's contract is the same, here and below.
        unsafe { self.allocator.deallocate(block, layout) };
        self.stepped(());
    }

    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: as above.
        self.stepped(unsafe { self.allocator.grow(block, old, new) })
    }

    unsafe fn grow_zeroed(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: as above.
        self.stepped(unsafe { self.allocator.grow_zeroed(block, old, new) })
    }

    unsafe fn shrink(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: as above.
        self.stepped(unsafe { self.allocator.shrink(block, old, new) })
    }
}
