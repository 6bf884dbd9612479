//! Bits by which threads tell each other what to do with a heap.
//!
//! Every change is a read-modify-write of one word, so all changes are in one order, and whoever
//! comes second sees what the first did before. What rests on that: [`child`](super::child).

use super::{AtomicU64, Ordering};

// Loom must find the model failing with this weakened.
#[inline]
fn change() -> Ordering {
    weakened!("signals_change", Ordering::Relaxed, Ordering::AcqRel)
}

/// The bits.
#[derive(Debug)]
pub struct Signals {
    bits: AtomicU64,
}

impl Signals {
    /// None is set.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { bits: AtomicU64::new(0) }
    }

    /// None is set.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { bits: AtomicU64::new(0) }
    }

    /// What is set; may be outdated as soon as it is known.
    #[inline]
    pub fn get(&self) -> u64 {
        self.bits.load(Ordering::Relaxed)
    }

    /// Sets bits, or only looks, in order with the others; what was set before.
    pub fn raise(&self, bits: u64) -> u64 {
        self.bits.fetch_or(bits, change())
    }

    /// Clears bits; which of them were set.
    pub fn lower(&self, bits: u64) -> u64 {
        self.bits.fetch_and(!bits, change()) & bits
    }
}

impl Default for Signals {
    fn default() -> Self {
        Self::new()
    }
}
