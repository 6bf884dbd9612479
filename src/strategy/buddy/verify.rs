//! The check of every equation of the buddies.

use super::{Buddy, MIN_ORDER, NO_ORDER};
use crate::pointers;

impl Buddy {
    /// What is wrong, if anything is.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let listed = match self.lists.count() {
            Ok(listed) => listed,
            Err(fault) => return Some(fault),
        };
        let (mut counted, mut fault, mut waiting) = (0, None, 0);
        let mut used_in_all = 0;
        let (mut previous, mut next) = (None, self.records);
        while let Some(pointer) = next {
            // SAFETY: records in the list are of extents that were added and not removed.
            let record = unsafe { pointer.as_ref() };
            if record.previous != previous {
                return Some("the list of extents reads differently backwards");
            }
            let mut free_bytes = 0;
            record.visit(&mut |block, order| {
                counted += 1;
                free_bytes += 1 << order;
                if record.has_free_buddy(block, order) {
                    fault = Some("two free buddies are not merged");
                }
            });
            let waiting_here = self.all_waiting().filter(|(_, waits)| waits.record == pointer);
            for (order, waits) in waiting_here {
                waiting += 1;
                free_bytes += 1 << order;
                if !pointers::is_aligned(waits.block, 1 << order)
                    // SAFETY: a block that waits lies in the extent.
                    || unsafe { record.overlaps_listed(waits.block, order) }
                {
                    return Some(
                        "a block that waits is listed, or lies at no multiple of its length",
                    );
                }
            }
            let used_bytes = record.used_bytes().wrapping_sub(self.last_bytes(pointer));
            if used_bytes.wrapping_add(free_bytes) != record.usable_bytes() {
                return Some("an extent's blocks are miscounted");
            }
            used_in_all += used_bytes;
            (previous, next) = (next, record.next);
        }
        if waiting != self.all_waiting().count() {
            return Some("a block waits of an extent that is gone");
        }
        let least = usize::from(self.last_order != NO_ORDER);
        let blocks = self.blocks.wrapping_sub(least);
        // Each has at least the bytes of the least order.
        if blocks > used_in_all >> MIN_ORDER || (blocks == 0) != (used_in_all == 0) {
            return Some("the blocks of all extents are miscounted");
        }
        if counted != listed {
            return Some("the maps and the lists have different blocks");
        }
        fault
    }
}
