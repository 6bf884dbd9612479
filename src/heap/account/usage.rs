//! Figures of accounts.

use core::fmt;
use core::sync::atomic::Ordering;

use super::limits::as_set;
use super::{Account, ContextName, IS_ACCOUNTED, Node, signal};

/// Names an account for the life of the process; never reused. 0 is the process's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(pub(super) u64);

impl AccountId {
    /// As a number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// From what [`number`](Self::number) gave.
    pub(crate) const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// Figures of an account, with those of the accounts below it unless they say otherwise.
///
/// What is counted in runs of chunks (committed, peak, total, overdraft) is exact at any time.
///
/// `allocated_blocks` is exact of a heap that is not in use, or runs on the asking thread: it is
/// counted when it is asked, whoever asks, by account or in a report. What others freed and it did
/// not collect yet counts as allocated. So is `allocated_bytes`, the sum of the blocks' lengths:
/// what was requested, rounded up as [`block_length`](crate::Heap::block_length) says. Of other
/// heaps:
///
/// - A thread's own slab that runs elsewhere is counted but for its magazines: up to 32 KiB of each
///   length of blocks that it uses, or four blocks, count as allocated and are free. If its runner
///   is at its chunks for long just then, for a large block say, the figures are the last ones.
/// - A context's heap that runs elsewhere is as of the last time that it counted: it does so when
///   it takes a chunk for small blocks, and the chunks that it took so since are a quarter of what
///   it holds. So at most a quarter of `own_bytes` was allocated and not counted, beside blocks
///   above 32 KiB, each a run; of what was freed since, nothing is known. One of the slab strategy
///   counts only when it is asked while it is idle, or by its runner.
/// - A heap that was closed counts none: see `escapees`.
///
/// Where the kernel lays no barrier for us (`membarrier(2)`, Linux 4.14; a sandbox may forbid it),
/// heaps are counted by [`Heap::account`](crate::Heap::account) only.
///
/// Sums (`total_bytes`, `charges`, `foreign_frees`, `escapees`, `overdrafts`, what was refused or
/// spilled) are those since the account was made, of all users of a pooled heap; `peak_bytes` is
/// the last user's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountUsage {
    /// Bytes in runs that the heap, its orphans and its descendants hold.
    pub committed_bytes: usize,
    /// Of those, bytes that no descendant holds.
    pub own_bytes: usize,
    /// The most that `committed_bytes` was, since the account's own heap was reset last: also by
    /// its pool, so it is the last user's.
    pub peak_bytes: usize,
    /// All bytes that were ever charged.
    pub total_bytes: u64,
    /// How many runs of chunks were ever charged.
    pub charges: u64,
    /// Bytes in allocated blocks of the account's own heap.
    pub allocated_bytes: usize,
    /// Allocated blocks of the account's own heap.
    pub allocated_blocks: usize,
    /// Blocks freed by other threads or contexts, as far as they were collected.
    pub foreign_frees: u64,
    /// Blocks that were still allocated when their heap was closed.
    pub escapees: u64,
    /// The soft limit of this account alone.
    pub soft_limit_bytes: Option<usize>,
    /// The hard limit of this account alone.
    pub hard_limit_bytes: Option<usize>,
    /// Bytes above the hard limit now.
    pub overdraft_bytes: usize,
    /// The most bytes above the hard limit that were.
    pub overdraft_peak_bytes: usize,
    /// Charges that were granted above the hard limit.
    pub overdrafts: u64,
    /// Charges that the hard limit refused, each try counted: a block that cannot grow in place
    /// asks again, after what is unused went back.
    pub refusals: u64,
    /// Bytes that the thread's heap served instead of this one. What such blocks grew by since,
    /// within the context, is counted where they are longer than 1 KiB; and so is the growth of any
    /// other block of the thread's heap there, for nothing tells the two apart.
    pub spilled_bytes: u64,
    /// Whether the context is to be ended at its next safe point.
    pub is_over_budget: bool,
}

impl fmt::Display for AccountUsage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (held, peak) = (self.committed_bytes, self.peak_bytes);
        write!(formatter, "{held} bytes held, {peak} at most")?;
        if let Some(limit) = self.hard_limit_bytes {
            write!(formatter, ", of {limit}")?;
        }
        write!(formatter, "; escaped blocks: {}", self.escapees)
    }
}

/// An account's name and place beside its figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountReport {
    /// The account.
    pub id: AccountId,
    /// The account above it; `None` for the process's.
    pub parent: Option<AccountId>,
    /// Its name.
    pub name: ContextName,
    /// Its figures.
    pub usage: AccountUsage,
}

