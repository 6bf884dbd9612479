//! A worker for each node is at home there.

use heapswitch::numa::{ProcessorSet, Topology};
use heapswitch::sys::fault::{self, Call};
use heapswitch::{WorkerBuilder, WorkerError, pin_thread, processors, thread_home, worker_nodes};

use crate::faults;
use crate::machine::nodes;

#[test]
fn a_worker_for_each_node_is_at_home_there() {
    let _no_faults = faults::none();
    let topology = Topology::of_system().unwrap();
    let workers = WorkerBuilder::new().spawn_on_each_node(|_| thread_home()).unwrap();
    assert_eq!(workers.len(), worker_nodes().unwrap().len());
    for worker in workers {
        let node = worker.node().unwrap();
        // A node without memory has its home elsewhere.
        let nearest = topology.nearest(node, topology.usable_nodes()).unwrap();
        let expected = if nodes().len() > 1 { nearest } else { None };
        assert_eq!(worker.join().unwrap(), expected);
    }
}

#[test]
fn a_thread_that_is_pinned_moves_its_home() {
    let _no_faults = faults::none();
    let body = || {
        for processor in processors().unwrap() {
            let pinned = pin_thread(&[processor].into_iter().collect()).unwrap();
            let topology = Topology::of_system().unwrap();
            let node = topology.node_of(processor).unwrap().unwrap();
            let nearest = topology.nearest(node, topology.usable_nodes()).unwrap();
            let expected = if nodes().len() > 1 { nearest } else { None };
            assert_eq!(thread_home(), expected, "on processor {processor}");
            drop(pinned);
        }
    };
    std::thread::spawn(body).join().unwrap();
}

/// Runs `body` while a call is refused from the `nth` on.
fn refused<T>(call: Call, nth: u32, body: impl FnOnce() -> T) -> T {
    fault::fail_from(call, nth);
    let result = body();
    fault::clear(call);
    result
}

#[test]
fn a_system_that_refuses_to_pin_is_an_error_that_says_what_was_asked() {
    let _alone = faults::alone();
    let first = processors().unwrap()[0];
    let set = ProcessorSet::from_iter([first]);
    let workers = WorkerBuilder::new();
    let no_body = || panic!("the body of a worker that is not pinned was called");
    let listed = refused(Call::Affinity, 1, processors);
    assert!(matches!(listed, Err(WorkerError::Processors(_))), "{listed:?}");
    let error = refused(Call::Affinity, 1, || workers.clone().processor(first).spawn(no_body));
    let error = error.map(|_| ()).unwrap_err();
    assert!(matches!(error, WorkerError::Pin { processor, error: Some(_) } if processor == first));
    let error = refused(Call::Affinity, 1, || workers.clone().processors(set).spawn(no_body));
    let error = error.map(|_| ()).unwrap_err();
    assert!(matches!(&error, WorkerError::PinToSet { processors, .. } if **processors == set));
    assert!(error.to_string().contains(&format!("processors {set} ")), "{error}");
    // The first call lists the processors.
    let error = refused(Call::Affinity, 2, || workers.spawn_on_each(move |_| no_body()));
    assert!(matches!(error.map(|_| ()), Err(WorkerError::Pin { .. })));
    for call in [Call::Open, Call::Read] {
        let error = refused(call, 1, || workers.spawn_on_each_node(move |_| no_body()));
        assert!(matches!(error.map(|_| ()), Err(WorkerError::Topology(_))), "{call:?}");
    }
    let stack = workers.clone().stack_bytes(1 << 60).spawn(no_body).map(|_| ());
    assert!(matches!(stack, Err(WorkerError::Start(_))), "{stack:?}");
}

#[test]
fn a_thread_that_cannot_be_pinned_or_let_go_is_told() {
    let _alone = faults::alone();
    let body = || {
        let before = processors().unwrap();
        let set = ProcessorSet::from_iter([before[0]]);
        let error = refused(Call::Affinity, 1, || pin_thread(&set).map(drop)).unwrap_err();
        assert!(matches!(error, WorkerError::Processors(_)), "{error}");
        let error = refused(Call::Affinity, 2, || pin_thread(&set).map(drop)).unwrap_err();
        assert!(matches!(error, WorkerError::PinToSet { .. }), "{error}");
        assert_eq!(processors().unwrap(), before);
        let pinned = pin_thread(&set).unwrap();
        assert!(refused(Call::Affinity, 1, || pinned.restore()).is_err());
        assert_eq!(processors().unwrap(), before[..1], "it stays where it was pinned");
    };
    std::thread::spawn(body).join().unwrap();
}
