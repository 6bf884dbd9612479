//! Atomics, and the small lock-free types that are made of them.
//!
//! With `--cfg loom` the atomics are loom's, so that loom runs the shipped source of every protocol
//! and not a copy of it. The types here know nothing of heaps: links are stored through a trait.

/// What loom must find the models failing with, in place of what is right: `weakened!("name",
/// WRONG, RIGHT)` is WRONG where the models are built with `--cfg heapswitch_weaken` and run with
/// `HEAPSWITCH_WEAKEN=name`, or where a program that is built so calls `weaken("name")`, and RIGHT
/// in any other program.
macro_rules! weakened {
    ($name:literal, $wrong:expr, $right:expr) => {
        if cfg!(heapswitch_weaken) && $crate::sync::is_weakened($name) { $wrong } else { $right }
    };
}
pub(crate) use weakened;

pub mod child;
pub mod chunk_word;
pub mod foreign_stack;
pub mod inspection;
pub mod lanes;
pub mod pins;
pub mod runner;
pub mod signals;
pub mod slots;
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
pub use runner::{Runner, Token};
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

/// The name that was chosen.
static WEAKENED: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// See [`weakened`].
#[cfg(loom)]
pub(crate) fn is_weakened(name: &str) -> bool {
    WEAKENED.get_or_init(|| std::env::var("HEAPSWITCH_WEAKEN").unwrap_or_default()) == name
}

/// See [`weakened`]. Asked while memory is allocated, so it must not allocate.
#[cfg(not(loom))]
pub(crate) fn is_weakened(name: &str) -> bool {
    WEAKENED.get().is_some_and(|chosen| chosen == name)
}

/// Makes what has this name wrong from here on. For the tests of the sanitizers alone.
#[cfg(all(heapswitch_weaken, not(loom)))]
pub fn weaken(name: &str) {
    let _ = WEAKENED.set(name.to_owned());
}