impl Node {
    fn usage(&self) -> AccountUsage {
        let (committed_bytes, hard) = (self.committed_bytes(), self.hard.load(Ordering::Relaxed));
        AccountUsage {
            committed_bytes,
            own_bytes: self.own.load(Ordering::Relaxed),
            peak_bytes: self.peak.load(Ordering::Relaxed),
            total_bytes: self.total.load(Ordering::Relaxed),
            charges: self.charges.load(Ordering::Relaxed),
            allocated_bytes: self.allocated_bytes.load(Ordering::Relaxed),
            allocated_blocks: self.allocated_blocks.load(Ordering::Relaxed),
            foreign_frees: self.foreign_frees.load(Ordering::Relaxed),
            escapees: self.escapees.load(Ordering::Relaxed),
            soft_limit_bytes: as_set(self.soft.load(Ordering::Relaxed)),
            hard_limit_bytes: as_set(hard),
            overdraft_bytes: committed_bytes.saturating_sub(hard),
            overdraft_peak_bytes: self.overdraft_peak.load(Ordering::Relaxed),
            overdrafts: self.overdrafts.load(Ordering::Relaxed),
            refusals: self.refusals.load(Ordering::Relaxed),
            spilled_bytes: self.spilled.load(Ordering::Relaxed),
            is_over_budget: self.signals.get() & signal::END != 0,
        }
    }
}

impl Account {
    /// Its figures, with the blocks as they were counted last: as `usage`, but it asks no heap, so
    /// it keeps nobody waiting and takes no lock and no system call. For who asks often, or must
    /// not wait.
    pub fn last_usage(&self) -> AccountUsage {
        self.node().usage()
    }

    /// Its name, place and figures, with the blocks as they were counted last.
    pub(crate) fn report_figures(&self) -> AccountReport {
        let node = self.node();
        AccountReport {
            id: node.id,
            // SAFETY: an account holds a count of its parent's.
            parent: node.parent.map(|parent| unsafe { parent.as_ref() }.id),
            name: node.name,
            usage: node.usage(),
        }
    }

    /// The account's heap was emptied: what it held before is not blamed on what comes now.
    #[inline]
    pub(crate) fn begin_again(&self) {
        if !IS_ACCOUNTED {
            return;
        }
        let node = self.node();
        let committed = node.committed_bytes();
        if node.peak.load(Ordering::Relaxed) > committed {
            node.peak.store(committed, Ordering::Relaxed);
            // Of what a child took meanwhile.
            node.peak.fetch_max(node.committed_bytes(), Ordering::Relaxed);
        }
        let overdrafts = node.overdrafts.load(Ordering::Relaxed) as u32;
        if node.overdrafts_before.load(Ordering::Relaxed) != overdrafts {
            node.overdrafts_before.store(overdrafts, Ordering::Relaxed);
        }
    }

    /// Whether so many bytes are all that is charged to it.
    #[inline]
    pub(crate) fn holds_only(&self, bytes: usize) -> bool {
        !IS_ACCOUNTED || self.node().committed_bytes() == bytes
    }

    /// Whether a heap that is not closed is charged below it. Cheap: while only its heap holds it,
    /// none is.
    #[inline]
    pub(crate) fn has_heaps_below(&self) -> bool {
        self.may_have_children() && self.subtree().skip(1).any(|account| account.names_heap())
    }

    /// Whether it was above its hard limit since its heap was reset last.
    pub(crate) fn has_overdrawn(&self) -> bool {
        let node = self.node();
        let overdrafts = node.overdrafts.load(Ordering::Relaxed) as u32;
        overdrafts != node.overdrafts_before.load(Ordering::Relaxed)
    }

    pub(crate) fn count_foreign_frees(&self, blocks: u64) {
        if !IS_ACCOUNTED {
            return;
        }
        for node in self.node().ancestors() {
            node.foreign_frees.fetch_add(blocks, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_escapees(&self, blocks: u64) {
        if !IS_ACCOUNTED {
            return;
        }
        for node in self.node().ancestors() {
            node.escapees.fetch_add(blocks, Ordering::Relaxed);
        }
    }

    /// Whether the thread's heap ever served something instead.
    pub(crate) fn has_spilled(&self) -> bool {
        self.node().spilled.load(Ordering::Relaxed) != 0
    }

    /// Counts what the thread's heap served instead.
    pub(crate) fn count_spilled(&self, bytes: usize) {
        for node in self.node().ancestors() {
            node.spilled.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Notes what the heap's runner counted.
    pub(crate) fn set_allocated(&self, bytes: usize, blocks: usize) {
        self.node().allocated_bytes.store(bytes, Ordering::Relaxed);
        self.node().allocated_blocks.store(blocks, Ordering::Relaxed);
    }
}
