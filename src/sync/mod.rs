//! Atomics, and the small lock-free types that are made of them.
//!
//! With `--cfg loom` the atomics are loom's, so that loom runs the shipped source of every protocol
//! and not a copy of it. The types here know nothing of heaps: links are stored through a trait.

pub mod child;
pub mod chunk_word;
pub mod foreign_stack;
pub mod inspection;
pub mod lanes;
pub mod pins;
pub mod runner;
pub mod signals;
pub mod tally;

#[cfg(not(loom))]
pub use core::sync::atomic::{
    AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(loom)]
pub use loom::sync::atomic::{
    AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

pub use chunk_word::ChunkWord;
pub use foreign_stack::{ForeignStack, Links};
pub use inspection::Inspection;
pub use runner::{Relation, Runner, Token};
pub use signals::Signals;
pub use tally::Tally;

/// Lets others go on, who keep this thread waiting for the `rounds`-th time: for a moment first,
/// then for as long as the system likes; then asleep, for who waits for a thread of lower priority
/// keeps the processor from it otherwise.
#[cfg(not(loom))]
pub(crate) fn relax(rounds: u32) {
    match rounds {
        0..64 => core::hint::spin_loop(),
        64..128 => std::thread::yield_now(),
        _ => std::thread::sleep(core::time::Duration::from_micros(50)),
    }
}

/// Lets others go on.
#[cfg(loom)]
pub(crate) fn relax(_: u32) {
    loom::thread::yield_now();
}
