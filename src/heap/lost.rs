//! Heaps of threads that a child of `fork` does not have: what is freed to them is never collected,
//! and counted here.
//!
//! Costs a load for each chain that is pushed, or each block that is freed without a batch.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use super::header::HeapHeader;
use crate::sync::Token;

/// The first token of a thread that was started in this process; 0 where no fork made it.
static FIRST_OWN: AtomicU64 = AtomicU64::new(0);

/// The token of the thread that the fork kept.
static KEPT: AtomicU64 = AtomicU64::new(0);

static BLOCKS: AtomicU64 = AtomicU64::new(0);

/// Notes in a child that of all threads with a token below `next` it has only the one of `kept`.
pub fn lose_threads(next: Token, kept: Token) {
    KEPT.store(kept.number(), Ordering::Relaxed);
    FIRST_OWN.store(next.number(), Ordering::Relaxed);
}

/// Counts blocks that are freed to a heap, if a lost thread ran it.
///
/// # Safety
/// The heap is valid.
#[inline]
pub unsafe fn count(owner: NonNull<HeapHeader>, blocks: impl FnOnce() -> u32) {
    // Relaxed, here and above: stored by the child's only thread.
    let first_own = FIRST_OWN.load(Ordering::Relaxed);
    if first_own == 0 {
        return;
    }
    // SAFETY: the caller's contract.
    if is_run_before(unsafe { owner.as_ref() }, first_own) {
        BLOCKS.fetch_add(u64::from(blocks()), Ordering::Relaxed);
    }
}

/// Whether a lost thread ran the heap.
pub fn is_lost(owner: &HeapHeader) -> bool {
    let first_own = FIRST_OWN.load(Ordering::Relaxed);
    first_own != 0 && is_run_before(owner, first_own)
}

fn is_run_before(owner: &HeapHeader, first_own: u64) -> bool {
    let kept = KEPT.load(Ordering::Relaxed);
    let runner = owner.runner.runner();
    runner.is_some_and(|token| token.number() < first_own && token.number() != kept)
}

/// How many blocks were counted.
pub fn lost_blocks() -> u64 {
    BLOCKS.load(Ordering::Relaxed)
}
