//! What a heap and its descendants hold, counted in whole chunks.
//!
//! Accounts are nodes apart from heap headers, because they outlive them: an orphaned run is
//! credited to its heap's account, and so to every ancestor, when its last block is freed.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::region::Metadata;

/// A node of the tree of accounts.
///
/// # Invariants
/// - `holders` counts the handles: the heap's header, and each child account.
/// - `committed` is the sum of the runs of the heap, of its orphans, and of all descendants.
///
/// All counters are relaxed: anyone may read them, and nobody concludes anything about memory from
/// them.
#[derive(Debug)]
pub struct Account {
    holders: AtomicUsize,
    parent: Option<NonNull<Account>>,
    committed: AtomicUsize,
    peak: AtomicUsize,
    limit: AtomicUsize,
    foreign_frees: AtomicU64,
    escapees: AtomicU64,
}

/// A counted pointer to an account.
#[derive(Debug)]
pub struct AccountHandle(NonNull<Account>);

// SAFETY: accounts consist of atomics and an immutable pointer; they are counted by an atomic.
unsafe impl Send for AccountHandle {}
// SAFETY: as above.
unsafe impl Sync for AccountHandle {}

/// Figures of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountUsage {
    /// Bytes in runs that the heap, its orphans and its descendants hold.
    pub committed_bytes: usize,
    /// The most that was.
    pub peak_bytes: usize,
    /// Blocks freed by other threads or contexts, as far as they were collected.
    pub foreign_frees: u64,
    /// Blocks that were still allocated when their heap was closed.
    pub escapees: u64,
}

impl AccountHandle {
    /// A new account below `parent`. `None` where there is no memory.
    pub fn new(parent: Option<&AccountHandle>) -> Option<Self> {
        let account = Metadata::take(size_of::<Account>())?.cast::<Account>();
        let parent = parent.map(|parent| {
            parent.holders.fetch_add(1, Ordering::Relaxed);
            parent.0
        });
        let value = Account {
            holders: AtomicUsize::new(1),
            parent,
            committed: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            foreign_frees: AtomicU64::new(0),
            escapees: AtomicU64::new(0),
        };
        // SAFETY: metadata blocks are at least 64 bytes, aligned, and this one is ours.
        unsafe { account.write(value) };
        Some(Self(account))
    }
}

impl Clone for AccountHandle {
    fn clone(&self) -> Self {
        // Relaxed: whoever clones holds a count already.
        self.holders.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl core::ops::Deref for AccountHandle {
    type Target = Account;

    #[inline]
    fn deref(&self) -> &Account {
        // SAFETY: the handle holds a count, so the account is valid.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for AccountHandle {
    fn drop(&mut self) {
        let mut account = self.0;
        loop {
            // SAFETY: a count is held: this handle's, or the child's that was just freed.
            let node = unsafe { account.as_ref() };
            // AcqRel: everybody's use of the node happens before it is freed. Not Release and a
            // fence by the last one: ThreadSanitizer knows no fences.
            if node.holders.fetch_sub(1, Ordering::AcqRel) != 1 {
                return;
            }
            let parent = node.parent;
            // SAFETY: the last count is gone; the memory came from `take` with this size.
            unsafe { Metadata::give_back(account.cast(), size_of::<Account>()) };
            match parent {
                Some(next) => account = next,
                None => return,
            }
        }
    }
}

impl Account {
    fn ancestors(&self) -> impl Iterator<Item = &Account> {
        core::iter::successors(Some(self), |node| {
            // SAFETY: an account holds a count of its parent's.
            node.parent.map(|parent| unsafe { parent.as_ref() })
        })
    }

    /// Charges `bytes` to the account and its ancestors: the one place where a heap obtains memory.
    /// False, and nothing charged, where a limit says no.
    pub fn charge(&self, bytes: usize) -> bool {
        for (depth, node) in self.ancestors().enumerate() {
            let committed = node.committed.fetch_add(bytes, Ordering::Relaxed) + bytes;
            if committed > node.limit.load(Ordering::Relaxed) {
                for charged in self.ancestors().take(depth + 1) {
                    charged.committed.fetch_sub(bytes, Ordering::Relaxed);
                }
                return false;
            }
            // Most charges raise no peak: look before the read-modify-write.
            if committed > node.peak.load(Ordering::Relaxed) {
                node.peak.fetch_max(committed, Ordering::Relaxed);
            }
        }
        true
    }

    /// Credits what was charged.
    pub fn credit(&self, bytes: usize) {
        for node in self.ancestors() {
            node.committed.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_foreign_frees(&self, blocks: u64) {
        for node in self.ancestors() {
            node.foreign_frees.fetch_add(blocks, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_escapees(&self, blocks: u64) {
        for node in self.ancestors() {
            node.escapees.fetch_add(blocks, Ordering::Relaxed);
        }
    }

    /// What the account counts now. Any thread may ask; the figures are as of the heap's last slow
    /// path.
    pub fn usage(&self) -> AccountUsage {
        AccountUsage {
            committed_bytes: self.committed.load(Ordering::Relaxed),
            peak_bytes: self.peak.load(Ordering::Relaxed),
            foreign_frees: self.foreign_frees.load(Ordering::Relaxed),
            escapees: self.escapees.load(Ordering::Relaxed),
        }
    }
}
