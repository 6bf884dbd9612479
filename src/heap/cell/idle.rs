//! What holds no block: spares that are kept, runs that go back, heaps that are emptied.
//!
//! An extent that loses its last block becomes a spare, because a heap that frees its last block
//! mostly allocates again soon and a run costs a lock and its pages' faults. In a slab's heap so
//! does a chunk that was a block of its own, and serves for either. Beyond so many, counted
//! together with those that the strategy keeps, runs go back to the source at once.

use super::super::check;
use super::collect::{collect, end_quarantine};
use super::inspect::verify_sometimes;
use super::runs::{
    block_as_spare, give_back_metadata, pop_spare, push_spare, remove_extent, return_run, runs,
};
use super::{EXTENT, Header, HeapCell, SPARE, header_of, strategy_of};
use crate::region::{self, ChunkEntry};
use crate::strategy::{Strategy, extent_of};

/// Runs without blocks that a heap keeps, also while its runner is at work: of a strategy whose
/// blocks come and go one by one (slab: 256 KiB), and of any other.
const fn most_unused<S: Strategy>() -> u32 {
    if S::KEEPS_SPARES { 4 } else { 1 }
}

/// How many of those may be spares.
///
/// # Safety
/// The caller runs the heap.
unsafe fn most_spares<S: Strategy>(header: Header) -> u32 {
    // SAFETY: the caller's contract.
    most_unused::<S>().saturating_sub(unsafe { strategy_of::<S>(header) }.kept_extents())
}

/// Keeps an extent without blocks as the spare, or gives it back.
///
/// # Safety
/// As [`remove_extent`].
#[cold]
pub(super) unsafe fn retire<S: Strategy>(header: Header, entry: &'static ChunkEntry) {
    // SAFETY: the caller's contract.
    unsafe {
        verify_sometimes::<S>(header);
        remove_extent::<S>(header, entry);
        let this = header_of(header);
        if this.spares.get() < most_spares::<S>(header) {
            push_spare(this, entry);
        } else {
            return_run(header, entry);
        }
    }
}

/// Keeps the run of a block of its own as a spare, where it is a chunk and the strategy keeps such,
/// or gives it back.
///
/// # Safety
/// The caller runs the heap; the run is the heap's, and its block is freed.
pub(super) unsafe fn retire_block<S: Strategy>(header: Header, entry: &'static ChunkEntry) {
    // SAFETY: the caller's contract.
    unsafe {
        let this = header_of(header);
        let is_spare = S::KEEPS_SPARES && entry.run_chunks.get() == 1;
        if is_spare && this.spares.get() < most_spares::<S>(header) {
            block_as_spare(this, entry);
        } else {
            return_run(header, entry);
        }
    }
}

/// Retires what a strategy that counts its blocks found empty. Where it keeps more itself, spares
/// go back.
///
/// # Safety
/// The caller runs the heap.
#[cold]
pub(in crate::heap) unsafe fn retire_emptied<S: Strategy>(header: Header) {
    // SAFETY: the caller runs the heap; the strategy says that the extent holds no block.
    unsafe {
        while let Some(start) = strategy_of::<S>(header).next_emptied() {
            if let Some(entry) = region::entry_of(start.as_ptr()) {
                retire::<S>(header, entry);
            }
        }
        release_spares(header, most_spares::<S>(header));
    }
}

/// The blocks of a run that are allocated, as far as the runner knows.
///
/// # Safety
/// The caller runs the heap, and the run is the heap's.
pub(super) unsafe fn live_blocks<S: Strategy>(header: Header, entry: &'static ChunkEntry) -> u32 {
    let blocks = match entry.tag.get() {
        SPARE => 0,
        // SAFETY: the caller's contract.
        EXTENT if S::COUNTS_BLOCKS => unsafe {
            strategy_of::<S>(header).live_blocks(extent_of(entry))
        },
        _ => entry.live.get(),
    };
    check::counted(entry, blocks);
    blocks
}

/// Collects, and gives back runs without blocks but for `kept`, which stay as spares; the bytes.
///
/// # Safety
/// The caller runs the heap.
pub(super) unsafe fn release_unused<S: Strategy>(header: Header, kept: u32) -> usize {
    // SAFETY: the caller's contract.
    unsafe {
        collect::<S>(header);
        release_empty::<S>(header, kept)
    }
}

/// As [`release_unused`], without collecting: the foreign stack may be closed.
///
/// # Safety
/// The caller runs the heap.
pub(super) unsafe fn release_empty<S: Strategy>(header: Header, kept: u32) -> usize {
    // SAFETY: the caller's contract holds for each call below.
    unsafe {
        let this = header_of(header);
        for entry in runs(this) {
            if entry.tag.get() == EXTENT && live_blocks::<S>(header, entry) == 0 {
                remove_extent::<S>(header, entry);
                push_spare(this, entry);
            }
        }
        release_spares(header, kept)
    }
}

/// Gives spares back, but for `kept`; the bytes.
///
/// # Safety
/// The caller runs the heap.
pub(super) unsafe fn release_spares(header: Header, kept: u32) -> usize {
    let mut bytes = 0;
    // SAFETY: the caller's contract, here and below.
    let this = unsafe { header_of(header) };
    while this.spares.get() > kept {
        let Some(spare) = pop_spare(this) else { break };
        // SAFETY: the caller's contract; a spare has no block.
        bytes += unsafe { return_run(header, spare) };
    }
    bytes
}

/// Gives everything back but one run, if no block is allocated; the bytes, as `Err` if one is.
///
/// # Safety
/// The caller runs the heap.
pub(super) unsafe fn reset<S: Strategy>(header: Header) -> Result<usize, usize> {
    // SAFETY: the caller's contract holds for each call below.
    unsafe {
        let this = header_of(header);
        collect::<S>(header);
        this.peak_bytes.set(this.held_bytes.get());
        // Most contexts need one run and leave nothing in it: that is kept as it is.
        if let Some(only) = runs(this).next()
            && only.next.get() == 0
            && only.tag.get() == EXTENT
            && strategy_of::<S>(header).rewind(extent_of(only))
        {
            return Ok(0);
        }
        let bytes = release_empty::<S>(header, 1);
        if runs(this).all(|entry| entry.tag.get() == SPARE) { Ok(bytes) } else { Err(bytes) }
    }
}

/// # Safety
/// The caller runs the heap, and nothing that was allocated in it is used or freed any more.
pub(super) unsafe fn forget_blocks<S: Strategy>(header: Header) {
    // SAFETY: no block is in use, so the strategy may be made anew and every run goes back.
    unsafe {
        let this = header_of(header);
        // What lies on the foreign stack is dropped with its chunks.
        this.foreign.take_all();
        end_quarantine::<S>(header);
        let settings = header.cast::<HeapCell<S>>().as_ref().settings;
        for entry in runs(this) {
            check::forgotten(entry);
            if entry.tag.get() == EXTENT {
                give_back_metadata(strategy_of::<S>(header), entry);
                // As if it had been removed: nobody's.
                extent_of(entry).words.iter().for_each(|word| word.set(0));
            }
        }
        // Not an assignment: a slab would be written whole, and first made on the stack.
        let strategy = core::ptr::from_mut(strategy_of::<S>(header));
        strategy.drop_in_place();
        S::write_new(strategy, settings);
        for entry in runs(this) {
            return_run(header, entry);
        }
        this.first_spare.set(0);
        this.spares.set(0);
        this.allocated_bytes.set(0);
        this.direct_blocks.set(0);
    }
}
