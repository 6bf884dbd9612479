//! Checks.
use core::ptr::NonNull;
use std::io::Write;
use super::free_block::FreeBlock;
use super::record::Record;

/// Ends the process where the data structure contradicts itself, without allocating.
#[cold]
pub(super) fn broken(what: &str) -> ! {
    // Standard error is not buffered, and there is nothing to be done about its errors.
    let mut error = std::io::stderr();
    for part in ["heapswitch: MultipleBinarySearchTree: ", what, "\n"] {
        let _ = error.write_all(part.as_bytes());
    }
    std::process::abort()
}

/// x
pub(super) unsafe fn for_each_free(record: NonNull<Record>, mut visit: impl FnMut(NonNull<FreeBlock>, usize)) {
    let _ = (record, &mut visit);
}
