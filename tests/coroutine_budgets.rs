//! Coroutines with a budget: the one that is above it when it suspends itself is unwound there, in
//! its heap, and tells its resumer why.
#![cfg(not(any(heapswitch_pass_through, loom)))]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use heapswitch::{
    ContextError, Coroutine, CoroutineResult, CurrentAllocatorInUse, Heap, HeapError, HeapSwitch,
    LifetimeHint, Yielder, checkpoint, current,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const CHUNK: usize = 64 << 10;

/// Counts its drops, each in a coroutine's context.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        assert_eq!(current(), CurrentAllocatorInUse::CoroutineLocal);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A coroutine that takes another chunk before each time it suspends itself.
fn greedy(heap: Heap, drops: &Arc<AtomicUsize>) -> Coroutine<(), usize, ()> {
    let counted = Counted(Arc::clone(drops));
    Coroutine::new(heap, move |yielder, ()| {
        let _counted = counted;
        take_more(yielder)
    })
    .unwrap()
}

fn take_more(yielder: &Yielder<'_, (), usize>) -> ! {
    let mut kept = Vec::new();
    loop {
        kept.push(vec![1_u8; CHUNK]);
        yielder.suspend(kept.len());
    }
}

#[test]
fn it_is_unwound_where_it_suspends_itself() {
    let drops = Arc::new(AtomicUsize::new(0));
    let heap = Heap::builder().name("greedy").limit(8 * CHUNK).build().unwrap();
    let account = heap.account_handle();
    let mut coroutine = greedy(heap, &drops);
    let mut last = 0;
    while !coroutine.is_done() {
        let CoroutineResult::Yield(length) = coroutine.resume(()).unwrap() else { panic!() };
        last = length;
        assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
    }
    assert_eq!(last, 8, "with the vector's own chunk, the eighth is above; it still arrives");
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    let refused = coroutine.resume(()).unwrap_err();
    let Some(ContextError::OverBudget(over)) = refused.error else { panic!("{refused:?}") };
    assert_eq!((over.context.as_str(), over.used_bytes), ("greedy", 9 * CHUNK));
    assert!(coroutine.resume(()).unwrap_err().error.is_none(), "told once");
    assert_eq!(coroutine.into_heap().close().blocks, 0);
    assert_eq!(account.usage().committed_bytes, 0);
}

#[test]
fn a_neighbour_goes_on() {
    let drops = Arc::new(AtomicUsize::new(0));
    let make = |chunks: usize| {
        let heap = Heap::builder().limit(chunks * CHUNK).build().unwrap();
        greedy(heap, &drops)
    };
    let (mut small, mut large) = (make(3), make(100));
    for _ in 0..20 {
        let _ = small.resume(());
        assert!(large.resume(()).is_ok());
    }
    assert!(small.is_done() && !large.is_done());
    drop(large);
    assert_eq!(drops.load(Ordering::Relaxed), 2);
}

/// The callback frees what lies in the coroutine's heap from outside of it.
#[test]
fn the_callback_may_give_back_enough_to_go_on() {
    let cache = Arc::new(Mutex::new(Vec::new()));
    let heap = Heap::builder().hint(LifetimeHint::Long).limit(5 * CHUNK).build().unwrap();
    let (filled, reclaimed) = (Arc::clone(&cache), Arc::clone(&cache));
    let _watch = heap.account_handle().on_pressure(move |_| reclaimed.lock().unwrap().clear());
    let mut coroutine = Coroutine::new(heap, move |yielder, ()| {
        filled.lock().unwrap().push(vec![1_u8; 3 * CHUNK]);
        yielder.suspend(());
        let more = vec![1_u8; 2 * CHUNK];
        yielder.suspend(());
        more.len()
    })
    .unwrap();
    coroutine.resume(()).unwrap();
    assert_eq!(cache.lock().unwrap().len(), 1);
    coroutine.resume(()).unwrap();
    assert!(cache.lock().unwrap().is_empty() && !coroutine.is_done());
    assert_eq!(coroutine.resume(()).unwrap().as_return(), Some(2 * CHUNK));
}

#[test]
fn one_that_was_cancelled_is_not_resumed_again() {
    let drops = Arc::new(AtomicUsize::new(0));
    for resumes in 0..3 {
        let heap = Heap::new().unwrap();
        let account = heap.account_handle();
        let mut coroutine = Coroutine::<(), (), ()>::new(heap, {
            let drops = Arc::clone(&drops);
            move |yielder, ()| {
                let _counted = Counted(drops);
                loop {
                    yielder.suspend(());
                }
            }
        })
        .unwrap();
        for _ in 0..resumes {
            coroutine.resume(()).unwrap();
        }
        account.cancel();
        let refused = coroutine.resume(()).unwrap_err();
        assert_eq!(refused.error, Some(ContextError::Cancelled), "{resumes}");
        assert!(coroutine.is_done());
    }
    assert_eq!(drops.load(Ordering::Relaxed), 2, "of those that were started");
}

