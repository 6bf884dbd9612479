//! Guards and handles misused: entered twice, leaked, dropped in the wrong order, closed while they
//! run, here and on another thread. Safe code can write each of these, so each must stay sound.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/hints.rs"]
mod hints;

use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use heapswitch::CurrentAllocatorInUse::{CoroutineLocal, Global, ThreadLocal};
use heapswitch::{
    Heap, HeapError, HeapSwitch, current, process_usage, replace_current, swap_coroutine_local,
    usage_change, use_allocator, with_global, with_thread_local,
};
use hints::HINTS;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

fn is_in<T>(heap: &Heap, value: &T) -> bool {
    heap.contains((&raw const *value).cast())
}

fn is_in_use(heap: &Heap) -> bool {
    is_in(heap, &*Box::new(0_u64))
}

/// Leaks the guard of a heap that is then current on this thread.
fn enter_for_ever(heap: &Heap) {
    forget(heap.enter().unwrap());
}

#[test]
fn a_heap_is_entered_once_whatever_is_tried() {
    let heap = Heap::new().unwrap();
    let scope = heap.enter().unwrap();
    assert_eq!(heap.enter().unwrap_err(), HeapError::Running);
    assert_eq!(heap.run(|| ()).unwrap_err(), HeapError::Running);
    with_global(|| assert_eq!(heap.enter().unwrap_err(), HeapError::Running)).unwrap();
    assert!(is_in_use(&heap));
    drop(scope);
    assert!(!is_in_use(&heap));
    heap.run(|| assert!(is_in_use(&heap))).unwrap();
}

#[test]
fn a_heap_that_runs_elsewhere_cannot_be_entered_asked_or_allocated_from() {
    use heapswitch::allocator::{AllocError, Allocator};
    let (to_here, from_there) = mpsc::channel();
    let (to_there, from_here) = mpsc::channel::<()>();
    let other = thread::spawn(move || {
        let heap = Heap::new().unwrap();
        enter_for_ever(&heap);
        to_here.send(heap).unwrap();
        from_here.recv().unwrap();
    });
    let mut heap = from_there.recv().unwrap();
    assert_eq!(heap.enter().unwrap_err(), HeapError::Running);
    assert_eq!(heap.run(|| ()).unwrap_err(), HeapError::Running);
    assert_eq!(heap.memory_usage().unwrap_err(), HeapError::Running);
    assert_eq!(heap.release_unused().unwrap_err(), HeapError::Running);
    assert_eq!(heap.verify().unwrap_err(), HeapError::Running);
    assert_eq!(heap.reset().unwrap_err(), HeapError::Running);
    let layout = std::alloc::Layout::new::<u64>();
    assert_eq!((&heap).allocate(layout).unwrap_err(), AllocError);
    let swapped = swap_coroutine_local(Some(heap)).unwrap_err();
    assert_eq!(swapped.error, HeapError::Running);
    heap = swapped.heap.unwrap();
    to_there.send(()).unwrap();
    other.join().unwrap();
    // The thread's end left what its guard never will.
    heap.run(|| assert!(is_in_use(&heap))).unwrap();
}

#[test]
fn a_running_heap_closed_here_is_no_longer_current() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        enter_for_ever(&heap);
        let made_inside = Box::new(7);
        assert!(is_in(&heap, &*made_inside));
        assert_eq!(current(), CoroutineLocal);
        let report = heap.close();
        assert!(report.blocks >= 1, "{report:?}");
        assert_eq!(current(), ThreadLocal);
        let after = std::hint::black_box(vec![1_u8; 100]);
        assert_eq!((*made_inside, after[99]), (7, 1));
    }
}

#[test]
fn a_running_heap_closed_here_uncovers_what_was_in_use_below() {
    let outer = Heap::new().unwrap();
    let scope = outer.enter().unwrap();
    let inner = Heap::new().unwrap();
    enter_for_ever(&inner);
    drop(inner);
    assert!(is_in_use(&outer));
    drop(scope);
    assert_eq!(current(), ThreadLocal);
    outer.run(|| with_global(|| forget(outer.enter())).unwrap()).unwrap();
    with_global(|| {
        let heap = Heap::new().unwrap();
        enter_for_ever(&heap);
        drop(heap);
        assert_eq!(current(), Global);
    })
    .unwrap();
}

