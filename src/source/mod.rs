//! The memory sources.

#[cfg(not(loom))]
pub mod region_map;
