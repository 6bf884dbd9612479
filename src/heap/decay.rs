//! Memory that nobody needs goes back by and by, whoever is asleep.
//!
//! Every so often ([`period_milliseconds`], one second), on some thread's slow path or in the purge
//! thread, one thread takes a turn:
//!
//! 1. It looks after each thread's heap, running or ended: what others freed there is collected.
//!    From those whose runner took no slow path since the last turn goes all that is empty, to the
//!    region's lists. See `heap::cell::tidy`.
//! 2. It lets the region's free runs decay: the pages of those that lay free for a whole period go
//!    back to the kernel.
//!
//! So what is freed is no longer resident four periods later, but for what sleeping threads keep in
//! magazines and batches; ARCHITECTURE.md says how much that is at most. Contexts' heaps are never
//! entered.
//!
//! A slow path costs an addition, and once in 32 a look at the clock.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use super::cell::{Tidying, tidy};
use super::header::{FastPath, HeapHeader};
use super::{census, lost};
use crate::region;
pub use crate::region::period_milliseconds;
use crate::sys::SystemError;
use crate::sys::fork::{ForkEntry, Rank};
use crate::sys::lock::RawLock;
use crate::sys::{self};

/// Slow paths between two looks at the clock.
const STEPS_PER_LOOK: u32 = 32;

/// When the last turn began.
static LAST_MILLISECONDS: AtomicU64 = AtomicU64::new(0);

/// One turn at a time. Taken around forks, so that a child finds no heap's lock held by a thread
/// that it does not have, but for its runner's.
static TURN: RawLock = RawLock::new();

/// Takes the lock around every fork from now on. Again is harmless.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn protect_fork() -> Result<(), SystemError> {
    static ENTRY: ForkEntry = ForkEntry::new();
    ENTRY.register(&TURN, Rank::Heap)
}

/// Counts a slow path of a heap's runner, who does not hold its lock; perhaps takes a turn.
#[inline]
pub fn step(heap: &HeapHeader) {
    step_of(&heap.slow_steps);
}

/// As [`step`], with a counter of the caller's.
#[inline]
pub fn step_of(steps: &Cell<u32>) {
    let count = steps.get().wrapping_add(1);
    steps.set(count);
    if count.is_multiple_of(STEPS_PER_LOOK) {
        take_turn_if_due();
    }
}

/// Takes a turn, if the last one was a period ago.
#[cold]
#[inline(never)]
pub fn take_turn_if_due() {
    let now = sys::coarse_milliseconds();
    // Relaxed: a time, valid in itself; who takes the turn is settled by the exchange.
    let last = LAST_MILLISECONDS.load(Ordering::Relaxed);
    // What another thread has read since may be later.
    if now.saturating_sub(last) < period_milliseconds().max(1) {
        return;
    }
    let turn = (Ordering::Relaxed, Ordering::Relaxed);
    if LAST_MILLISECONDS.compare_exchange(last, now, turn.0, turn.1).is_ok() && TURN.try_lock() {
        tidy_heaps(Tidying::WhereIdle);
        region::decay(now);
        // SAFETY: taken above.
        unsafe { TURN.unlock() };
    }
}

/// Takes what is empty from every thread's heap whose runner is not at it, to the region's lists;
/// the bytes.
pub fn collect_everywhere() -> usize {
    TURN.lock();
    let bytes = tidy_heaps(Tidying::Everywhere);
    // SAFETY: taken above.
    unsafe { TURN.unlock() };
    bytes
}

/// Under the lock of the turn.
fn tidy_heaps(tidying: Tidying) -> usize {
    let mut bytes = 0;
    for heap in census::heaps() {
        // SAFETY: threads' heaps are never closed; only what does not change and atomics are read.
        let this = unsafe { heap.as_ref() };
        if this.fast_path == FastPath::Slab && !lost::is_lost(this) {
            // SAFETY: the heap is of the slab strategy; no lock of a heap is held here.
            bytes += unsafe { tidy(heap, tidying) };
        }
    }
    bytes
}
