//! Limits hold where the region has no memory either: what the global allocator serves is counted
//! for nobody, so it serves nobody whom a limit binds, or ends the context.
#![cfg(not(heapswitch_pass_through))]

use heapswitch::{
    ContextError, Heap, LimitPolicy, checkpoint, global_thread_and_coroutine_switchable_allocator,
    process_usage, set_process_limit,
};
use std::sync::{Mutex, MutexGuard};

global_thread_and_coroutine_switchable_allocator! { region_bytes = 256 MiB }

const LIMIT: usize = 1 << 20;
const REGION: usize = 256 << 20;

/// One at a time: the region and the process's limit are the process's.
fn alone() -> MutexGuard<'static, ()> {
    static PROCESS: Mutex<()> = Mutex::new(());
    PROCESS.lock().unwrap_or_else(|error| error.into_inner())
}

fn heap(policy: LimitPolicy) -> Heap {
    Heap::builder().name("bound").limit(LIMIT).policy(policy).build().unwrap()
}

/// A block that is reserved, if there is one.
fn block(bytes: usize) -> Option<Vec<u8>> {
    let mut block = Vec::new();
    block.try_reserve_exact(bytes).ok().map(|()| block)
}

/// Whether the heap in use gets a block of so many bytes, and what a checkpoint then says.
fn asked(heap: &Heap, bytes: usize) -> (bool, Result<(), ContextError>) {
    heap.run(|| (block(bytes).is_some(), checkpoint())).unwrap()
}

#[test]
fn requests_longer_than_the_region_are_judged_by_the_limit() {
    let _alone = alone();
    let free = Heap::new().unwrap();
    let before = process_usage();
    for bytes in [2 * REGION, 4 * REGION] {
        for policy in [LimitPolicy::Fail, LimitPolicy::Spill] {
            let heap = heap(policy);
            let (is_served, state) = asked(&heap, bytes);
            assert!(!is_served, "{policy:?}, {bytes}");
            assert!(state.is_ok() && heap.account().refusals == 1, "{policy:?}, {bytes}");
        }
        let heap = heap(LimitPolicy::Overdraft);
        let (is_served, state) = asked(&heap, bytes);
        let error = state.expect_err("it is ended");
        assert!(is_served, "as an overdraft is");
        let over = error.over_budget().expect("over its budget");
        assert!(over.used_bytes <= LIMIT && over.limit_bytes == LIMIT, "{over:?}");
        assert!(error.to_string().contains("took memory that nothing counts"), "{error}");
        assert!(heap.run(checkpoint).unwrap().is_ok(), "it is told once");
        assert!(asked(&free, bytes).0, "no limit, no refusal");
    }
    let served = process_usage().overflow_blocks - before.overflow_blocks;
    assert_eq!(served, 4, "overdrawn and without a limit, twice each");
    // Not the process's own either.
    set_process_limit(Some(REGION));
    for policy in [LimitPolicy::Fail, LimitPolicy::Spill, LimitPolicy::Overdraft] {
        assert!(!asked(&heap(policy), 2 * REGION).0, "{policy:?}");
    }
    assert!(!asked(&free, 2 * REGION).0 && block(2 * REGION).is_none());
    set_process_limit(None);
    assert!(block(isize::MAX as usize).is_none());
    assert_eq!(process_usage().overflow_blocks - before.overflow_blocks, 4, "nobody served these");
}

#[test]
fn below_its_limit_a_heap_gets_nothing_that_is_not_counted() {
    let _alone = alone();
    let greedy = Heap::new().unwrap();
    let bound = [LimitPolicy::Fail, LimitPolicy::Overdraft].map(heap);
    let all = greedy
        .run(|| {
            let mut all = Vec::new();
            for bytes in [16 << 20, 1 << 20, 1 << 16] {
                all.extend(core::iter::from_fn(|| {
                    block(bytes).filter(|block| greedy.contains(block.as_ptr()))
                }));
            }
            all
        })
        .unwrap();
    assert!(greedy.account().committed_bytes > REGION / 2);
    let [fails, overdraws] = &bound;
    let taken = fails.run(|| (0..100).filter_map(|_| block(100_000)).count()).unwrap();
    assert!(taken * 100_000 <= LIMIT, "{taken} blocks");
    assert!(fails.account().committed_bytes >= taken * 100_000, "what it has is counted");
    let ended = overdraws.run(|| {
        let mut kept = Vec::new();
        (0..100).find(|_| {
            kept.extend(block(100_000));
            checkpoint().is_err()
        })
    });
    assert!(ended.unwrap().is_some_and(|blocks| blocks * 100_000 <= LIMIT), "{ended:?}");
    drop((all, greedy));
    assert_eq!(asked(&bound[0], 100_000), (true, Ok(())), "there is memory again");
}
