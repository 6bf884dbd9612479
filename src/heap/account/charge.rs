//! Charging and crediting: what happens inside the allocator, and so atomics and nothing else.
//!
//! An account without limits takes one addition. One with a limit takes a compare-and-swap, so that
//! a request which is refused never shows in the figures: a neighbour would meet a limit that
//! nobody reached.

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::limits::{LimitPolicy, Refusal, UNLIMITED, as_set, reserve_of, whole_chunks};
use super::{Account, Node, PROCESS};

/// Bits that tell safe points what happened.
pub mod signal {
    /// A charge of this account's heap went above a hard limit, its own or an ancestor's.
    pub const OVER: u64 = 1;
    /// And above the reserve: being below the limit again does not help.
    pub const SPENT: u64 = 1 << 1;
    /// Somebody asked for the context's end.
    pub const CANCELLED: u64 = 1 << 2;
    /// What ends a context.
    pub const END: u64 = OVER | SPENT | CANCELLED;
    /// The account's soft limit was passed and nobody was told.
    pub const SOFT: u64 = 1 << 3;
    /// The account's hard limit was passed and nobody was told.
    pub const HARD: u64 = 1 << 4;
    /// The account stands in a thread's list.
    pub const WAITS: u64 = 1 << 5;
    // From `1 << 6` on: those of `sync::child`.
    pub use crate::sync::child::CLOSE;
}

/// A charge that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// A limit was passed: there is something to do at the next safe point.
    pub is_noted: bool,
}

/// The hard limit of what all heaps hold together, in bytes.
pub fn process_limit() -> Option<usize> {
    as_set(PROCESS.hard.load(Ordering::Relaxed))
}

/// Sets the hard limit, in bytes, of what all heaps of the process hold together, threads' heaps
/// included: above it every allocation that needs another chunk is null, whatever the policy, also
/// while a thread panics. `None`: no limit, as from the start.
pub fn set_process_limit(bytes: Option<usize>) {
    PROCESS.hard.store(whole_chunks(bytes), Ordering::Relaxed);
}

impl Node {
    /// Takes `bytes` from this account alone; what that means for safe points.
    fn take(&self, bytes: usize, may_overdraw: bool) -> Result<u64, Refusal> {
        let (soft, hard) = (self.soft.load(Ordering::Relaxed), self.hard.load(Ordering::Relaxed));
        if soft == UNLIMITED && hard == UNLIMITED {
            let before = self.committed.fetch_add(bytes, Ordering::Relaxed);
            self.raise_peak(before + bytes);
            return Ok(0);
        }
        let mut before = self.committed.load(Ordering::Relaxed);
        let after = loop {
            let after = before.wrapping_add(bytes);
            if after > hard
                && let Some(refusal) = self.refusal(may_overdraw)
            {
                self.refusals.fetch_add(1, Ordering::Relaxed);
                return Err(refusal);
            }
            let order = (Ordering::Relaxed, Ordering::Relaxed);
            match self.committed.compare_exchange_weak(before, after, order.0, order.1) {
                Ok(_) => break after,
                Err(now) => before = now,
            }
        };
        self.raise_peak(after);
        if after > soft && before <= soft {
            self.signals.raise(signal::SOFT);
        }
        if after <= hard {
            return Ok(if after > soft && before <= soft { signal::SOFT } else { 0 });
        }
        self.signals.raise(signal::HARD);
        self.overdrafts.fetch_add(1, Ordering::Relaxed);
        self.overdraft_peak.fetch_max(after - hard, Ordering::Relaxed);
        let is_spent = after - hard > reserve_of(hard);
        Ok(signal::OVER | if is_spent { signal::SPENT } else { 0 })
    }

    /// What a charge above the hard limit gets; `None`: it is granted.
    #[cold]
    fn refusal(&self, may_overdraw: bool) -> Option<Refusal> {
        if core::ptr::eq(self, &PROCESS) {
            return Some(Refusal::Fail);
        }
        let refusal = LimitPolicy::from_code(self.policy.load(Ordering::Relaxed)).refusal();
        // A thread that unwinds must not be stopped by a limit, or it aborts. Asked last: it is not
        // free, and hardly ever so.
        let is_granted =
            (refusal == Refusal::Overdraft && may_overdraw) || std::thread::panicking();
        (!is_granted).then_some(refusal)
    }

