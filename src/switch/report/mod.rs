//! Reports: the process's figures and every account's, as a struct, as JSON and as text.
//!
//! Taking one locks for moments only, and keeps nobody waiting but who enters a heap that is just
//! being counted; it allocates in the thread's own heap.

mod text;

use core::fmt::{self, Write as _};
use core::ops::Range;

use super::accounts::reports;
use super::scope::out_of_contexts;
use super::usage::{ProcessUsage, process_usage};
use crate::heap::{Account, AccountId, AccountReport, AccountUsage, ContextName};
use crate::region::census::{Census, census};

/// The process's figures and those of an account with all below it, as of one moment or nearly so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryReport {
    /// The process.
    pub process: ProcessUsage,
    /// The accounts, each before those below it.
    pub accounts: Vec<AccountReport>,
}

/// What the accounts of one name have together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamedUsage {
    /// The name.
    pub name: ContextName,
    /// How many accounts have it.
    pub accounts: usize,
    /// The sums of their figures. No bytes are counted twice where one is below another:
    /// `committed_bytes` is the sum of `own_bytes`, and what accounts count with all below them,
    /// `total_bytes`, `charges`, `foreign_frees`, `escapees` and `spilled_bytes`, is summed of
    /// those that are below no account of the name. Peaks are the largest, limits are not summed.
    pub usage: AccountUsage,
}

impl MemoryReport {
    /// Every account of the process.
    pub fn now() -> Self {
        Self::of(&Account::process())
    }

    /// An account and all below it.
    pub fn of(account: &Account) -> Self {
        out_of_contexts(|| Self { process: process_usage(), accounts: reports(account.subtree()) })
    }

    /// The accounts by name, those that hold most first. The list is charged to no context.
    pub fn by_name(&self) -> Vec<NamedUsage> {
        out_of_contexts(|| self.summed_by_name())
    }

    fn summed_by_name(&self) -> Vec<NamedUsage> {
        let mut sorted: Vec<(&AccountReport, Range<usize>)> =
            self.accounts.iter().zip(spans(&self.accounts)).collect();
        sorted.sort_by(|(one, at), (other, other_at)| {
            one.name.as_str().cmp(other.name.as_str()).then(at.start.cmp(&other_at.start))
        });
        let mut named: Vec<NamedUsage> = Vec::new();
        // Where the last account of the name ends that is below no other one of it.
        let mut covered = 0;
        for (report, span) in sorted {
            if named.last().is_none_or(|last| last.name != report.name) {
                let usage = AccountUsage::default();
                named.push(NamedUsage { name: report.name, accounts: 0, usage });
                covered = 0;
            }
            let is_below = span.start < covered;
            if !is_below {
                covered = span.end;
            }
            if let Some(last) = named.last_mut() {
                last.include(report, is_below);
            }
        }
        named.sort_by_key(|one| core::cmp::Reverse(one.usage.own_bytes));
        named
    }

    /// The `count` accounts whose own heaps hold most, largest first. The list is charged to no
    /// context.
    pub fn largest(&self, count: usize) -> Vec<AccountReport> {
        out_of_contexts(|| {
            let mut sorted = self.accounts.clone();
            sorted.sort_by_key(|report| core::cmp::Reverse(report.usage.own_bytes));
            sorted.truncate(count);
            sorted
        })
    }

    /// One JSON object: `process` with its figures, `accounts` as an array of objects. Bytes are
    /// numbers, limits that are not set are `null`.
    pub fn to_json(&self) -> String {
        out_of_contexts(|| {
            let mut json = String::with_capacity(512 + self.accounts.len() * 640);
            // Writing to a string does not fail.
            let _ = self.write_json(&mut json);
            json
        })
    }

