//! What the peers are timed on: each workload is one function, its size a constant beside it.
//!
//! A peer's program sets its global allocator and calls [`run`], which asserts that this allocator
//! really serves and in which version, runs the workloads named on the command line (all, if none
//! is) on `--threads N` threads and prints a line for each.

mod blocks;
mod collections;
mod interpreter;
mod list;
mod matcher;
mod measure;
mod programs;
mod random;
mod real;
mod run;
mod small;
mod threads;

use std::hash::{BuildHasherDefault, DefaultHasher};

pub use list::{Body, Kind, Part, THREADS, WORKLOADS, Workload};
pub use measure::Measured;
pub use run::{locked_version, run, set_request_scope};

use run::in_request_scope;

/// Hashes are the same in every run.
type FixedHasher = BuildHasherDefault<DefaultHasher>;
