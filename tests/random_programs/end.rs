//! What must be left when a program has ended and all was freed: nothing.

use heapswitch::{
    Account, CurrentAllocatorInUse, MemoryReport, accounts, collect, flush_foreign_frees,
    process_usage, reconcile, usage_of,
};

use super::world::NAME;

/// What was there before.
pub(crate) struct Baseline {
    global_blocks: usize,
    /// In all threads' heaps.
    thread_blocks: usize,
    leaked_heaps: u64,
    /// Accounts of programs: of heaps that were leaked, by a guard forgotten on another thread.
    left: usize,
}

/// Has made what a process keeps once it has it: the list of callbacks.
pub(crate) fn warm_up() {
    drop(Account::process().on_pressure(|_| ()));
}

/// Accounts of programs that are still there.
fn left() -> usize {
    accounts().filter(|account| account.name().as_str().starts_with(NAME)).count()
}

/// Each account holds what its heap holds and what those below it do. A walk allocates nothing, and
/// changes nothing of it.
fn check_sums() {
    for account in accounts() {
        let below: usize = account.children().map(|one| one.last_usage().committed_bytes).sum();
        let usage = account.last_usage();
        assert_eq!(usage.committed_bytes, usage.own_bytes + below, "{account:?}");
    }
    if let Some(sums) = reconcile() {
        assert_eq!(sums.account_difference_bytes(), 0, "{sums:?}");
    }
}

impl Baseline {
    pub(crate) fn now() -> Self {
        flush_foreign_frees();
        collect();
        let left = left();
        let report = MemoryReport::now();
        check_sums();
        let threads = report.accounts.iter().filter(|one| one.name.as_str() == "thread");
        let blocks: usize = threads.map(|one| one.usage.allocated_blocks).sum();
        Self {
            thread_blocks: blocks,
            global_blocks: usage_of(CurrentAllocatorInUse::Global).allocated_blocks,
            leaked_heaps: process_usage().leaked_heaps,
            left,
        }
    }

    /// Nothing is left that was not there before.
    pub(crate) fn compare(&self, seed: u64) {
        let now = Self::now();
        let usage = process_usage();
        assert_eq!((usage.lost_blocks, usage.overflow_blocks), (0, 0), "program {seed}");
        // What is leaked is counted, and holds what was to be called at its end.
        if now.leaked_heaps != self.leaked_heaps {
            return;
        }
        assert_eq!(now.left, self.left, "program {seed} left accounts");
        assert_eq!(now.global_blocks, self.global_blocks, "program {seed}");
        assert_eq!(now.thread_blocks, self.thread_blocks, "program {seed}");
    }
}
