//! Blocks by the runner: allocate, free, resize.
//!
//! What the strategy has at hand is cut at once. Else others' frees are collected, then an extent
//! is added; only when the source or the budget refuses is what the heap holds without blocks given
//! back for another try. Blocks above [`MAX_STRATEGY_BYTES`](super::MAX_STRATEGY_BYTES) are runs of
//! their own, and cost what a run costs, but for a slab's of one chunk, where a spare serves.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::super::account::Refusal;
use super::super::check;
use super::collect::{collect, end_quarantine};
use super::idle::{release_unused, retire, retire_block, retire_emptied};
use super::inspect::verify_sometimes;
use super::runs::{
    abandon, add_extent, count_held, note, own, range_of, run_of, spare_as_block, take_run,
};
use super::{DIRECT, EXTENT, Guard, Header, HeapCell, header_of, is_direct_in, strategy_of};
use crate::pointers::block;
use crate::region::{self, ChunkEntry, MAX_REGION_BYTES, Run};
use crate::strategy::{Strategy, extent_of, sites};
use crate::sys::abort_with;
use crate::units::{CHUNK_BYTES, CHUNK_SHIFT, chunks_for};

/// # Safety
/// As [`allocate`].
pub(super) unsafe fn allocate_checked<S: Strategy>(
    header: Header,
    layout: Layout,
    is_zeroed: bool,
) -> Option<NonNull<[u8]>> {
    // SAFETY: the caller's contract.
    unsafe {
        verify_sometimes::<S>(header);
        header_of(header).census.count_slow_allocation();
        header_of(header).refusal.set(Refusal::None);
        let mut block = allocate::<S>(header, layout, is_zeroed);
        if block.is_none() && end_quarantine::<S>(header) {
            block = allocate::<S>(header, layout, is_zeroed);
        }
        // What is held without a block may be what the source or the budget lacks. To look for it
        // takes a look at each run, too much for each small request of a heap that stays full.
        let may_hold_more = || {
            let this = header_of(header);
            is_direct_in::<S>(layout) || this.spares.get() != 0 || !this.foreign.is_empty()
        };
        if block.is_none() && may_hold_more() && release_unused::<S>(header, 0) != 0 {
            block = allocate::<S>(header, layout, is_zeroed);
        }
        if block.is_none() && header_of(header).refusal.get() == Refusal::Overdraft {
            block = overdraw::<S>(header, layout, is_zeroed);
        }
        if block.is_none()
            && matches!(header_of(header).refusal.get(), Refusal::None | Refusal::Overdraft)
        {
            let this = header_of(header);
            this.refusal.set(this.account.refusal_without_memory());
        }
        let block = block?;
        check::handed_out(block.cast());
        if strategy_of::<S>(header).sites().is_some() {
            let context = header_of(header).account.id().number();
            sites::note_new(block, context, || strategy_of::<S>(header).sites());
        }
        Some(block)
    }
}

/// Allocates above a limit that lets it, now that nothing unused is left to give back.
///
/// # Safety
/// As [`allocate`].
#[cold]
unsafe fn overdraw<S: Strategy>(
    header: Header,
    layout: Layout,
    is_zeroed: bool,
) -> Option<NonNull<[u8]>> {
    // SAFETY: the caller's contract.
    unsafe {
        let this = header_of(header);
        this.refusal.set(Refusal::None);
        this.may_overdraw.set(true);
        let block = allocate::<S>(header, layout, is_zeroed);
        this.may_overdraw.set(false);
        block
    }
}

/// # Safety
/// The caller runs the heap, which is of strategy `S`; `layout` is not empty.
unsafe fn allocate<S: Strategy>(
    header: Header,
    layout: Layout,
    is_zeroed: bool,
) -> Option<NonNull<[u8]>> {
    // SAFETY: the caller's contract holds for each call below.
    unsafe {
        let is_direct = is_direct_in::<S>(layout);
        // Before a run of its own is taken, too: those that others freed may be as long.
        if (S::COLLECTS_FIRST || is_direct) && !header_of(header).foreign.is_empty() {
            collect::<S>(header);
        }
        if is_direct {
            return allocate_direct::<S>(header, layout, is_zeroed);
        }
        if let Some(block) = cut::<S>(header, layout, is_zeroed) {
            return Some(block);
        }
        if !S::COLLECTS_FIRST && !header_of(header).foreign.is_empty() {
            collect::<S>(header);
            if let Some(block) = cut::<S>(header, layout, is_zeroed) {
                return Some(block);
            }
        }
        // Blocks that are longer than a chunk, if the settings say so, never fit.
        if strategy_of::<S>(header).block_length(layout).ok()? > CHUNK_BYTES {
            return None;
        }
        add_extent::<S>(header)?;
        cut::<S>(header, layout, is_zeroed)
    }
}

