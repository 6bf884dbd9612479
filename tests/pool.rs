//! Pooled heaps, with the allocator installed.

use std::sync::Arc;

use heapswitch::{Heap, HeapError, HeapPool, HeapSwitch, LifetimeHint};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const HINTS: [LifetimeHint; 3] = [LifetimeHint::Short, LifetimeHint::Medium, LifetimeHint::Long];

#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_heap_comes_back_empty_and_is_used_again() {
    for hint in HINTS {
        let pool = HeapPool::with_hint(hint);
        let first = {
            let heap = pool.take().unwrap();
            let block = heap.run(|| Box::new([7_u8; 100])).unwrap();
            assert!(heap.contains(block.as_ptr()));
            block.as_ptr()
        };
        assert_eq!(pool.waiting(), 1);
        let heap = pool.take().unwrap();
        assert_eq!(pool.waiting(), 0);
        assert_eq!(heap.memory_usage().unwrap().allocated_blocks, 0);
        let again = heap.run(|| Box::new([8_u8; 100])).unwrap();
        assert_eq!(again.as_ptr(), first, "{hint:?}: the same chunk serves again");
        heap.verify().unwrap();
    }
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn what_survives_stays_valid_and_is_not_seen_by_the_next_user() {
    for hint in HINTS {
        let pool = HeapPool::with_hint(hint);
        let mut kept = Vec::new();
        for number in 0..100_usize {
            let heap = pool.take().unwrap();
            kept.push(heap.run(|| vec![number; 50]).unwrap());
            heap.run(|| drop(vec![0; 3000])).unwrap();
            assert_eq!(heap.memory_usage().unwrap().allocated_blocks, 1);
        }
        for (number, vector) in kept.iter().enumerate() {
            assert!(vector.iter().all(|&item| item == number));
        }
    }
}

#[test]
fn no_more_are_kept_than_asked_for() {
    for most in [0, 1, 2, 5, 16, 32, 33, 40] {
        let pool = HeapPool::new().keep_at_most(most);
        let heaps: Vec<_> = (0..60).map(|_| pool.take().unwrap()).collect();
        drop(heaps);
        assert_eq!(pool.waiting(), most, "one thread's heaps are kept as well");
        assert_eq!(pool.clear(), most);
        assert_eq!(pool.waiting(), 0);
        pool.fill(60).unwrap();
        assert_eq!(pool.waiting(), most);
    }
}

#[test]
fn what_was_freed_outside_the_scope_does_not_count_as_surviving() {
    let pool = HeapPool::new();
    let heap = pool.take().unwrap();
    let block = heap.run(|| Box::new([7_u8; 100])).unwrap();
    let address = block.as_ptr();
    drop(block);
    drop(heap);
    let again = pool.take().unwrap().run(|| Box::new([8_u8; 100])).unwrap();
    assert_eq!(again.as_ptr(), address);
}

#[test]
fn a_shared_pool_is_given_up_by_its_heaps() {
    let pool = Arc::new(HeapPool::new());
    let heaps: Vec<_> = (0..20).map(|_| pool.take_shared().unwrap()).collect();
    assert_eq!(Arc::strong_count(&pool), 21);
    drop(heaps);
    assert!(Arc::into_inner(pool).is_some());
}

#[test]
fn a_leaked_guard_costs_the_pool_that_heap_and_nothing_else() {
    let pool = HeapPool::new();
    let heap = pool.take().unwrap();
    let _ = std::mem::ManuallyDrop::new(heap.enter().unwrap());
    drop(heap);
    assert_eq!(pool.waiting(), 0);
    let outside = Box::new(5);
    assert_eq!(pool.take().unwrap().run(|| *outside).unwrap(), 5);
}

#[test]
fn a_heap_taken_out_for_good_does_not_come_back() {
    let pool = Arc::new(HeapPool::new());
    let heap: Heap = pool.take_shared().unwrap().into_heap();
    assert_eq!(Arc::strong_count(&pool), 1);
    drop(heap);
    assert_eq!(pool.waiting(), 0);
}

#[test]
fn filling_makes_the_heaps_beforehand_and_errors_pass_through() {
    let pool = HeapPool::new().keep_at_most(20);
    pool.fill(3).unwrap();
    assert_eq!(pool.waiting(), 3);
    let pool = HeapPool::with_maker(|| Err(HeapError::NoMemory));
    assert_eq!(pool.take().unwrap_err(), HeapError::NoMemory);
    assert_eq!(pool.fill(1).unwrap_err(), HeapError::NoMemory);
}

