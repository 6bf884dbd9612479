//! Heaps while the system refuses: each request is served, by the heap or by the global allocator,
//! or it is an error; nothing is lost, and when the system gives again, everything works. A program
//! of its own, for the faults strike every thread of it.
#![cfg(not(any(heapswitch_pass_through, loom)))]

use std::alloc::Layout;

use heapswitch::allocator::Allocator;
use heapswitch::sys::fault::{Call, clear, fail_from};
use heapswitch::{Heap, HeapSwitch, LifetimeHint};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const CALLS: [Call; 4] = [Call::Map, Call::Protect, Call::Advise, Call::Remap];

/// Allocates and frees in a heap, through the trait and in a scope, and closes it with survivors.
fn use_heap(hint: LifetimeHint) {
    let Ok(heap) = Heap::with_hint(hint) else { return };
    let mut blocks = vec![];
    for size in [1, 100, 5000, 40_000, 300_000, 5 << 20] {
        let layout = Layout::from_size_align(size, 8).unwrap();
        if let Ok(block) = (&heap).allocate(layout) {
            // SAFETY: just allocated.
            unsafe { block.cast::<u8>().write_bytes(size as u8, size) };
            blocks.push((block.cast::<u8>(), layout));
        }
        heap.verify().unwrap();
    }
    let Ok(kept) = heap.run(|| {
        let mut numbers = Vec::new();
        (0..200_000_u32).for_each(|number| numbers.push(number));
        (numbers, "kept".repeat(1000))
    }) else {
        return;
    };
    for (block, layout) in blocks {
        // SAFETY: allocated above, and written.
        unsafe {
            let bytes = std::slice::from_raw_parts(block.as_ptr(), layout.size());
            assert!(bytes.iter().all(|&byte| byte == layout.size() as u8));
            (&heap).deallocate(block, layout);
        }
        heap.verify().unwrap();
    }
    heap.close();
    assert!(kept.0.iter().copied().eq(0..200_000));
    assert_eq!(kept.1.len(), 4000);
}

#[test]
fn every_refusal_is_survived() {
    for call in CALLS {
        for nth in 1..12 {
            for hint in [LifetimeHint::Short, LifetimeHint::Medium, LifetimeHint::Long] {
                fail_from(call, nth);
                use_heap(hint);
                clear(call);
            }
        }
        let heap = Heap::new().unwrap();
        let text = heap.run(|| String::from("served again")).unwrap();
        assert!(heap.contains(text.as_ptr()), "after refusals of {call:?}");
    }
}
