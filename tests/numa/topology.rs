//! The topology is what numactl and the machine's maker say.

use heapswitch::numa::{NodeSet, Topology};

use crate::faults;
use crate::machine::{known, nodes, not_tested};
use crate::oracle::hardware;

fn row(topology: &Topology, from: heapswitch::numa::Node) -> Vec<u32> {
    let mut row = Vec::new();
    topology.distances(from, |_, distance| row.push(distance)).unwrap();
    row
}

#[test]
fn numactl_says_the_same() {
    let _no_faults = faults::none();
    let topology = Topology::of_system().unwrap();
    let Some(hardware) = hardware() else {
        assert!(known().is_none(), "the machine has numactl");
        return not_tested("the topology beside numactl's", "numactl does not run here");
    };
    let shown: NodeSet = hardware
        .nodes
        .keys()
        .map(|&node| crate::ranges::node(node))
        .fold(NodeSet::EMPTY, NodeSet::with);
    // Elsewhere it may leave out nodes that the process may not use.
    let is_whole = known().is_none() || shown == *topology.nodes();
    assert!(is_whole && shown.and(topology.nodes()) == shown, "{hardware:?}");
    for (&number, (processors, mebibytes)) in &hardware.nodes {
        let node = crate::ranges::node(number);
        let described = topology.node(node).unwrap();
        assert_eq!(&described.processors.iter().collect::<Vec<_>>(), processors);
        assert_eq!(described.memory_bytes >> 20, *mebibytes);
        assert!(described.free_bytes <= described.memory_bytes);
        let mut distances = Vec::new();
        let visit = |to, distance| {
            if shown.contains(to) {
                distances.push(distance);
            }
        };
        topology.distances(node, visit).unwrap();
        assert_eq!(hardware.distances.get(&number), Some(&distances));
    }
}

#[test]
fn the_machine_is_what_was_asked_for() {
    let _no_faults = faults::none();
    let topology = Topology::of_system().unwrap();
    let usable: Vec<usize> = topology.usable_nodes().iter().map(|node| node.number()).collect();
    assert_eq!(usable, nodes());
    let Some(machine) = known() else { return };
    assert!(topology.has_numa());
    let all: Vec<usize> = topology.nodes().iter().map(|node| node.number()).collect();
    assert_eq!(all, machine.processors.iter().map(|row| row.0).collect::<Vec<_>>());
    for ((node, processors), distances) in machine.processors.iter().zip(machine.distances) {
        let node = crate::ranges::node(*node);
        let described = topology.node(node).unwrap();
        assert_eq!(described.processors.iter().collect::<Vec<_>>(), *processors);
        assert_eq!(described.memory_bytes == 0, !topology.nodes_with_memory().contains(node));
        assert_eq!(processors.is_empty(), !topology.nodes_with_processors().contains(node));
        assert_eq!(&row(&topology, node), distances);
    }
    if std::env::var("HEAPSWITCH_NUMA_MACHINE").unwrap() == "uneven" {
        let nearest = topology.nearest(crate::ranges::node(1), topology.usable_nodes()).unwrap();
        assert_eq!(nearest, Some(crate::ranges::node(2)), "17 is nearer than 20");
    }
}
