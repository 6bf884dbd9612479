//! What an account may hold, and what happens above it.
//!
//! ```text
//!   0 ──────────────── soft ──────────── hard ───── hard + reserve ──────── process ──▶ bytes
//!      granted           granted, noted    granted:    granted, and the       refused
//!                        once              Overdraft   context is ended at
//!                                                      its next safe point
//! ```
//!
//! The allocator compares, grants or refuses, and sets a bit. Whatever else a limit means happens
//! at a safe point: where a context is left, before a task's next poll, in a checkpoint.

use crate::units::CHUNK_BYTES;

/// What an allocation gets that would take its context above a hard limit.
///
/// The allocator ends nothing itself. A context that comes to no safe point cannot be ended at all
/// on stable Rust: under `Overdraft` it goes on, up to the process's limit, and its account shows
/// by how much.
///
/// Where the region has no memory for a request, because it is full or smaller than the request,
/// the global allocator serves heaps that no limit binds; what it serves is charged to nobody. So
/// heaps that one binds get null instead under `Fail` and `Spill` and where the process has a
/// limit; under `Overdraft` they are served and the context is ended at its next safe point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LimitPolicy {
    /// The memory, and its context is ended at its next safe point: a task at its next poll, a
    /// coroutine at its next suspend, a loop at its next checkpoint. A context that used no more
    /// than the reserve, a tenth of the limit and at least a chunk, and is below its limit again by
    /// then, goes on.
    #[default]
    Overdraft = 0,
    /// Null: for code that calls `try_reserve`. Other code aborts, as Rust does without memory.
    /// Limits are suspended while a thread unwinds, as it does in a suspended coroutine that is
    /// dropped, and no longer: a task that is ended is dropped with its limit in force, so its
    /// destructors must not need another chunk unconditionally.
    Fail = 1,
    /// Memory of the thread's own heap, counted as spilled; such a block also grows there. Through
    /// `&Heap` as an allocator: null.
    Spill = 2,
}

/// Why a heap got no memory. `None` where no limit was in the way: the region is full, or the
/// system refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    /// No limit.
    #[default]
    None,
    /// A limit that may be overdrawn, once everything that is unused was given back.
    Overdraft,
    /// A limit whose answer is null.
    Fail,
    /// A limit whose answer is the thread's heap.
    Spill,
}

impl Refusal {
    /// How little of it is memory that no account counts.
    pub(super) fn strictness(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Overdraft => 1,
            Self::Spill => 2,
            Self::Fail => 3,
        }
    }
}

/// No limit.
pub(super) const UNLIMITED: usize = usize::MAX;

/// Limits of one account, in bytes. They count whole chunks of 64 KiB: each is rounded up to one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Above this the reclaim callbacks are called, once for each time that it is passed.
    pub soft_bytes: Option<usize>,
    /// Above this the policy decides.
    pub hard_bytes: Option<usize>,
    /// What happens above the hard limit.
    pub policy: LimitPolicy,
}

impl LimitPolicy {
    pub(super) fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Fail,
            2 => Self::Spill,
            _ => Self::Overdraft,
        }
    }

    pub(super) fn refusal(self) -> Refusal {
        match self {
            Self::Overdraft => Refusal::Overdraft,
            Self::Fail => Refusal::Fail,
            Self::Spill => Refusal::Spill,
        }
    }
}

/// A limit as it is compared: whole chunks, at least one; [`UNLIMITED`] for none.
pub(super) fn whole_chunks(limit: Option<usize>) -> usize {
    match limit {
        None => UNLIMITED,
        Some(bytes) => bytes.max(1).checked_next_multiple_of(CHUNK_BYTES).unwrap_or(UNLIMITED),
    }
}

/// A limit as it was set.
pub(super) fn as_set(limit: usize) -> Option<usize> {
    (limit != UNLIMITED).then_some(limit)
}

/// What a context may overdraw and still go on, if it is below its limit in time.
pub(super) fn reserve_of(hard_bytes: usize) -> usize {
    (hard_bytes / 10).max(CHUNK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_whole_chunks() {
        assert_eq!(whole_chunks(None), UNLIMITED);
        assert_eq!(whole_chunks(Some(0)), CHUNK_BYTES);
        assert_eq!(whole_chunks(Some(CHUNK_BYTES)), CHUNK_BYTES);
        assert_eq!(whole_chunks(Some(CHUNK_BYTES + 1)), 2 * CHUNK_BYTES);
        assert_eq!(whole_chunks(Some(usize::MAX)), UNLIMITED);
        assert_eq!(reserve_of(CHUNK_BYTES), CHUNK_BYTES);
        assert_eq!(reserve_of(100 * CHUNK_BYTES), 10 * CHUNK_BYTES);
    }
}
