//! Long blocks that have to be copied to grow: what was copied goes back to the kernel meanwhile,
//! so that the process never holds both.
//!
//! One test, for peaks are the process's.
#![cfg(not(any(heapswitch_pass_through, heapswitch_asan, heapswitch_tsan, loom)))]

#[path = "support/memory.rs"]
mod memory;

use std::ops::Range;

use heapswitch::{Heap, HeapSwitch, LifetimeHint};
use memory::{resident_bytes, status_bytes};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const CHUNK_BYTES: usize = 64 << 10;
const LONG_BYTES: usize = 48 << 20;
const LONGER_BYTES: usize = 80 << 20;

/// Where marks stand, four a page, and what they are: not the same in two huge pages.
fn marks() -> impl Iterator<Item = (usize, u8)> {
    (0..LONG_BYTES).step_by(1021).map(|at| (at, (at / 1021 % 251) as u8))
}

fn mark(bytes: &mut [u8]) {
    marks().for_each(|(at, mark)| bytes[at] = mark);
}

fn check(bytes: &[u8]) {
    assert_eq!(bytes.len(), LONG_BYTES);
    assert!(marks().all(|(at, mark)| bytes[at] == mark));
}

/// Takes chunks, so that what lies before one of them cannot grow where it stands.
fn in_the_way() -> Vec<Vec<u8>> {
    (0..64).map(|_| vec![1; CHUNK_BYTES]).collect()
}

/// The most that was resident while `grow` ran, beyond what was before.
fn peak_of(grow: impl FnOnce()) -> usize {
    let before = resident_bytes();
    // The kernel starts the peak anew.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    grow();
    status_bytes("VmHWM").saturating_sub(before)
}

fn check_peak(bytes: usize) {
    assert!(bytes < LONG_BYTES / 4, "{bytes} bytes more than before");
}

fn by_realloc() {
    let mut bytes = vec![7; LONG_BYTES];
    mark(&mut bytes);
    let others = in_the_way();
    let start = bytes.as_ptr();
    let peak = peak_of(|| bytes.reserve_exact(LONGER_BYTES - LONG_BYTES));
    assert_ne!(bytes.as_ptr(), start, "it has to move");
    check_peak(peak);
    check(&bytes);
    drop(others);
}

fn by_the_allocator_trait(heap: &Heap) {
    let mut bytes = allocator_api2::vec::Vec::with_capacity_in(LONG_BYTES, heap);
    bytes.resize(LONG_BYTES, 7);
    mark(&mut bytes);
    let others = heap.run(in_the_way).unwrap();
    let start = bytes.as_ptr();
    let peak = peak_of(|| bytes.reserve_exact(LONGER_BYTES - LONG_BYTES));
    assert_ne!(bytes.as_ptr(), start, "it has to move");
    check_peak(peak);
    check(&bytes);
    drop(others);
}

/// What is locked stays, and is copied all the same.
fn with_a_locked_page() {
    let mut bytes = vec![7; LONG_BYTES];
    mark(&mut bytes);
    let others = in_the_way();
    let Range { start, .. } = bytes.as_ptr_range();
    let locked = start.wrapping_add(LONG_BYTES / 2);
    // SAFETY: the page that the address lies in is the vector's.
    assert_eq!(unsafe { libc::mlock(locked.cast(), 1) }, 0);
    bytes.reserve_exact(LONGER_BYTES - LONG_BYTES);
    assert_ne!(bytes.as_ptr(), start, "it has to move");
    check(&bytes);
    // SAFETY: the page is in the region, which stays mapped.
    assert_eq!(unsafe { libc::munlock(locked.cast(), 1) }, 0);
    drop(others);
}

#[test]
fn a_process_never_holds_both() {
    by_realloc();
    for hint in [LifetimeHint::Short, LifetimeHint::Medium, LifetimeHint::Long] {
        let heap = Heap::with_hint(hint).unwrap();
        heap.run(by_realloc).unwrap();
        by_the_allocator_trait(&heap);
        drop(heap);
    }
    with_a_locked_page();
}
