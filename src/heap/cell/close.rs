//! Closing a heap, and what outlives it.
//!
//! # The close, step by step
//! 1. What others freed is collected, and what the strategy caches put back, so that each run's
//!    count of blocks is exact as far as the runner can know.
//! 2. The runner becomes CLOSED and the foreign stack's head too; what it held is freed as usual.
//!    From here on every free by others goes to the entry's word and not to the stack.
//! 3. Runs without blocks go back. The others lose the pages in which nothing survived.
//! 4. Each surviving run's count is merged into its word. A run whose word thereby becomes zero was
//!    freed by others meanwhile, and goes back as well.
//! 5. The closer drops its own count of the header.
//!
//! After the merge another thread may free the run's last block at any moment, so the closer
//! touches the entry no more; likewise the header after its own count is dropped.

use core::sync::atomic::Ordering;

use super::collect::{end_quarantine, free_chain};
use super::idle::{live_blocks, release_empty};
use super::inspect::note_fill;
use super::runs::{disown, give_back_metadata, run_of, runs};
use super::{EXTENT, EscapeReport, Header, header_of, strategy_of};
use crate::region::{ChunkEntry, Metadata};
use crate::strategy::{Extent, Strategy, extent_of};
use crate::sync::inspection;
use crate::sys;

/// # Safety
/// The caller runs the heap, and nobody else enters, closes or allocates from it ever again.
pub(super) unsafe fn close<S: Strategy>(header: Header) -> EscapeReport {
    let mut report = EscapeReport::default();
    // SAFETY: the caller's contract; each step touches only what the module's description allows.
    unsafe {
        let this = header_of(header);
        end_quarantine::<S>(header);
        this.runner.close();
        free_chain::<S>(header, this.foreign.close());
        report.returned_bytes = release_empty::<S>(header, 0);
        // Of a strategy that counts itself, those that are runs of their own.
        report.bytes = this.allocated_bytes.get();
        let mut survivors = 1 + this.pins() as usize;
        for entry in runs(this) {
            survivors += 1;
            report.blocks += live_blocks::<S>(header, entry) as usize;
            report.kept_bytes += run_of(entry).bytes();
            note_fill::<S>(header, entry);
            run_of(entry).entries().for_each(|entry| entry.label.set_orphan());
            if entry.tag.get() == EXTENT {
                if S::COUNTS_BLOCKS {
                    report.bytes += strategy_of::<S>(header).used_bytes(extent_of(entry));
                }
                drop_idle_pages(strategy_of::<S>(header), extent_of(entry));
            }
        }
        this.account.count_escapees(report.blocks as u64);
        inspection::all().remove(this.account.heap_place(), header, &this.runner);
        // Of one that has a successor that counts from nothing, too.
        this.account.set_allocated(0, 0);
        // Relaxed: the merges below publish it.
        this.remaining.store(survivors, Ordering::Relaxed);
        for entry in runs(this) {
            let live = live_blocks::<S>(header, entry);
            if entry.tag.get() == EXTENT {
                give_back_metadata(strategy_of::<S>(header), entry);
            }
            if entry.word.merge(live) {
                return_orphan(header, entry);
            }
        }
        // From here on nobody asks the strategy: only what it keeps beside its extents is left.
        core::ptr::drop_in_place(strategy_of::<S>(header));
        drop_remaining(header);
    }
    report
}

/// Drops the pages of an extent in which no block is allocated, adjacent ones together.
pub(super) fn drop_idle_pages<S: Strategy>(strategy: &mut S, extent: &Extent) {
    let page_bytes = sys::page_bytes();
    let base = extent.start().addr().get();
    let mut pending = 0..0;
    let drop_pages = |range: core::ops::Range<usize>| {
        let start = range.start.next_multiple_of(page_bytes);
        let end = crate::units::round_down(range.end, page_bytes);
        if start < end {
            // SAFETY: the pages lie in the extent and hold no block; a refusal only keeps them.
            let _ = unsafe {
                let first = crate::pointers::forward(extent.start(), start - base);
                sys::memory::give_back_pages(first, end - start)
            };
        }
    };
    strategy.visit_unallocated(extent, &mut |idle| {
        let start = idle.cast::<u8>().addr().get();
        if start != pending.end {
            drop_pages(pending.clone());
            pending.start = start;
        }
        pending.end = start + idle.len();
    });
    drop_pages(pending);
}

/// Counts a block of a closed heap off its run; gives the run back if it was the last.
///
/// # Safety
/// The heap's foreign stack is closed, and the block is one that was allocated in the run.
pub unsafe fn free_orphan(header: Header, entry: &'static ChunkEntry) {
    if entry.word.release(1) {
        // SAFETY: the run's last block is gone, and it pinned the header.
        unsafe { return_orphan(header, entry) };
    }
}

/// # Safety
/// The caller made the run's word merged and zero.
#[cold]
unsafe fn return_orphan(header: Header, entry: &'static ChunkEntry) {
    // SAFETY: the run is the caller's alone now; it pinned the header until `drop_remaining`.
    unsafe {
        disown(header_of(header), entry);
        drop_remaining(header);
    }
}

/// Gives up one of the counts that keep a closed heap's header.
///
/// # Safety
/// The caller holds one of the counts of `remaining` and touches the header no more.
pub(in crate::heap) unsafe fn drop_remaining(header: Header) {
    // SAFETY: the count is held until the subtraction.
    let this = unsafe { header_of(header) };
    let bytes = this.operations.cell_bytes;
    // AcqRel: everybody's use of the header happens before it is freed.
    if this.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
        // SAFETY: the last count is gone; the strategy was dropped by `close`.
        unsafe {
            core::ptr::drop_in_place(header.as_ptr());
            Metadata::give_back(header.cast(), bytes);
        }
    }
}
