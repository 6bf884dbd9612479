//! The unstable `core::alloc::Allocator` and ours.
//!
//! With this crate's feature `nightly`, allocator-api2 re-exports the trait of `core`, so that
//! every allocator here serves the collections of `std` as it is, and these adaptors only pass on.
//! They are for code that must be right whether or not the two traits are one: generic code that
//! names `core`'s trait, and other versions of allocator-api2 beside this one.

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::allocator;

/// Makes a `core::alloc::Allocator` usable as an [`Allocator`](allocator::Allocator).
#[derive(Clone, Copy, Debug, Default)]
pub struct AllocToAllocatorAdaptor<A>(
    /// The allocator.
    pub A,
);

/// Makes an [`Allocator`](allocator::Allocator) usable as a `core::alloc::Allocator`.
///
/// ```
/// #![feature(allocator_api)]
/// use heapswitch::adapt::AllocatorToAllocAdaptor;
/// use heapswitch::strategy::memory_map::MemoryMapAllocator;
///
/// let mapped = MemoryMapAllocator::new();
/// let mut numbers = Vec::new_in(AllocatorToAllocAdaptor(&mapped));
/// numbers.push(7);
/// assert_eq!(mapped.mapping_count(), 1);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct AllocatorToAllocAdaptor<A>(
    /// The allocator.
    pub A,
);

/// Passes every method of the trait on, for both traits have the same ones with the same contract.
macro_rules! pass_on {
    ($error:expr) => {
        #[inline]
        fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, Error> {
            self.0.allocate(layout).map_err($error)
        }

        #[inline]
        fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, Error> {
            self.0.allocate_zeroed(layout).map_err($error)
        }

        #[inline]
        unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
            // SAFETY: the caller's contract is the same.
            unsafe { self.0.deallocate(block, layout) }
        }

        #[inline]
        unsafe fn grow(
            &self,
            block: NonNull<u8>,
            old: Layout,
            new: Layout,
        ) -> Result<NonNull<[u8]>, Error> {
            // SAFETY: the caller's contract is the same.
            unsafe { self.0.grow(block, old, new) }.map_err($error)
        }

        #[inline]
        unsafe fn grow_zeroed(
            &self,
            block: NonNull<u8>,
            old: Layout,
            new: Layout,
        ) -> Result<NonNull<[u8]>, Error> {
            // SAFETY: the caller's contract is the same.
            unsafe { self.0.grow_zeroed(block, old, new) }.map_err($error)
        }

        #[inline]
        unsafe fn shrink(
            &self,
            block: NonNull<u8>,
            old: Layout,
            new: Layout,
        ) -> Result<NonNull<[u8]>, Error> {
            // SAFETY: the caller's contract is the same.
            unsafe { self.0.shrink(block, old, new) }.map_err($error)
        }
    };
}

mod theirs_to_ours {
    use super::*;
    use allocator::AllocError as Error;

    // SAFETY: the contracts of the two traits are the same, and each method is passed on.
    unsafe impl<A: core::alloc::Allocator> allocator::Allocator for AllocToAllocatorAdaptor<A> {
        pass_on!(|_| Error);
    }
}

mod ours_to_theirs {
    use super::*;
    use core::alloc::AllocError as Error;

    // SAFETY: the contracts of the two traits are the same, and each method is passed on.
    unsafe impl<A: allocator::Allocator> core::alloc::Allocator for AllocatorToAllocAdaptor<A> {
        pass_on!(|_| Error);
    }
}
