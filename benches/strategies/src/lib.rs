//! The strategies and their peers, and the work that they are timed on. See README.md.

pub mod many;
pub mod peers;
pub mod published;
pub mod requests;
pub mod workloads;
