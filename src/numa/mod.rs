//! NUMA: the machine's topology, sets of nodes, and where pages shall lie.
//!
//! Nothing here is ever a reason for a program not to start: where the kernel refuses a policy, the
//! nearest older one takes its place, and the outcome says so. See [`Placement::apply`].
#![forbid(unsafe_code)]

#[cfg(not(loom))]
mod home;
mod mappings;
mod node_set;
mod numbers;
mod placement;
mod processor_set;
mod residence;
mod thread_policy;
mod topology;

#[cfg(not(loom))]
pub(crate) use home::{current_home, has_several_nodes, usable_nodes};
pub use mappings::{Backing, backing_of};
pub use node_set::{Node, NodeSet};
pub use numbers::ParseListError;
pub use placement::{NodeNumbers, Outcome, Placement, Policy};
pub use processor_set::ProcessorSet;
pub use residence::Residence;
pub use thread_policy::ThreadPolicy;
pub use topology::{
    HugePagePool, LOCAL_DISTANCE, NodeDescription, Topology, TopologyError, TopologyFile,
};
