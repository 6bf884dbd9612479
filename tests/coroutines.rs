//! Coroutines with heaps of their own, with the allocator really installed.

#[cfg(not(any(heapswitch_pass_through, heapswitch_asan, heapswitch_tsan, loom)))]
#[path = "support/child.rs"]
mod child;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use heapswitch::{
    Coroutine, CoroutineResult, CurrentAllocatorInUse, Heap, HeapError, HeapPool, HeapSwitch,
    LifetimeHint, Scope, StackPool, Yielder, current, replace_current, swap_coroutine_local,
    use_allocator, with_global,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const HINTS: [LifetimeHint; 3] = [LifetimeHint::Short, LifetimeHint::Medium, LifetimeHint::Long];

/// Small, so that thousands live at once.
static SMALL_STACKS: StackPool = StackPool::new(64 << 10, 100);

fn small<Input: 'static, Yield: 'static, Return: 'static>(
    heap: Heap,
    body: impl FnOnce(&Yielder<'_, Input, Yield>, Input) -> Return + 'static,
) -> Coroutine<Input, Yield, Return> {
    Coroutine::with_stack(heap, SMALL_STACKS.take().unwrap(), body)
}

fn in_heap<T: ?Sized>(heap: &Heap, value: &T) -> bool {
    heap.contains((&raw const *value).cast())
}

/// A block of its own that tells, when dropped, whether it is in the heap that is current.
struct Witness {
    block: Box<u64>,
    seen: Rc<RefCell<Vec<(u64, CurrentAllocatorInUse)>>>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        let number = *self.block;
        with_global(|| self.seen.borrow_mut().push((number, CurrentAllocatorInUse::Global)))
            .unwrap();
        self.seen.borrow_mut().last_mut().unwrap().1 = current();
    }
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn what_the_body_allocates_lies_in_its_heap_and_nothing_else_does() {
    for hint in HINTS {
        let mut coroutine = small(Heap::with_hint(hint).unwrap(), |yielder, ()| {
            for number in 0..10_u64 {
                yielder.suspend(Box::new(number));
            }
            String::from("the end")
        });
        let mut between = Vec::new();
        for number in 0..10 {
            let block = coroutine.resume(()).unwrap().as_yield().unwrap();
            assert_eq!(*block, number);
            assert!(in_heap(coroutine.heap(), &*block));
            assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
            between.push(Box::new(number));
            assert!(!in_heap(coroutine.heap(), &**between.last().unwrap()));
        }
        let text = coroutine.resume(()).unwrap().as_return().unwrap();
        assert!(in_heap(coroutine.heap(), text.as_str()));
        assert!(coroutine.is_done());
        let error = coroutine.resume(()).unwrap_err();
        assert_eq!(error.error, None);
        // The string outlives the coroutine and its heap.
        let report = coroutine.into_heap().close();
        assert_eq!(report.blocks, 1);
        assert_eq!(text, "the end");
    }
}

#[test]
fn the_coroutine_and_its_stack_lie_outside_its_heap() {
    let captured = [7_u8; 100];
    let mut coroutine = small(Heap::new().unwrap(), move |yielder, ()| {
        yielder.suspend(captured.as_ptr().addr());
    });
    let address = coroutine.resume(()).unwrap().as_yield().unwrap();
    assert!(!coroutine.heap().contains(core::ptr::without_provenance(address)));
    assert_eq!(coroutine.heap().memory_usage().unwrap().allocated_blocks, 0);
    assert_eq!(coroutine.heap().memory_usage().unwrap().committed_bytes, 0);
}

/// Owns what it allocated over many resumptions, and checks it at each.
fn worker(seed: u64, rounds: u64) -> impl FnOnce(&Yielder<'_, u64, u64>, u64) -> u64 {
    move |yielder, mut input| {
        let mut strings = Vec::new();
        let mut sum = 0;
        for round in 0..rounds {
            sum += input;
            strings.push((round, format!("coroutine {seed} round {round} sum {sum}")));
            if round % 3 == 2 {
                strings.remove((seed % strings.len() as u64) as usize);
            }
            for (round, string) in &strings {
                assert!(string.starts_with(&format!("coroutine {seed} round {round} sum ")));
            }
            input = yielder.suspend(sum);
        }
        sum
    }
}

/// A small generator of its own: the order must be random, not good.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % bound
    }
}