    fn raise_peak(&self, committed: usize) {
        // Most charges raise no peak: look before the read-modify-write.
        if committed > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(committed, Ordering::Relaxed);
        }
    }
}

impl Account {
    /// Charges `bytes` to the account and its ancestors: the one place where a heap obtains memory.
    ///
    /// # Errors
    /// A limit says no, and nothing is charged. [`Refusal::Overdraft`] is for who may try again
    /// with `may_overdraw`.
    pub(crate) fn charge(&self, bytes: usize, may_overdraw: bool) -> Result<Charge, Refusal> {
        let mut noted = 0;
        for (depth, node) in self.node().ancestors().enumerate() {
            match node.take(bytes, may_overdraw) {
                Ok(signals) => noted |= signals,
                Err(refusal) => {
                    for charged in self.node().ancestors().take(depth) {
                        charged.committed.fetch_sub(bytes, Ordering::Relaxed);
                    }
                    return Err(refusal);
                }
            }
        }
        self.node().own.fetch_add(bytes, Ordering::Relaxed);
        for node in self.node().ancestors() {
            node.total.fetch_add(bytes as u64, Ordering::Relaxed);
            node.charges.fetch_add(1, Ordering::Relaxed);
        }
        if noted & signal::END != 0 && !std::thread::panicking() {
            self.raise(noted & signal::END);
        }
        Ok(Charge { is_noted: noted != 0 })
    }

    /// Credits what was charged.
    pub(crate) fn credit(&self, bytes: usize) {
        self.node().own.fetch_sub(bytes, Ordering::Relaxed);
        for node in self.node().ancestors() {
            node.committed.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Whether a limit ends the context, or somebody asked for its end.
    #[inline]
    pub(crate) fn is_ended(&self) -> bool {
        self.node().signals.get() & signal::END != 0
    }

    /// The bits of [`signal`] that are set.
    pub(crate) fn signals(&self) -> u64 {
        self.node().signals.get()
    }

    /// Sets bits of [`signal`]; what was set before.
    pub(crate) fn raise(&self, signals: u64) -> u64 {
        self.node().signals.raise(signals)
    }

    /// Clears bits of [`signal`]; which of them were set.
    pub(crate) fn lower(&self, signals: u64) -> u64 {
        self.node().signals.lower(signals)
    }

    /// The lowest account from this one up that is above its hard limit.
    pub(crate) fn first_over(&self) -> Option<Account> {
        self.with_parents().find(|account| {
            let node = account.node();
            node.committed.load(Ordering::Relaxed) > node.hard.load(Ordering::Relaxed)
        })
    }

    /// The lowest account from this one up that was above its hard limit.
    pub(crate) fn first_overdrawn(&self) -> Option<Account> {
        self.with_parents().find(Account::has_overdrawn)
    }

    /// This account and those above it.
    pub(crate) fn with_parents(&self) -> impl Iterator<Item = Account> {
        core::iter::successors(Some(self.clone()), Account::parent)
    }

    /// Puts the account before `first`, a list of those that wait for a safe point, with a count of
    /// its own. `None` if it stands in a list.
    pub(crate) fn wait_before(&self, first: Option<NonNull<Node>>) -> Option<NonNull<Node>> {
        if self.raise(signal::WAITS) & signal::WAITS != 0 {
            return None;
        }
        let first = first.map_or(core::ptr::null_mut(), NonNull::as_ptr);
        self.node().next_waiting.store(first, Ordering::Relaxed);
        Some(core::mem::ManuallyDrop::new(self.clone()).0)
    }

    /// Takes the first account off a list; the rest of the list.
    ///
    /// # Safety
    /// The list was made by [`wait_before`](Self::wait_before), and nobody else takes from it.
    pub(crate) unsafe fn take_waiting(first: NonNull<Node>) -> (Self, Option<NonNull<Node>>) {
        let account = Self(first);
        let next = account.node().next_waiting.load(Ordering::Relaxed);
        account.lower(signal::WAITS);
        (account, NonNull::new(next))
    }
}
