//! What the screen shows, read at one moment from any thread: nothing is stopped for it.

use heapswitch::{AccountReport, MemoryReport};

use crate::load::Load;

/// A moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Contexts that hold memory, those with most bytes first.
    pub(crate) contexts: Vec<AccountReport>,
    /// The accounts above them.
    pub(crate) groups: Vec<AccountReport>,
    /// The process's account.
    pub(crate) process: AccountReport,
    /// What the allocator keeps for itself.
    pub(crate) metadata_bytes: usize,
    /// Contexts that were ended over their budget.
    pub(crate) over_budget: usize,
}

impl Snapshot {
    /// As of now.
    pub(crate) fn now(load: &Load) -> Self {
        let report = MemoryReport::now();
        let process = report.accounts[0];
        let groups: Vec<_> = load.groups().iter().map(|group| group.report()).collect();
        let mut contexts = report.accounts;
        // Orphans are charged to the account of the heap that has ended: they show as well.
        contexts.retain(|account| account.usage.own_bytes != 0 && account.id != process.id);
        contexts.sort_by_key(|account| std::cmp::Reverse(account.usage.own_bytes));
        Self {
            contexts,
            groups,
            process,
            metadata_bytes: report.process.metadata_bytes,
            over_budget: load.over_budget(),
        }
    }
}
