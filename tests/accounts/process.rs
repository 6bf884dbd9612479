//! Limits of the process: whose memory they bind, and who is told.

use std::hint::black_box;

use heapswitch::{Account, Heap, LimitPolicy, checkpoint, process_usage};

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
