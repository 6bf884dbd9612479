//! The check of every equation of the data structure, and of what is freed and removed.

use core::ptr::NonNull;

use super::BitSet;
use super::runs::Runs;
use super::shelves::shelf_of;
use super::used::Used;
use crate::strategy::{Extent, Strategy};
use crate::sys::abort_with;

/// Aborts with `what` unless `holds`.
fn check(holds: bool, what: &str) {
    if !holds {
        abort_with(&["bit_set: ", what]);
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
            let end = Self::place_of(runs, block) + (blocks << runs.step);
            let is_inside = end <= runs.header.units;
            check(is_inside, "a block in a quick list reaches past its extent");
            check(!Self::is_free(runs, block, blocks), "a block in a quick list is marked as free");
        });
    }

    /// Whether any of some blocks is free.
    fn is_free(runs: Runs<'_>, block: NonNull<u8>, blocks: usize) -> bool {
        let index = runs.blocks_in(Self::place_of(runs, block));
        runs.edges.is_free(index) || runs.edges.has_between(index, index + blocks)
    }

    /// That an extent counts as much as is taken and does not wait. Of the count of blocks, which
    /// the bits do not tell where they touch, that each takes one of the bit set at least, and that
    /// each taken stretch has one.
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
        runs.visit(|first, units| count_taken(first, first + units));
        count_taken(runs.header.units, 0);
        let Used { requests, blocks } = Used::of(extent);
        let (live, allocated) = (requests.get(), runs.blocks_in(taken).checked_sub(waiting_blocks));
        let agrees = allocated.is_some_and(|allocated| {
            live <= allocated && (live == 0) == (allocated == 0) && live + waiting >= stretches
        });
        check(agrees, "the count of an extent's blocks disagrees with the bits");
        let counted = allocated == Some(blocks.get());
        check(counted, "the count of an extent's bytes disagrees with the bits");
    }

    /// Aborts if a block of an extent that is being removed is allocated.
    pub(super) fn check_is_empty(&self, extent: &Extent) {
        check(self.is_empty(extent), "an extent is removed that has blocks");
        // SAFETY: who removes an extent added it, and did not remove it before.
        self.verify_count(extent, unsafe { Runs::of(extent) });
    }

    /// Aborts if a block that is being freed is free.
    pub(super) fn check_is_taken(&self, extent: &Extent, block: NonNull<u8>, blocks: usize) {
        // SAFETY: a block is allocated in the extent, so that was added and not removed.
        let runs = unsafe { Runs::of(extent) };
        let start = Self::place_of(runs, block);
        let end = start + (blocks << runs.step);
        check(end <= runs.header.units, "a block is freed that reaches past its extent");
        let mut is_free = Self::is_free(runs, block, blocks);
        self.quick.visit(|other, waiting, length| {
            let other_start = Self::place_of(runs, waiting);
            let other_end = other_start + (length << runs.step);
            is_free |= other == extent.into() && other_start < end && start < other_end;
        });
        check(!is_free, "a block is freed that is free already");
    }
}
