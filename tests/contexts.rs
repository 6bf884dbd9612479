//! The hooks for coroutine runtimes, and guards that end up where they should not.
#![cfg(not(any(heapswitch_pass_through, loom)))]

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use heapswitch::{
    Coroutine, CurrentAllocatorInUse, Heap, HeapError, HeapSwitch, SavedContext, StackPool,
    Yielder, current, replace_current, swap_coroutine_local, use_allocator,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

static STACKS: StackPool = StackPool::new(64 << 10, 100);

const COROUTINE: CurrentAllocatorInUse = CurrentAllocatorInUse::CoroutineLocal;
const THREAD: CurrentAllocatorInUse = CurrentAllocatorInUse::ThreadLocal;
const PROCESS: CurrentAllocatorInUse = CurrentAllocatorInUse::Global;

fn coroutine<Input: 'static, Yield: 'static, Return: 'static>(
    body: impl FnOnce(&Yielder<'_, Input, Yield>, Input) -> Return + 'static,
) -> Coroutine<Input, Yield, Return> {
    Coroutine::with_stack(Heap::new().unwrap(), STACKS.take().unwrap(), body)
}

fn leaked_heap() -> &'static Heap {
    Box::leak(Box::new(Heap::new().unwrap()))
}

fn serves(heap: &Heap) -> bool {
    let block = Box::new(1_u8);
    heap.contains(&raw const *block)
}

#[test]
fn hooks_save_what_stands_above_the_mark() {
    let (own, first, outside) = (Heap::new().unwrap(), leaked_heap(), Heap::new().unwrap());
    let mut context = SavedContext::new();
    let mark = context.resume_in(&own).unwrap();
    assert!(serves(&own));
    let scope = first.enter().unwrap();
    let inner = use_allocator(PROCESS).unwrap();
    context.suspend(mark);
    assert_eq!((current(), context.depth()), (THREAD, 2));
    // Nobody runs its heaps now.
    assert!(own.run(|| serves(&own)).unwrap() && first.run(|| serves(first)).unwrap());

    let below = outside.enter().unwrap();
    let mark = context.resume_in(&own).unwrap();
    assert_eq!((current(), context.depth()), (PROCESS, 0));
    drop(inner);
    assert!(serves(first));
    drop(scope);
    assert!(serves(&own));
    context.suspend(mark);
    assert!(serves(&outside));
    drop(below);
}

#[test]
fn without_a_heap_of_its_own_it_takes_what_it_finds() {
    let heap = Heap::new().unwrap();
    let mut context = SavedContext::new();
    context.run(|| assert_eq!(current(), THREAD)).unwrap();
    heap.run(|| context.run(|| assert!(serves(&heap))).unwrap()).unwrap();
    let inherited = heap.run(|| context.run(|| use_allocator(COROUTINE).unwrap()).unwrap());
    // The scope inherits the heap below it, whichever that is now.
    let other = Heap::new().unwrap();
    other.run(|| context.run(|| assert!(serves(&other))).unwrap()).unwrap();
    context.run(|| assert_eq!(current(), THREAD)).unwrap();
    context.run(|| drop(inherited)).unwrap();
    assert_eq!(context.depth(), 0);

    context.run(|| replace_current(PROCESS).unwrap()).unwrap();
    assert_eq!(current(), THREAD);
    heap.run(|| context.run(|| assert_eq!(current(), PROCESS)).unwrap()).unwrap();
}

#[test]
fn a_heap_swapped_in_at_its_base_stays_its_own() {
    let mut context = SavedContext::new();
    let block = context
        .run(|| {
            assert!(swap_coroutine_local(Some(Heap::new().unwrap())).unwrap().is_none());
            Box::new(1)
        })
        .unwrap();
    assert_eq!(current(), THREAD);
    let heap = context.run(|| swap_coroutine_local(None).unwrap().unwrap()).unwrap();
    assert!(heap.contains((&raw const *block).cast()));
    // One that is not swapped out is closed with the context.
    let mut context = SavedContext::new();
    context.run(|| swap_coroutine_local(Some(heap)).unwrap()).unwrap();
    drop(context);
    assert_eq!(*block, 1);
}

#[test]
fn a_panic_out_of_the_switch_leaves_the_contexts() {
    let heap = Heap::new().unwrap();
    let mut context = SavedContext::new();
    let result = catch_unwind(AssertUnwindSafe(|| {
        context.run_in(&heap, || std::panic::resume_unwind(Box::new(1)))
    }));
    assert!(result.is_err());
    assert_eq!(current(), THREAD);
    heap.run(|| ()).unwrap();
}

