//! A `GlobalAlloc` as an `Allocator`.

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::NonNull;

use crate::allocator::{AllocError, Allocator};
use crate::pointers;

/// Makes any [`GlobalAlloc`], such as [`System`](std::alloc::System), usable as an [`Allocator`].
///
/// It borrows: a `GlobalAlloc` may keep its memory in itself, as it is meant to be a static, but an
/// `Allocator` may be moved while its blocks are in use. What it borrows cannot move. Two adaptors
/// of one `GlobalAlloc` may free each other's blocks, so it is `Copy`.
///
/// Blocks are exactly as long as asked, and requests of size zero get no memory.
///
/// ```
/// # #![cfg_attr(feature = "nightly", feature(allocator_api))]
/// use core::alloc::Layout;
/// use heapswitch::adapt::GlobalAllocToAllocatorAdaptor;
/// use heapswitch::allocator::Allocator;
///
/// let system = GlobalAllocToAllocatorAdaptor::new(&std::alloc::System);
/// let block = system.allocate(Layout::new::<u64>()).unwrap();
/// // SAFETY: allocated above with the same layout.
/// unsafe { system.deallocate(block.cast(), Layout::new::<u64>()) };
/// ```
pub struct GlobalAllocToAllocatorAdaptor<'a, G: ?Sized> {
    global: &'a G,
}

impl<G: ?Sized> Clone for GlobalAllocToAllocatorAdaptor<'_, G> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<G: ?Sized> Copy for GlobalAllocToAllocatorAdaptor<'_, G> {}

impl<G: ?Sized> fmt::Debug for GlobalAllocToAllocatorAdaptor<'_, G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("GlobalAllocToAllocatorAdaptor").finish_non_exhaustive()
    }
}

impl<'a, G: GlobalAlloc + ?Sized> GlobalAllocToAllocatorAdaptor<'a, G> {
    /// The adaptor of `global`.
    pub const fn new(global: &'a G) -> Self {
        Self { global }
    }

    /// What it borrows.
    pub const fn inner(&self) -> &'a G {
        self.global
    }

    #[inline]
    fn block(start: *mut u8, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let start = NonNull::new(start).ok_or(AllocError)?;
        Ok(pointers::block(start, layout.size()))
    }

    #[inline]
    fn empty(layout: Layout) -> NonNull<[u8]> {
        pointers::block(pointers::dangling(layout.align()), 0)
    }

    /// Resizes a block; its first `min(old, new)` bytes stay.
    ///
    /// # Safety
    /// As [`Allocator::grow`] or [`Allocator::shrink`].
    #[inline]
    unsafe fn resize(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // A `realloc` keeps the alignment, and the block is later freed with the new one.
        if old.align() == new.align() && old.size() > 0 && new.size() > 0 {
            // SAFETY: the block came from `alloc` with `old`; the size is that of a valid layout of
            // this alignment and not zero.
            let start = unsafe { self.global.realloc(block.as_ptr(), old, new.size()) };
            return Self::block(start, new);
        }
        let moved = self.allocate(new)?;
        // SAFETY: both blocks are valid for the lesser of the sizes, and they are different blocks;
        // the old one is the caller's to free.
        unsafe {
            let kept = old.size().min(new.size());
            moved.cast::<u8>().copy_from_nonoverlapping(block, kept);
            self.deallocate(block, old);
        }
        Ok(moved)
    }
}

// SAFETY: blocks come from `alloc` of the borrowed allocator, which neither moves nor ends while it
// is borrowed, and are valid until they go to its `dealloc`, with the very layout of their request:
// the returned length is the requested size, so no other size fits. All copies are the same
// allocator.
unsafe impl<G: GlobalAlloc + ?Sized> Allocator for GlobalAllocToAllocatorAdaptor<'_, G> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(Self::empty(layout));
        }
        // SAFETY: the size is not zero.
        Self::block(unsafe { self.global.alloc(layout) }, layout)
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(Self::empty(layout));
        }
        // SAFETY: the size is not zero.
        Self::block(unsafe { self.global.alloc_zeroed(layout) }, layout)
    }

    #[inline]
    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        if layout.size() > 0 {
            // SAFETY: the block came from `alloc` with this layout.
            unsafe { self.global.dealloc(block.as_ptr(), layout) };
        }
    }

    #[inline]
    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract.
        unsafe { self.resize(block, old, new) }
    }

    #[inline]
    unsafe fn grow_zeroed(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract; what lies behind the old size is the caller's new memory.
        unsafe {
            let grown = self.resize(block, old, new)?;
            let new_part = pointers::forward(grown.cast(), old.size());
            new_part.write_bytes(0, new.size() - old.size());
            Ok(grown)
        }
    }

    #[inline]
    unsafe fn shrink(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract.
        unsafe { self.resize(block, old, new) }
    }
}
