//! NUMA settings: sets of nodes, and where a range's pages shall lie.
//!
//! Nothing here is ever a reason for a program not to start: where the kernel refuses a policy, the
//! nearest older one takes its place, and the outcome says so. See [`Placement::apply`].
#![forbid(unsafe_code)]

mod node_set;
mod placement;

pub use node_set::{Node, NodeSet, ParseNodeSetError};
pub use placement::{Outcome, Placement, Policy};