#[test]
fn a_context_resumed_twice_is_refused_its_heaps() {
    let (own, inner) = (Heap::new().unwrap(), leaked_heap());
    let mut context = SavedContext::new();
    let scope = context.run_in(&own, || inner.enter().unwrap()).unwrap();
    let within = inner.enter().unwrap();
    assert_eq!(context.resume_in(&own).unwrap_err(), HeapError::Running);
    assert_eq!((context.depth(), serves(inner)), (1, true));
    drop(within);
    let mark = context.resume_in(&own).unwrap();
    assert_eq!(context.resume_in(&own).unwrap_err(), HeapError::Running);
    drop(scope);
    context.suspend(mark);
    own.run(|| ()).unwrap();
}

#[cfg(not(heapswitch_check))] // Where dropping guards out of order aborts.
mod strays {
    use std::rc::Rc;

    use heapswitch::{Scope, process_usage};

    use super::*;

    #[test]
    fn a_guard_from_outside_dropped_within_ends_when_the_coroutine_stops() {
        let heap = leaked_heap();
        let mut within = coroutine(|yielder, scope: Scope<'static>| {
            drop(scope);
            assert_eq!(current(), COROUTINE);
            let _none = yielder.suspend(());
        });
        let scope = heap.enter().unwrap();
        within.resume(scope).unwrap();
        assert_eq!(current(), THREAD);
        heap.run(|| ()).unwrap();
    }

    #[test]
    fn a_guard_from_within_dropped_outside_does_nothing() {
        let heap = leaked_heap();
        let mut within = coroutine(move |yielder, ()| {
            yielder.suspend(heap.enter().unwrap());
            assert!(serves(heap));
        });
        let scope = within.resume(()).unwrap().as_yield().unwrap();
        let other = Heap::new().unwrap();
        let around = other.enter().unwrap();
        drop(scope);
        assert!(serves(&other));
        within.resume(()).unwrap();
        assert!(serves(&other));
        drop(around);
        // The coroutine has ended, and with it the scope.
        heap.run(|| ()).unwrap();
    }

    #[test]
    fn a_heap_with_a_forgotten_guard_stays_with_its_thread() {
        fn step(coroutine: &mut Coroutine<Option<Heap>, Heap, ()>, input: Option<Heap>) -> Heap {
            coroutine.resume(input).unwrap().as_yield().unwrap()
        }
        let mut within = coroutine(|yielder, _: Option<Heap>| {
            let heap = Heap::new().unwrap();
            std::mem::forget(heap.enter().unwrap());
            let heap = yielder.suspend(heap).unwrap();
            assert!(serves(&heap));
            yielder.suspend(heap);
            // Closed meanwhile.
            assert_eq!(current(), THREAD);
        });
        let heap = step(&mut within, None);
        let heap = std::thread::spawn(move || {
            assert_eq!(heap.enter().unwrap_err(), HeapError::Running);
            heap
        })
        .join()
        .unwrap();
        assert!(heap.run(|| serves(&heap)).unwrap());
        let heap = step(&mut within, Some(heap));
        drop(heap);
        assert!(within.resume(None).unwrap().as_return().is_some());
        assert_eq!(current(), THREAD);
    }

    #[test]
    fn a_heap_lost_on_another_thread_is_leaked_and_still_there() {
        let mut within = coroutine(|yielder, ()| {
            let heap = Heap::new().unwrap();
            std::mem::forget(heap.enter().unwrap());
            let block = Box::new(5);
            yielder.suspend(heap);
            *block
        });
        let heap = within.resume(()).unwrap().as_yield().unwrap();
        let leaked = process_usage().leaked_heaps;
        std::thread::spawn(move || drop(heap)).join().unwrap();
        assert_eq!(process_usage().leaked_heaps, leaked + 1);
        assert_eq!(within.resume(()).unwrap().as_return(), Some(5));
    }

    #[test]
    fn a_heap_reset_while_a_forgotten_guard_waits_leaves_the_old_one_to_it() {
        let mut within = coroutine(|yielder, ()| {
            let heap = Heap::new().unwrap();
            std::mem::forget(heap.enter().unwrap());
            let block = std::hint::black_box(Box::new(5));
            yielder.suspend(heap);
            *block
        });
        let mut heap = within.resume(()).unwrap().as_yield().unwrap();
        assert_eq!(heap.reset().unwrap().blocks, 1);
        assert!(heap.run(|| serves(&heap)).unwrap());
        drop(within);
        assert!(heap.run(|| serves(&heap)).unwrap());
    }

    type Strays = Rc<RefCell<Vec<Scope<'static>>>>;

    /// Enters, drops any guard of any coroutine, forgets, suspends; in the order that `seed` gives.
    fn disorder(seed: u64, heaps: &'static [Heap], strays: Strays) -> Coroutine<(), (), ()> {
        coroutine(move |yielder, ()| {
            let mut random = seed;
            for _ in 0..60 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let choice = (random >> 33) as usize;
                match choice % 7 {
                    0 | 1 => {
                        if let Ok(scope) = heaps[(choice / 7) % heaps.len()].enter() {
                            strays.borrow_mut().push(scope);
                        }
                    }
                    2 => strays.borrow_mut().extend(use_allocator(COROUTINE).ok()),
                    3 | 4 => {
                        let count = strays.borrow().len();
                        if count != 0 {
                            let scope = strays.borrow_mut().swap_remove((choice / 7) % count);
                            drop(scope);
                        }
                    }
                    5 if choice.is_multiple_of(2) => std::mem::forget(strays.borrow_mut().pop()),
                    _ => yielder.suspend(()),
                }
                drop(vec![random; choice % 50]);
            }
        })
    }

    #[test]
    fn any_disorder_of_guards_is_safe() {
        for seed in 0..300_u64 {
            std::thread::spawn(move || run_disorder(seed)).join().unwrap();
        }
    }

    fn run_disorder(seed: u64) {
        let heaps: &'static [Heap] =
            (0..5).map(|_| Heap::new().unwrap()).collect::<Vec<_>>().leak();
        let strays = Strays::default();
        let mut coroutines: Vec<_> =
            (0..6).map(|index| disorder(seed * 10 + index, heaps, strays.clone())).collect();
        let mut random = seed;
        for _ in 0..200 {
            random = random.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(3_037_000_493);
            let index = (random >> 33) as usize % coroutines.len();
            // Refused where a heap is entered, or when it has ended.
            let _ = coroutines[index].resume(());
            if (random >> 40).is_multiple_of(40) {
                coroutines[index] = disorder(random, heaps, strays.clone());
            }
        }
        drop(coroutines);
        strays.borrow_mut().clear();
        for heap in heaps {
            // One whose guard was dropped within may be current to the end.
            let _ = heap.verify();
        }
    }
}

