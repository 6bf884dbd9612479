//! The check of every equation of the data structure.

use std::io::Write;

use super::MultipleBinarySearchTree;
use super::record::Record;
use super::size_class::bin_of;
use crate::strategy::Strategy;

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
        let mut by_address = Tally::default();
        let mut previous: *mut Record = core::ptr::null_mut();
        let mut at = self.records;
        let mut top_was_met = false;
        // SAFETY: the records in the list are valid, and their extents were added and not removed.
        unsafe {
            while !at.is_null() {
                check((*at).previous == previous, "the records' links disagree");
                self.verify_extent(&*at, &mut by_address);
                top_was_met |= self.top.is_in(core::ptr::NonNull::new_unchecked(at));
                previous = at;
                at = (*at).next;
            }
        }
        check(top_was_met || self.top.length() == 0, "the top is in no extent");
        check(by_address == self.bins.verify(), "the map and the lists hold different blocks");
    }

    /// Checks the free blocks of one extent, and counts them.
    ///
    /// # Safety
    /// The record is that of an extent that was added and not removed.
    unsafe fn verify_extent(&self, record: &Record, tally: &mut Tally) {
        let here = core::ptr::NonNull::from(record);
        let top = self.top.start().addr().get();
        let top = top..top + self.top.length();
        let has_top = self.top.is_in(here) && !top.is_empty();
        // That free blocks of one extent do not touch each other needs no check: at the boundary
        // between two the map has no bit, so it knows one block, whose lengths would differ.
        // SAFETY: by the contract.
        unsafe {
            record.for_each_free(&mut |block, length| {
                let range = block.addr().get()..block.addr().get() + length;
                check(bin_of(length) != 0, "a free block is shorter than a granule");
                check((*block.as_ptr()).record == here, "a free block has another extent's record");
                if has_top {
                    let is_apart = range.end < top.start || top.end < range.start;
                    check(is_apart, "a free block touches the top");
                }
                tally.count(range.start, length);
            });
        }
    }
}
