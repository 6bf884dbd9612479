//! Requests that cannot or can hardly be served: no size, any alignment, sizes up to the largest
//! that a layout can say. From every kind of heap, the thread's heap and the global allocator.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/hints.rs"]
mod hints;

use std::alloc::{GlobalAlloc, Layout};
use std::collections::{HashMap, VecDeque};
use std::ptr::NonNull;

use heapswitch::allocator::Allocator;
use heapswitch::{Heap, HeapSwitch, with_global};
use hints::HINTS;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const LARGEST: usize = isize::MAX as usize;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// Runs `body` with each allocator in use in turn.
fn with_each(body: impl Fn(&str)) {
    body("thread");
    with_global(|| body("global")).unwrap();
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        heap.run(|| body(heap.strategy())).unwrap();
        heap.verify().unwrap();
        assert_eq!(heap.close().blocks, 0, "{hint:?}");
    }
}

#[test]
fn nothing_is_asked_of_a_heap() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let heap = &heap;
        for align in (0..32).map(|shift| 1_usize << shift) {
            let empty = heap.allocate(layout(0, align)).unwrap();
            assert_eq!((empty.len(), empty.cast::<u8>().addr().get() % align), (0, 0));
            let zeroed = heap.allocate_zeroed(layout(0, align)).unwrap();
            // SAFETY: the blocks are allocated and each layout fits; nothing is written to them.
            unsafe {
                heap.deallocate(zeroed.cast(), layout(0, align));
                let align = align.min(1 << 21);
                let grown = heap.grow(empty.cast(), layout(0, align), layout(10, align)).unwrap();
                assert_eq!(grown.cast::<u8>().addr().get() % align, 0);
                let shrunk = heap.shrink(grown.cast(), layout(10, align), layout(0, align));
                let shrunk = shrunk.unwrap();
                assert_eq!(shrunk.len(), 0);
                heap.deallocate(shrunk.cast(), layout(0, align));
            }
        }
        assert_eq!(heap.block_length(layout(0, 1)), Ok(0));
        for never in [layout(isize::MAX as usize, 1), layout((1 << 40) + 1, 1), layout(1, 1 << 41)]
        {
            assert!(heap.block_length(never).is_err(), "{never:?}");
        }
        heap.verify().unwrap();
        assert_eq!(heap.memory_usage().unwrap().allocated_blocks, 0);
    }
}

/// Whether a block of the layout could be had; checks and frees it.
///
/// # Safety
/// `is_zeroed` and `layout` are as for `alloc`: the layout is not empty.
unsafe fn try_one(layout: Layout, is_zeroed: bool, name: &str) -> bool {
    // SAFETY: the layout is not empty; the block is freed once, with its layout.
    unsafe {
        let block = if is_zeroed { GLOBAL.alloc_zeroed(layout) } else { GLOBAL.alloc(layout) };
        let Some(start) = NonNull::new(block) else { return false };
        assert_eq!(start.addr().get() % layout.align(), 0, "{name} {layout:?}");
        let last = start.add(layout.size() - 1);
        if is_zeroed {
            assert_eq!((start.read(), last.read()), (0, 0));
        }
        start.write(0xA5);
        last.write(0x5A);
        GLOBAL.dealloc(block, layout);
        true
    }
}

#[test]
fn every_alignment_is_kept() {
    with_each(|name| {
        for align in (0..=31).map(|shift| 1_usize << shift) {
            for size in [1, 8, 100, 4096, 70_000] {
                for is_zeroed in [false, true] {
                    // SAFETY: the layout is not empty.
                    let served = unsafe { try_one(layout(size, align), is_zeroed, name) };
                    assert!(served || align > 2 << 20, "{name} {size} {align}");
                }
            }
        }
    });
}

#[test]
fn alignments_beyond_everything_are_refused_or_kept() {
    with_each(|name| {
        for shift in 32..63 {
            // SAFETY: the layout is not empty.
            unsafe { try_one(layout(1, 1 << shift), false, name) };
        }
    });
}

