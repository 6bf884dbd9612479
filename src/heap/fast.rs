//! Allocating and freeing as the runner: the fast paths inline, the rest through the operations.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::by_address::slab_class_of;
use super::cell::{
    Guard, MAX_STRATEGY_ALIGN, MAX_STRATEGY_BYTES, front_of, is_direct, retire_emptied, strategy_of,
};
use super::check;
use super::decay;
use super::header::{FastPath, HeapHeader};
use crate::region::ChunkEntry;
use crate::region::owners::ChunkPlace;
use crate::strategy::bump::{Bump, SMALL_BYTES};
use crate::strategy::extent_of;
use crate::strategy::slab::Slab;
use crate::strategy::slab::class::{CLASSES, small_class_of};

pub use crate::strategy::slab::class::is_small;

// What is small for a slab's tables lies in one page of a bump heap.
const _: () = assert!(!is_small(Layout::new::<[u8; SMALL_BYTES + 1]>()));
const _: () = assert!(SMALL_BYTES <= MAX_STRATEGY_BYTES && 16 <= MAX_STRATEGY_ALIGN);

/// Allocates from the window of a bump heap.
///
/// # Safety
/// The caller runs the heap, whose fast path is [`FastPath::Bump`].
#[inline]
pub unsafe fn try_bump(header: NonNull<HeapHeader>, layout: Layout) -> Option<NonNull<u8>> {
    if !is_small(layout) {
        return None;
    }
    // SAFETY: the caller runs the heap; the fast path tells the strategy.
    let block = unsafe { strategy_of::<Bump<true>>(header) }.allocate_in_window(layout)?;
    check::handed_out(block);
    Some(block)
}

/// Allocates a small block from the next page of a bump heap's chunk, where [`try_bump`]'s window
/// has no room: once in so many blocks as a page holds, so not much may be done on the way here.
///
/// # Safety
/// The caller runs the heap, whose fast path is [`FastPath::Bump`]; the layout is small.
#[inline]
pub unsafe fn try_bump_page(header: NonNull<HeapHeader>, layout: Layout) -> Option<NonNull<u8>> {
    // SAFETY: the caller runs the heap; the fast path tells the strategy.
    let block = unsafe { strategy_of::<Bump<true>>(header) }.allocate_in_next_page(layout)?;
    check::handed_out(block);
    // SAFETY: the caller runs the heap.
    decay::step(unsafe { header.as_ref() });
    Some(block)
}

/// Allocates from a bump heap's chunk what [`try_bump`] and [`try_bump_page`] do not.
///
/// # Safety
/// The caller runs the heap, whose fast path is [`FastPath::Bump`].
#[inline]
pub unsafe fn try_bump_chunk(header: NonNull<HeapHeader>, layout: Layout) -> Option<NonNull<u8>> {
    if is_direct(layout) {
        return None;
    }
    // SAFETY: the caller runs the heap; the fast path tells the strategy.
    let strategy = unsafe { strategy_of::<Bump<true>>(header) };
    let in_window = if is_small(layout) { None } else { strategy.allocate_in_window(layout) };
    let block = match in_window {
        Some(block) => block,
        None => strategy.allocate_past_window(layout)?,
    };
    check::handed_out(block);
    // SAFETY: the caller runs the heap.
    decay::step(unsafe { header.as_ref() });
    Some(block)
}

/// Allocates a small block from the lists of a slab heap.
///
/// # Safety
/// The caller runs the heap, whose fast path is [`FastPath::Slab`].
#[inline]
pub unsafe fn try_slab(header: NonNull<HeapHeader>, layout: Layout) -> Option<NonNull<u8>> {
    if !is_small(layout) {
        return None;
    }
    // SAFETY: the caller runs the heap; the fast path tells the strategy; the class is one.
    let block = unsafe { front_of(header).pop(small_class_of(layout)) }?;
    check::handed_out(block);
    Some(block)
}

/// Frees a small block to the lists of a slab heap.
///
/// # Safety
/// The caller runs the heap, whose fast path is [`FastPath::Slab`]; the block is allocated, of this
/// heap, and `layout`, which is small, fits it.
#[inline]
pub unsafe fn free_small_to_slab(header: NonNull<HeapHeader>, block: NonNull<u8>, layout: Layout) {
    let class = small_class_of(layout);
    // SAFETY: the caller runs the heap; the fast path tells the strategy; the class is one.
    unsafe {
        if front_of(header).push(class, block) {
            spill(header, class);
        }
    }
}

/// Frees a block of a slab heap by the class of its chunk.
///
/// # Safety
/// The caller runs the heap, whose fast path is [`FastPath::Slab`]; the block is allocated, of the
/// run that starts at the place, and `layout` fits it.
#[inline]
pub unsafe fn free_to_slab(
    header: NonNull<HeapHeader>,
    place: ChunkPlace,
    block: NonNull<u8>,
    layout: Layout,
) {
    // Under AddressSanitizer the block has to wait in quarantine.
    let class = slab_class_of(place);
    // SAFETY: the caller's contract; the fast path tells the strategy; the chunk's blocks are of
    // that class.
    unsafe {
        if cfg!(heapswitch_asan) || class >= CLASSES {
            free_slow(header, place.entry(), block, layout);
        } else if front_of(header).push(class, block) {
            spill(header, class);
        }
    }
}

/// Whether two small layouts are served by one class of a slab heap.
#[inline]
pub fn are_of_one_class(first: Layout, second: Layout) -> bool {
    small_class_of(first) == small_class_of(second)
}

