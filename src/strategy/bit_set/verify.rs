//! The check of every equation of the data structure, and of what is freed and removed.

use core::ptr::NonNull;

use super::runs::Runs;
use super::shelves::shelf_of;
use super::{BitSet, live_blocks};
use crate::strategy::Extent;
use crate::sys::abort_with;

/// Aborts with `what` unless `holds`.
fn check(holds: bool, what: &str) {
    if !holds {
        abort_with(&["BitSet: ", what]);
    }
}

impl BitSet {
    /// Checks every invariant, aborts where one fails.
    pub(super) fn verify_all(&self) {
        self.verify_quick();
        let mut found_current = self.current.is_none();
        for (shelf, head) in self.shelves.iter().enumerate() {
            let is_occupied = self.occupied >> shelf & 1 != 0;
            check(is_occupied == head.is_some(), "a shelf's occupied bit disagrees with its list");
            let mut previous = None;
            let mut next = *head;
            while let Some(pointer) = next {
                // SAFETY: every extent in a shelf's list was added and not removed.
                let (extent, runs) = unsafe { (pointer.as_ref(), Runs::of(pointer.as_ref())) };
                let reads_alike = runs.header.previous.get() == previous;
                check(reads_alike, "a list reads differently backwards");
                let is_there =
                    runs.header.shelf.get() == shelf && shelf_of(runs.top_bin()) <= shelf;
                check(is_there, "an extent is on a shelf below that of its longest run");
                if let Some(fault) = runs.fault() {
                    check(false, fault);
                }
                self.verify_count(extent, runs);
                found_current |= self.current == Some(pointer);
                previous = next;
                next = runs.header.next.get();
            }
        }
        check(found_current, "the current extent is on no shelf");
    }

    /// That what waits is marked as taken.
    fn verify_quick(&self) {
        self.quick.visit(|extent, block, blocks| {
            // The pointer lies in freed memory, where the program may have written to it.
            let is_known = self.is_shelved(extent);
            check(is_known, "a block in a quick list was written to after it was freed");
            // SAFETY: extents on a shelf were added and not removed.
            let runs = unsafe { Runs::of(extent.as_ref()) };
            let index = self.index_of(runs, block);
            let is_free =
                runs.edges.is_free(index) || runs.edges.has_between(index, index + blocks);
            check(!is_free, "a block in a quick list is marked as free");
        });
    }

    /// That the count of an extent's allocated blocks may be right: the bits do not tell where one
    /// of two neighbours ends, but that each takes a block of the bit set at least, and that each
    /// taken stretch has one.
    fn verify_count(&self, extent: &Extent, runs: Runs<'_>) {
        let (mut waiting, mut waiting_blocks) = (0, 0);
        self.quick.visit(|other, _, blocks| {
            if other == extent.into() {
                waiting += 1;
                waiting_blocks += blocks;
            }
        });
        let (mut taken, mut stretches, mut free_end) = (0, 0, 0);
        let mut count_taken = |first: usize, end: usize| {
            taken += first - free_end;
            stretches += usize::from(first != free_end);
            free_end = end;
        };
        runs.edges.visit_runs(runs.header.blocks, |first, blocks| {
            count_taken(first, first + blocks);
        });
        count_taken(runs.header.blocks, 0);
        let live = live_blocks(extent).get();
        let allocated = taken.checked_sub(waiting_blocks);
        let agrees = allocated.is_some_and(|allocated| {
            live <= allocated && (live == 0) == (allocated == 0) && live + waiting >= stretches
        });
        check(agrees, "the count of an extent's blocks disagrees with the bits");
    }

    /// Aborts if a block of an extent that is being removed is allocated.
    pub(super) fn check_is_empty(&self, extent: &Extent) {
        check(live_blocks(extent).get() == 0, "an extent is removed that has blocks");
        // SAFETY: who removes an extent added it, and did not remove it before.
        self.verify_count(extent, unsafe { Runs::of(extent) });
    }

    /// Aborts if a block that is being freed is free.
    pub(super) fn check_is_taken(
        &self,
        extent: NonNull<Extent>,
        runs: Runs<'_>,
        index: usize,
        blocks: usize,
    ) {
        let mut is_free =
            runs.edges.is_free(index) || runs.edges.has_between(index, index + blocks);
        self.quick.visit(|other, waiting, length| {
            let other_index = self.index_of(runs, waiting);
            is_free |=
                other == extent && other_index < index + blocks && index < other_index + length;
        });
        check(!is_free, "a block is freed that is free already");
    }
}
