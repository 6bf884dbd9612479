//! Limits of the process: whose memory they bind, and who is told.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use heapswitch::{
    Account, Heap, LimitPolicy, Limits, PassedLimit, checkpoint, process_usage, purge,
};

use crate::refused::ProcessLimit;
use crate::{CHUNK, HINTS, PROCESS};

/// A block that outlives its context is the thread's heap's when it grows.
#[test]
fn an_escapee_grows_no_further_than_the_process_may() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let mut of_a_heap = heap.run(|| vec![1_u8; 2 * CHUNK]).unwrap();
        let closed = Heap::with_hint(hint).unwrap();
        let mut of_none = closed.run(|| vec![2_u8; 100]).unwrap();
        closed.close();
        let global_bytes = process_usage().global_bytes;
        let limit = ProcessLimit::above_held(100);
        for escapee in [&mut of_a_heap, &mut of_none] {
            let (length, first) = (escapee.len(), escapee[0]);
            assert!(escapee.try_reserve_exact(200 * CHUNK).is_err(), "{hint:?}");
            // Within another context, too.
            let within = Heap::with_hint(hint).unwrap();
            let grown = within.run(|| escapee.try_reserve_exact(200 * CHUNK));
            assert!(grown.unwrap().is_err(), "{hint:?}");
            assert!(escapee.len() == length && escapee[length - 1] == first);
            escapee.try_reserve_exact(20 * CHUNK).unwrap();
            assert!(escapee[length - 1] == first);
        }
        drop(limit);
        assert_eq!(process_usage().global_bytes, global_bytes, "{hint:?}: nor elsewhere");
    }
}

#[test]
fn what_spills_is_bound_by_the_process() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    for hint in HINTS {
        let heap = Heap::builder().hint(hint).limit(4 * CHUNK).policy(LimitPolicy::Spill);
        let heap = heap.build().unwrap();
        let refusals = Account::process().usage().refusals;
        let limit = ProcessLimit::above_held(100);
        let (spilled, refused) = heap
            .run(|| {
                let mut spilled = black_box(Vec::<u8>::new());
                spilled.try_reserve_exact(20 * CHUNK).unwrap();
                let is_refused = black_box(Vec::<u8>::new()).try_reserve_exact(200 * CHUNK);
                let is_grown = spilled.try_reserve_exact(200 * CHUNK);
                (spilled, is_refused.is_err() && is_grown.is_err())
            })
            .unwrap();
        drop(limit);
        assert!(refused, "{hint:?}");
        assert!(!heap.contains(spilled.as_ptr()));
        assert_eq!(heap.account().spilled_bytes, 20 * CHUNK as u64, "{hint:?}");
        assert_eq!(heap.run(checkpoint).unwrap(), Ok(()));
        assert!(Account::process().usage().refusals >= refusals + 2, "{hint:?}");
    }
}

/// Sets a soft limit of the process, so many chunks above what it holds, and takes it away again.
struct SoftLimit;

impl SoftLimit {
    fn above_held(chunks: usize) -> Self {
        let process = Account::process();
        let soft_bytes = Some(process.usage().committed_bytes + chunks * CHUNK);
        process.set_limits(Limits { soft_bytes, ..process.limits() });
        Self
    }
}

impl Drop for SoftLimit {
    fn drop(&mut self) {
        let process = Account::process();
        process.set_limits(Limits { soft_bytes: None, ..process.limits() });
    }
}

/// Takes much into a block.
type Take = fn(&mut Vec<u8>);

fn grow(large: &mut Vec<u8>) {
    large.reserve_exact(150 * CHUNK);
}

/// What a thread's own heap takes is told at the thread's next safe point, however it was taken.
#[test]
fn the_processs_soft_limit_is_told_to_a_thread_that_is_in_no_context() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let calls = Arc::new(AtomicUsize::new(0));
    let cache = Arc::new(Mutex::new(Vec::<u8>::new()));
    let (counted, reclaimed) = (Arc::clone(&calls), Arc::clone(&cache));
    let _watch = Account::process().on_pressure(move |pressure| {
        assert_eq!(pressure.limit, PassedLimit::Soft);
        counted.fetch_add(1, Ordering::Relaxed);
        drop(core::mem::take(&mut *reclaimed.lock().unwrap()));
    });
    let takes: [Take; 4] = [
        |large| *large = vec![1; 150 * CHUNK],
        |large| *large = black_box(vec![0; 150 * CHUNK]),
        // Where it stands or elsewhere; from another's heap to the thread's.
        grow,
        |large| {
            *large = Heap::new().unwrap().run(|| vec![1; 2 * CHUNK]).unwrap();
            grow(large);
        },
    ];
    for (index, take) in takes.iter().enumerate() {
        let mut large = black_box(vec![1_u8; 2 * CHUNK]);
        purge();
        let soft = SoftLimit::above_held(100);
        take(&mut large);
        assert_eq!(calls.load(Ordering::Relaxed), index, "nothing is called in the allocator");
        *cache.lock().unwrap() = large;
        assert_eq!(checkpoint(), Ok(()));
        assert_eq!(calls.load(Ordering::Relaxed), index + 1);
        assert_eq!(checkpoint(), Ok(()));
        assert_eq!(calls.load(Ordering::Relaxed), index + 1, "once");
        assert_eq!(cache.lock().unwrap().capacity(), 0);
        drop(soft);
    }
    // What a context spills, where the context is left.
    let heap = Heap::builder().limit(CHUNK).policy(LimitPolicy::Spill).build().unwrap();
    let soft = SoftLimit::above_held(100);
    let spilled = heap.run(|| black_box(vec![1_u8; 150 * CHUNK])).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), takes.len() + 1);
    drop((spilled, soft));
    // A thread that comes to no safe point tells at its end.
    let soft = SoftLimit::above_held(100);
    thread::spawn(|| drop(black_box(vec![1_u8; 150 * CHUNK]))).join().unwrap();
    drop(soft);
    assert_eq!(calls.load(Ordering::Relaxed), takes.len() + 2);
}
