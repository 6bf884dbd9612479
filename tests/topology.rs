//! The topology below a root: trees in the kernel's format, written from described machines or
//! captured from virtual ones; and that reading one allocates nothing.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "topology/allocations.rs"]
mod allocations;
#[path = "topology/tree.rs"]
mod tree;

use allocations::allocations_of;
use heapswitch::numa::{Node, NodeSet, ParseListError, Topology, TopologyError, TopologyFile};
use heapswitch::sys::fault::{self, Call};
use tree::{Described, Tree};

/// Faults strike the whole process.
static FAULTS: std::sync::RwLock<()> = std::sync::RwLock::new(());

fn without_faults() -> impl Drop {
    FAULTS.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn node(number: usize) -> Node {
    Node::new(number).unwrap()
}

fn numbers(set: &NodeSet) -> Vec<usize> {
    set.iter().map(Node::number).collect()
}

/// Everything that a topology tells is what was described.
fn assert_is(described: &Described) {
    let _no_faults = without_faults();
    let tree = described.write();
    let topology = Topology::read(tree.root()).unwrap();
    assert_eq!(numbers(topology.nodes()), described.numbers(|_| true));
    assert_eq!(numbers(topology.nodes_with_memory()), described.numbers(|node| node.kibibytes > 0));
    let with_processors = described.numbers(|node| !described.online(node).is_empty());
    assert_eq!(numbers(topology.nodes_with_processors()), with_processors);
    let usable = described
        .numbers(|node| node.kibibytes > 0 && described.allowed_nodes.contains(&node.number));
    assert_eq!(numbers(topology.usable_nodes()), usable);
    let allowed: Vec<usize> = topology.usable_processors().iter().collect();
    assert_eq!(allowed, described.usable_processors());
    for from in &described.nodes {
        let found = topology.node(node(from.number)).unwrap();
        assert_eq!(found.processors.iter().collect::<Vec<_>>(), described.online(from));
        assert_eq!(found.memory_bytes, from.kibibytes * 1024);
        assert_eq!(found.free_bytes, from.kibibytes * 512);
        let mut row = Vec::new();
        let visit = |to: Node, distance| row.push((to.number(), distance));
        topology.distances(node(from.number), visit).unwrap();
        let distance = |to: usize| (to, described.distance(from.number, to));
        assert_eq!(row, described.numbers(|_| true).into_iter().map(distance).collect::<Vec<_>>());
    }
    // Single figures cost a row or all nodes each.
    for from in described.nodes.iter().rev().take(4) {
        for to in &described.nodes {
            let distance = topology.distance(node(from.number), node(to.number)).unwrap();
            assert_eq!(distance, described.distance(from.number, to.number));
        }
        for &processor in described.online(from).iter() {
            assert_eq!(topology.node_of(processor).unwrap(), Some(node(from.number)));
        }
    }
}

#[test]
fn described_machines_are_read_as_they_are() {
    for count in [1, 2, 4, 8, 16] {
        assert_is(&Described::even(count, 3));
    }
}

#[test]
fn more_nodes_than_a_word_has_bits() {
    assert_is(&Described::even(65, 2));
    assert_is(&Described::even(256, 1));
}

#[test]
fn the_last_node_that_any_kernel_knows() {
    let mut described = Described::even(3, 1);
    described.renumber(&[0, 500, 1023]);
    assert_is(&described);
}

#[test]
fn holes_in_the_numbering_do_not_shift_the_distances() {
    let mut described = Described::even(4, 2);
    described.renumber(&[0, 2, 5, 9]);
    assert_is(&described);
}

#[test]
fn a_node_without_memory_borrows_from_the_nearest() {
    let mut described = Described::even(4, 2);
    described.nodes[1].kibibytes = 0;
    assert_is(&described);
    let _no_faults = without_faults();
    let tree = described.write();
    let topology = Topology::read(tree.root()).unwrap();
    // `even` puts the nodes on a line.
    let nearest = topology.nearest(node(1), topology.usable_nodes()).unwrap();
    assert_eq!(nearest, Some(node(0)), "the lower of two at the same distance");
    let only = NodeSet::from_numbers(&[3]).unwrap();
    assert_eq!(topology.nearest(node(1), &only).unwrap(), Some(node(3)));
    assert_eq!(topology.nearest(node(1), &NodeSet::EMPTY).unwrap(), None);
}

#[test]
fn a_node_without_processors_is_memory_alone() {
    let mut described = Described::even(3, 4);
    described.nodes[2].processors.clear();
    assert_is(&described);
}

#[test]
fn processors_that_are_offline_belong_to_no_node() {
    let mut described = Described::even(2, 4);
    described.offline = vec![1, 4, 5, 6, 7];
    assert_is(&described);
    let _no_faults = without_faults();
    let tree = described.write();
    let topology = Topology::read(tree.root()).unwrap();
    assert_eq!(topology.node_of(1).unwrap(), None);
    assert_eq!(numbers(topology.nodes_with_processors()), [0]);
}

#[test]
fn a_cpuset_leaves_a_part() {
    let mut described = Described::even(4, 2);
    described.allowed_nodes = vec![1, 2];
    described.allowed_processors = vec![2, 5];
    assert_is(&described);
}

#[test]
fn a_kernel_without_numa_is_one_node() {
    let _no_faults = without_faults();
    let tree = Tree::new();
    tree.write("sys/devices/system/cpu/online", "0-3\n");
    tree.write("proc/thread-self/status", "Name:\tx\nCpus_allowed_list:\t1-9\n");
    tree.write("proc/meminfo", "MemTotal:   1000 kB\nMemFree:   250 kB\n");
    let topology = Topology::read(tree.root()).unwrap();
    assert!(!topology.has_numa());
    let described = topology.node(node(0)).unwrap();
    assert_eq!(described.processors.to_string(), "0-3");
    assert_eq!(topology.usable_processors().to_string(), "1-3");
    assert_eq!((described.memory_bytes, described.free_bytes), (1_024_000, 256_000));
    assert_eq!(topology.distance(node(0), node(0)), Ok(10));
    assert_eq!(topology.node(node(1)), Err(TopologyError::NoNode { node: node(1) }));
}

#[test]
fn virtual_machines_were_read_as_they_were_made() {
    let _no_faults = without_faults();
    let captured = [
        ("four", "0-3", "0-3", [10, 12, 20, 32]),
        ("restricted", "0-3", "1-2", [10, 12, 20, 32]),
        ("two", "0-1", "0-1", [10, 21, 0, 0]),
        ("uneven", "0-2", "0,2", [10, 20, 40, 0]),
    ];
    for (name, nodes, usable, distances) in captured {
        let tree = Tree::captured(name);
        let topology = Topology::read(tree.root()).unwrap();
        assert_eq!(topology.nodes().to_string(), nodes, "{name}");
        assert_eq!(topology.usable_nodes().to_string(), usable, "{name}");
        for to in topology.nodes().iter() {
            let distance = topology.distance(node(0), to).unwrap();
            assert_eq!(distance, distances[to.number()], "{name}");
        }
        let memory: u64 =
            topology.nodes().iter().map(|of| topology.node(of).unwrap().memory_bytes).sum();
        assert!(memory > 400 << 20, "{name}: {memory}");
    }
}

#[test]
fn reading_allocates_nothing() {
    let _no_faults = without_faults();
    let tree = Described::even(16, 3).write();
    let root = tree.root();
    let (count, topology) = allocations_of(|| {
        let topology = Topology::read(root).unwrap();
        topology.node(node(7)).unwrap();
        topology.distance(node(3), node(15)).unwrap();
        topology.node_of(40).unwrap();
        topology
    });
    assert_eq!(count, 0);
    assert_eq!(topology.nodes().len(), 16);
    // The counter can count.
    assert_eq!(allocations_of(|| drop(std::hint::black_box(Box::new(1)))).0, 1);
}

#[test]
fn what_a_file_lacks_is_named() {
    let _no_faults = without_faults();
    let tree = Described::even(2, 1).write();
    let list = |item| Some(ParseListError::NotANumber { item });
    let folder = "sys/devices/system/node";
    tree.write(&format!("{folder}/node1/distance"), "20\n");
    tree.write(&format!("{folder}/node1/meminfo"), "Node 1 MemFree: 5 kB\n");
    tree.write(&format!("{folder}/node1/cpulist"), "0,x\n");
    let topology = Topology::read(tree.root()).unwrap();
    let file = TopologyFile::NodeDistances(node(1));
    assert_eq!(
        topology.distance(node(1), node(1)),
        Err(TopologyError::Parse { file, error: None })
    );
    let file = TopologyFile::NodeProcessors(node(1));
    assert_eq!(topology.node(node(1)), Err(TopologyError::Parse { file, error: list(1) }));
    tree.write(&format!("{folder}/node1/cpulist"), "1\n");
    let file = TopologyFile::NodeMemory(node(1));
    assert_eq!(topology.node(node(1)), Err(TopologyError::Parse { file, error: None }));
    tree.write(&format!("{folder}/online"), "0-\n");
    let file = TopologyFile::Nodes;
    let error = Topology::read(tree.root()).unwrap_err();
    assert_eq!(error, TopologyError::Parse { file, error: list(0) });
    assert!(error.to_string().starts_with("/sys/devices/system/node/online: "), "{error}");
    assert_eq!(Topology::read(&"r".repeat(256)).unwrap_err(), TopologyError::Root);
    assert_eq!(Topology::read("a\0b").unwrap_err(), TopologyError::Root);
}

#[test]
fn what_the_system_refuses_is_named() {
    let _alone = FAULTS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    let tree = Described::even(2, 1).write();
    for call in [Call::Open, Call::Read] {
        let mut refusals = 0;
        for nth in 1.. {
            fault::fail_from(call, nth);
            let read = Topology::read(tree.root());
            fault::clear(call);
            match read {
                Err(TopologyError::Read { .. }) => refusals += 1,
                Err(error) => panic!("{call:?} {nth}: {error}"),
                Ok(topology) => {
                    assert_eq!(topology.nodes().len(), 2);
                    break;
                }
            }
        }
        assert!(refusals >= 6, "{call:?}: {refusals}");
    }
}