#[test]
fn a_heap_keeps_alignments_through_its_trait() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let heap = &heap;
        let mut blocks = Vec::new();
        for align in (0..=30).map(|shift| 1_usize << shift) {
            for size in [1, 8, 100, 70_000] {
                let Ok(block) = heap.allocate(layout(size, align)) else {
                    assert!(align > 2 << 20);
                    continue;
                };
                let block = block.cast::<u8>();
                assert_eq!(block.addr().get() % align, 0, "{hint:?} {size} {align}");
                // SAFETY: the block is ours and that long.
                unsafe { block.write_bytes(align.trailing_zeros() as u8, size) };
                blocks.push((block, layout(size, align)));
            }
        }
        for (block, layout) in blocks {
            let expected = layout.align().trailing_zeros() as u8;
            // SAFETY: written above; freed once.
            unsafe {
                assert_eq!(
                    (block.read(), block.add(layout.size() - 1).read()),
                    (expected, expected)
                );
                heap.deallocate(block, layout);
            }
        }
        heap.verify().unwrap();
        assert_eq!(heap.memory_usage().unwrap().allocated_blocks, 0);
    }
}

#[test]
fn sizes_beyond_everything_are_refused() {
    with_each(|name| {
        for shift in 44..63 {
            for size in [(1 << shift) - 1, 1_usize << shift, (1 << shift) + 1] {
                // SAFETY: the layout is not empty.
                assert!(!unsafe { try_one(layout(size, 1), true, name) }, "{name} {size}");
            }
        }
        // SAFETY: the layout is not empty.
        unsafe {
            assert!(!try_one(layout(LARGEST, 1), false, name));
            assert!(!try_one(layout(LARGEST - 4095, 4096), true, name));
        }
        assert!(Vec::<u8>::new().try_reserve(LARGEST).is_err());
        assert!(VecDeque::<u64>::new().try_reserve(LARGEST / 8).is_err());
        assert!(HashMap::<u64, u64>::new().try_reserve(LARGEST / 64).is_err());
    });
}

#[test]
fn more_than_the_machine_has_is_refused_at_once() {
    // The kernel refuses plain mappings that are obviously too long; reserved memory it does not.
    let policy = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap();
    if policy.trim() == "1" {
        println!("the system overcommits always: nothing is refused");
        return;
    }
    let beyond = heapswitch::sys::physical_bytes() * 2;
    with_each(|name| {
        for size in [beyond, beyond + 1, 2 * beyond] {
            // SAFETY: the layout is not empty.
            assert!(!unsafe { try_one(layout(size, 1), false, name) }, "{name} {size}");
        }
    });
}

#[test]
fn a_block_survives_growth_that_is_refused() {
    with_each(|name| {
        for size in [1_usize, 24, 5000, 40_000, 200_000] {
            let old = layout(size, 1);
            // SAFETY: the layout is not empty, and the block ours and that long.
            unsafe {
                let block = NonNull::new(GLOBAL.alloc(old)).unwrap();
                block.write_bytes(0x77, size);
                for wanted in [1 << 45, LARGEST] {
                    assert!(GLOBAL.realloc(block.as_ptr(), old, wanted).is_null(), "{name}");
                }
                assert_eq!((block.read(), block.add(size - 1).read()), (0x77, 0x77));
                let moved = GLOBAL.realloc(block.as_ptr(), old, 2 * size);
                assert_eq!(moved.add(size - 1).read(), 0x77);
                GLOBAL.dealloc(moved, layout(2 * size, 1));
            }
        }
    });
}

#[test]
fn what_a_heap_refuses_through_its_trait_is_an_error() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let heap = &heap;
        for (size, align) in [(LARGEST, 1), (1 << 62, 1 << 61), (1 << 45, 8), (1, 1 << 62)] {
            assert!(heap.allocate(layout(size, align)).is_err());
            assert!(heap.allocate_zeroed(layout(size, align)).is_err());
        }
        let block = heap.allocate(layout(10, 1)).unwrap().cast();
        // SAFETY: the block is ours and stays so where growing is refused.
        unsafe {
            assert!(heap.grow(block, layout(10, 1), layout(LARGEST, 1)).is_err());
            assert!(heap.grow_zeroed(block, layout(10, 1), layout(1 << 45, 1)).is_err());
            heap.deallocate(block, layout(10, 1));
        }
        assert_eq!(heap.memory_usage().unwrap().allocated_blocks, 0);
    }
}
