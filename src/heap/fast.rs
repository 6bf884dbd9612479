//! Allocating and freeing as the runner: the fast paths inline, the rest through the operations.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::cell::{is_direct, retire_emptied, strategy_of};
use super::check;
use super::header::{FastPath, HeapHeader};
use crate::region::ChunkEntry;
use crate::strategy::bump::Bump;
use crate::strategy::extent_of;
use crate::strategy::slab::Slab;
use crate::strategy::slab::class::class_of;

/// Allocates from the window of a heap whose fast path is [`FastPath::Bump`].
///
/// # Safety
/// The caller runs the heap, which has that fast path.
#[inline]
pub unsafe fn try_bump(header: NonNull<HeapHeader>, layout: Layout) -> Option<NonNull<u8>> {
    if is_direct(layout) {
        return None;
    }
    // SAFETY: the caller runs the heap; the fast path tells the strategy.
    let block = unsafe { strategy_of::<Bump<true>>(header) }.allocate_in_window(layout)?;
    check::handed_out(block);
    Some(block)
}

/// Allocates from the lists of a heap whose fast path is [`FastPath::Slab`].
///
/// # Safety
/// The caller runs the heap, which has that fast path.
#[inline]
pub unsafe fn try_slab(header: NonNull<HeapHeader>, layout: Layout) -> Option<NonNull<u8>> {
    if is_direct(layout) {
        return None;
    }
    let class = class_of(layout)?;
    // SAFETY: the caller runs the heap; the fast path tells the strategy.
    let block = unsafe { strategy_of::<Slab<true>>(header) }.pop(class)?;
    check::handed_out(block);
    Some(block)
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

/// Frees a block of a heap whose fast path is [`FastPath::Slab`].
///
/// # Safety
/// As [`free`].
#[inline]
pub unsafe fn free_slab(
    header: NonNull<HeapHeader>,
    entry: &'static ChunkEntry,
    block: NonNull<u8>,
    layout: Layout,
) {
    if !is_direct(layout)
        && let Some(class) = class_of(layout)
    {
        // SAFETY: the caller runs the heap; the fast path tells the strategy.
        if unsafe { strategy_of::<Slab<true>>(header).push(class, block) } {
            // SAFETY: the caller runs the heap.
            unsafe { spill(header, class) };
        }
        return;
    }
    // SAFETY: the caller's contract.
    unsafe { free_slow(header, entry, block, layout) }
}

/// # Safety
/// The caller runs the heap, whose fast path is the slab's.
#[cold]
#[inline(never)]
unsafe fn spill(header: NonNull<HeapHeader>, class: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        if strategy_of::<Slab<true>>(header).spill(class) {
            retire_emptied::<Slab<true>>(header);
        }
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
/// The caller runs the heap; the block is allocated, of the run that starts at `entry`, and `layout`
/// fits it.
#[inline]
pub unsafe fn free(
    header: NonNull<HeapHeader>,
    entry: &'static ChunkEntry,
    block: NonNull<u8>,
    layout: Layout,
) {
    // SAFETY: the caller's contract; the fast path tells the strategy.
    unsafe {
        match header.as_ref().fast_path {
            // Blocks have to wait in quarantine.
            _ if cfg!(heapswitch_asan) => free_slow(header, entry, block, layout),
            FastPath::Bump if !is_direct(layout) => {
                let strategy = strategy_of::<Bump<true>>(header);
                if strategy.free_counted(extent_of(entry), block, layout) {
                    bump_page_emptied(header, entry);
                }
            }
            FastPath::Slab => free_slab(header, entry, block, layout),
            _ => free_slow(header, entry, block, layout),
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
