//! Charging and crediting: what happens inside the allocator, and so atomics and nothing else.
//!
//! Any account from a heap's own up to the process's may refuse a charge, and one that is refused
//! never shows: not in the figures, not in the signals, and not to a neighbour, who would meet a
//! limit that nobody reached. So a charge has two steps. First every account is looked at, and
//! where one has a limit each *promises* the memory; only then does each *hold* it, tell what its
//! limits say of that, and count. A promise that a later account does not join is withdrawn.
//!
//! What is held changes by one read-modify-write an account, so of all charges that take an account
//! above a limit one is the first, and learns it. Where no account has a limit that is all.
//! Neighbours meet promises only where these would take a limit's last room, for as long as a
//! charge takes, and then as a refusal: never as memory above a limit.

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::limits::{LimitPolicy, Refusal, UNLIMITED, as_set, reserve_of, whole_chunks};
use super::{Account, IS_ACCOUNTED, Node, PROCESS};
use crate::region::MAX_REGION_BYTES;
use crate::sync::tally;
use crate::units::CHUNK_SHIFT;

/// Accounts count chunks of the region, and no request for more comes to them.
const MAX_CHUNKS: u64 = (MAX_REGION_BYTES >> CHUNK_SHIFT) as u64;
const _: () = assert!(MAX_CHUNKS <= tally::MAX_UNITS);

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

/// Memory that every account promised, and that is not held yet. Dropped, it is withdrawn.
#[derive(Debug)]
#[must_use = "dropping it withdraws it"]
pub(crate) struct Promise<'account> {
    account: &'account Account,
    chunks: u64,
    /// How many accounts promised, from the lowest up: all of them, or none if none has a limit.
    accounts: usize,
    /// Which of them had no room below their limits, a bit each; the highest is for all further.
    above: u64,
}

/// The bit of the `index`-th account from the lowest up.
fn bit_of(index: usize) -> u64 {
    1 << index.min(u64::BITS as usize - 1)
}

/// The hard limit of what all heaps hold together, in bytes.
pub fn process_limit() -> Option<usize> {
    as_set(PROCESS.hard.load(Ordering::Relaxed))
}

/// Sets the hard limit, in bytes, of what all heaps of the process hold together, threads' heaps
/// included: above it every allocation that needs another chunk is null, whatever the policy, also
/// while a thread panics. `None`: no limit, as from the start.
///
/// Not refused is what it takes to give memory back: what heapswitch itself needs to close heaps
/// and to tell of limits, and for the payload that unwinds a suspended coroutine.
pub fn set_process_limit(bytes: Option<usize>) {
    PROCESS.hard.store(whole_chunks(bytes), Ordering::Relaxed);
}

std::thread_local! {
    static IS_UNREFUSED: Cell<bool> = const { Cell::new(false) };
}

/// Whether no limit refuses this thread anything, from now on; whether that was so before.
// Not inlined: around it other code may change threads with its stack.
#[cold]
#[inline(never)]
pub(crate) fn set_unrefused(is_unrefused: bool) -> bool {
    IS_UNREFUSED.replace(is_unrefused)
}

/// Runs the body, in which no limit refuses this thread anything: for what is allocated so that
/// memory comes back, where null would end the process. No code of the program's.
pub(crate) fn unrefused<T>(body: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            set_unrefused(self.0);
        }
    }
    let _restore = Restore(set_unrefused(true));
    body()
}

impl Node {
    /// The hard limit, in chunks.
    fn hard_chunks(&self) -> u64 {
        (self.hard.load(Ordering::Relaxed) >> CHUNK_SHIFT) as u64
    }

    /// Whether there is a limit to ask for a promise. Changes nothing.
    fn agrees(&self, chunks: u64, may_overdraw: bool) -> Result<bool, Refusal> {
        if self.hard.load(Ordering::Relaxed) == UNLIMITED {
            return Ok(false);
        }
        if !self.held.has_room(chunks, self.hard_chunks()) {
            self.check_granted(may_overdraw)?;
        }
        Ok(true)
    }

    /// Promises; whether that is above the hard limit.
    fn promise(&self, chunks: u64, may_overdraw: bool) -> Result<bool, Refusal> {
        let is_below = self.held.try_promise(chunks, self.hard_chunks());
        if !is_below {
            self.check_granted(may_overdraw)?;
            self.held.promise(chunks);
        }
        Ok(!is_below)
    }

    /// An error, and counted, unless a charge above the hard limit is granted.
    #[cold]
    fn check_granted(&self, may_overdraw: bool) -> Result<(), Refusal> {
        match self.refusal(may_overdraw) {
            None => Ok(()),
            Some(refusal) => {
                self.refusals.fetch_add(1, Ordering::Relaxed);
                Err(refusal)
            }
        }
    }

