//! The adaptors, both ways and around.

#![cfg_attr(feature = "nightly", feature(allocator_api))]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use std::alloc::System;
use std::hint::black_box;

use heapswitch::adapt::{AllocatorAdaptor, GlobalAllocToAllocatorAdaptor};
use heapswitch::allocator::{AllocError, Allocator};
use heapswitch::strategy::locked::Locked;
use heapswitch::strategy::memory_map::MemoryMapAllocator;

fn layout(bytes: usize, alignment: usize) -> Layout {
    Layout::from_size_align(bytes, alignment).unwrap()
}

fn starts_with(block: NonNull<u8>, length: usize, byte: u8) -> bool {
    // SAFETY: each test passes a block that is allocated and initialised that far.
    unsafe { core::slice::from_raw_parts(block.as_ptr(), length) }.iter().all(|one| *one == byte)
}

/// Grows and shrinks through sizes, zero among them, and alignments, and checks the contents.
fn resizes(allocator: &impl Allocator) {
    let shapes = [(10, 1), (100, 64), (0, 8), (5000, 4096), (5000, 16), (200_000, 16), (7, 8192)];
    for start in shapes {
        for target in shapes {
            let (old, new) = (layout(start.0, start.1), layout(target.0, target.1));
            // SAFETY: the block is allocated with `old`, then with `new`, and freed with it.
            unsafe {
                let block = allocator.allocate(old).unwrap();
                block.cast::<u8>().write_bytes(3, old.size());
                let kept = old.size().min(new.size());
                let resized = if new.size() >= old.size() {
                    let grown = allocator.grow_zeroed(block.cast(), old, new).unwrap();
                    assert!(starts_with(grown.cast().add(kept), new.size() - kept, 0));
                    grown
                } else {
                    allocator.shrink(block.cast(), old, new).unwrap()
                };
                assert!(
                    resized.len() >= new.size() && resized.addr().get().is_multiple_of(new.align())
                );
                assert!(starts_with(resized.cast(), kept, 3));
                allocator.deallocate(resized.cast(), new);
            }
        }
    }
}

/// The same through `GlobalAlloc`, which has no size zero.
fn reallocates(global: &impl GlobalAlloc) {
    for alignment in [1, 16, 4096, 1 << 16] {
        let mut now = layout(100, alignment);
        // SAFETY: the block is allocated with `now` at each step.
        unsafe {
            let mut block = NonNull::new(global.alloc_zeroed(now)).unwrap();
            assert!(starts_with(block, 100, 0));
            block.write_bytes(5, 100);
            for size in [101, 4096, 1 << 20, 300, 100] {
                block = NonNull::new(global.realloc(block.as_ptr(), now, size)).unwrap();
                now = layout(size, alignment);
                assert!(block.addr().get().is_multiple_of(alignment) && starts_with(block, 100, 5));
            }
            global.dealloc(block.as_ptr(), now);
        }
    }
}

