//! An `Allocator` as a `GlobalAlloc`.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use crate::allocator::{AllocError, Allocator};

/// Makes an [`Allocator`] usable as `#[global_allocator]`.
///
/// Requests become the trait's; an [`AllocError`] becomes null. The process aborts if a method of
/// the allocator unwinds, for a global allocator must not.
///
/// Every thread uses it at once, so a static of it needs an `Allocator` that is `Sync`. `Locked`
/// makes one of any allocator, and is a `GlobalAlloc` without this adaptor.
///
#[cfg_attr(heapswitch_pass_through, doc = "```no_run")]
#[cfg_attr(not(heapswitch_pass_through), doc = "```")]
/// use heapswitch::adapt::AllocatorAdaptor;
/// use heapswitch::strategy::memory_map::MemoryMapAllocator;
///
/// #[global_allocator]
/// static GLOBAL: AllocatorAdaptor<MemoryMapAllocator> =
///     AllocatorAdaptor::new(MemoryMapAllocator::new());
///
/// let greeting = String::from("each string a mapping");
/// assert!(GLOBAL.inner().mapping_count() > 0);
/// # drop(greeting);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct AllocatorAdaptor<A> {
    allocator: A,
}

impl<A: Allocator> AllocatorAdaptor<A> {
    /// The adaptor of `allocator`.
    pub const fn new(allocator: A) -> Self {
        Self { allocator }
    }

    /// The allocator.
    pub const fn inner(&self) -> &A {
        &self.allocator
    }
}

// SAFETY: the allocator's contract covers that of `GlobalAlloc`, and unwinding aborts.
unsafe impl<A: Allocator> GlobalAlloc for AllocatorAdaptor<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocate(&self.allocator, layout)
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        allocate_zeroed(&self.allocator, layout)
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { deallocate(&self.allocator, block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe { reallocate(&self.allocator, block, layout, new_size) }
    }
}

/// Aborts when it is dropped, so when a panic unwinds past it.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    #[cold]
    fn drop(&mut self) {
        crate::sys::abort_with(&["an allocator panicked while it served as a global allocator"]);
    }
}

#[inline]
fn without_unwinding<R>(run: impl FnOnce() -> R) -> R {
    let guard = AbortOnUnwind;
    let result = run();
    core::mem::forget(guard);
    result
}

#[inline]
fn or_null(result: Result<NonNull<[u8]>, AllocError>) -> *mut u8 {
    result.map_or(ptr::null_mut(), |block| block.as_ptr().cast())
}

/// [`GlobalAlloc::alloc`] of any allocator.
#[inline]
pub(crate) fn allocate(allocator: &impl Allocator, layout: Layout) -> *mut u8 {
    or_null(without_unwinding(|| allocator.allocate(layout)))
}

/// [`GlobalAlloc::alloc_zeroed`] of any allocator.
#[inline]
pub(crate) fn allocate_zeroed(allocator: &impl Allocator, layout: Layout) -> *mut u8 {
    or_null(without_unwinding(|| allocator.allocate_zeroed(layout)))
}

/// [`GlobalAlloc::dealloc`] of any allocator.
///
/// # Safety
/// As that.
#[inline]
pub(crate) unsafe fn deallocate(allocator: &impl Allocator, block: *mut u8, layout: Layout) {
    if let Some(block) = NonNull::new(block) {
        // SAFETY: the block is currently allocated by this allocator, and the layout is that of its
        // request, which fits.
        without_unwinding(|| unsafe { allocator.deallocate(block, layout) });
    }
}

/// [`GlobalAlloc::realloc`] of any allocator.
///
/// # Safety
/// As that.
#[inline]
pub(crate) unsafe fn reallocate(
    allocator: &impl Allocator,
    block: *mut u8,
    old: Layout,
    new_size: usize,
) -> *mut u8 {
    let Some(block) = NonNull::new(block) else { return ptr::null_mut() };
    let Ok(new) = Layout::from_size_align(new_size, old.align()) else { return ptr::null_mut() };
    // SAFETY: the block is currently allocated by this allocator with `old`, and the sizes are in
    // the order that each method asks for.
    or_null(without_unwinding(|| unsafe {
        if new_size >= old.size() {
            allocator.grow(block, old, new)
        } else {
            allocator.shrink(block, old, new)
        }
    }))
}
