//! Reclaim callbacks: what a program wants to do when an account passes a limit.
//!
//! They are called at safe points, outside the allocator and with the thread's own heap in use. A
//! cache drops entries, a server refuses work, a monitor cancels the largest consumer.

use std::sync::Arc;

use super::events;
use crate::heap::account::{signal, unrefused};
use crate::heap::callbacks::call_guarded;
use crate::heap::{Account, AccountId, AccountReport};
use crate::sys::SystemError;
use crate::sys::fork::{ForkEntry, Rank};
use crate::sys::lock::Lock;

/// Which limit was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PassedLimit {
    /// The soft one.
    Soft,
    /// The hard one, by a charge that was granted.
    Hard,
}

/// An account that passed a limit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pressure {
    /// Which account, with its figures as they are now.
    pub account: AccountReport,
    /// Which limit.
    pub limit: PassedLimit,
}

type Callback = Arc<dyn Fn(&Pressure) + Send + Sync>;

struct Watch {
    id: AccountId,
    number: u64,
    call: Callback,
}

struct Watches {
    next_number: u64,
    all: Vec<Watch>,
}

/// What is told.
const NOTED: u64 = signal::SOFT | signal::HARD;

static WATCHES: Lock<Watches> = Lock::new(Watches { next_number: 0, all: Vec::new() });

/// Takes their lock around every fork from now on. Again is harmless.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn protect_fork() -> Result<(), SystemError> {
    static ENTRY: ForkEntry = ForkEntry::new();
    ENTRY.register(WATCHES.raw(), Rank::Watches)
}

/// Keeps a reclaim callback registered until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the callback's registration"]
pub struct PressureWatch {
    number: u64,
}

impl Account {
    /// Calls `call` at the next safe point of the thread that took this account, with all below it,
    /// above its soft limit, or above its hard limit. Once for each time that a soft limit is
    /// passed. A panic in it is caught. It is not called within itself: what is noted of
    /// this account while it runs, by itself or on other threads, is told at the next safe point
    /// that tells of the account: when something below it passes a limit again.
    ///
    /// ```
    /// use heapswitch::{Account, PassedLimit};
    ///
    /// let cache = Account::new("cache")?.with_soft_limit(32 << 20);
    /// let watch = cache.on_pressure(|pressure| {
    ///     if pressure.limit == PassedLimit::Soft { /* drop what is old */ }
    /// });
    /// drop(watch); // Not called any more.
    /// # Ok::<(), heapswitch::HeapError>(())
    /// ```
    pub fn on_pressure(&self, call: impl Fn(&Pressure) + Send + Sync + 'static) -> PressureWatch {
        super::scope::out_of_contexts(|| {
            // Of a program that uses accounts alone.
            let _ = protect_fork();
            let call: Callback = Arc::new(call);
            let mut watches = WATCHES.lock();
            let number = watches.next_number;
            watches.next_number += 1;
            watches.all.push(Watch { id: self.id(), number, call });
            PressureWatch { number }
        })
    }
}

impl Drop for PressureWatch {
    fn drop(&mut self) {
        let mut watches = WATCHES.lock();
        let place = watches.all.iter().position(|watch| watch.number == self.number);
        let watch = place.map(|place| watches.all.swap_remove(place));
        drop(watches);
        // What the callback captured is dropped without the lock.
        drop(watch);
    }
}

/// Tells what an account and those above it noted since they were asked last; each once, `told`
/// being those of which it was: callbacks may take memory themselves, and pass the limit that they
/// are called for. That is told the next time that something is noted below.
pub(super) fn tell(account: &Account, told: &mut Vec<AccountId>) {
    for node in account.with_parents().filter(|node| node.signals() & NOTED != 0) {
        if told.contains(&node.id()) {
            continue;
        }
        unrefused(|| told.push(node.id()));
        let noted = node.lower(NOTED);
        for (bit, limit) in [(signal::SOFT, PassedLimit::Soft), (signal::HARD, PassedLimit::Hard)] {
            if noted & bit != 0 {
                call_all(&Pressure { account: node.report_figures(), limit });
            }
        }
    }
}

fn call_all(pressure: &Pressure) {
    events::passed(pressure);
    let calls: Vec<Callback> = {
        let watches = WATCHES.lock();
        let of_account = watches.all.iter().filter(|watch| watch.id == pressure.account.id);
        unrefused(|| of_account.map(|watch| Arc::clone(&watch.call)).collect())
    };
    for call in calls {
        call_guarded(|| call(pressure));
        // What it captured may be dropped with it here, if it dropped its own watch.
        call_guarded(move || drop(call));
    }
}
