//! Pinned workers, with the allocator installed.

use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(not(heapswitch_pass_through))]
use heapswitch::numa::{Node, ProcessorSet, Topology};
use heapswitch::sys::thread::Affinity;
use heapswitch::{HeapSwitch, WorkerBuilder, WorkerError, processors};
#[cfg(not(heapswitch_pass_through))]
use heapswitch::{pin_thread, worker_nodes};

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
        assert_eq!(ran.load(Ordering::Relaxed), 0);
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
    assert_eq!(seen.load(Ordering::Relaxed), mine().len());
}

#[test]
fn a_worker_started_in_a_context_leaves_nothing_there() {
    let heap = heapswitch::Heap::new().unwrap();
    let worker = heap.run(|| WorkerBuilder::new().name("long-lived").spawn(|| 5).unwrap()).unwrap();
    assert_eq!(heap.close().blocks, 0);
    assert_eq!(worker.join().unwrap(), 5);
}

/// The processors that the calling thread may use, as a set.
#[cfg(not(heapswitch_pass_through))]
fn mine_as_set() -> ProcessorSet {
    ProcessorSet::from(Affinity::current().unwrap())
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_list_gets_one_worker_each() {
    let list = ProcessorSet::from_iter([*mine().last().unwrap()]);
    let name = |_| std::thread::current().name().map(str::to_owned);
    let workers = WorkerBuilder::new().name("l").spawn_on_list(&list, name).unwrap();
    assert_eq!(workers.len(), 1);
    for worker in workers {
        assert_eq!(worker.processor(), list.iter().next());
        let expected = format!("l-{list}");
        assert_eq!(worker.join().unwrap(), Some(expected));
    }
    let seen = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let body = |processor| {
            assert_eq!(mine(), [processor]);
            seen.fetch_add(1, Ordering::Relaxed)
        };
        WorkerBuilder::new().spawn_scoped_on_list(scope, &mine_as_set(), body).unwrap();
    });
    assert_eq!(seen.load(Ordering::Relaxed), mine().len());
    // All or none: the absent one ends those that could run.
    let list = mine_as_set().with(absent());
    let ran = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let body = |_| ran.fetch_add(1, Ordering::Relaxed);
        let error = WorkerBuilder::new().spawn_scoped_on_list(scope, &list, body).unwrap_err();
        assert!(matches!(error, WorkerError::Pin { processor, .. } if processor == absent()));
    });
    assert_eq!(ran.load(Ordering::Relaxed), 0);
    assert!(WorkerBuilder::new().spawn_on_list(&ProcessorSet::EMPTY, |_| ()).unwrap().is_empty());
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn each_node_gets_one_worker_on_its_processors() {
    let topology = Topology::of_system().unwrap();
    let nodes = worker_nodes().unwrap();
    assert!(!nodes.is_empty());
    let body = |node: Node| (node, mine_as_set());
    let workers = WorkerBuilder::new().name("n").spawn_on_each_node(body).unwrap();
    assert_eq!(workers.len(), nodes.len());
    for (worker, node) in workers.into_iter().zip(&nodes) {
        assert_eq!((worker.node(), worker.processor()), (Some(*node), None));
        assert_eq!(worker.thread().name(), Some(format!("n-{node}").as_str()));
        let own = topology.processors_of(*node).unwrap().and(&mine_as_set());
        assert_eq!(worker.join().unwrap(), (*node, own));
    }
    let seen = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let count = |_| seen.fetch_add(1, Ordering::Relaxed);
        WorkerBuilder::new().spawn_scoped_on_each_node(scope, count).unwrap();
    });
    assert_eq!(seen.load(Ordering::Relaxed), nodes.len());
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_node_that_is_not_there_starts_nobody() {
    let node = Node::new(1023).unwrap();
    let error = WorkerBuilder::new().node(node).spawn(|| ()).unwrap_err();
    assert!(matches!(error, WorkerError::Topology(_)), "{error}");
    assert!(error.to_string().contains("node 1023"), "{error}");
    let set = ProcessorSet::from_iter([absent()]);
    let error = WorkerBuilder::new().processors(set).spawn(|| ()).unwrap_err();
    assert!(matches!(&error, WorkerError::PinToSet { processors, .. } if **processors == set));
    assert!(error.to_string().contains(&format!("processors {set} ")), "{error}");
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_pinned_thread_is_let_go_again() {
    std::thread::spawn(|| {
        let before = mine();
        let first = ProcessorSet::from_iter([before[0]]);
        let pinned = pin_thread(&first).unwrap();
        assert_eq!(mine_as_set(), first);
        let result = std::panic::catch_unwind(|| {
            let _inner = pin_thread(&ProcessorSet::from_iter([before[0]])).unwrap();
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(result.is_err());
        assert_eq!(mine_as_set(), first, "the inner guard restores what it found");
        pinned.restore().unwrap();
        assert_eq!(mine(), before);
        let error = pin_thread(&ProcessorSet::EMPTY).unwrap_err();
        assert!(matches!(error, WorkerError::PinToSet { .. }), "{error}");
        assert_eq!(mine(), before);
    })
    .join()
    .unwrap();
}
