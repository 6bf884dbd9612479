//! All threads' heaps of the process, to be counted by anyone at any time.
//!
//! Thread heaps are handed from thread to thread and never end, so a list that only grows, with
//! counters that only the runner changes, needs no lock: a heap costs one compare-and-swap at its
//! making, and a slow path a plain addition.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use super::header::HeapHeader;

static FIRST: AtomicPtr<HeapHeader> = AtomicPtr::new(core::ptr::null_mut());

/// A heap's place in the census.
#[derive(Debug)]
pub struct Entry {
    next: AtomicPtr<HeapHeader>,
    is_listed: AtomicBool,
    slow_allocations: AtomicU64,
}

impl Entry {
    /// Of a heap that is not counted.
    pub const fn new() -> Self {
        Self {
            next: AtomicPtr::new(core::ptr::null_mut()),
            is_listed: AtomicBool::new(false),
            slow_allocations: AtomicU64::new(0),
        }
    }

    /// Whether the heap is a thread's: never closed, and never reset.
    pub fn is_listed(&self) -> bool {
        self.is_listed.load(Ordering::Relaxed)
    }

    /// Counts an allocation that no list could serve. For the runner.
    #[inline]
    pub fn count_slow_allocation(&self) {
        // Relaxed, and no read-modify-write: one thread at a time runs the heap, and nobody
        // concludes anything from the figure.
        let count = self.slow_allocations.load(Ordering::Relaxed);
        self.slow_allocations.store(count.wrapping_add(1), Ordering::Relaxed);
    }
}

impl Default for Entry {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts a heap from now on.
///
/// # Safety
/// The heap is new, not counted yet, and never closed.
pub unsafe fn enlist(header: NonNull<HeapHeader>) {
    // SAFETY: the caller's contract.
    let entry = unsafe { &header.as_ref().census };
    entry.is_listed.store(true, Ordering::Relaxed);
    let mut first = FIRST.load(Ordering::Relaxed);
    loop {
        entry.next.store(first, Ordering::Relaxed);
        // Release pairs with the Acquire in `take`: who finds the heap sees it whole.
        match FIRST.compare_exchange_weak(
            first,
            header.as_ptr(),
            Ordering::Release,
            Ordering::Relaxed,
        ) {
            Ok(_) => return,
            Err(now) => first = now,
        }
    }
}

/// Figures of all threads' heaps together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Heaps that were made.
    pub heaps: usize,
    /// Allocations that no list could serve.
    pub slow_allocations: u64,
    /// Blocks that other threads freed, as far as they were collected.
    pub foreign_frees: u64,
}

/// Counts all threads' heaps, as of each one's last slow path.
pub fn take() -> Census {
    let mut census = Census::default();
    for header in heaps() {
        // SAFETY: heaps on the list are never closed; only their atomics are read.
        let this = unsafe { header.as_ref() };
        census.heaps += 1;
        census.slow_allocations += this.census.slow_allocations.load(Ordering::Relaxed);
        census.foreign_frees += this.account.last_usage().foreign_frees;
    }
    census
}

/// All threads' heaps. They are never closed.
pub fn heaps() -> impl Iterator<Item = NonNull<HeapHeader>> {
    // Acquire pairs with the Release in `enlist`.
    let mut next = FIRST.load(Ordering::Acquire);
    core::iter::from_fn(move || {
        let header = NonNull::new(next)?;
        // SAFETY: heaps on the list are never closed; only atomics are read. Relaxed: the Acquire
        // above covers the whole list, each push read the last one's value.
        next = unsafe { header.as_ref() }.census.next.load(Ordering::Relaxed);
        Some(header)
    })
}
