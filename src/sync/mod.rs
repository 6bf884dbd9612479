//! Atomics, and the small lock-free types that are made of them.
//!
//! With `--cfg loom` the atomics are loom's, so that loom runs the shipped source of every protocol
//! and not a copy of it. The types here know nothing of heaps: links are stored through a trait.

pub mod child;
pub mod chunk_word;
pub mod foreign_stack;
pub mod lanes;
pub mod pins;
pub mod runner;
pub mod signals;
pub mod tally;

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub use chunk_word::ChunkWord;
pub use foreign_stack::{ForeignStack, Links};
pub use runner::{Relation, Runner, Token};
pub use signals::Signals;
pub use tally::Tally;
