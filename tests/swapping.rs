//! `swap_coroutine_local`: who owns the heap that is current, in every case, and what becomes of
//! it.
#![cfg(not(any(heapswitch_pass_through, loom)))]

use std::panic::catch_unwind;
use std::thread;

use heapswitch::CurrentAllocatorInUse::{CoroutineLocal, Global, ThreadLocal};
use heapswitch::{
    Heap, HeapError, HeapSwitch, current, swap_coroutine_local, use_allocator, with_global,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

fn is_in_use(heap: &Heap) -> bool {
    let block = Box::new(0_u64);
    heap.contains((&raw const *block).cast())
}

/// A heap whose parent shows what it still holds, when its own handle is out of reach.
fn heap_below(parent: &Heap) -> Heap {
    Heap::builder().parent(parent).build().unwrap()
}

#[test]
fn what_is_swapped_in_is_in_use_and_comes_back() {
    let first = Heap::new().unwrap();
    assert!(swap_coroutine_local(Some(first)).unwrap().is_none());
    assert_eq!(current(), CoroutineLocal);
    let text = String::from("in the first");
    let first = swap_coroutine_local(Some(Heap::new().unwrap())).unwrap().unwrap();
    assert!(first.contains(text.as_ptr()));
    assert!(!is_in_use(&first));
    first.run(|| assert!(is_in_use(&first))).unwrap();
    assert_eq!(current(), CoroutineLocal);
    let second = swap_coroutine_local(None).unwrap().unwrap();
    assert_eq!(current(), ThreadLocal);
    assert!(swap_coroutine_local(None).unwrap().is_none());
    assert_eq!(second.close().blocks, 0);
    assert_eq!(first.close().blocks, 1);
    assert_eq!(text, "in the first");
}

#[test]
fn a_heap_that_a_guard_holds_is_not_swapped_out() {
    let held = Heap::new().unwrap();
    let other = Heap::new().unwrap();
    let scope = held.enter().unwrap();
    let refused = swap_coroutine_local(Some(other)).unwrap_err();
    assert_eq!(refused.error, HeapError::Held);
    assert!(refused.heap.is_some());
    assert_eq!(swap_coroutine_local(None).unwrap_err().error, HeapError::Held);
    // Nor from within a scope that changed the allocator in use only.
    for in_use in [Global, ThreadLocal, CoroutineLocal] {
        let inner = use_allocator(in_use).unwrap();
        assert_eq!(swap_coroutine_local(None).unwrap_err().error, HeapError::Held);
        assert_eq!(current(), in_use);
        drop(inner);
    }
    assert!(is_in_use(&held));
    drop(scope);
}

#[test]
fn a_scope_within_does_not_take_the_owned_heap_away() {
    let parent = Heap::new().unwrap();
    assert!(swap_coroutine_local(Some(heap_below(&parent))).unwrap().is_none());
    with_global(|| {
        assert_eq!(swap_coroutine_local(None).unwrap_err().error, HeapError::Held);
        assert_eq!(current(), Global);
    })
    .unwrap();
    assert_eq!(current(), CoroutineLocal);
    assert!(swap_coroutine_local(None).unwrap().is_some());
    assert_eq!(parent.account().committed_bytes, 0);
}

#[test]
fn a_heap_swapped_into_a_scope_is_closed_with_it() {
    let parent = Heap::new().unwrap();
    let escapee = with_global(|| {
        let heap = heap_below(&parent);
        assert!(swap_coroutine_local(Some(heap)).unwrap().is_none());
        drop(vec![0_u8; 10_000]);
        assert!(parent.account().committed_bytes > 0);
        String::from("outlives the scope")
    })
    .unwrap();
    assert_eq!(current(), ThreadLocal);
    assert_eq!(parent.account().escapees, 1);
    assert_eq!(escapee, "outlives the scope");
    drop(escapee);
    heapswitch::flush_foreign_frees();
    assert_eq!(parent.account().committed_bytes, 0);
    let panicked = catch_unwind(std::panic::AssertUnwindSafe(|| {
        with_global(|| {
            swap_coroutine_local(Some(heap_below(&parent))).unwrap();
            std::panic::resume_unwind(Box::new(String::from("in the heap")))
        })
        .unwrap_or(())
    }));
    drop(panicked.unwrap_err().downcast::<String>().unwrap());
    heapswitch::flush_foreign_frees();
    assert_eq!(parent.account().committed_bytes, 0);
}

#[test]
fn a_heap_that_runs_is_refused_and_comes_back() {
    let heap = Heap::new().unwrap();
    std::mem::forget(heap.enter().unwrap());
    // The leaked guard holds the context, whatever heap is offered.
    let refused = swap_coroutine_local(Some(heap)).unwrap_err();
    assert_eq!(refused.error, HeapError::Held);
    drop(refused.heap);
    assert_eq!(current(), ThreadLocal);
    let heap = Heap::new().unwrap();
    assert!(swap_coroutine_local(Some(heap)).unwrap().is_none());
    drop(swap_coroutine_local(None).unwrap());
    assert_eq!(current(), ThreadLocal);
}

#[test]
fn a_heap_owned_by_a_thread_is_closed_when_the_thread_ends() {
    for is_in_scope in [false, true] {
        let parent = Heap::new().unwrap();
        let heap = heap_below(&parent);
        let text = thread::spawn(move || {
            if is_in_scope {
                std::mem::forget(use_allocator(Global).unwrap());
            }
            assert!(swap_coroutine_local(Some(heap)).unwrap().is_none());
            drop(vec![0_u8; 100_000]);
            String::from("outlives the thread")
        })
        .join()
        .unwrap();
        assert!(parent.account().committed_bytes > 0);
        assert!(parent.account().escapees >= 1, "{is_in_scope} {:?}", parent.account());
        assert_eq!(text, "outlives the thread");
        drop(text);
        heapswitch::flush_foreign_frees();
        // The thread's handle of itself may still hold a block that it made in the heap.
        assert!(parent.account().committed_bytes <= 64 << 10);
    }
}