    fn write_json(&self, json: &mut String) -> fmt::Result {
        let ProcessUsage {
            region,
            metadata_bytes,
            global_bytes,
            overflow_blocks,
            leaked_heaps,
            lost_blocks,
            abandoned_heaps,
            moved_threads,
            threads_started,
            thread_heaps,
            slow_allocations,
            foreign_frees,
        } = self.process;
        write!(
            json,
            "{{\"process\":{{\"region_reserved_bytes\":{},\"region_committed_bytes\":{},\
             \"region_taken_bytes\":{},\"region_peak_bytes\":{},\
             \"region_dirty_bytes\":{},\"runs_taken\":{},\
             \"runs_returned\":{},\"away_runs\":{},\
             \"refused_placements\":{},\"refused_advice\":{},\
             \"metadata_bytes\":{metadata_bytes},\
             \"global_bytes\":{global_bytes},\"overflow_blocks\":{overflow_blocks},\
             \"leaked_heaps\":{leaked_heaps},\"lost_blocks\":{lost_blocks},\
             \"abandoned_heaps\":{abandoned_heaps},\"moved_threads\":{moved_threads},\
             \"threads_started\":{threads_started},\"thread_heaps\":{thread_heaps},\
             \"slow_allocations\":{slow_allocations},\"foreign_frees\":{foreign_frees}}},\
             \"accounts\":[",
            region.reserved_bytes,
            region.committed_bytes,
            region.taken_bytes,
            region.peak_bytes,
            region.dirty_bytes,
            region.runs_taken,
            region.runs_returned,
            region.away_runs,
            region.refused_placements,
            region.refused_advice,
        )?;
        for (index, account) in self.accounts.iter().enumerate() {
            json.push_str(if index == 0 { "\n" } else { ",\n" });
            write_account(json, account)?;
        }
        json.push_str("\n]}");
        Ok(())
    }
}

/// For each account a range of numbers, within which lie those of all accounts below it, and of no
/// others. Of accounts that come before those below them.
fn spans(accounts: &[AccountReport]) -> Vec<Range<usize>> {
    let mut places: Vec<(AccountId, usize)> =
        accounts.iter().enumerate().map(|(place, report)| (report.id, place)).collect();
    places.sort_unstable_by_key(|&(id, _)| id);
    let find = |id: Option<AccountId>| {
        let found = places.binary_search_by_key(&id?, |&(id, _)| id).ok()?;
        places.get(found).map(|&(_, place)| place)
    };
    let parents: Vec<Option<usize>> = accounts.iter().map(|report| find(report.parent)).collect();
    let mut lengths = vec![1; accounts.len()];
    for (place, &parent) in parents.iter().enumerate().rev() {
        if let Some(parent) = parent.filter(|&parent| parent < place) {
            lengths[parent] += lengths[place];
        }
    }
    let mut spans: Vec<Range<usize>> = Vec::with_capacity(accounts.len());
    // Up to where the range of each is given to those below it, and the numbers that are none's.
    let (mut given, mut next) = (vec![0; accounts.len()], 0);
    for (place, &parent) in parents.iter().enumerate() {
        let from = match parent.filter(|&parent| parent < place) {
            Some(parent) => &mut given[parent],
            None => &mut next,
        };
        let start = *from;
        *from += lengths[place];
        given[place] = start + 1;
        spans.push(start..start + lengths[place]);
    }
    spans
}

impl NamedUsage {
    /// Adds an account; `is_below` another one of the name, which has counted for it.
    fn include(&mut self, report: &AccountReport, is_below: bool) {
        let (sum, one) = (&mut self.usage, &report.usage);
        self.accounts += 1;
        sum.own_bytes += one.own_bytes;
        sum.committed_bytes += one.own_bytes;
        sum.peak_bytes = sum.peak_bytes.max(one.peak_bytes);
        sum.allocated_bytes += one.allocated_bytes;
        sum.allocated_blocks += one.allocated_blocks;
        sum.overdraft_bytes += one.overdraft_bytes;
        sum.overdraft_peak_bytes = sum.overdraft_peak_bytes.max(one.overdraft_peak_bytes);
        sum.overdrafts += one.overdrafts;
        sum.refusals += one.refusals;
        sum.is_over_budget |= one.is_over_budget;
        if !is_below {
            sum.total_bytes += one.total_bytes;
            sum.charges += one.charges;
            sum.foreign_frees += one.foreign_frees;
            sum.escapees += one.escapees;
            sum.spilled_bytes += one.spilled_bytes;
        }
    }
}

