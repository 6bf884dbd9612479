//! The check of every equation of the data structure.

use core::ops::Range;
use core::ptr::NonNull;
use std::io::Write;

use super::record::{Record, live_blocks};
use super::size_class::{GRANULE_SHIFT, bin_of};
use super::{MultipleBinarySearchTree, record_of, usable_length};
use crate::strategy::{Extent, Strategy};

/// Ends the process where the data structure contradicts itself. Does not allocate.
#[cold]
pub(super) fn broken(what: &str) -> ! {
    // Standard error is not buffered, and nobody can be told that it failed.
    let mut error = std::io::stderr();
    for part in ["heapswitch: ", MultipleBinarySearchTree::NAME, ": ", what, "\n"] {
        let _ = error.write_all(part.as_bytes());
    }
    std::process::abort()
}

/// Aborts with `what` unless `holds`.
#[inline]
pub(super) fn check(holds: bool, what: &str) {
    if !holds {
        broken(what);
    }
}

/// How many free blocks there are, how many bytes, and a sum of their addresses that tells one set
/// of blocks from another: counted once by address and once by list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    blocks: usize,
    bytes: usize,
    addresses: usize,
}

impl Tally {
    /// Counts a block.
    pub(super) fn count(&mut self, address: usize, length: usize) {
        self.blocks += 1;
        self.bytes += length;
        // A square, so that it is not enough that the addresses add up.
        self.addresses = self.addresses.wrapping_add(address.wrapping_mul(address));
    }
}

impl MultipleBinarySearchTree {
    /// Checks every invariant, aborts where one fails.
    pub(super) fn verify_all(&self) {
        self.quick.visit(|extent, _, _| {
            // The pointer lies in freed memory, where the program may have written to it.
            let is_known = self.has_added(extent);
            check(is_known, "a block in a quick list was written to after it was freed");
        });
        let mut by_address = Tally::default();
        let mut previous: *mut Record = core::ptr::null_mut();
        let mut at = self.records;
        let mut top_was_met = false;
        // SAFETY: the records in the list are valid, and their extents were added and not removed.
        unsafe {
            while !at.is_null() {
                check((*at).previous == previous, "the records' links disagree");
                self.verify_extent(&*at, &mut by_address);
                top_was_met |= self.top.is_in((*at).extent());
                previous = at;
                at = (*at).next;
            }
        }
        check(top_was_met || self.top.length() == 0, "the top is in no extent");
        check(by_address == self.bins.verify(), "the map and the lists hold different blocks");
    }

    /// Whether an extent was added and not removed, found without reading it.
    fn has_added(&self, extent: NonNull<Extent>) -> bool {
        let mut at = self.records;
        // SAFETY: as in `verify_all`.
        while let Some(record) = unsafe { at.as_ref() } {
            if record.extent() == extent {
                return true;
            }
            at = record.next;
        }
        false
    }

    /// Checks the free blocks of one extent, and counts them.
    ///
    /// # Safety
    /// The record is that of an extent that was added and not removed.
    unsafe fn verify_extent(&self, record: &Record, tally: &mut Tally) {
        let here = record.extent();
        let top = self.top_in(here);
        let mut taken = Taken::of(record);
        let mut top_is_counted = top.is_empty();
        // That free blocks of one extent do not touch each other needs no check: at the boundary
        // between two the map has no bit, so it knows one block, whose lengths would differ.
        // SAFETY: by the contract.
        unsafe {
            record.for_each_free(&mut |block, length| {
                let range = block.addr().get()..block.addr().get() + length;
                check(bin_of(length) != 0, "a free block is shorter than a granule");
                check((*block.as_ptr()).extent == here, "a free block names another extent");
                let is_apart = top.is_empty() || range.end < top.start || top.end < range.start;
                check(is_apart, "a free block touches the top");
                check(!self.any_waits_in(here, &range), "a block in a quick list is free");
                tally.count(range.start, length);
                if !top_is_counted && top.end < range.start {
                    taken.skip(&top);
                    top_is_counted = true;
                }
                taken.skip(&range);
            });
        }
        check(!self.any_waits_in(here, &top), "a block in a quick list is free");
        if !top_is_counted {
            taken.skip(&top);
        }
        self.verify_count(record, taken);
    }

    /// Where the top is, if it is in that extent; empty otherwise.
    fn top_in(&self, extent: NonNull<Extent>) -> Range<usize> {
        let start = self.top.start().addr().get();
        let length = if self.top.is_in(extent) { self.top.length() } else { 0 };
        start..start + length
    }

    /// Whether part of a block of that extent that waits lies in a range.
    fn any_waits_in(&self, extent: NonNull<Extent>, range: &Range<usize>) -> bool {
        let mut waits = false;
        self.quick.visit(|other, block, granules| {
            let start = block.addr().get();
            waits |= other == extent
                && start < range.end
                && range.start < start + (granules << GRANULE_SHIFT);
        });
        waits
    }

    /// That the count of an extent's allocated blocks may be right: the map does not tell where one
    /// of two neighbours ends, but each takes a granule at least, and each taken stretch has one.
    fn verify_count(&self, record: &Record, mut taken: Taken) {
        let end = taken.last..taken.last;
        taken.skip(&end);
        let (mut waiting, mut waiting_granules) = (0, 0);
        self.quick.visit(|extent, _, granules| {
            if extent == record.extent() {
                waiting += 1;
                waiting_granules += granules;
            }
        });
        // SAFETY: the extent is valid until it is removed, with its record.
        let live = live_blocks(unsafe { record.extent().as_ref() }).get();
        let allocated = (taken.bytes >> GRANULE_SHIFT).checked_sub(waiting_granules);
        let agrees = allocated.is_some_and(|granules| {
            live <= granules && (live == 0) == (granules == 0) && live + waiting >= taken.stretches
        });
        check(agrees, "the count of an extent's blocks disagrees with the map");
    }

    /// Aborts if a part of what is being freed is free.
    ///
    /// # Safety
    /// The extent was added and not removed.
    pub(super) unsafe fn check_is_taken(&self, extent: &Extent, range: &Range<usize>) {
        let here = extent.into();
        let meets = |other: &Range<usize>| range.start < other.end && other.start < range.end;
        let mut is_free = meets(&self.top_in(here)) || self.any_waits_in(here, range);
        // SAFETY: by the contract.
        unsafe {
            record_of(extent).as_ref().for_each_free(&mut |block, length| {
                let start = block.addr().get();
                is_free |= meets(&(start..start + length));
            });
        }
        check(!is_free, "a block is freed that is free already");
    }
}

/// What of an extent is not free, counted in order of address.
struct Taken {
    bytes: usize,
    /// How many stretches that is.
    stretches: usize,
    /// Where what was looked at ends.
    at: usize,
    /// Where the extent ends.
    last: usize,
}

impl Taken {
    fn of(record: &Record) -> Self {
        // SAFETY: the extent is valid until it is removed, with its record.
        let extent = unsafe { record.extent().as_ref() };
        let at = extent.start().addr().get();
        Self { bytes: 0, stretches: 0, at, last: at + usable_length(extent) }
    }

    /// Counts what lies in front of a free range.
    fn skip(&mut self, free: &Range<usize>) {
        self.bytes += free.start - self.at;
        self.stretches += usize::from(free.start != self.at);
        self.at = free.end;
    }
}