#[test]
fn a_checkpoint_serves_a_body_that_does_not_suspend() {
    let heap = Heap::builder().limit(4 * CHUNK).build().unwrap();
    let mut coroutine = Coroutine::<(), (), _>::new(heap, |_, ()| {
        let mut kept = Vec::new();
        loop {
            kept.push(vec![1_u8; 1000]);
            if let Err(error) = checkpoint() {
                return (kept.len(), error);
            }
        }
    })
    .unwrap();
    let (count, error) = coroutine.resume(()).unwrap().as_return().unwrap();
    assert!(count > 100 && error.over_budget().is_some(), "{count} {error}");
}

/// The heap of a request within a connection's coroutine, say: bounded by itself, or with the
/// coroutine's.
#[test]
fn it_ends_by_the_budget_of_a_scope_that_it_is_suspended_within() {
    type Make = fn(&str) -> heapswitch::HeapBuilder<'_>;
    let bounded: Make = |name| Heap::builder().name(name).limit(8 * CHUNK);
    let open: Make = |name| Heap::builder().name(name);
    for (outer, inner, over) in [(open, bounded, "inner"), (bounded, open, "outer")] {
        let drops = Arc::new(AtomicUsize::new(0));
        let counted = Counted(Arc::clone(&drops));
        let heap = outer("outer").build().unwrap();
        let outside = heap.account_handle();
        let mut coroutine = Coroutine::new(heap, move |yielder, ()| {
            let heap = inner("inner").parent_current().build().unwrap();
            heap.run(|| {
                let _counted = counted;
                take_more(yielder)
            })
            .unwrap()
        })
        .unwrap();
        let mut last = 0;
        while !coroutine.is_done() && last < 50 {
            let CoroutineResult::Yield(length) = coroutine.resume(()).unwrap();
            last = length;
        }
        assert!(coroutine.is_done() && (7..=8).contains(&last), "{over}: {last}");
        assert_eq!(drops.load(Ordering::Relaxed), 1);
        let refused = coroutine.resume(()).unwrap_err();
        let Some(ContextError::OverBudget(error)) = refused.error else { panic!("{refused:?}") };
        assert_eq!((error.context.as_str(), error.name.as_str()), ("inner", over));
        drop(coroutine);
        assert_eq!(outside.usage().committed_bytes, 0);
    }
}

#[test]
fn it_ends_where_a_scope_that_it_is_suspended_within_was_cancelled() {
    let (to_here, account) = std::sync::mpsc::channel();
    let mut coroutine: Coroutine<(), (), ()> =
        Coroutine::new(Heap::new().unwrap(), move |yielder, ()| {
            let heap = Heap::new().unwrap();
            to_here.send(heap.account_handle()).unwrap();
            heap.run(|| {
                loop {
                    yielder.suspend(());
                }
            })
            .unwrap();
        })
        .unwrap();
    coroutine.resume(()).unwrap();
    coroutine.resume(()).unwrap();
    account.recv().unwrap().cancel();
    let refused = coroutine.resume(()).unwrap_err();
    assert_eq!(refused.error, Some(ContextError::Cancelled));
    assert!(coroutine.is_done());
}

/// What waits for reuse is given back before a scope is ended, and callbacks are told.
#[test]
fn a_scope_that_can_give_back_enough_goes_on() {
    let told = Arc::new(AtomicUsize::new(0));
    let mut coroutine = Coroutine::new(Heap::new().unwrap(), {
        let told = Arc::clone(&told);
        move |yielder, ()| {
            let heap = Heap::builder().hint(LifetimeHint::Long).limit(5 * CHUNK).build().unwrap();
            let cache = Arc::new(Mutex::new(Vec::new()));
            let reclaimed = Arc::clone(&cache);
            let _watch = heap.account_handle().on_pressure(move |_| {
                told.fetch_add(1, Ordering::Relaxed);
                reclaimed.lock().unwrap().clear();
            });
            heap.run(|| {
                cache.lock().unwrap().push(vec![1_u8; 3 * CHUNK]);
                yielder.suspend(());
                let more = vec![1_u8; 2 * CHUNK];
                yielder.suspend(());
                more.len()
            })
            .unwrap()
        }
    })
    .unwrap();
    coroutine.resume(()).unwrap();
    coroutine.resume(()).unwrap();
    assert_eq!(coroutine.resume(()).unwrap().as_return(), Some(2 * CHUNK));
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[test]
fn who_runs_the_heap_is_told_and_not_who_waits_in_it() {
    let session: &'static Heap = Box::leak(Box::new(Heap::new().unwrap()));
    let mut waits = Coroutine::<(), (), ()>::new(Heap::new().unwrap(), move |yielder, ()| {
        session.run(|| yielder.suspend(())).unwrap();
    })
    .unwrap();
    waits.resume(()).unwrap();
    session.account_handle().cancel();
    session
        .run(|| {
            let refused = waits.resume(()).unwrap_err();
            assert_eq!(refused.error, Some(ContextError::Heap(HeapError::Running)));
            assert_eq!(checkpoint().unwrap_err(), ContextError::Cancelled);
        })
        .unwrap();
    assert_eq!(waits.resume(()).unwrap().as_return(), Some(()));
}