    /// Counts a charge after which `after` bytes are held; what that means for safe points. Limits
    /// are those of now: one that was set since the promises counts as set before.
    fn record(&self, bytes: usize, after: usize) -> u64 {
        self.total.fetch_add(bytes as u64, Ordering::Relaxed);
        self.charges.fetch_add(1, Ordering::Relaxed);
        // Most charges raise no peak: look before the read-modify-write.
        if after > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(after, Ordering::Relaxed);
        }
        let (soft, hard) = (self.soft.load(Ordering::Relaxed), self.hard.load(Ordering::Relaxed));
        let mut noted = 0;
        if after > soft && after - bytes <= soft {
            self.signals.raise(signal::SOFT);
            noted |= signal::SOFT;
        }
        if after > hard {
            self.signals.raise(signal::HARD);
            noted |= signal::HARD;
        }
        noted
    }

    /// Whether a context that passes the hard limit is ended. Limits of other policies end nobody:
    /// what is above one was granted to a thread that unwinds, or just before the limit was set.
    /// Nor does the process's.
    fn ends_who_overdraws(&self) -> bool {
        let policy = LimitPolicy::from_code(self.policy.load(Ordering::Relaxed));
        policy == LimitPolicy::Overdraft && !core::ptr::eq(self, &PROCESS)
    }

    /// Counts a charge that found no room below the hard limit, after which `all` bytes are held
    /// and promised: others hold within the limit later, and then pass it for this one. What it
    /// means for the context.
    #[cold]
    fn record_overdraft(&self, all: usize) -> u64 {
        let hard = self.hard.load(Ordering::Relaxed);
        if all <= hard {
            return 0; // A promise was withdrawn meanwhile, or the limit raised.
        }
        self.signals.raise(signal::HARD);
        self.overdrafts.fetch_add(1, Ordering::Relaxed);
        self.overdraft_peak.fetch_max(all - hard, Ordering::Relaxed);
        let is_spent = all - hard > reserve_of(hard);
        match self.ends_who_overdraws() {
            false => signal::HARD,
            true => signal::OVER | if is_spent { signal::SPENT } else { 0 },
        }
    }

    /// What a charge above the hard limit gets; `None`: it is granted.
    #[cold]
    fn refusal(&self, may_overdraw: bool) -> Option<Refusal> {
        if IS_UNREFUSED.get() {
            return None;
        }
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
}

impl Promise<'_> {
    pub(crate) fn bytes(&self) -> usize {
        (self.chunks as usize) << CHUNK_SHIFT
    }

    /// Charges what was promised.
    pub(crate) fn keep(self) -> Charge {
        let this = core::mem::ManuallyDrop::new(self);
        if !IS_ACCOUNTED {
            return Charge { is_noted: false };
        }
        let (account, bytes) = (this.account, (this.chunks as usize) << CHUNK_SHIFT);
        let mut noted = 0;
        for (index, node) in account.node().ancestors().enumerate() {
            let (held, all) = if index < this.accounts {
                node.held.keep(this.chunks)
            } else {
                (node.held.hold(this.chunks), 0)
            };
            noted |= node.record(bytes, (held as usize) << CHUNK_SHIFT);
            if this.above & bit_of(index) != 0 {
                noted |= node.record_overdraft((all as usize) << CHUNK_SHIFT);
            }
        }
        account.node().own.fetch_add(bytes, Ordering::Relaxed);
        if noted & signal::END != 0 && !std::thread::panicking() {
            account.raise(noted & signal::END);
        }
        Charge { is_noted: noted != 0 }
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        for node in self.account.node().ancestors().take(self.accounts) {
            node.held.withdraw(self.chunks);
        }
    }
}

impl Account {
    /// Has the account and its ancestors promise `bytes`, whole chunks: before memory is obtained
    /// that may turn out not to be there. The one way for a heap to memory.
    ///
    /// # Errors
    /// A limit says no. [`Refusal::Overdraft`] is for who may try again with `may_overdraw`.
    pub(crate) fn promise(&self, bytes: usize, may_overdraw: bool) -> Result<Promise<'_>, Refusal> {
        let wanted = (bytes >> CHUNK_SHIFT) as u64;
        // No source has more, but a limit may be what is said of it.
        let chunks = wanted.min(MAX_CHUNKS);
        let mut promise = Promise { account: self, chunks, accounts: 0, above: 0 };
        if !IS_ACCOUNTED {
            return Ok(promise);
        }
        let mut is_limited = false;
        for node in self.node().ancestors() {
            is_limited |= node.agrees(chunks, may_overdraw)?;
        }
        if wanted > MAX_CHUNKS {
            return Err(Refusal::None);
        }
        if is_limited {
            for node in self.node().ancestors() {
                // An error drops the promise, which withdraws it from those below.
                if node.promise(chunks, may_overdraw)? {
                    promise.above |= bit_of(promise.accounts);
                }
                promise.accounts += 1;
            }
        }
        Ok(promise)
    }

    /// What a request gets that no limit refuses and that the source has no memory for. The global
    /// allocator's memory is counted for nobody, so it must not serve who has a limit, or only a
    /// context that is then ended: each limit's policy is asked, the strictest one decides.
    pub(crate) fn refusal_without_memory(&self) -> Refusal {
        if !IS_ACCOUNTED {
            return Refusal::None;
        }
        let refusals = self.limited().filter_map(|node| node.refusal(false));
        refusals.max_by_key(|&refusal| refusal.strictness()).unwrap_or_default()
    }

    /// Has the context end that was served memory which no account counts.
    pub(crate) fn end_for_uncounted(&self) {
        if let Some(node) = self.limited().next() {
            node.overdrafts.fetch_add(1, Ordering::Relaxed);
        }
        self.raise(signal::OVER | signal::SPENT);
    }

    /// This account and those above it, as far as they have a hard limit.
    fn limited(&self) -> impl Iterator<Item = &Node> {
        self.node().ancestors().filter(|node| node.hard.load(Ordering::Relaxed) != UNLIMITED)
    }

    /// Credits what was charged.
    pub(crate) fn credit(&self, bytes: usize) {
        if !IS_ACCOUNTED {
            return;
        }
        self.node().own.fetch_sub(bytes, Ordering::Relaxed);
        for node in self.node().ancestors() {
            node.held.subtract((bytes >> CHUNK_SHIFT) as u64);
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
            node.ends_who_overdraws() && node.committed_bytes() > node.hard.load(Ordering::Relaxed)
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
