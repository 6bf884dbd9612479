//! The check of every equation of the buddies.

use core::ptr::NonNull;

use super::block::MIN_ORDER;
use super::extent::Record;
use super::{Buddy, Waiting};
use crate::pointers;

impl Buddy {
    /// What is wrong, if anything is.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let listed = match self.lists.count() {
            Ok(listed) => listed,
            Err(fault) => return Some(fault),
        };
        let (mut counted, mut fault, mut waiting) = (0, None, 0);
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
            for (order, waits) in self.waiting_in(pointer) {
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
            if (record.live.get() == 0) != (free_bytes == record.usable_bytes()) {
                return Some("an extent's blocks are miscounted");
            }
            (previous, next) = (next, record.next);
        }
        if waiting != self.waiting.iter().flatten().count() {
            return Some("a block waits of an extent that is gone");
        }
        if counted != listed {
            return Some("the maps and the lists have different blocks");
        }
        fault
    }

    /// The blocks of an extent that wait, with their orders.
    fn waiting_in(&self, record: NonNull<Record>) -> impl Iterator<Item = (usize, Waiting)> {
        let waiting = (MIN_ORDER..).zip(&self.waiting);
        waiting
            .filter_map(move |(order, waits)| Some((order, (*waits)?)))
            .filter(move |(_, waits)| waits.record == record)
    }
}
