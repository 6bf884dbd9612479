//! Allocating and freeing as C does: no free tells a size.
//!
//! What `preload/` exports as `malloc` and its kin is made of these. A block's length is found from
//! its address: see `heap::by_address`. Blocks are aligned to [`ALIGN_BYTES`] or more, so their
//! lengths are multiples of it, and a layout of the length and that alignment always fits.
//!
//! What lies outside the region is not looked at: the functions say so, and whoever calls them
//! knows what else there is.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::configuration::Configuration;
use super::route;
use super::state::{inline, own_slab};
use crate::heap::{HeapHeader, by_address, check};
use crate::region::owners::{self, ChunkPlace};
use crate::sys;

pub use crate::heap::by_address::{ALIGN_BYTES, LengthUsage, usage_by_length};

/// The longest blocks that are cleared by hand rather than asked for as zeroed, in bytes: above,
/// memory may be fresh from the kernel.
const CLEARED_BYTES: usize = 32 << 10;

/// Who frees an address, or asks for its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It lies in the region.
    Region,
    /// It does not: the block, if there is one, is another allocator's, and nothing was done.
    Elsewhere,
}

/// Allocates; null where neither heaps nor the global allocator have memory.
///
/// # Safety
/// The layout is not empty, and aligned to at least [`ALIGN_BYTES`]; heaps are all of the slab
/// strategy: `C::Thread` is, and no context is entered.
#[inline]
pub unsafe fn allocate<C: Configuration>(layout: Layout) -> *mut u8 {
    match try_lists(layout) {
        Some(block) => block.as_ptr(),
        // SAFETY: the caller's contract.
        None => unsafe { route::alloc::<C>(layout) },
    }
}

/// Allocates so many bytes, aligned to [`ALIGN_BYTES`], from the lists of the thread's heap,
/// inline; `None` where those have nothing, and beyond 1024 bytes.
#[inline]
pub fn try_bytes(bytes: usize) -> Option<NonNull<u8>> {
    if bytes > by_address::TABLE_BYTES {
        return None; // Before the state is read, or the two tests are joined by four instructions.
    }
    let heap = inline().slab()?;
    // SAFETY: the state's heaps are run by this thread, and this one is of the slab strategy.
    unsafe { by_address::try_allocate_bytes(heap, bytes) }
}

#[inline]
fn try_lists(layout: Layout) -> Option<NonNull<u8>> {
    let heap = inline().slab()?;
    // SAFETY: the state's heaps are run by this thread, and this one is of the slab strategy.
    unsafe { by_address::try_allocate(heap, layout) }
}

/// Allocates zeroed memory.
///
/// # Safety
/// As [`allocate`].
#[inline]
pub unsafe fn allocate_zeroed<C: Configuration>(layout: Layout) -> *mut u8 {
    if layout.size() <= CLEARED_BYTES
        && let Some(block) = try_lists(layout)
    {
        // SAFETY: the block was just allocated.
        unsafe { block.write_bytes(0, layout.size()) };
        return block.as_ptr();
    }
    // SAFETY: the caller's contract.
    unsafe { route::alloc_zeroed::<C>(layout) }
}

/// Frees.
///
/// # Safety
/// The address is that of a block that [`allocate`], [`allocate_zeroed`] or [`resize`] gave and
/// that was not freed since, or lies outside the region.
#[inline]
pub unsafe fn free(block: *mut u8) -> Place {
    // SAFETY: the block is allocated, so its segment is committed and its owner valid; the thread
    // runs its own heap. Where both are none, nothing can be allocated in the chunk: then it has no
    // class, and `try_free` looks at that before it looks at the heap.
    unsafe {
        let Some((place, owner)) = owners::find(block) else { return Place::Elsewhere };
        let block = NonNull::new_unchecked(block);
        let owner = owner.cast::<HeapHeader>();
        let own = own_slab().map_or(core::ptr::null_mut(), NonNull::as_ptr);
        let is_freed =
            !cfg!(heapswitch_asan) && own == owner && by_address::try_free(owner, place, block);
        if !is_freed {
            free_other(block, place, owner);
        }
    }
    Place::Region
}

/// Frees a block of another's heap, or one that has a run of its own. By C's convention, by which
/// nothing unwinds: so C's `free` may jump here and needs no frame.
///
/// # Safety
/// As [`free`], of a block in the chunk, whose owner that is.
#[cold]
#[inline(never)]
unsafe extern "C" fn free_other(block: NonNull<u8>, place: ChunkPlace, owner: *mut HeapHeader) {
    let layout = layout_of(block.as_ptr(), place, owner);
    // SAFETY: the caller's contract; the layout is of the block's length; a chunk in which a block
    // is has an owner, as `layout_of` made sure.
    unsafe {
        check::freed(block, layout);
        route::free_other(block, place, NonNull::new_unchecked(owner), layout);
    }
}

/// The length of a block, in bytes.
///
/// # Errors
/// The address lies outside the region.
///
/// # Safety
/// As [`free`]; nothing is freed.
#[inline]
pub unsafe fn usable_size(block: *const u8) -> Result<usize, Place> {
    // SAFETY: the block is allocated, so its segment is committed.
    let Some((place, owner)) = (unsafe { owners::find(block) }) else {
        return Err(Place::Elsewhere);
    };
    Ok(layout_of(block, place, owner.cast()).size())
}

/// A layout that fits the block. Aborts where no block can be: the C library does that too.
#[inline]
fn layout_of(block: *const u8, place: ChunkPlace, owner: *const HeapHeader) -> Layout {
    // SAFETY: the block is allocated, or else none may be in the chunk; the length is one of a
    // class or run, so no rounding overflows.
    unsafe {
        // Where nobody owns the chunk there may be no class to look at.
        let length = if owner.is_null() { None } else { by_address::length_of(place) };
        match length {
            Some(length) => Layout::from_size_align_unchecked(length, ALIGN_BYTES),
            None => invalid(block),
        }
    }
}

#[cold]
#[inline(never)]
fn invalid(block: *const u8) -> ! {
    let mut digits = [0; sys::HEXADECIMAL_BYTES];
    let address = sys::hexadecimal(block.addr(), &mut digits);
    sys::abort_with(&["invalid pointer: no block starts at ", address])
}

/// Makes a block fit another size. It stays where it is if it is at most twice as long as needed:
/// growing and shrinking by turns costs nothing then. Null where there is no memory; the block is
/// unchanged then.
///
/// # Errors
/// The address lies outside the region.
///
/// # Safety
/// As [`free`]; the size is neither zero nor more than `isize::MAX` less [`ALIGN_BYTES`]; unless
/// null is returned, the old address is not used any more.
#[inline]
pub unsafe fn resize<C: Configuration>(block: *mut u8, size: usize) -> Result<*mut u8, Place> {
    // SAFETY: the caller's contract.
    let length = unsafe { usable_size(block) }?;
    if size <= length && size >= length / 2 {
        // SAFETY: blocks are never null.
        check::resized(unsafe { NonNull::new_unchecked(block) });
        return Ok(block);
    }
    // SAFETY: the layout fits the block.
    unsafe {
        let layout = Layout::from_size_align_unchecked(length, ALIGN_BYTES);
        let moved = route::realloc::<C>(block, layout, size);
        // A block that was to shrink is long enough as it is.
        Ok(if moved.is_null() && size <= length { block } else { moved })
    }
}
