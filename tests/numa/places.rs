//! Where the tests put their threads, and what they then expect of memory.

use heapswitch::numa::{Node, Topology};
use heapswitch::{CurrentAllocatorInUse, WorkerBuilder, processors, residence_of};

use crate::machine::nodes;

/// A processor, and the node that memory of a thread there should lie on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) processor: usize,
    pub(crate) home: Node,
}

/// One for each node that has a processor which this process may use.
pub(crate) fn places() -> Vec<Place> {
    let topology = Topology::of_system().unwrap();
    let mut places: Vec<(Node, Place)> = Vec::new();
    for processor in processors().unwrap() {
        let own = topology.node_of(processor).unwrap().unwrap();
        let home = topology.nearest(own, topology.usable_nodes()).unwrap().unwrap();
        if !places.iter().any(|(node, _)| *node == own) {
            places.push((own, Place { processor, home }));
        }
    }
    places.into_iter().map(|(_, place)| place).collect()
}

/// Two places with homes of their own; `None` where there is one.
pub(crate) fn two_places() -> Option<(Place, Place)> {
    let places = places();
    let first = *places.first()?;
    let other = places.into_iter().find(|place| place.home != first.home)?;
    Some((first, other))
}

pub(crate) fn on<T: Send + 'static>(place: Place, body: impl FnOnce() -> T + Send + 'static) -> T {
    WorkerBuilder::new().processor(place.processor).spawn(body).unwrap().join().unwrap()
}

pub(crate) fn strings(count: usize) -> Vec<String> {
    (0..count).map(|number| "x".repeat(number % 500)).collect()
}

/// Every resident page of this thread's heap lies on `home`; how many those are.
#[track_caller]
pub(crate) fn assert_local(home: Node) -> usize {
    let residence = residence_of(CurrentAllocatorInUse::ThreadLocal).unwrap();
    assert_eq!(residence.on(home), residence.resident(), "{residence}, wanted on node {home}");
    assert_eq!((residence.misplaced(), residence.unknown()), (0, 0), "{residence}");
    residence.resident()
}

pub(crate) fn has_several() -> bool {
    nodes().len() > 1
}