#[test]
#[cfg_attr(heapswitch_check, ignore = "the check build stops the process")]
fn a_leaked_guard_does_not_keep_the_heap_below_it_when_its_own_is_closed() {
    let outer = Heap::new().unwrap();
    let inner = Heap::new().unwrap();
    let scope = outer.enter().unwrap();
    enter_for_ever(&inner);
    drop(scope);
    assert!(is_in_use(&inner));
    drop(inner);
    assert_eq!(current(), ThreadLocal);
    assert!(outer.enter().is_ok(), "nothing runs the outer heap any more");
}

#[test]
fn a_heap_that_runs_elsewhere_is_leaked_and_counted() {
    let before = process_usage().leaked_heaps;
    let (to_here, from_there) = mpsc::channel();
    let (to_there, from_here) = mpsc::channel::<()>();
    let other = thread::spawn(move || {
        let heap = Heap::new().unwrap();
        enter_for_ever(&heap);
        let text = String::from("made in a heap that is leaked");
        to_here.send((heap, text.clone())).unwrap();
        from_here.recv().unwrap();
        // Its runner goes on with it, none the wiser.
        let more = (0..1000).map(|number| format!("{text} {number}")).collect::<Vec<_>>();
        more.len()
    });
    let (heap, text) = from_there.recv().unwrap();
    let report = heap.close();
    assert_eq!((report.blocks, report.kept_bytes, report.returned_bytes), (0, 0, 0));
    assert_eq!(process_usage().leaked_heaps, before + 1);
    assert_eq!(text, "made in a heap that is leaked");
    drop(text);
    to_there.send(()).unwrap();
    assert_eq!(other.join().unwrap(), 1000);
}

#[test]
#[cfg_attr(heapswitch_check, ignore = "the check build stops the process")]
fn guards_in_the_wrong_order_take_effect_when_the_later_ones_are_gone() {
    let heaps: Vec<Heap> = (0..20).map(|_| Heap::new().unwrap()).collect();
    let mut guards: Vec<_> = heaps.iter().map(|heap| Some(heap.enter().unwrap())).collect();
    // All but the last, in an order that is neither.
    for index in (0..19).map(|index| index * 7 % 19) {
        guards[index] = None;
        assert!(is_in_use(&heaps[19]));
        assert_eq!(heaps[index].enter().unwrap_err(), HeapError::Running);
    }
    guards[19] = None;
    assert_eq!(current(), ThreadLocal);
    assert!(heaps.iter().all(|heap| heap.enter().is_ok()));
    drop(guards);
}

#[test]
#[cfg_attr(heapswitch_check, ignore = "the check build stops the process")]
fn a_guard_below_a_live_one_may_go_first_and_its_heap_be_closed() {
    let first = Heap::new().unwrap();
    let second = Heap::new().unwrap();
    let lower = first.enter().unwrap();
    let upper = second.enter().unwrap();
    let global = use_allocator(Global).unwrap();
    drop(lower);
    drop(first);
    assert_eq!(current(), Global);
    drop(upper);
    drop(second);
    assert_eq!(current(), Global);
    drop(global);
    assert_eq!(current(), ThreadLocal);
}

#[test]
fn contexts_nest_deeper_than_the_threads_state_holds() {
    fn nest(left: usize) -> usize {
        if left == 0 {
            return 0;
        }
        let heap = Heap::new().unwrap();
        let made = heap.run(|| nest(left - 1) + usize::from(is_in_use(&heap))).unwrap();
        assert_eq!(heap.close().blocks, 0);
        made
    }
    assert_eq!(nest(300), 300);
    assert_eq!(current(), ThreadLocal);
}

