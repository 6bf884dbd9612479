//! No allocator is installed: every entry point works, nothing is routed.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/hints.rs"]
mod hints;

use std::thread;

use allocator_api2::vec::Vec as VecIn;
use heapswitch::CurrentAllocatorInUse::{CoroutineLocal, Global, ThreadLocal};
use heapswitch::{
    Heap, current, flush_foreign_frees, process_usage, purge, replace_current,
    swap_coroutine_local, usage_change, usage_of, use_allocator, with_global, with_thread_local,
};
use hints::HINTS;

#[test]
fn tells_that_nothing_is_installed() {
    assert!(!heapswitch::is_installed());
}

#[test]
fn scopes_switch_and_route_nothing() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let text = heap.run(|| "the system's".repeat(10)).unwrap();
        assert!(!heap.contains(text.as_ptr()));
        heap.run(|| assert_eq!(current(), CoroutineLocal)).unwrap();
        assert_eq!(heap.memory_usage().unwrap().committed_bytes, 0);
        heap.verify().unwrap();
        assert_eq!(heap.close().blocks, 0);
    }
    assert_eq!(current(), ThreadLocal);
    with_global(|| assert_eq!(current(), Global)).unwrap();
    with_thread_local(|| assert_eq!(current(), ThreadLocal)).unwrap();
    drop(use_allocator(Global).unwrap());
    assert_eq!(replace_current(Global).unwrap(), ThreadLocal);
    assert_eq!(replace_current(ThreadLocal).unwrap(), Global);
    assert!(swap_coroutine_local(Some(Heap::new().unwrap())).unwrap().is_none());
    assert!(swap_coroutine_local(None).unwrap().is_some());
    let (block, change) = usage_change(|| vec![1_u8; 100]);
    assert_eq!((block.len(), change.allocated_blocks), (100, 0));
    for allocator in [CoroutineLocal, ThreadLocal, Global] {
        assert_eq!(usage_of(allocator).allocated_bytes, 0);
    }
    flush_foreign_frees();
    purge();
    assert_eq!(process_usage().global_bytes, 0);
}

#[test]
fn heaps_serve_collections_that_name_them() {
    for hint in HINTS {
        let mut heap = Heap::with_hint(hint).unwrap();
        for _ in 0..3 {
            let mut vector = VecIn::new_in(&heap);
            vector.extend(0..10_000_u64);
            assert!(heap.contains(vector.as_ptr().cast()));
            let scope = heap.enter().unwrap();
            vector.extend(10_000..20_000);
            drop(scope);
            assert!(vector.iter().copied().eq(0..20_000));
            drop(vector);
            assert_eq!(heap.reset().unwrap().blocks, 0);
        }
        heap = thread::spawn(move || {
            let mut vector = VecIn::new_in(&heap);
            vector.extend(0..10_000_u64);
            std::mem::forget(vector);
            heap
        })
        .join()
        .unwrap();
        assert_eq!(heap.reset().unwrap().blocks, 1);
        assert_eq!(heap.close().blocks, 0);
    }
}
