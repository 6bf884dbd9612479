//! Atomics: the processor's, or loom's when the crate is built with `--cfg loom`, so that loom runs
//! the shipped source of every lock-free structure.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
