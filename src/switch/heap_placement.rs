//! Where the memory of local heaps shall lie on the machine's NUMA nodes, as the settings say it.
//!
//! The policy goes on segments of the region and never on a single heap, so mappings stay few. What
//! the kernel refuses is counted, and the next best holds; see
//! [`Placement::apply`](crate::numa::Placement::apply).
#![forbid(unsafe_code)]

use crate::numa::{self, Node, NodeSet, Placement, Policy};

/// On which NUMA nodes the memory of contexts' heaps, or of threads', shall lie.
///
/// In a process that may use one node only, and in one that was started under a memory policy, the
/// kernel is asked for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeapPlacement {
    /// The thread's home, others where it is full.
    #[default]
    Home,
    /// The thread's home and no other node: where that is full, the kernel ends the process.
    Bind,
    /// Page by page over all nodes that the process may use.
    Interleave,
    /// As `Interleave`, in proportion to the system's weights. Linux 6.9; without weights before.
    WeightedInterleave,
    /// The node of the processor that touches a page first.
    Local,
    /// As the policy of the thread that touches a page first has it; the kernel is not asked.
    Process,
}

impl HeapPlacement {
    /// The home by which the memory of a thread with this one is kept apart: what threads of one
    /// node used serves no other's. `None` where any thread's memory is as good as another's.
    pub(super) fn kept_apart_by(self, home: Option<Node>) -> Option<Node> {
        match self {
            Self::Home | Self::Bind | Self::Local => home,
            Self::Interleave | Self::WeightedInterleave | Self::Process => None,
        }
    }

    /// What the kernel is asked for, of a thread with this home.
    pub(super) fn at(self, home: Option<Node>) -> Placement {
        if !numa::has_several_nodes() {
            return Placement::DEFAULT;
        }
        Placement::new(match (self, home) {
            (Self::Home, Some(node)) => Policy::Preferred(node),
            (Self::Bind, Some(node)) => Policy::Bind(NodeSet::of(node)),
            (Self::Home | Self::Bind, None) | (Self::Process, _) => Policy::Default,
            (Self::Local, _) => Policy::Local,
            (Self::Interleave, _) => Policy::Interleave(numa::usable_nodes()),
            (Self::WeightedInterleave, _) => Policy::WeightedInterleave(numa::usable_nodes()),
        })
    }
}
