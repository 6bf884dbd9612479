//! The global allocator's four functions.
//!
//! Allocating looks at the thread's state, freeing at the address. See ARCHITECTURE.md for one
//! allocation and one foreign free followed step by step.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::configuration::{Configuration, GLOBAL_COUNTERS};
use super::in_use::CurrentAllocatorInUse;
use super::state::{Phase, ThreadState, inline, own_slab, state};
use super::{life, safe_point};
use crate::heap::moved::copy_before_free;
use crate::heap::{HeapHeader, Inline, Refusal, attention, batch, by_address, check, fast};
use crate::region::owners::{self, ChunkPlace};

/// Allocates.
///
/// # Safety
/// As [`GlobalAlloc::alloc`].
#[inline]
pub unsafe fn alloc<C: Configuration>(layout: Layout) -> *mut u8 {
    match try_fast(layout) {
        Some(block) => block.as_ptr(),
        // SAFETY: the caller's contract.
        None => unsafe { alloc_slow::<C>(layout, false) },
    }
}

/// The inline paths.
#[inline]
fn try_fast(layout: Layout) -> Option<NonNull<u8>> {
    let inline = inline();
    // SAFETY: the state's heaps are run by this thread and have the fast path that their place
    // says.
    unsafe {
        if let Some(heap) = inline.slab() {
            return fast::try_slab(heap, layout);
        }
        fast::try_bump(inline.bump()?, layout)
    }
}

/// What is too large for [`try_fast`], from the lists of the heap in use.
#[inline]
fn try_medium(state: &ThreadState, layout: Layout) -> Option<NonNull<u8>> {
    if fast::is_small(layout) {
        return None;
    }
    let heap = state.inline.get().slab()?;
    // SAFETY: the state's heaps are run by this thread and have the fast path that their place
    // says.
    unsafe { by_address::try_allocate(heap, layout) }
}

/// Allocates zeroed memory.
///
/// # Safety
/// As [`GlobalAlloc::alloc_zeroed`].
#[inline]
pub unsafe fn alloc_zeroed<C: Configuration>(layout: Layout) -> *mut u8 {
    // Large requests may get memory that is known to be zero; for others the inline path is
    // cheaper.
    if layout.size() <= 1024
        && let Some(block) = try_fast(layout)
    {
        // SAFETY: the block was just allocated.
        unsafe { block.write_bytes(0, layout.size()) };
        return block.as_ptr();
    }
    // SAFETY: the caller's contract.
    unsafe { alloc_slow::<C>(layout, true) }
}

/// What the inline paths do not serve: from a bump heap's next page, or what is too large for them
/// from a slab's lists, or as it comes. Apart from [`alloc_slower`], for that saves registers which
/// the first two do not need; and one function, so that whoever records call sites sees one.
///
/// # Safety
/// As [`GlobalAlloc::alloc`].
#[cold]
#[inline(never)]
unsafe fn alloc_slow<C: Configuration>(layout: Layout, is_zeroed: bool) -> *mut u8 {
    let inline = inline();
    let block = if is_zeroed {
        None
    } else if let Some(heap) = inline.slab() {
        // SAFETY: as in `try_fast`.
        unsafe { by_address::try_allocate_medium(heap, layout) }
    } else if fast::is_small(layout)
        && let Some(heap) = inline.bump()
        && !state().batches.is_pending()
    {
        // SAFETY: as in `try_fast`.
        unsafe { fast::try_bump_page(heap, layout) }
    } else {
        None
    };
    match block {
        Some(block) => block.as_ptr(),
        // SAFETY: the caller's contract.
        None => unsafe { alloc_slower::<C>(layout, is_zeroed) },
    }
}

