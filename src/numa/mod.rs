//! Topology, node sets and policies.