/// Heaps and choices of the allocator in use, entered and left in a random walk up and down: what
/// is in use is what the innermost says, at every depth, whatever came and went before.
#[test]
fn scopes_of_every_kind_nest_in_any_mixture() {
    const MOST: usize = 40;
    const STEPS: usize = if cfg!(debug_assertions) { 4_000 } else { 40_000 };
    let heaps: Vec<Heap> = (0..MOST).map(|_| Heap::new().unwrap()).collect();
    let mut scopes = Vec::with_capacity(MOST);
    let mut random = 0x9E37_79B9_u64;
    let mut next = |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    for _ in 0..STEPS {
        let (in_use, heap) =
            scopes.last().map_or((ThreadLocal, None), |&(_, in_use, heap)| (in_use, heap));
        assert_eq!(current(), in_use);
        match (in_use, heap) {
            (CoroutineLocal, Some(heap)) => assert!(is_in_use(heap)),
            (_, Some(heap)) => assert!(!is_in_use(heap)),
            (_, None) => {}
        }
        if scopes.len() == MOST || next(2) == 0 {
            scopes.pop();
            continue;
        }
        let entered = &heaps[scopes.len()];
        let (scope, in_use, heap) = match (next(4), heap) {
            (0, _) => (use_allocator(ThreadLocal), ThreadLocal, heap),
            (1, Some(_)) => (use_allocator(CoroutineLocal), CoroutineLocal, heap),
            (2, _) => (use_allocator(Global), Global, heap),
            _ => (entered.enter(), CoroutineLocal, Some(entered)),
        };
        scopes.push((scope.unwrap(), in_use, heap));
    }
    while scopes.pop().is_some() {}
    drop(scopes);
    assert!(heaps.into_iter().all(|heap| heap.close().blocks == 0));
}

#[test]
fn a_panic_in_a_scope_leaves_it_and_its_payload_outlives_the_heap() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let payload = catch_unwind(AssertUnwindSafe(|| {
            heap.run(|| {
                let _global = use_allocator(ThreadLocal).unwrap();
                let _again = use_allocator(CoroutineLocal).unwrap();
                std::panic::resume_unwind(Box::new(format!("number {}", 42)))
            })
            .unwrap_or(())
        }))
        .unwrap_err();
        assert_eq!(current(), ThreadLocal);
        let text = payload.downcast::<String>().unwrap();
        assert!(is_in(&heap, &*text));
        assert!(heap.enter().is_ok());
        assert!(heap.close().blocks >= 2);
        assert_eq!(*text, "number 42");
    }
}

#[test]
fn every_change_of_the_allocator_in_use_ends_with_a_panic() {
    let heap = Heap::new().unwrap();
    let panic = || std::panic::resume_unwind(Box::new(()));
    let attempts: [&dyn Fn(); 4] = [
        &|| with_global(panic).unwrap_or(()),
        &|| with_thread_local(panic).unwrap_or(()),
        &|| heap.run(panic).unwrap_or(()),
        &|| {
            usage_change(|| {
                let _scope = use_allocator(Global);
                panic()
            });
        },
    ];
    for attempt in attempts {
        for around in [ThreadLocal, Global] {
            let _scope = use_allocator(around).unwrap();
            assert!(catch_unwind(AssertUnwindSafe(attempt)).is_err());
            assert_eq!(current(), around);
        }
    }
    assert_eq!(current(), ThreadLocal);
}

#[test]
fn the_allocator_in_use_nests() {
    assert_eq!(use_allocator(CoroutineLocal).unwrap_err(), HeapError::NoHeap);
    assert_eq!(replace_current(CoroutineLocal).unwrap_err(), HeapError::NoHeap);
    let heap = Heap::new().unwrap();
    heap.run(|| {
        with_global(|| {
            assert!(!is_in_use(&heap));
            with_thread_local(|| {
                assert!(!is_in_use(&heap));
                let scope = use_allocator(CoroutineLocal).unwrap();
                assert!(is_in_use(&heap));
                drop(scope);
                assert_eq!(current(), ThreadLocal);
            })
            .unwrap();
            assert_eq!(current(), Global);
        })
        .unwrap();
        assert_eq!(replace_current(Global).unwrap(), CoroutineLocal);
        assert!(!is_in_use(&heap));
        assert_eq!(replace_current(CoroutineLocal).unwrap(), Global);
        assert!(is_in_use(&heap));
        replace_current(ThreadLocal).unwrap();
    })
    .unwrap();
    assert_eq!(current(), ThreadLocal);
}

#[test]
fn the_change_in_usage_is_that_of_the_allocator_in_use() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let (block, change) = heap.run(|| usage_change(|| vec![0_u8; 1000])).unwrap();
        assert!(change.allocated_blocks == 1 && change.allocated_bytes >= 1000, "{change:?}");
        let ((), change) = heap.run(|| usage_change(|| drop(block))).unwrap();
        assert_eq!(change.allocated_blocks, -1, "{hint:?} {change:?}");
    }
    let (kept, change) = usage_change(|| vec![0_u8; 1_000_000]);
    assert!(change.allocated_bytes >= 1_000_000, "{change:?}");
    drop(kept);
}