/// # Safety
/// As [`allocate`].
#[inline]
unsafe fn cut<S: Strategy>(
    header: Header,
    layout: Layout,
    is_zeroed: bool,
) -> Option<NonNull<[u8]>> {
    // SAFETY: the caller runs the heap; the block lies in a run of the heap.
    unsafe {
        let strategy = strategy_of::<S>(header);
        let block = if is_zeroed {
            strategy.allocate_zeroed(layout)?
        } else {
            strategy.allocate(layout)?
        };
        if !S::COUNTS_BLOCKS {
            let this = header_of(header);
            let offset = region::offset_of(block.cast::<u8>().as_ptr())?;
            let live = &region::entry_at(offset).live;
            live.set(live.get() + 1);
            this.allocated_bytes.set(this.allocated_bytes.get() + block.len());
        }
        Some(block)
    }
}

/// # Safety
/// As [`allocate`].
unsafe fn allocate_direct<S: Strategy>(
    header: Header,
    layout: Layout,
    is_zeroed: bool,
) -> Option<NonNull<[u8]>> {
    let bytes = chunks_for(layout.size())? << CHUNK_SHIFT;
    let request = Layout::from_size_align(bytes, layout.align().max(CHUNK_BYTES)).ok()?;
    // SAFETY: the caller runs the heap.
    let this = unsafe { header_of(header) };
    // A strategy's spares are chunks, and spare a lock that threads share.
    let spare =
        if S::KEEPS_SPARES && request.size() == CHUNK_BYTES && request.align() == CHUNK_BYTES {
            spare_as_block(this)
        } else {
            None
        };
    let run = match spare {
        Some(run) => run,
        // SAFETY: the caller runs the heap.
        None => unsafe { take_run(header, request, DIRECT) }?,
    };
    run.entry().live.set(1);
    this.direct_blocks.set(this.direct_blocks.get() + 1);
    this.allocated_bytes.set(this.allocated_bytes.get() + run.bytes());
    if is_zeroed && !run.is_zeroed {
        // SAFETY: the run is the heap's alone.
        unsafe { run.start().write_bytes(0, run.bytes()) };
    }
    Some(block(run.start(), run.bytes()))
}

/// # Safety
/// The caller runs the heap, which is of strategy `S`; the block is of the run that starts at
/// `entry`, and `layout` fits it.
pub(super) unsafe fn free<S: Strategy>(
    header: Header,
    entry: &'static ChunkEntry,
    address: NonNull<u8>,
    layout: Layout,
) {
    // SAFETY: the caller's contract holds for each call below.
    unsafe {
        let this = header_of(header);
        if let Some(sites) = strategy_of::<S>(header).sites() {
            sites.forget(address);
        }
        if entry.tag.get() == DIRECT {
            this.direct_blocks.set(this.direct_blocks.get() - 1);
            this.allocated_bytes.set(this.allocated_bytes.get() - run_of(entry).bytes());
            retire_block::<S>(header, entry);
            return;
        }
        if entry.tag.get() != EXTENT {
            abort_with(&["a block was freed twice: its chunk is a spare of the heap's"]);
        }
        let strategy = strategy_of::<S>(header);
        if S::COUNTS_BLOCKS {
            if strategy.free(extent_of(entry), address, layout) {
                retire_emptied::<S>(header);
            }
            return;
        }
        let length = strategy.block_length(layout).unwrap_or(0);
        this.allocated_bytes.set(this.allocated_bytes.get().wrapping_sub(length));
        strategy.deallocate(extent_of(entry), address, layout);
        let live = entry.live.get() - 1;
        entry.live.set(live);
        if live == 0 {
            retire::<S>(header, entry);
        }
    }
}

/// # Safety
/// As [`free`]; the address is aligned to `new.align()`, and neither layout is empty.
pub(super) unsafe fn resize<S: Strategy>(
    header: Header,
    entry: &'static ChunkEntry,
    address: NonNull<u8>,
    old: Layout,
    new: Layout,
) -> Option<usize> {
    // SAFETY: the caller's contract.
    unsafe {
        let length = resize_in_place::<S>(header, entry, address, old, new)?;
        // A strategy with a front records nothing, and its lock is not held here.
        if !S::HAS_FRONT
            && let Some(sites) = strategy_of::<S>(header).sites()
        {
            sites.resized(address, length);
        }
        Some(length)
    }
}

