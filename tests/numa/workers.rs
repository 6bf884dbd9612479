//! A worker for each node is at home there.

use heapswitch::numa::Topology;
use heapswitch::{WorkerBuilder, pin_thread, processors, thread_home, worker_nodes};

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
