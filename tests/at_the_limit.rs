//! Where a limit leaves nothing, memory can still be given back: closing, telling of limits and
//! dropping what is suspended are not refused what they take themselves.
#![cfg(not(heapswitch_pass_through))]

use std::sync::atomic::{AtomicUsize, Ordering};

use heapswitch::{
    Account, ContextError, Coroutine, Heap, LimitPolicy, checkpoint,
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
    a_parent_is_dropped_at_the_process_limit();
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

fn a_parent_is_dropped_at_the_process_limit() {
    let parent = Heap::new().unwrap();
    let child = Heap::builder().parent(&parent).build().unwrap();
    let _limited = Limited::to_chunks_more(8);
    fill();
    assert_eq!(parent.close().closed_children, 1);
    drop(child);
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
