//! What is checked: that no block is freed twice, and every equation.

use core::ptr::NonNull;

use super::FreeList;
use super::holes::Holes;
use super::used::Used;
use crate::strategy::Extent;
use crate::sys::abort_with;

impl FreeList {
    /// Aborts if granules that are being freed are free.
    pub(super) fn check_is_taken(&self, extent: &Extent, block: NonNull<u8>, granules: usize) {
        // SAFETY: a block is allocated in the extent, so that was added and not removed.
        let holes = unsafe { Holes::of(extent) };
        let first = holes.index_of(block);
        let mut is_free = !holes.is_taken(first, granules);
        self.quick.visit(|other, waiting, length| {
            let other_first = holes.index_of(waiting);
            is_free |= other == extent.into()
                && other_first < first + granules
                && first < other_first + length;
        });
        if is_free {
            abort_with(&["free_list: a block is freed that is free already"]);
        }
    }

    pub(super) fn check_all(&self) {
        self.quick.visit(|extent, block, granules| {
            // The pointer lies in freed memory, where the program may have written to it.
            if !self.shelves.have(extent) {
                abort_with(&["free_list: a block that waits was written to after it was freed"]);
            }
            // SAFETY: extents on a shelf were added and not removed.
            let holes = unsafe { Holes::of(extent.as_ref()) };
            if !holes.is_taken(holes.index_of(block), granules) {
                abort_with(&["free_list: a block that waits is in a hole"]);
            }
        });
        if let Some(fault) = self.shelves.fault() {
            abort_with(&["free_list: ", fault]);
        }
        self.shelves.visit(|extent| self.check_counts(extent));
    }

    /// Compares what an extent's words count with what its holes and the blocks that wait leave.
    fn check_counts(&self, extent: &Extent) {
        let mut waiting = 0;
        self.quick.visit(|other, _, granules| {
            waiting += if other == extent.into() { granules } else { 0 };
        });
        let used = Used::of(extent);
        let (blocks, granules) = (used.blocks.get(), used.granules.get());
        // SAFETY: extents on a shelf were added and not removed.
        let taken = unsafe { Holes::of(extent) }.taken_granules();
        if granules.checked_add(waiting) != Some(taken) {
            abort_with(&["free_list: an extent counts other bytes than are allocated in it"]);
        }
        // Blocks that touch look like one: how many there are nothing else says.
        if blocks > granules || (blocks == 0) != (granules == 0) {
            abort_with(&["free_list: an extent counts other blocks than are allocated in it"]);
        }
    }
}