/// Frees a block of a bump heap.
///
/// # Safety
/// The caller runs the heap, whose fast path is [`FastPath::Bump`]; the block is allocated, of the
/// run that starts at `entry`, and `layout` fits it.
#[inline]
pub unsafe fn free_to_bump(
    header: NonNull<HeapHeader>,
    entry: &'static ChunkEntry,
    block: NonNull<u8>,
    layout: Layout,
) {
    // SAFETY: the caller's contract; the fast path tells the strategy.
    unsafe {
        let strategy = strategy_of::<Bump<true>>(header);
        // One test for both: a block with a large alignment is a run of its own.
        let is_small = layout.size() | layout.align() <= SMALL_BYTES;
        if cfg!(heapswitch_asan) || !is_small {
            free_to_bump_with_care(header, entry, block, layout);
        } else if strategy.ends_at_cursor(block, layout) {
            // In the order in which all of it came, so that nothing is moved.
            free_last_to_bump(block, entry, header, layout);
        } else if strategy.free_small(extent_of(entry), block, layout) {
            bump_page_emptied(header, entry);
        }
    }
}

/// # Safety
/// As [`free_to_bump`], of a small block that ends at the cursor.
#[inline(never)]
unsafe fn free_last_to_bump(
    block: NonNull<u8>,
    entry: &'static ChunkEntry,
    header: NonNull<HeapHeader>,
    layout: Layout,
) {
    // SAFETY: the caller's contract; the fast path tells the strategy.
    unsafe {
        let (strategy, extent) = (strategy_of::<Bump<true>>(header), extent_of(entry));
        if strategy.take_back(block, layout) {
            strategy.rewind_where_idle(extent, block);
        } else if strategy.free_small(extent, block, layout) {
            bump_page_emptied(header, entry);
        }
    }
}

/// # Safety
/// As [`free_to_bump`].
#[inline(never)]
unsafe fn free_to_bump_with_care(
    header: NonNull<HeapHeader>,
    entry: &'static ChunkEntry,
    block: NonNull<u8>,
    layout: Layout,
) {
    // SAFETY: the caller's contract; the fast path tells the strategy.
    unsafe {
        if cfg!(heapswitch_asan) || is_direct(layout) {
            free_slow(header, entry, block, layout);
        } else if strategy_of::<Bump<true>>(header).free_counted(extent_of(entry), block, layout) {
            bump_page_emptied(header, entry);
        }
    }
}

/// Allocates through the operations.
///
/// # Safety
/// The caller runs the heap; `layout` is not empty.
#[cold]
#[inline(never)]
pub unsafe fn allocate_slow(header: NonNull<HeapHeader>, layout: Layout) -> Option<NonNull<u8>> {
    // SAFETY: the caller's contract.
    unsafe { (header.as_ref().operations.allocate)(header, layout, false) }.map(NonNull::cast)
}

/// Allocates as the runner.
///
/// # Safety
/// The caller runs the heap; `layout` is not empty.
#[inline]
pub unsafe fn allocate(header: NonNull<HeapHeader>, layout: Layout) -> Option<NonNull<u8>> {
    // SAFETY: the caller's contract.
    unsafe {
        let block = match header.as_ref().fast_path {
            FastPath::Bump => try_bump(header, layout),
            FastPath::Slab => try_slab(header, layout),
            FastPath::None => None,
        };
        match block {
            Some(block) => Some(block),
            None => allocate_slow(header, layout),
        }
    }
}

/// # Safety
/// The caller runs the heap, whose fast path is the slab's.
#[cold]
#[inline(never)]
unsafe fn spill(header: NonNull<HeapHeader>, class: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        {
            let _guard = Guard::of::<Slab>(header);
            if strategy_of::<Slab>(header).spill(class) {
                retire_emptied::<Slab>(header);
            }
        }
        decay::step(header.as_ref());
    }
}

/// # Safety
/// As [`free`].
#[cold]
#[inline(never)]
unsafe fn free_slow(
    header: NonNull<HeapHeader>,
    entry: &'static ChunkEntry,
    block: NonNull<u8>,
    layout: Layout,
) {
    // SAFETY: the caller's contract.
    unsafe { (header.as_ref().operations.free)(header, entry, block, layout) }
}

/// Frees as the runner.
///
/// # Safety
/// The caller runs the heap; the block is allocated, of the run that starts at the place, and
/// `layout` fits it.
#[inline]
pub unsafe fn free(
    header: NonNull<HeapHeader>,
    place: ChunkPlace,
    block: NonNull<u8>,
    layout: Layout,
) {
    // SAFETY: the caller's contract; the fast path tells the strategy.
    unsafe {
        match header.as_ref().fast_path {
            FastPath::Bump => free_to_bump(header, place.entry(), block, layout),
            FastPath::Slab => free_to_slab(header, place, block, layout),
            FastPath::None => free_slow(header, place.entry(), block, layout),
        }
    }
}

/// # Safety
/// The caller runs the heap, whose fast path is the bump's; the run is an extent of it.
#[cold]
#[inline(never)]
unsafe fn bump_page_emptied(header: NonNull<HeapHeader>, entry: &'static ChunkEntry) {
    // SAFETY: the caller's contract.
    unsafe {
        if strategy_of::<Bump<true>>(header).is_extent_empty(extent_of(entry)) {
            retire_emptied::<Bump<true>>(header);
        }
    }
}
