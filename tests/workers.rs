//! Pinned workers, with the allocator installed.

use std::sync::atomic::{AtomicUsize, Ordering};

use heapswitch::sys::thread::Affinity;
use heapswitch::{HeapSwitch, WorkerBuilder, WorkerError, processors};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

fn mine() -> Vec<usize> {
    processors().unwrap()
}

/// A processor that this machine lacks, though a set can name it.
fn absent() -> usize {
    (0..1024).rev().find(|processor| !mine().contains(processor)).unwrap()
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_worker_runs_on_its_processor_alone() {
    for processor in mine() {
        let worker = WorkerBuilder::new()
            .processor(processor)
            .make_heap_first()
            .spawn(|| Affinity::current().unwrap().processors().collect::<Vec<_>>())
            .unwrap();
        assert_eq!(worker.processor(), Some(processor));
        assert_eq!(worker.join().unwrap(), [processor]);
    }
    assert_eq!(mine(), mine(), "the starter is where it was");
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_worker_has_the_name_that_was_asked_for() {
    let name = || std::thread::current().name().map(str::to_owned);
    let worker = WorkerBuilder::new().name("w").stack_bytes(256 << 10).spawn(name).unwrap();
    assert_eq!(worker.join().unwrap().as_deref(), Some("w"));
    for worker in WorkerBuilder::new().name("w").spawn_on_each(move |_| name()).unwrap() {
        let expected = format!("w-{}", worker.processor().unwrap());
        assert_eq!(worker.join().unwrap(), Some(expected));
    }
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn what_cannot_be_pinned_never_runs_and_says_what_was_asked() {
    for processor in [absent(), 1024, usize::MAX] {
        let ran = AtomicUsize::new(0);
        let error = std::thread::scope(|scope| {
            let count = || ran.fetch_add(1, Ordering::Relaxed);
            WorkerBuilder::new().processor(processor).spawn_scoped(scope, count).unwrap_err()
        });
        assert!(matches!(error, WorkerError::Pin { processor: p, .. } if p == processor));
        assert!(error.to_string().contains(&format!("processor {processor} ")), "{error}");
        assert_eq!(ran.into_inner(), 0);
    }
}

#[test]
fn a_panic_is_carried_to_the_join() {
    let worker = WorkerBuilder::new().spawn(|| std::panic::resume_unwind(Box::new(7_u32)));
    let payload = worker.unwrap().join().unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&7_u32));
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn one_worker_a_processor_borrows_what_outlives_the_scope() {
    let seen = AtomicUsize::new(0);
    let sum: usize = std::thread::scope(|scope| {
        let workers = WorkerBuilder::new()
            .spawn_scoped_on_each(scope, |processor| {
                seen.fetch_add(1, Ordering::Relaxed);
                processor
            })
            .unwrap();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(sum, mine().iter().sum());
    assert_eq!(seen.into_inner(), mine().len());
}

#[test]
fn a_worker_started_in_a_context_leaves_nothing_there() {
    let heap = heapswitch::Heap::new().unwrap();
    let worker = heap.run(|| WorkerBuilder::new().name("long-lived").spawn(|| 5).unwrap()).unwrap();
    assert_eq!(heap.close().blocks, 0);
    assert_eq!(worker.join().unwrap(), 5);
}
