//! Any allocator behind a lock.
//!
//! Costs an uncontended lock and unlock a call, two atomic read-modify-writes, and as many threads
//! as there are wait for each other: for what is shared seldom, and as the fall-back below
//! per-thread heaps.

use core::alloc::{GlobalAlloc, Layout};
use core::ops::Deref;
use core::ptr::NonNull;

use crate::adapt;
use crate::allocator::{AllocError, Allocator, LocalAllocator, MemoryUsage};
use crate::sys::SystemError;
use crate::sys::fork::{ForkEntry, Rank};
use crate::sys::lock::{Lock, LockGuard};

/// Lets every thread use an allocator that only one at a time may use.
///
/// It is an [`Allocator`], and a `GlobalAlloc` for `#[global_allocator]`.
///
/// # Fork
/// A child of `fork` has only the thread that forked: if another one held the lock, it is held for
/// ever there. [`protect_fork`](Self::protect_fork) prevents that; call it once, early, for a
/// static in a program that forks.
///
#[cfg_attr(heapswitch_pass_through, doc = "```no_run")]
#[cfg_attr(not(heapswitch_pass_through), doc = "```")]
/// use heapswitch::strategy::locked::Locked;
/// use heapswitch::strategy::memory_map::MemoryMapAllocator;
///
/// #[global_allocator]
/// static GLOBAL: Locked<MemoryMapAllocator> = Locked::new(MemoryMapAllocator::new());
///
/// GLOBAL.protect_fork().unwrap();
/// let greeting = String::from("each string a mapping");
/// assert!(GLOBAL.lock().mapping_count() > 0);
/// # drop(greeting);
/// ```
#[derive(Debug)]
pub struct Locked<A> {
    allocator: Lock<A>,
    fork: ForkEntry,
}

impl<A> Locked<A> {
    /// A lock around `allocator`.
    pub const fn new(allocator: A) -> Self {
        Self { allocator: Lock::new(allocator), fork: ForkEntry::new() }
    }

    /// The allocator, which no other thread can use meanwhile. Using this `Locked` while the guard
    /// lives is a deadlock; if it is the global allocator, so is every other allocation.
    pub fn lock(&self) -> LockedGuard<'_, A> {
        LockedGuard { allocator: self.allocator.lock() }
    }

    /// Takes the lock around every `fork` from now on. Again is harmless. The thread that forks
    /// must not hold the lock.
    ///
    /// # Errors
    /// `ENOMEM`: the system has no room for the handlers.
    pub fn protect_fork(&'static self) -> Result<(), SystemError> {
        self.fork.register(self.allocator.raw(), Rank::Allocator)
    }
}

/// An allocator that no other thread can use until this is dropped.
///
/// It lends the allocator, and never to be changed: who puts another one in its place drops the
/// first, and the memory of all its blocks, while others use them.
///
/// ```compile_fail,E0594
/// use heapswitch::{BumpAllocator, Locked, MemoryMapSource};
///
/// let locked = Locked::new(BumpAllocator::new(MemoryMapSource::new()));
/// let mut numbers = allocator_api2::vec::Vec::new_in(&locked);
/// numbers.push(7);
/// *locked.lock() = BumpAllocator::new(MemoryMapSource::new());
/// ```
#[derive(Debug)]
#[must_use = "dropping it opens the lock"]
pub struct LockedGuard<'a, A> {
    allocator: LockGuard<'a, A>,
}

impl<A> Deref for LockedGuard<'_, A> {
    type Target = A;

    #[inline]
    fn deref(&self) -> &A {
        &self.allocator
    }
}

impl<A: Default> Default for Locked<A> {
    fn default() -> Self {
        Self::new(A::default())
    }
}

// SAFETY: every method is that of the allocator inside, whose contract this is; the lock lets one
// thread at a time use it, and moving this moves it only as an allocator may be moved.
unsafe impl<A: Allocator> Allocator for Locked<A> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.lock().allocate(layout)
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.lock().allocate_zeroed(layout)
    }

    #[inline]
    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { self.lock().deallocate(block, layout) }
    }

    #[inline]
    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract is the same.
        unsafe { self.lock().grow(block, old, new) }
    }

    #[inline]
    unsafe fn grow_zeroed(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract is the same.
        unsafe { self.lock().grow_zeroed(block, old, new) }
    }

    #[inline]
    unsafe fn shrink(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract is the same.
        unsafe { self.lock().shrink(block, old, new) }
    }
}

// SAFETY: every method is that of the allocator inside.
unsafe impl<A: LocalAllocator> LocalAllocator for Locked<A> {
    fn contains(&self, address: *const u8) -> bool {
        self.lock().contains(address)
    }

    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        self.lock().block_length(layout)
    }

    fn memory_usage(&self) -> MemoryUsage {
        self.lock().memory_usage()
    }

    fn release_unused(&self) {
        self.lock().release_unused();
    }
}

// SAFETY: the allocator's contract covers that of `GlobalAlloc`, and unwinding aborts.
unsafe impl<A: Allocator> GlobalAlloc for Locked<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        adapt::allocate(self, layout)
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        adapt::allocate_zeroed(self, layout)
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { adapt::deallocate(self, block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { adapt::reallocate(self, block, layout, new_size) }
    }
}
