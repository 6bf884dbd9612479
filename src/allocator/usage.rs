//! What an allocator holds, in figures.
#![forbid(unsafe_code)]

/// What an allocator holds and what of that is allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUsage {
    /// Bytes taken from the source and not given back.
    pub committed_bytes: usize,
    /// The most that `committed_bytes` has been.
    pub peak_committed_bytes: usize,
    /// Bytes in blocks that are currently allocated, as long as they were returned.
    pub allocated_bytes: usize,
    /// Blocks that are currently allocated.
    pub allocated_blocks: usize,
}

impl MemoryUsage {
    /// Of an allocator that holds nothing and never did.
    pub(crate) const NONE: Self = Self {
        committed_bytes: 0,
        peak_committed_bytes: 0,
        allocated_bytes: 0,
        allocated_blocks: 0,
    };

    /// The change from `before` to `self`, by field, negative where it fell.
    pub fn since(&self, before: &Self) -> MemoryUsageChange {
        let change = |now: usize, then: usize| (now as i64).wrapping_sub(then as i64);
        MemoryUsageChange {
            committed_bytes: change(self.committed_bytes, before.committed_bytes),
            allocated_bytes: change(self.allocated_bytes, before.allocated_bytes),
            allocated_blocks: change(self.allocated_blocks, before.allocated_blocks),
        }
    }
}

/// A change of [`MemoryUsage`], as over a callback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUsageChange {
    /// Bytes taken from the source less bytes given back.
    pub committed_bytes: i64,
    /// Bytes allocated less bytes freed.
    pub allocated_bytes: i64,
    /// Blocks allocated less blocks freed.
    pub allocated_blocks: i64,
}
