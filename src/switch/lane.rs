//! Which lane a thread has, in all stores and pools of heaps: the lowest that no other thread has.
//!
//! A thread takes it when it first uses a store or a pool, and it is free again when the thread
//! ends. So there are no more lanes in use than threads at once: who goes through them goes through
//! few, and threads that live at once have a lane each, as long as there are.
#![forbid(unsafe_code)]

use super::handle::token;
use super::state::{ThreadState, state};
use crate::sync::lanes::LANES;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// A bit for each lane that a thread has. Lane 0 is nobody's: 0 is a thread without a lane.
pub(super) static TAKEN: AtomicU64 = AtomicU64::new(1);

/// The calling thread's lane, from 1 to 63.
#[inline]
pub(crate) fn own_lane() -> usize {
    match state().lane.get() {
        0 => take_lane(),
        lane => lane as usize,
    }
}

// Not inlined: around it other code may change threads with its stack.
#[cold]
#[inline(never)]
fn take_lane() -> usize {
    // So that its end is noticed. One that is torn down shares: nobody would give its lane back.
    let is_running = token().is_ok();
    let own = if is_running { take_lowest() } else { None };
    let state = state();
    state.is_lane_own.set(own.is_some());
    let lane = own.unwrap_or_else(shared);
    state.lane.set(lane);
    lane as usize
}

/// Gives the lane of a thread that ends back. What runs on it later may still use it, beside its
/// next owner.
pub(super) fn give_back(state: &ThreadState) {
    if state.is_lane_own.take() {
        TAKEN.fetch_and(!(1 << state.lane.get()), Ordering::Relaxed);
    }
}

/// The lowest lane that nobody has; `None` if all are taken.
fn take_lowest() -> Option<u32> {
    // Relaxed, here and above: only the bits matter, and a lane that two have is right as well.
    let with_lowest = |taken: u64| (taken != u64::MAX).then(|| taken | (taken + 1));
    let taken = TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with_lowest).ok()?;
    Some(taken.trailing_ones())
}

/// One that other threads have as well, in turns.
fn shared() -> u32 {
    static TURN: AtomicU32 = AtomicU32::new(0);
    1 + TURN.fetch_add(1, Ordering::Relaxed) % (LANES as u32 - 1)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Lanes of ended threads are used again, so many threads one after the other need few. Other
    /// tests' threads have lanes meanwhile.
    #[test]
    fn lanes_are_used_again() {
        let lane = || thread::spawn(own_lane).join().expect("it does not panic");
        let lanes: std::collections::BTreeSet<usize> = (0..200).map(|_| lane()).collect();
        assert!(lanes.iter().all(|lane| (1..LANES).contains(lane)), "{lanes:?}");
        assert!(lanes.len() < LANES / 2, "{lanes:?}");
        assert_eq!(own_lane(), own_lane());
    }
}