/// The figures of an account that are numbers, with their names.
pub(super) fn figures(usage: &AccountUsage) -> [(&'static str, u64); 14] {
    [
        ("committed_bytes", usage.committed_bytes as u64),
        ("own_bytes", usage.own_bytes as u64),
        ("peak_bytes", usage.peak_bytes as u64),
        ("total_bytes", usage.total_bytes),
        ("charges", usage.charges),
        ("allocated_bytes", usage.allocated_bytes as u64),
        ("allocated_blocks", usage.allocated_blocks as u64),
        ("foreign_frees", usage.foreign_frees),
        ("escapees", usage.escapees),
        ("overdraft_bytes", usage.overdraft_bytes as u64),
        ("overdraft_peak_bytes", usage.overdraft_peak_bytes as u64),
        ("overdrafts", usage.overdrafts),
        ("refusals", usage.refusals),
        ("spilled_bytes", usage.spilled_bytes),
    ]
}

fn write_account(json: &mut String, account: &AccountReport) -> fmt::Result {
    write!(json, "{{\"id\":{},\"parent\":", account.id.number())?;
    write_or_null(json, account.parent.map(|id| id.number()))?;
    json.push_str(",\"name\":");
    write_text(json, account.name.as_str())?;
    let usage = &account.usage;
    for (name, value) in figures(usage) {
        write!(json, ",\"{name}\":{value}")?;
    }
    let limits = [
        ("soft_limit_bytes", usage.soft_limit_bytes),
        ("hard_limit_bytes", usage.hard_limit_bytes),
    ];
    for (name, limit) in limits {
        write!(json, ",\"{name}\":")?;
        write_or_null(json, limit)?;
    }
    write!(json, ",\"is_over_budget\":{}}}", usage.is_over_budget)
}

fn write_or_null(json: &mut String, value: Option<impl fmt::Display>) -> fmt::Result {
    match value {
        Some(value) => write!(json, "{value}"),
        None => json.write_str("null"),
    }
}

/// A string as JSON has it.
fn write_text(json: &mut String, text: &str) -> fmt::Result {
    json.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                json.push('\\');
                json.push(character);
            }
            control if control < ' ' => write!(json, "\\u{:04x}", control as u32)?,
            other => json.push(other),
        }
    }
    json.push('"');
    Ok(())
}

/// The accounts' figures beside the region's and the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reconciliation {
    /// What the accounts say that all heaps and orphans hold, in bytes.
    pub accounted_bytes: usize,
    /// Of those, bytes in allocated blocks, as the heaps counted them last.
    pub data_bytes: usize,
    /// The rest of them: bytes that are free in heaps.
    pub free_in_heaps_bytes: usize,
    /// What the chunk table, the kernel's page tables and its summary say.
    pub census: Census,
}

impl Reconciliation {
    /// By how much the accounts and the chunk table differ, in bytes: 0 when nothing changes
    /// meanwhile. In a child of `fork`, what other threads of its parent just took or gave back.
    pub fn account_difference_bytes(&self) -> usize {
        self.accounted_bytes.abs_diff(self.census.held_bytes)
    }

    /// By how much the region's parts and the kernel's figure differ, in bytes.
    pub fn kernel_difference_bytes(&self) -> usize {
        self.census.difference_bytes()
    }
}

/// Compares the accounts with the chunk table, and the region with the kernel's figures. Costs a
/// system call for each 2 MiB of the region that were ever used; for tests and reports. `None`
/// where there is no region.
pub fn reconcile() -> Option<Reconciliation> {
    out_of_contexts(|| {
        let process = Account::process();
        let accounts = reports(process.subtree());
        let data_bytes = accounts.iter().map(|one| one.usage.allocated_bytes).sum();
        // Before the census, which reads a file into the thread's heap at its end.
        let accounted_bytes = process.last_usage().committed_bytes;
        let census = census()?;
        Some(Reconciliation {
            accounted_bytes,
            data_bytes,
            free_in_heaps_bytes: accounted_bytes.saturating_sub(data_bytes),
            census,
        })
    })
}