/// A coroutine that lives longer than its thread's allocator state: in a pthread key's destructor
/// that runs after the allocator's own.
#[test]
fn after_its_thread_ended_it_is_not_resumed_but_unwound() {
    use std::ffi::c_void;
    use std::sync::atomic::{AtomicU32, Ordering};

    static SEEN: AtomicU32 = AtomicU32::new(0);
    struct Seen;
    impl Drop for Seen {
        fn drop(&mut self) {
            assert_eq!(current(), PROCESS);
            SEEN.fetch_add(1, Ordering::Relaxed);
        }
    }
    type Late = Coroutine<(), (), ()>;
    unsafe extern "C" fn end(late: *mut c_void) {
        // SAFETY: the value was made by `Box::into_raw`.
        let mut late = unsafe { Box::from_raw(late.cast::<Late>()) };
        let error = late.resume(()).unwrap_err();
        assert_eq!(error.error, Some(HeapError::ThreadEnded.into()));
        drop(late);
        SEEN.fetch_add(10, Ordering::Relaxed);
    }
    std::thread::spawn(|| {
        drop(Box::new(1)); // The allocator's key is the first.
        let mut key = 0;
        // SAFETY: `key` is valid for writes.
        assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(end)) }, 0);
        let mut late: Late = coroutine(|yielder, ()| {
            let (inner, text) = (Heap::new().unwrap(), String::from("made in the heap"));
            let _seen = Seen;
            let _scope = inner.enter().unwrap();
            let more = text.clone();
            yielder.suspend(());
            drop((text, more));
        });
        late.resume(()).unwrap();
        let late = Box::into_raw(Box::new(late));
        // SAFETY: the key was just made.
        assert_eq!(unsafe { libc::pthread_setspecific(key, late.cast()) }, 0);
    })
    .join()
    .unwrap();
    assert_eq!(SEEN.load(Ordering::Relaxed), 11);
}

#[test]
fn in_a_thread_local_variable_it_is_unwound_at_the_thread_s_end() {
    thread_local! {
        static KEPT: RefCell<Vec<Coroutine<(), (), ()>>> = const { RefCell::new(Vec::new()) };
    }
    let dropped = std::sync::Arc::new(());
    let inside = dropped.clone();
    std::thread::spawn(move || {
        for _ in 0..3 {
            let inside = inside.clone();
            let mut kept = coroutine(move |yielder, ()| {
                let text = format!("{inside:?}");
                yielder.suspend(());
                drop((text, inside));
            });
            kept.resume(()).unwrap();
            KEPT.with(|list| list.borrow_mut().push(kept));
        }
    })
    .join()
    .unwrap();
    assert_eq!(std::sync::Arc::strong_count(&dropped), 1);
}
