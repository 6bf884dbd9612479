//! What accounts tell: figures for which heaps are counted as they are asked.

use super::handle::token;
use crate::heap::account::largest;
use crate::heap::counting::count;
use crate::heap::{Account, AccountReport, AccountUsage};
use crate::sync::Token;

/// Heaps that are counted in one go: while one is, those who enter any take a longer way.
const COUNTED_AT_ONCE: usize = 64;

impl Account {
    /// What the account counts now. Any thread may ask: if the heap is not in use, or runs on this
    /// thread, its blocks are counted for this, for which the slab's magazines are emptied. Who
    /// wants to enter the heap meanwhile waits for the walk through its chunks to end. Costs a
    /// system call of a microsecond or two, the first in a process some milliseconds.
    ///
    /// Not for signal handlers, nor for handlers of `fork`: it takes a lock.
    /// [`last_usage`](Self::last_usage) asks no heap and keeps nobody waiting.
    pub fn usage(&self) -> AccountUsage {
        count_now(core::slice::from_ref(self));
        self.last_usage()
    }

    /// Its name, place and figures, as [`usage`](Self::usage).
    pub fn report(&self) -> AccountReport {
        count_now(core::slice::from_ref(self));
        self.report_figures()
    }

    /// The `count` accounts of the subtree whose own heaps hold most, largest first.
    pub fn largest(&self, count: usize) -> Vec<AccountReport> {
        let accounts = largest(self.subtree(), count).into_iter().map(|(_, account)| account);
        let mut reports = reports(accounts);
        // They may hold more or less by now.
        reports.sort_by_key(|report| core::cmp::Reverse(report.usage.own_bytes));
        reports
    }
}

fn count_now(accounts: &[Account]) {
    // A thread that ends runs no heap, and counts others'.
    count(accounts, token().unwrap_or(Token::NOBODY));
}

/// The reports of accounts, for which their heaps are counted.
pub(super) fn reports(mut accounts: impl Iterator<Item = Account>) -> Vec<AccountReport> {
    let mut reports = Vec::new();
    loop {
        let some: Vec<Account> = accounts.by_ref().take(COUNTED_AT_ONCE).collect();
        if some.is_empty() {
            return reports;
        }
        count_now(&some);
        reports.extend(some.iter().map(Account::report_figures));
    }
}