/// Threads that give back at once, each first to its slot, never leave more than are kept. Two that
/// meet over the last place may both give up.
#[test]
fn no_more_are_kept_of_many_threads() {
    const THREADS: usize = 8;
    for most in [1, 3, 8, 12, 40] {
        let pool = HeapPool::new().keep_at_most(most);
        for round in 0..60 {
            let held = 1 + round % 9;
            let barrier = std::sync::Barrier::new(THREADS);
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        let heaps: Vec<_> = (0..held).map(|_| pool.take().unwrap()).collect();
                        barrier.wait();
                        drop(heaps);
                    });
                }
            });
            assert!(pool.waiting() <= most, "{} of {most}", pool.waiting());
        }
        assert!(pool.waiting() > 0);
    }
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn threads_share_a_pool() {
    static POOL: HeapPool = HeapPool::new().keep_at_most(20);
    std::thread::scope(|scope| {
        for seed in 0..4_usize {
            scope.spawn(move || {
                let mut held = Vec::new();
                for round in 0..2000_usize {
                    let heap = POOL.take().unwrap();
                    let text = heap.run(|| format!("{seed} {round}")).unwrap();
                    assert!(heap.contains(text.as_ptr()));
                    held.push((heap, text));
                    if round % 7 == seed {
                        held.clear();
                    }
                }
            });
        }
    });
    assert!(POOL.waiting() <= 20);
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_heap_that_ended_with_its_parent_is_not_handed_out() {
    let pool = HeapPool::with_maker(|| Heap::builder().parent_current().build());
    for waiting in 1..4 {
        let parent = Heap::new().unwrap();
        let taken = parent.run(|| {
            let taken: Vec<_> = (0..waiting).map(|_| pool.take().unwrap()).collect();
            taken.len()
        });
        assert_eq!(taken.unwrap(), waiting);
        assert_eq!(pool.waiting(), waiting);
        drop(parent);
        let other = Heap::new().unwrap();
        let heap = other.run(|| pool.take()).unwrap().unwrap();
        assert_eq!(heap.run(|| *Box::new(waiting)).unwrap(), waiting);
        assert_eq!(pool.waiting(), 0, "those that ended are gone");
        drop(heap);
        assert_eq!(pool.clear(), 1);
    }
}

/// What a request left in a cache is nobody's later request's: neither bound by it nor blamed.
#[test]
#[cfg(not(any(heapswitch_pass_through, heapswitch_unaccounted)))]
fn what_survives_is_not_charged_to_the_next_user() {
    static POOL: HeapPool = HeapPool::with_maker(|| {
        Heap::builder().limit(256 << 10).policy(heapswitch::LimitPolicy::Fail).build()
    });
    let mut kept = Vec::new();
    for _ in 0..20 {
        let heap = POOL.take().unwrap();
        assert_eq!((heap.account().committed_bytes, heap.account().escapees), (0, 0));
        kept.push(heap.run(|| vec![1_u8; 100]).unwrap());
        assert_eq!(heap.give_back().unwrap().blocks, 1);
    }
    // Heaps that leave nothing behind are used again, with their chunk.
    POOL.clear();
    drop(POOL.take().unwrap());
    let used = |heap: &Heap| heap.run(|| drop(vec![1_u8; 100])).unwrap();
    let first = POOL.take().unwrap();
    used(&first);
    let account = first.account_handle();
    drop(first);
    let second = POOL.take().unwrap();
    assert_eq!(second.account_handle(), account);
    // One whose child goes on is not.
    let mut child = second.run(|| Heap::builder().parent_current().build()).unwrap().unwrap();
    child.detach().unwrap();
    let text = child.run(|| String::from("goes on")).unwrap();
    assert_eq!(second.give_back().unwrap().blocks, 0);
    let third = POOL.take().unwrap();
    assert_ne!(third.account_handle(), account);
    drop((text, child));
    // Nor one whose child holds nothing yet.
    let account = third.account_handle();
    let mut child = third.run(|| Heap::builder().parent_current().build()).unwrap().unwrap();
    child.detach().unwrap();
    drop(third);
    assert_ne!(POOL.take().unwrap().account_handle(), account);
}
