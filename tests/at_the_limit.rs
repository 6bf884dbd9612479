//! Where a limit leaves nothing, memory can still be given back: closing, telling of limits and
//! dropping what is suspended are not refused what they take themselves.
#![cfg(not(heapswitch_pass_through))]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use heapswitch::{
    Account, ContextError, Coroutine, Heap, LimitPolicy, SiteSampling, checkpoint,
    global_thread_and_coroutine_switchable_allocator, set_process_limit, with_thread_local,
};

global_thread_and_coroutine_switchable_allocator!();

/// Takes all that the heap in use may have, in blocks of every length, by code that asks first.
fn fill() {
    let mut bytes = 1 << 20;
    while bytes >= 8 {
        let mut block = Vec::<u8>::new();
        if block.try_reserve_exact(bytes).is_ok() {
            core::mem::forget(block);
        } else {
            bytes = bytes / 4 * 3;
        }
    }
}

/// One after the other, in a program without other tests: the test runner too could not allocate.
#[test]
fn what_gives_memory_back_is_not_refused() {
    a_suspended_coroutine_is_dropped_in_a_full_heap();
    a_suspended_coroutine_is_dropped_at_the_process_limit();
    limits_hold_in_what_a_dropped_coroutine_runs();
    for children in [1, 5000] {
        a_parent_is_dropped_at_the_process_limit(children);
    }
    what_escapes_is_told_of_at_the_process_limit();
    a_soft_limit_is_told_of_at_the_process_limit();
    a_context_is_told_to_end_at_the_process_limit();
}

/// So many chunks more than are held now, for the whole process; until it is dropped.
struct Limited;

impl Limited {
    fn to_chunks_more(chunks: usize) -> Self {
        let held = Account::process().last_usage().committed_bytes;
        set_process_limit(Some(held + (chunks << 16)));
        Self
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        set_process_limit(None);
    }
}

fn a_suspended_coroutine_is_dropped_in_a_full_heap() {
    let heap = Heap::builder().limit(1 << 16).policy(LimitPolicy::Fail).build().unwrap();
    let mut coroutine = Coroutine::new(heap, |yielder, ()| {
        fill();
        yielder.suspend(());
    })
    .unwrap();
    coroutine.resume(()).unwrap();
    drop(coroutine);
    // And out of a scope within, of a full heap as well.
    let inner = Heap::builder().limit(1 << 16).policy(LimitPolicy::Fail).build().unwrap();
    let mut coroutine = Coroutine::new(Heap::new().unwrap(), move |yielder, ()| {
        inner.run(|| {
            fill();
            yielder.suspend(());
        })
    })
    .unwrap();
    coroutine.resume(()).unwrap();
    drop(coroutine);
}

fn a_suspended_coroutine_is_dropped_at_the_process_limit() {
    let mut coroutine =
        Coroutine::new(Heap::new().unwrap(), |yielder, ()| yielder.suspend(())).unwrap();
    coroutine.resume(()).unwrap();
    let _limited = Limited::to_chunks_more(0);
    fill();
    drop(coroutine);
}

/// In the destructors of what a body that never began has captured, and in one that caught the
/// payload: neither unwinds.
fn limits_hold_in_what_a_dropped_coroutine_runs() {
    static GRANTED: AtomicUsize = AtomicUsize::new(0);
    struct Asks;
    impl Drop for Asks {
        fn drop(&mut self) {
            let heap = Heap::builder().limit(1 << 16).policy(LimitPolicy::Fail).build().unwrap();
            heap.run(|| {
                let mut block = Vec::<u8>::new();
                let is_granted = block.try_reserve_exact(1 << 20).is_ok();
                GRANTED.fetch_add(usize::from(is_granted), Ordering::Relaxed);
            })
            .unwrap();
            assert!(!std::thread::panicking());
        }
    }
    let captured = Asks;
    let coroutine =
        Coroutine::new(Heap::new().unwrap(), move |_: &heapswitch::Yielder<(), ()>, ()| {
            drop(captured);
        });
    drop(coroutine.unwrap());
    let mut coroutine = Coroutine::new(Heap::new().unwrap(), |yielder, ()| {
        let suspended = catch_unwind(AssertUnwindSafe(|| yielder.suspend(())));
        drop(Asks);
        if let Err(payload) = suspended {
            resume_unwind(payload);
        }
    })
    .unwrap();
    coroutine.resume(()).unwrap();
    drop(coroutine);
    assert_eq!(GRANTED.load(Ordering::Relaxed), 0);
}

fn a_parent_is_dropped_at_the_process_limit(count: usize) {
    let parent = Heap::new().unwrap();
    let child = |_| Heap::builder().parent(&parent).build().unwrap();
    let children: Vec<_> = (0..count).map(child).collect();
    let _limited = Limited::to_chunks_more(8);
    fill();
    assert_eq!(parent.close().closed_children, count);
    drop(children);
}

fn what_escapes_is_told_of_at_the_process_limit() {
    let heap = Heap::builder().call_sites(SiteSampling::All).build().unwrap();
    let escaped = heap.run(|| Box::new(7)).unwrap();
    let limited = Limited::to_chunks_more(8);
    fill();
    let report = heap.close();
    drop(limited);
    assert_eq!((report.blocks, *escaped), (1, 7));
}

fn a_soft_limit_is_told_of_at_the_process_limit() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    let heap = Heap::builder().soft_limit(1 << 16).build().unwrap();
    let _watch = heap.account_handle().on_pressure(|_| {
        TOLD.fetch_add(1, Ordering::Relaxed);
    });
    let limited = Limited::to_chunks_more(8);
    // What is told of is so out of contexts: in the thread's heap, which has nothing left either.
    heap.run(|| {
        fill();
        with_thread_local(fill).unwrap();
    })
    .unwrap();
    drop(limited);
    assert_eq!(TOLD.load(Ordering::Relaxed), 1);
}

fn a_context_is_told_to_end_at_the_process_limit() {
    let heap = Heap::builder().limit(1 << 16).build().unwrap();
    let limited = Limited::to_chunks_more(8);
    let told = heap.run(|| {
        fill();
        with_thread_local(fill).unwrap();
        checkpoint()
    });
    drop(limited);
    assert!(matches!(told, Ok(Err(ContextError::OverBudget(_)))), "{told:?}");
}
