//! What was refused leaves no trace: neither in the figures of those who agreed, nor at neighbours.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use heapswitch::{Account, AccountUsage, Heap, LimitPolicy, checkpoint, set_process_limit};

use crate::{CHUNK, HINTS, PROCESS};

/// A limit of the process, so many chunks above what it holds, while this lives.
pub(crate) struct ProcessLimit;

impl ProcessLimit {
    pub(crate) fn above_held(chunks: usize) -> Self {
        let held = Account::process().usage().committed_bytes;
        set_process_limit(Some(held + chunks * CHUNK));
        Self
    }
}

impl Drop for ProcessLimit {
    fn drop(&mut self) {
        set_process_limit(None);
    }
}

/// Whether so many chunks can be reserved in a context.
fn is_granted(heap: &Heap, chunks: usize) -> bool {
    heap.run(|| black_box(Vec::<u8>::new()).try_reserve_exact(chunks * CHUNK).is_ok()).unwrap()
}

/// The most that was held, what was ever charged, how often, and how often above a limit.
fn traces(usage: AccountUsage) -> (usize, u64, u64, u64, usize) {
    let AccountUsage { peak_bytes, total_bytes, charges, overdrafts, overdraft_peak_bytes, .. } =
        usage;
    (peak_bytes, total_bytes, charges, overdrafts, overdraft_peak_bytes)
}

#[test]
fn what_an_account_above_refuses_leaves_no_trace_below() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    for hint in HINTS {
        for policy in [LimitPolicy::Fail, LimitPolicy::Spill] {
            let group = Account::new("group").unwrap().with_limit(10 * CHUNK).with_policy(policy);
            let between = group.child("between").unwrap().with_soft_limit(12 * CHUNK);
            let heap = Heap::builder().hint(hint).charged_to(&between).build().unwrap();
            let mut kept = heap.run(|| vec![1_u8; 2 * CHUNK]).unwrap();
            let accounts = [group.clone(), between, heap.account_handle()];
            let before = accounts.each_ref().map(|one| traces(one.usage()));
            if policy == LimitPolicy::Fail {
                assert!(!is_granted(&heap, 1 << 14), "{hint:?}");
                // Growing where it stands, too.
                let grown = heap.run(|| kept.try_reserve_exact(1 << 30));
                assert!(grown.unwrap().is_err(), "{hint:?}");
            } else {
                heap.run(|| drop(black_box(vec![1_u8; 20 * CHUNK]))).unwrap();
                assert!(heap.account().spilled_bytes >= 20 * CHUNK as u64);
            }
            let after = accounts.each_ref().map(|one| traces(one.usage()));
            assert_eq!(before, after, "{hint:?} {policy:?}");
            assert!(group.usage().refusals > 0);
            assert_eq!(heap.run(checkpoint).unwrap(), Ok(()));
        }
    }
}

#[test]
fn what_the_process_refuses_ends_nobody() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    for hint in HINTS {
        let group = Account::new("group").unwrap().with_limit(10 * CHUNK).with_soft_limit(CHUNK);
        let heap = Heap::builder().hint(hint).charged_to(&group).limit(5 * CHUNK).build().unwrap();
        let limit = ProcessLimit::above_held(100);
        assert!(!is_granted(&heap, 1000), "{hint:?}");
        drop(limit);
        for usage in [group.usage(), heap.account()] {
            assert_eq!(traces(usage), (0, 0, 0, 0, 0), "{hint:?}");
            assert!(!usage.is_over_budget);
        }
        assert_eq!(heap.run(checkpoint).unwrap(), Ok(()), "{hint:?}");
    }
}

/// What the region has no room for is no charge either.
#[test]
fn what_cannot_grow_is_not_charged() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    for hint in HINTS {
        let heap = Heap::builder().hint(hint).limit(10 * CHUNK).build().unwrap();
        let mut kept = heap.run(|| vec![1_u8; 2 * CHUNK]).unwrap();
        let before = traces(heap.account());
        for bytes in [1 << 41, 1 << 46, isize::MAX as usize - 3 * CHUNK] {
            let grown = heap.run(|| kept.try_reserve_exact(bytes));
            assert!(grown.unwrap().is_err(), "{hint:?}");
        }
        assert_eq!(traces(heap.account()), before, "{hint:?}");
        assert_eq!(heap.run(checkpoint).unwrap(), Ok(()), "{hint:?}");
    }
}

/// One asks again and again for more than the process may have, in a group that would overdraw for
/// it; its neighbours take and give back what the group lets them have.
#[test]
fn neighbours_never_meet_what_is_refused() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let group = Account::new("group").unwrap().with_limit(100 * CHUNK).with_soft_limit(50 * CHUNK);
    let passed = std::sync::Arc::new(AtomicBool::new(false));
    let noted = std::sync::Arc::clone(&passed);
    let _watch = group.on_pressure(move |_| noted.store(true, Ordering::Relaxed));
    let make = |name| Heap::builder().name(name).charged_to(&group).build().unwrap();
    let (greedy, neighbours) = (make("greedy"), [make("one"), make("other")]);
    let _limit = ProcessLimit::above_held(200);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let is_done = &is_done;
        let all = neighbours.map(|heap| {
            scope.spawn(move || {
                while !is_done.load(Ordering::Relaxed) {
                    heap.run(|| drop(black_box(Vec::<u8>::with_capacity(3 * CHUNK)))).unwrap();
                    assert_eq!(heap.run(checkpoint).unwrap(), Ok(()));
                }
            })
        });
        let granted = (0..500).filter(|_| is_granted(&greedy, 300)).count();
        is_done.store(true, Ordering::Relaxed);
        all.into_iter().for_each(|one| one.join().unwrap());
        assert_eq!(granted, 0);
    });
    let usage = group.usage();
    assert_eq!((usage.overdrafts, usage.overdraft_peak_bytes), (0, 0));
    assert!(usage.peak_bytes <= 50 * CHUNK, "{usage:?}");
    assert!(!passed.load(Ordering::Relaxed), "the soft limit was not passed");
    assert_eq!(usage.committed_bytes, usage.own_bytes);
}