/// # Safety
/// As [`resize`].
#[inline]
unsafe fn resize_in_place<S: Strategy>(
    header: Header,
    entry: &'static ChunkEntry,
    address: NonNull<u8>,
    old: Layout,
    new: Layout,
) -> Option<usize> {
    // SAFETY: the caller's contract holds for each call below.
    unsafe {
        if entry.tag.get() == DIRECT {
            let _guard = Guard::of::<S>(header);
            return if is_direct_in::<S>(new) {
                resize_direct::<S>(header, entry, new)
            } else {
                None
            };
        }
        if is_direct_in::<S>(new) {
            return None;
        }
        let old_length = block_length::<S>(header, old)?;
        let new_length = block_length::<S>(header, new)?;
        if old_length == new_length {
            return Some(new_length);
        }
        if S::HAS_FRONT {
            return None; // Blocks of one length do not grow, and the heap's lock is not held.
        }
        let strategy = strategy_of::<S>(header);
        let extent = extent_of(entry);
        let length = if new.size() >= old.size() {
            strategy.grow_in_place(extent, address, old, new)
        } else {
            strategy.shrink_in_place(extent, address, old, new)
        }?;
        if !S::COUNTS_BLOCKS {
            let this = header_of(header);
            let bytes = this.allocated_bytes.get().wrapping_sub(old_length).wrapping_add(length);
            this.allocated_bytes.set(bytes);
        }
        Some(length)
    }
}

/// # Safety
/// As [`resize`]; the block is a run of its own.
unsafe fn resize_direct<S: Strategy>(
    header: Header,
    entry: &'static ChunkEntry,
    new: Layout,
) -> Option<usize> {
    let old_run = run_of(entry);
    let bytes = chunks_for(new.size())? << CHUNK_SHIFT;
    // The length must be the one that the new layout has anywhere.
    if bytes == old_run.bytes() {
        return Some(bytes);
    }
    if bytes < old_run.bytes() {
        // SAFETY: the caller's contract.
        return unsafe { shrink_direct(header, entry, bytes) };
    }
    // SAFETY: the caller runs the heap.
    let this = unsafe { header_of(header) };
    let extra = bytes - old_run.bytes();
    let promise = match this.account.promise(extra, false) {
        Ok(promise) => promise,
        Err(_) => {
            // SAFETY: the caller runs the heap; the block's run holds a block, so it stays.
            unsafe {
                end_quarantine::<S>(header);
                release_unused::<S>(header, 0);
            }
            // Moving the block would take more than growing it, so this is where to overdraw.
            let promise = this.account.promise(extra, true);
            promise.map_err(|refusal| this.refusal.set(refusal)).ok()?
        }
    };
    // Where the run cannot grow, the promise ends here.
    // SAFETY: the run is taken from this source.
    let range = unsafe { this.source.grow(range_of(old_run), bytes) }.ok()?;
    note(this, promise.keep());
    let run = Run::at_offset(old_run.offset_bytes(), range.length >> CHUNK_SHIFT, false);
    // SAFETY: the caller runs the heap; the run is the heap's, and longer now.
    unsafe { own(header, run, old_run.chunks(), DIRECT) };
    entry.run_chunks.set(run.chunks() as u32);
    count_held(this, extra as isize);
    this.allocated_bytes.set(this.allocated_bytes.get() + extra);
    Some(run.bytes())
}

/// Gives the end of a block back, which costs a lock of the region and saves copying the rest.
///
/// # Safety
/// As [`resize`]; the block is a run of its own, longer than so many bytes, which are whole chunks
/// and not none.
unsafe fn shrink_direct(header: Header, entry: &'static ChunkEntry, bytes: usize) -> Option<usize> {
    // SAFETY: the caller runs the heap.
    let this = unsafe { header_of(header) };
    let run = run_of(entry);
    let (kept_chunks, given) = (bytes >> CHUNK_SHIFT, run.bytes() - bytes);
    // Before the source has them, who may hand them out at once on another thread.
    abandon(run, kept_chunks);
    // SAFETY: the run is taken from this source; the block ends before what goes back, which is
    // nobody's any more. On failure the heap holds the run as before.
    unsafe {
        if this.source.shrink(range_of(run), bytes).is_err() {
            own(header, run, kept_chunks, DIRECT);
            return None;
        }
    }
    entry.run_chunks.set(kept_chunks as u32);
    this.account.credit(given);
    count_held(this, -(given as isize));
    this.allocated_bytes.set(this.allocated_bytes.get() - given);
    Some(bytes)
}

/// # Safety
/// The heap is valid and of strategy `S`.
pub(super) unsafe fn block_length<S: Strategy>(header: Header, layout: Layout) -> Option<usize> {
    if is_direct_in::<S>(layout) {
        let bytes = chunks_for(layout.size())? << CHUNK_SHIFT;
        return (bytes.max(layout.align()) <= MAX_REGION_BYTES).then_some(bytes);
    }
    // SAFETY: the settings do not change, so anyone may read them.
    let settings = unsafe { (&raw const (*header.cast::<HeapCell<S>>().as_ptr()).settings).read() };
    S::length_with(settings, layout).ok().filter(|&length| length <= CHUNK_BYTES)
}