#[test]
fn thousands_in_random_order() {
    let mut random = Random(1);
    let mut running: Vec<(Coroutine<u64, u64, u64>, u64)> = (0..3000)
        .map(|seed| {
            let heap = Heap::with_hint(HINTS[seed as usize % 3]).unwrap();
            (small(heap, worker(seed, seed % 13)), 0)
        })
        .collect();
    let mut ended = 0;
    while !running.is_empty() {
        let index = random.below(running.len());
        let input = random.below(1000) as u64;
        let (coroutine, sum) = &mut running[index];
        match coroutine.resume(input).unwrap() {
            CoroutineResult::Yield(now) => {
                *sum += input;
                assert_eq!(now, *sum);
            }
            CoroutineResult::Return(now) => {
                assert_eq!(now, *sum);
                let (coroutine, _) = running.swap_remove(index);
                let heap = coroutine.into_heap();
                heap.verify().unwrap();
                let report = heap.close();
                assert_eq!((report.blocks, report.kept_bytes), (0, 0));
                ended += 1;
            }
        }
        // Some are dropped half way.
        if random.below(50) == 0 && !running.is_empty() {
            running.swap_remove(random.below(running.len()));
        }
    }
    assert!(ended > 1000);
    assert!(SMALL_STACKS.waiting() <= 100);
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn nested_three_deep() {
    for hint in HINTS {
        let new_heap = move || with_global(|| Heap::with_hint(hint).unwrap()).unwrap();
        let mut outer = small(new_heap(), move |yielder, ()| {
            let mut middle = small(new_heap(), move |yielder, ()| {
                let mut inner = small(new_heap(), move |yielder, ()| {
                    for number in 0..3_u32 {
                        yielder.suspend(format!("inner {number}"));
                    }
                });
                while let CoroutineResult::Yield(text) = inner.resume(()).unwrap() {
                    assert!(in_heap(inner.heap(), text.as_str()));
                    let mine = format!("middle, {text}");
                    assert!(!in_heap(inner.heap(), mine.as_str()));
                    yielder.suspend(mine);
                }
            });
            while let CoroutineResult::Yield(text) = middle.resume(()).unwrap() {
                assert!(in_heap(middle.heap(), text.as_str()));
                let mine = format!("outer, {text}");
                assert!(!in_heap(middle.heap(), mine.as_str()));
                yielder.suspend(mine);
            }
        });
        let mut seen = Vec::new();
        while let CoroutineResult::Yield(text) = outer.resume(()).unwrap() {
            assert!(in_heap(outer.heap(), text.as_str()));
            seen.push(text);
        }
        assert_eq!(seen, [0, 1, 2].map(|number| format!("outer, middle, inner {number}")));
        assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
    }
}

/// Suspends within two scopes, and checks at every step which heap serves it.
fn within_two_scopes(first: Rc<Heap>, second: Rc<Heap>) -> Coroutine<(), (), ()> {
    small(Heap::new().unwrap(), move |yielder, ()| {
        let outside = Box::new(0);
        let outer = first.enter().unwrap();
        let in_first = vec![1; 10];
        yielder.suspend(());
        let inner = second.enter().unwrap();
        let in_second = vec![2; 10];
        for _ in 0..5 {
            yielder.suspend(());
            assert!(in_heap(&second, &*Box::new(3)));
        }
        drop(inner);
        assert!(in_heap(&first, &*Box::new(4)));
        yielder.suspend(());
        assert!(in_heap(&first, &*Box::new(5)));
        drop(outer);
        let after = Box::new(6);
        assert!(!in_heap(&first, &*after) && !in_heap(&second, &*after));
        assert!(in_heap(&first, in_first.as_slice()) && in_heap(&second, in_second.as_slice()));
        assert!(!in_heap(&first, &*outside));
    })
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn suspended_within_two_scopes_with_others_between() {
    let heaps = || (Rc::new(Heap::new().unwrap()), Rc::new(Heap::new().unwrap()));
    let (first, second) = heaps();
    // Two share their heaps, in opposite order; the third has its own.
    let (third, fourth) = heaps();
    let mut coroutines = [
        within_two_scopes(first.clone(), second.clone()),
        within_two_scopes(second.clone(), first.clone()),
        within_two_scopes(third, fourth),
    ];
    let mut random = Random(2);
    let outside = Heap::new().unwrap();
    while coroutines.iter().any(|coroutine| !coroutine.is_done()) {
        let coroutine = &mut coroutines[random.below(3)];
        if coroutine.is_done() {
            continue;
        }
        // From different depths.
        let mut scopes: Vec<Scope<'_>> = Vec::new();
        for _ in 0..random.below(12) {
            scopes.push(use_allocator(CurrentAllocatorInUse::Global).unwrap());
        }
        let is_outside = random.below(2) == 0;
        if is_outside {
            scopes.push(outside.enter().unwrap());
        }
        coroutine.resume(()).unwrap();
        assert_eq!(in_heap(&outside, &*Box::new(7)), is_outside);
        while scopes.pop().is_some() {}
        assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
    }
    drop(coroutines);
    for heap in [first, second] {
        let report = Rc::into_inner(heap).unwrap().close();
        assert_eq!(report.blocks, 0);
    }
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn dropped_within_two_scopes_it_unwinds_in_them() {
    let seen = Rc::new(RefCell::new(Vec::with_capacity(10)));
    let first = Rc::new(Heap::new().unwrap());
    let (inside, witness_seen) = (first.clone(), seen.clone());
    let mut coroutine = small(Heap::new().unwrap(), move |yielder, ()| {
        let witness = |number| Witness { block: Box::new(number), seen: witness_seen.clone() };
        let _one = witness(1);
        let _outer = inside.enter().unwrap();
        let _two = witness(2);
        let _inner = use_allocator(CurrentAllocatorInUse::Global).unwrap();
        let _three = witness(3);
        yielder.suspend(());
        unreachable!();
    });
    coroutine.resume(()).unwrap();
    assert_eq!(first.memory_usage().unwrap().allocated_blocks, 1);
    let elsewhere = Heap::new().unwrap();
    elsewhere.run(|| drop(coroutine)).unwrap();
    assert_eq!(
        *seen.borrow(),
        [
            (3, CurrentAllocatorInUse::Global),
            (2, CurrentAllocatorInUse::CoroutineLocal),
            (1, CurrentAllocatorInUse::CoroutineLocal),
        ]
    );
    assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
    assert_eq!(Rc::into_inner(first).unwrap().close().blocks, 0);
    assert_eq!(elsewhere.close().blocks, 0);
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn more_scopes_than_fit_inline_are_saved() {
    let mut coroutine = small(Heap::new().unwrap(), |yielder, ()| {
        let heaps: Vec<Heap> = (0..50).map(|_| Heap::new().unwrap()).collect();
        let mut scopes = Vec::with_capacity(50);
        for heap in &heaps {
            scopes.push(heap.enter().unwrap());
            yielder.suspend(());
            assert!(in_heap(heap, &*Box::new(1)));
        }
        for heap in heaps.iter().rev() {
            assert!(in_heap(heap, &*Box::new(2)));
            yielder.suspend(());
            scopes.pop();
        }
    });
    while coroutine.resume(()).unwrap().as_yield().is_some() {}
    let usage = coroutine.heap().memory_usage().unwrap();
    assert_eq!(usage.allocated_blocks, 0);
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_heap_entered_elsewhere_stops_the_resumption_before_the_switch() {
    let first = Rc::new(Heap::new().unwrap());
    let second = Rc::new(Heap::new().unwrap());
    let mut coroutine = within_two_scopes(first.clone(), second.clone());
    coroutine.resume(()).unwrap();
    coroutine.resume(()).unwrap();
    {
        let _scope = second.enter().unwrap();
        let error = coroutine.resume(()).unwrap_err();
        assert_eq!(error.error, Some(HeapError::Running.into()));
        assert!(in_heap(&second, &*Box::new(1)));
    }
    // What would have been entered before it is free.
    first.run(|| ()).unwrap();
    coroutine.heap().run(|| ()).unwrap();
    while coroutine.resume(()).unwrap().as_yield().is_some() {}
}

#[test]
fn its_own_heap_entered_by_a_forgotten_guard_stops_it_too() {
    let mut coroutine = small(Heap::new().unwrap(), |yielder, ()| {
        yielder.suspend(());
    });
    coroutine.resume(()).unwrap();
    std::mem::forget(coroutine.heap().enter().unwrap());
    assert_eq!(coroutine.resume(()).unwrap_err().error, Some(HeapError::Running.into()));
    // It is unwound all the same, and its heap closed.
    drop(coroutine);
    assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
}

#[test]
fn a_panic_comes_out_with_its_payload() {
    for hint in HINTS {
        let mut coroutine: Coroutine<(), (), ()> =
            small(Heap::with_hint(hint).unwrap(), |yielder, ()| {
                let inner = Heap::new().unwrap();
                let _scope = inner.enter().unwrap();
                yielder.suspend(());
                std::panic::panic_any(format!("made in {}", "the context"));
            });
        coroutine.resume(()).unwrap();
        let payload = catch_unwind(AssertUnwindSafe(|| coroutine.resume(()))).unwrap_err();
        assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
        assert!(coroutine.is_done());
        drop(coroutine);
        let text = payload.downcast::<String>().unwrap();
        assert_eq!(*text, "made in the context");
    }
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_panic_through_nested_coroutines_restores_each() {
    let mut outer = small(Heap::new().unwrap(), |yielder, ()| {
        let mut inner: Coroutine<(), (), ()> =
            small(Heap::new().unwrap(), |_, ()| panic!("from {}", std::hint::black_box("within")));
        let payload = catch_unwind(AssertUnwindSafe(|| inner.resume(()))).unwrap_err();
        let mine = Box::new(1);
        yielder.suspend(mine);
        std::panic::resume_unwind(payload);
    });
    let mine = outer.resume(()).unwrap().as_yield().unwrap();
    assert!(in_heap(outer.heap(), &*mine));
    let payload = catch_unwind(AssertUnwindSafe(|| outer.resume(()))).unwrap_err();
    assert_eq!(payload.downcast_ref::<String>().unwrap(), "from within");
    assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
}

#[test]
fn a_suspended_one_is_dropped_while_another_panics() {
    let dropped = Rc::new(Cell::new(0));
    let count = dropped.clone();
    let result = catch_unwind(AssertUnwindSafe(|| {
        struct Count(Rc<Cell<u32>>);
        impl Drop for Count {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let mut coroutine = small(Heap::new().unwrap(), move |yielder, ()| {
            let _count = Count(count);
            yielder.suspend(());
        });
        coroutine.resume(()).unwrap();
        panic!("with a suspended coroutine");
    }));
    assert!(result.is_err());
    assert_eq!(dropped.get(), 1);
    assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
}

#[test]
fn dropped_in_other_scopes_and_before_it_started() {
    let heap = Heap::new().unwrap();
    for resumes in 0..3 {
        let text = String::from("captured");
        let mut coroutine = small(Heap::new().unwrap(), move |yielder, ()| {
            let mine = text.clone();
            yielder.suspend(());
            let more = mine.clone();
            yielder.suspend(());
            drop((mine, more));
        });
        for _ in 0..resumes {
            coroutine.resume(()).unwrap();
        }
        heap.run(|| drop(coroutine)).unwrap();
        assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
    }
    assert_eq!(heap.close().blocks, 0);
}

#[test]
fn a_string_outlives_the_coroutine() {
    for hint in HINTS {
        let mut strings = Vec::new();
        for number in 0..100 {
            let mut coroutine =
                small(Heap::with_hint(hint).unwrap(), move |_: &Yielder<_, ()>, ()| {
                    let rest: Vec<String> =
                        (0..20).map(|number| format!("rest {number}")).collect();
                    format!("string {number} of {}", rest.len())
                });
            strings.push(coroutine.resume(()).unwrap().as_return().unwrap());
        }
        for (number, string) in strings.iter_mut().enumerate() {
            assert_eq!(*string, format!("string {number} of 20"));
            string.push_str(" and longer now than it was in the heap where it was made");
        }
    }
}

#[test]
fn what_is_in_use_at_its_base_is_kept() {
    let mut coroutine = small(Heap::new().unwrap(), |yielder, ()| {
        replace_current(CurrentAllocatorInUse::Global).unwrap();
        yielder.suspend(());
        assert_eq!(current(), CurrentAllocatorInUse::Global);
        let scope = use_allocator(CurrentAllocatorInUse::CoroutineLocal).unwrap();
        yielder.suspend(());
        assert_eq!(current(), CurrentAllocatorInUse::CoroutineLocal);
        // The heap that the scope inherits is the wrapper's.
        let refused = swap_coroutine_local(Some(Heap::new().unwrap())).unwrap_err();
        assert_eq!(refused.error, HeapError::Held);
        drop(refused);
        yielder.suspend(());
        assert_eq!(current(), CurrentAllocatorInUse::CoroutineLocal);
        drop(scope);
        assert_eq!(current(), CurrentAllocatorInUse::Global);
        // Its slot is its wrapper's.
        assert_eq!(swap_coroutine_local(None).unwrap_err().error, HeapError::Held);
    });
    while coroutine.resume(()).unwrap().as_yield().is_some() {
        assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
    }
}

#[test]
fn stacks_are_kept_up_to_the_bound() {
    static POOL: StackPool = StackPool::new(16 << 10, 2);
    let stacks: Vec<_> = (0..5).map(|_| POOL.take().unwrap()).collect();
    assert_eq!(POOL.waiting(), 0);
    drop(stacks);
    assert_eq!(POOL.waiting(), 2);
    let stack = POOL.take().unwrap();
    assert_eq!(POOL.waiting(), 1);
    let mut coroutine = Coroutine::with_stack(Heap::new().unwrap(), stack, |yielder, ()| {
        yielder.suspend(());
    });
    coroutine.resume(()).unwrap();
    drop(coroutine);
    assert_eq!(POOL.waiting(), 2);
}

/// A hundred thousand stacks, each two mappings, are more than a process may have by default.
#[test]
#[cfg(not(any(heapswitch_pass_through, heapswitch_asan, heapswitch_tsan, loom)))]
fn stacks_end_at_the_limit_on_mappings_and_heaps_go_on() {
    const MOST: usize = 100_000;
    static STACKS: StackPool = StackPool::new(32 << 10, 10);
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    // In a process of its own: the other tests need mappings too.
    child::in_child(|| {
        let runs = || {
            let heap = Heap::new().unwrap();
            let text = heap.run(|| "in a heap".repeat(1000)).unwrap();
            assert!(heap.contains(text.as_ptr()) && text.ends_with("heap"));
        };
        runs();
        let mut stacks = Vec::with_capacity(MOST);
        let error = loop {
            match STACKS.take() {
                Err(error) => break Some(error),
                Ok(_) if stacks.len() == MOST => break None,
                Ok(stack) => stacks.push(stack),
            }
        };
        if limit < 2 * MOST {
            assert_eq!(error.map(|error| error.0), Some(libc::ENOMEM));
            assert!((limit / 2 - 1000..=limit / 2).contains(&stacks.len()), "{}", stacks.len());
        }
        (0..100).for_each(|_| runs());
        let body = |yielder: &Yielder<'_, (), u8>, ()| yielder.suspend(*Box::new(1));
        let stack = stacks.pop().unwrap();
        let mut coroutine = Coroutine::with_stack(Heap::new().unwrap(), stack, body);
        assert_eq!(coroutine.resume(()).unwrap().as_yield(), Some(1));
        drop((coroutine, stacks));
        assert_eq!(STACKS.waiting(), 10);
        STACKS.take().is_ok()
    });
}

/// However it ends, a pool's heap goes back to it, but for one that a forgotten guard left entered;
/// and what survived in it stays.
#[test]
fn a_heap_of_a_pool_goes_back_to_it() {
    static HEAPS: HeapPool = HeapPool::new();
    let make = |ends: bool| {
        let heap = HEAPS.take().unwrap();
        Coroutine::with_stack(heap, SMALL_STACKS.take().unwrap(), move |yielder, ()| {
            let _on_stack = Box::new(1_u64);
            yielder.suspend(String::from("suspended"));
            assert!(ends, "the end");
            String::from("returned")
        })
    };
    let mut kept = Vec::new();
    for resumes in [0, 1, 2] {
        let mut coroutine = make(true);
        for _ in 0..resumes {
            kept.push(match coroutine.resume(()).unwrap() {
                CoroutineResult::Yield(text) | CoroutineResult::Return(text) => text,
            });
        }
        assert_eq!(HEAPS.waiting(), 0);
        drop(coroutine);
        assert_eq!(HEAPS.waiting(), 1, "after {resumes}");
    }
    assert_eq!(kept, ["suspended", "suspended", "returned"]);
    let mut panics = make(false);
    drop(panics.resume(()).unwrap());
    let caught = catch_unwind(AssertUnwindSafe(|| panics.resume(()).is_ok()));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"the end"));
    let heap = panics.into_heap();
    assert_eq!(heap.run(|| 1 + *Box::new(1)).unwrap(), 2);
    drop(heap);
    assert_eq!(HEAPS.waiting(), 1);
    let coroutine = make(true);
    let _ = std::mem::ManuallyDrop::new(coroutine.heap().enter().unwrap());
    drop(coroutine);
    assert_eq!(HEAPS.waiting(), 0);
    drop(Box::new(1));
}