#[test]
fn the_system_as_an_allocator() {
    let system = GlobalAllocToAllocatorAdaptor::new(&System);
    resizes(&system);
    let block = system.allocate_zeroed(layout(64, 64)).unwrap();
    assert!(block.len() == 64 && starts_with(block.cast(), 64, 0));
    // SAFETY: allocated above; every copy is the same allocator.
    unsafe { { system }.deallocate(block.cast(), layout(64, 64)) };
    // The optimizer knows the system's allocator, and takes what is not looked at for granted.
    assert!(black_box(system.allocate(layout(isize::MAX as usize - 4096, 1))).is_err());
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn an_allocator_as_the_global_one() {
    reallocates(&AllocatorAdaptor::new(MemoryMapAllocator::new()));
    reallocates(&Locked::new(MemoryMapAllocator::new()));
    let mapped = AllocatorAdaptor::new(MemoryMapAllocator::new());
    // SAFETY: the size is not zero; it is more than any system has.
    assert!(unsafe { mapped.alloc(layout(isize::MAX as usize - 4096, 1)) }.is_null());
}

#[test]
fn there_and_back() {
    let there = AllocatorAdaptor::new(GlobalAllocToAllocatorAdaptor::new(&System));
    reallocates(&there);
    let back = GlobalAllocToAllocatorAdaptor::new(&there);
    resizes(&back);
    let unsized_one: &dyn GlobalAlloc = &System;
    resizes(&GlobalAllocToAllocatorAdaptor::new(unsized_one));
    resizes(&Locked::new(back));
}

/// The unstable trait's allocators as ours and back, by code that names each trait.
#[cfg(feature = "nightly")]
mod nightly {
    use heapswitch::adapt::{AllocToAllocatorAdaptor, AllocatorToAllocAdaptor};
    use heapswitch::{BumpAllocator, MemoryMapSource};

    use super::*;

    #[test]
    fn theirs_as_ours() {
        let ours = AllocToAllocatorAdaptor(std::alloc::Global);
        resizes(&ours);
        reallocates(&AllocatorAdaptor::new(ours));
        assert!(black_box(ours.allocate(layout(isize::MAX as usize - 4096, 1))).is_err());
        let mut numbers = allocator_api2::vec::Vec::new_in(ours);
        numbers.extend(0..1000);
        assert_eq!(numbers.iter().sum::<i32>(), 499_500);
    }

    #[test]
    #[cfg(not(heapswitch_pass_through))]
    fn ours_as_theirs() {
        let bump = BumpAllocator::new(MemoryMapSource::new());
        let theirs = AllocatorToAllocAdaptor(&bump);
        let mut numbers = std::vec::Vec::new_in(theirs);
        numbers.extend(0..1000);
        let boxed = std::boxed::Box::new_in([7_u64; 100], theirs);
        assert_eq!(heapswitch::LocalAllocator::memory_usage(&bump).allocated_blocks, 2);
        assert_eq!((numbers.iter().sum::<i32>(), boxed[99]), (499_500, 7));
        drop((numbers, boxed));
        assert_eq!(heapswitch::LocalAllocator::memory_usage(&bump).allocated_blocks, 0);
        resizes(&AllocToAllocatorAdaptor(theirs));
    }

    /// With the feature the two traits are one: no adaptor is needed.
    #[test]
    #[cfg(not(heapswitch_pass_through))]
    fn ours_is_theirs() {
        let bump = BumpAllocator::new(MemoryMapSource::new());
        let numbers: std::vec::Vec<u32, _> = {
            let mut numbers = std::vec::Vec::new_in(&bump);
            numbers.extend(0..100);
            numbers
        };
        assert!(heapswitch::LocalAllocator::contains(&bump, numbers.as_ptr().cast()));
    }
}

#[test]
fn a_panic_in_a_global_allocator_aborts() {
    struct Panics;
    // SAFETY: it never returns a block.
    unsafe impl Allocator for Panics {
        fn allocate(&self, _: Layout) -> Result<NonNull<[u8]>, AllocError> {
            panic!("an allocator's bug")
        }

        unsafe fn deallocate(&self, _: NonNull<u8>, _: Layout) {}
    }
    // Abort ends the whole process, so a copy of this one does it.
    if std::env::var_os("HEAPSWITCH_TEST_PANICS").is_some() {
        // SAFETY: the size is not zero.
        unsafe { AllocatorAdaptor::new(Panics).alloc(Layout::new::<u8>()) };
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_panic_in_a_global_allocator_aborts", "--nocapture"])
        .env("HEAPSWITCH_TEST_PANICS", "1")
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(message.contains("heapswitch: an allocator panicked"), "{message}");
}

#[test]
fn a_refusal_is_an_error_as_others_are() {
    let error: Box<dyn std::error::Error + Send + Sync> = Box::new(heapswitch::AllocError);
    assert!(!error.to_string().is_empty());
}