/// # Safety
/// As [`GlobalAlloc::alloc`].
#[inline(never)]
unsafe fn alloc_slower<C: Configuration>(layout: Layout, is_zeroed: bool) -> *mut u8 {
    let state = state();
    if let Some(block) = try_medium(state, layout) {
        if is_zeroed {
            // SAFETY: the block was just allocated.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        return block.as_ptr();
    }
    if !is_zeroed
        && !state.batches.is_pending()
        && let Some(heap) = state.inline.get().bump()
        // SAFETY: as in `try_fast`.
        && let Some(block) = unsafe { fast::try_bump_chunk(heap, layout) }
    {
        return block.as_ptr();
    }
    if state.phase.get() == Phase::Fresh {
        life::start_thread::<C>(state);
    }
    if state.batches.is_pending() {
        state.batches.flush();
    }
    let top = state.contexts.top();
    let heap = match top.in_use {
        _ if state.phase.get() != Phase::Running => None,
        CurrentAllocatorInUse::CoroutineLocal => top.heap,
        CurrentAllocatorInUse::ThreadLocal => life::thread_heap::<C>(state),
        CurrentAllocatorInUse::Global => {
            // SAFETY: the caller's contract.
            return unsafe { alloc_global::<C>(layout, is_zeroed) };
        }
    };
    let Some(heap) = heap else {
        // SAFETY: the caller's contract.
        return unsafe { alloc_global::<C>(layout, is_zeroed) };
    };
    // SAFETY: the state's heaps are run by this thread.
    let block = unsafe { allocate_in(heap, layout, is_zeroed) };
    note_own(state, heap);
    match block {
        Some(block) => block.as_ptr().cast(),
        // SAFETY: the caller's contract.
        None => unsafe { alloc_refused::<C>(heap, layout, is_zeroed) },
    }
}

/// Serves what a heap has no memory for: as the limit says that was in the way, or else from the
/// global allocator.
///
/// # Safety
/// As [`GlobalAlloc::alloc`], and this thread runs the heap, which just refused the layout.
#[cold]
#[inline(never)]
unsafe fn alloc_refused<C: Configuration>(
    heap: NonNull<HeapHeader>,
    layout: Layout,
    is_zeroed: bool,
) -> *mut u8 {
    // SAFETY: the thread runs the heap.
    let this = unsafe { heap.as_ref() };
    match this.refusal.get() {
        Refusal::Fail => return core::ptr::null_mut(),
        Refusal::Spill => {
            let Some(own) = life::thread_heap_if_running::<C>(state()) else {
                return core::ptr::null_mut();
            };
            // SAFETY: the thread runs its own heap.
            let block = unsafe { allocate_in(own, layout, is_zeroed) };
            note_own(state(), own);
            return match block {
                Some(block) => {
                    this.account.count_spilled(block.len());
                    block.as_ptr().cast()
                }
                None => core::ptr::null_mut(),
            };
        }
        // No limit, or one that ends the context at its next safe point.
        Refusal::None | Refusal::Overdraft => {}
    }
    // SAFETY: the caller's contract.
    let block = unsafe { alloc_global::<C>(layout, is_zeroed) };
    if !block.is_null() {
        GLOBAL_COUNTERS.overflow_blocks.fetch_add(1, Ordering::Relaxed);
        if this.refusal.get() == Refusal::Overdraft {
            this.account.end_for_uncounted();
            this.attend(attention::NOTED);
        }
    }
    block
}

/// # Safety
/// The caller runs the heap; `layout` is not empty.
unsafe fn allocate_in(
    heap: NonNull<HeapHeader>,
    layout: Layout,
    is_zeroed: bool,
) -> Option<NonNull<[u8]>> {
    // SAFETY: the caller's contract.
    unsafe { (heap.as_ref().operations.allocate)(heap, layout, is_zeroed) }
}

/// # Safety
/// As [`GlobalAlloc::alloc`].
unsafe fn alloc_global<C: Configuration>(layout: Layout, is_zeroed: bool) -> *mut u8 {
    // SAFETY: the caller's contract.
    let block = unsafe {
        if is_zeroed { C::global().alloc_zeroed(layout) } else { C::global().alloc(layout) }
    };
    if !block.is_null() {
        count_global(layout.size(), 0);
    }
    block
}

fn count_global(allocated: usize, freed: usize) {
    let change = (allocated as u64).wrapping_sub(freed as u64);
    GLOBAL_COUNTERS.live_bytes.fetch_add(change, Ordering::Relaxed);
    GLOBAL_COUNTERS.total_bytes.fetch_add(allocated as u64, Ordering::Relaxed);
    let blocks = u64::from(allocated != 0).wrapping_sub(u64::from(freed != 0));
    if blocks != 0 {
        GLOBAL_COUNTERS.live_blocks.fetch_add(blocks, Ordering::Relaxed);
    }
}

/// Has the thread's next safe point tell of a limit that its own heap passed. Nobody leaves that
/// heap, which is where contexts' heaps tell; so the context that is current is told of it, too.
#[inline]
fn note_own(state: &ThreadState, heap: NonNull<HeapHeader>) {
    // SAFETY: the thread runs the heap.
    if unsafe { heap.as_ref() }.attention() & attention::NOTED != 0 {
        note_own_with_work(state, heap);
    }
}

#[cold]
#[inline(never)]
fn note_own_with_work(state: &ThreadState, heap: NonNull<HeapHeader>) {
    if state.thread_heap.get() != Some(heap) {
        return;
    }
    // SAFETY: the thread runs its own heap, and that of its current context.
    unsafe {
        safe_point::note(state, heap.as_ref());
        if let Some(current) = state.contexts.top().heap {
            current.as_ref().attend(attention::NOTED);
        }
    }
}

/// Frees.
///
/// # Safety
/// As [`GlobalAlloc::dealloc`].
#[inline]
pub unsafe fn dealloc<C: Configuration>(block: *mut u8, layout: Layout) {
    // SAFETY: the caller's contract: a block of the region lies in a committed segment, and is not
    // null; what is not ours came from the global allocator.
    unsafe {
        match owners::find(block) {
            Some((place, owner)) => {
                free_at(NonNull::new_unchecked(block), place, owner, layout);
            }
            None => dealloc_global::<C>(block, layout),
        }
    }
}

/// # Safety
/// As [`GlobalAlloc::dealloc`], of a block of the global allocator.
#[cold]
#[inline(never)]
unsafe fn dealloc_global<C: Configuration>(block: *mut u8, layout: Layout) {
    count_global(0, layout.size());
    // SAFETY: the caller's contract.
    unsafe { C::global().dealloc(block, layout) };
}

/// The owner of a block of the region, as its chunk's owner says.
///
/// # Safety
/// The block is allocated.
#[inline]
unsafe fn owner_in(owner: *mut u8) -> NonNull<HeapHeader> {
    // SAFETY: a chunk in which a block is allocated has an owner.
    unsafe { NonNull::new_unchecked(owner.cast()) }
}

/// Frees a block of the region, whoever owns it. Inline: a small block of the thread's own heap.
///
/// # Safety
/// The block is allocated, `place` is its chunk's, whose owner that is, and `layout` fits it.
#[inline]
pub unsafe fn free_at(block: NonNull<u8>, place: ChunkPlace, owner: *mut u8, layout: Layout) {
    // SAFETY: the block is allocated, so it pins its chunk and the chunk its owner's header.
    unsafe {
        check::freed(block, layout);
        let owner = owner_in(owner);
        if !cfg!(heapswitch_asan) && fast::is_small(layout) && own_slab() == Some(owner) {
            fast::free_small_to_slab(owner, block, layout);
        } else {
            free_other(block, place, owner, layout);
        }
    }
}

/// Frees what is not a small block of the thread's own heap: in a context's heap, larger, or
/// foreign.
///
/// # Safety
/// As [`free_at`].
#[inline(never)]
pub(super) unsafe fn free_other(
    block: NonNull<u8>,
    place: ChunkPlace,
    owner: NonNull<HeapHeader>,
    layout: Layout,
) {
    let inline = inline();
    // SAFETY: as in `free_at`; heaps in `inline` are run by this thread and have the fast path that
    // their place says.
    unsafe {
        if inline == Inline::of_bump(owner) {
            fast::free_to_bump(owner, place.entry(), block, layout);
        } else if inline.is_slab_of(owner) {
            fast::free_to_slab(owner, place, block, layout);
        } else {
            let state = state();
            let runner = owner.as_ref().runner.seen();
            if runner.is(state.token.get()) {
                fast::free(owner, place, block, layout);
            } else if runner.is_closed() || !state.batches.try_join(owner, block, layout) {
                free_foreign(block, place, owner, layout);
            }
        }
    }
}

/// # Safety
/// As [`free_other`], and this thread does not run the owner.
#[cold]
#[inline(never)]
unsafe fn free_foreign(
    block: NonNull<u8>,
    place: ChunkPlace,
    owner: NonNull<HeapHeader>,
    layout: Layout,
) {
    let state = state();
    // SAFETY: the caller's contract; the block pins the header.
    unsafe {
        if owner.as_ref().is_unbatched {
            batch::free_at_once(owner, block, layout);
        } else if state.phase.get() != Phase::Running
            || !state.batches.try_open(owner, block, layout)
        {
            free_foreign_with_care(block, place, owner, layout);
        }
    }
}

/// # Safety
/// As [`free_foreign`].
#[cold]
#[inline(never)]
unsafe fn free_foreign_with_care(
    block: NonNull<u8>,
    place: ChunkPlace,
    owner: NonNull<HeapHeader>,
    layout: Layout,
) {
    let state = state();
    // SAFETY: the caller's contract.
    unsafe {
        if state.phase.get() == Phase::Ended {
            batch::free_at_once(owner, block, layout);
        } else {
            if state.phase.get() == Phase::Fresh {
                life::arm_exit(state);
            }
            state.batches.free(owner, place.entry(), block, layout);
        }
    }
}

/// Makes a block fit another size.
///
/// # Safety
/// As [`GlobalAlloc::realloc`].
#[inline]
pub unsafe fn realloc<C: Configuration>(block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
    // SAFETY: as in `dealloc`.
    match unsafe { owners::find(block) } {
        // SAFETY: the caller's contract.
        Some((place, owner)) => unsafe {
            realloc_at::<C>(NonNull::new_unchecked(block), place, owner, layout, size)
        },
        // SAFETY: what is not ours came from the global allocator.
        None => unsafe {
            let moved = C::global().realloc(block, layout, size);
            if !moved.is_null() {
                count_global(size, layout.size());
            }
            moved
        },
    }
}

/// # Safety
/// As [`GlobalAlloc::realloc`], and as [`free_at`].
#[inline(never)]
unsafe fn realloc_at<C: Configuration>(
    block: NonNull<u8>,
    place: ChunkPlace,
    chunk_owner: *mut u8,
    old: Layout,
    size: usize,
) -> *mut u8 {
    // SAFETY: by the contract of `realloc` the size, rounded up to the alignment, fits a layout.
    let new = unsafe { Layout::from_size_align_unchecked(size, old.align()) };
    check::resized(block);
    // SAFETY: the caller's contract.
    let owner = unsafe { owner_in(chunk_owner) };
    // SAFETY: the caller's contract.
    if let Some(block) = unsafe { realloc_small(block, owner, old, new) } {
        return block.as_ptr();
    }
    // SAFETY: the block is allocated, so its owner is valid; what is for the runner is only called
    // there.
    unsafe {
        let entry = place.entry();
        let operations = owner.as_ref().operations;
        let is_runner = owner.as_ref().runner.is(state().token.get());
        let heap = if is_runner {
            if (operations.resize)(owner, entry, block, old, new).is_some() {
                note_own(state(), owner);
                count_spilled_growth(owner, old, new);
                return block.as_ptr();
            }
            Some(owner)
        } else {
            if (operations.block_length)(owner, old) == (operations.block_length)(owner, new) {
                return block.as_ptr();
            }
            life::thread_heap_if_running::<C>(state())
        };
        let moved = match heap {
            Some(heap) => {
                let moved = fast::allocate(heap, new);
                note_own(state(), heap);
                moved.or_else(|| NonNull::new(alloc_refused::<C>(heap, new, false)))
            }
            None => NonNull::new(alloc_global::<C>(new, false)),
        };
        let Some(moved) = moved else {
            // What waited for requests of its length is free now, perhaps behind the block.
            if is_runner && (operations.resize)(owner, entry, block, old, new).is_some() {
                note_own(state(), owner);
                return block.as_ptr();
            }
            return core::ptr::null_mut();
        };
        if is_runner {
            count_spilled_growth(owner, old, new);
        }
        copy_before_free(block, moved, old.size().min(size));
        free_at(block, place, chunk_owner, old);
        moved.as_ptr()
    }
}

/// Counts what a block of the thread's heap grew by, where the context that is current has spilled:
/// what it spilled grows there and not in its heap.
///
/// # Safety
/// The thread runs the owner, whose block grew or moved from the first layout to the second.
#[inline]
unsafe fn count_spilled_growth(owner: NonNull<HeapHeader>, old: Layout, new: Layout) {
    let state = state();
    let Some(current) = state.contexts.top().heap else { return };
    // SAFETY: the thread runs its current context's heap, and the owner.
    unsafe {
        let account = &current.as_ref().account;
        if new.size() > old.size()
            && state.thread_heap.get() == Some(owner)
            && state.contexts.top().in_use == CurrentAllocatorInUse::CoroutineLocal
            && account.has_spilled()
        {
            let length_of = owner.as_ref().operations.block_length;
            let lengths = (length_of(owner, old), length_of(owner, new));
            if let (Some(before), Some(after)) = lengths {
                account.count_spilled(after.saturating_sub(before));
            }
        }
    }
}

/// Small to small in the thread's own slab heap or the one in use: strings and vectors that begin
/// to grow. `None` where it is not that, or the new class's list is empty; nothing has changed
/// then.
///
/// # Safety
/// As [`realloc_at`].
#[inline]
unsafe fn realloc_small(
    block: NonNull<u8>,
    owner: NonNull<HeapHeader>,
    old: Layout,
    new: Layout,
) -> Option<NonNull<u8>> {
    if cfg!(heapswitch_asan) {
        return None; // The old block has to wait in quarantine.
    }
    // SAFETY: the block is allocated, so its owner is valid; the thread runs the heaps that its
    // state names.
    unsafe {
        let is_own = state().own_slab.get() == Some(owner);
        let is_listed = is_own || state().inline.get() == Inline::of_slab(owner);
        if !fast::is_small(old) || !fast::is_small(new) || !is_listed {
            return None;
        }
        if fast::are_of_one_class(old, new) {
            return Some(block);
        }
        let moved = fast::try_slab(owner, new)?;
        moved.copy_from_nonoverlapping(block, old.size().min(new.size()));
        check::freed(block, old);
        fast::free_small_to_slab(owner, block, old);
        Some(moved)
    }
}
