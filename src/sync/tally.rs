//! How much is held, and how much was promised to those who are about to hold it, in one word.
//!
//! A charge goes to several tallies, and any of them may refuse. So each that could is asked for a
//! promise first, and only when all have agreed does the promise become a holding: what is held
//! never contains what somebody was refused elsewhere. Whoever asks for a promise meets what is
//! held and what is promised; whoever makes it a holding learns what is held then, exactly, for all
//! changes are read-modify-writes of one word.
//!
//! Relaxed everywhere: nobody concludes anything about memory from it.

use super::{AtomicU64, Ordering};

/// The lower bits: what is held. Promises stand above. Sums of promises that are too large for
/// their bits lose carries beyond the word, and never touch what is held.
const HELD_BITS: u32 = 28;
const HELD: u64 = (1 << HELD_BITS) - 1;

/// The most that may be asked for at once, and that may be held in all, in units.
pub const MAX_UNITS: u64 = 1 << (HELD_BITS - 1);

/// Units held and promised.
#[derive(Debug)]
pub struct Tally {
    word: AtomicU64,
}

impl Tally {
    /// Nothing.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Nothing.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Units that are held.
    #[inline]
    pub fn held(&self) -> u64 {
        self.word.load(Ordering::Relaxed) & HELD
    }

    /// Whether so many units more fit below a limit now.
    #[inline]
    pub fn has_room(&self, units: u64, limit: u64) -> bool {
        has_room(self.word.load(Ordering::Relaxed), units, limit)
    }

    /// Promises units, if with them no more than `limit` is held and promised; whether it did.
    #[inline]
    #[must_use]
    pub fn try_promise(&self, units: u64, limit: u64) -> bool {
        let (change, mut word) = (units << HELD_BITS, self.word.load(Ordering::Relaxed));
        while has_room(word, units, limit) {
            let order = (Ordering::Relaxed, Ordering::Relaxed);
            let new = word.wrapping_add(change);
            match self.word.compare_exchange_weak(word, new, order.0, order.1) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Promises units, whatever the limit.
    #[inline]
    pub fn promise(&self, units: u64) {
        self.word.fetch_add(units << HELD_BITS, Ordering::Relaxed);
    }

    /// Takes a promise back.
    #[inline]
    pub fn withdraw(&self, units: u64) {
        self.word.fetch_sub(units << HELD_BITS, Ordering::Relaxed);
    }

    /// Makes a promise a holding; what is held then, and what is held and promised.
    #[inline]
    pub fn keep(&self, units: u64) -> (u64, u64) {
        let change = units.wrapping_sub(units << HELD_BITS);
        let word = self.word.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        (word & HELD, (word & HELD) + (word >> HELD_BITS))
    }

    /// Adds to what is held, without a promise; what is held then.
    #[inline]
    pub fn hold(&self, units: u64) -> u64 {
        self.word.fetch_add(units, Ordering::Relaxed).wrapping_add(units) & HELD
    }

    /// Subtracts from what is held.
    #[inline]
    pub fn subtract(&self, units: u64) {
        self.word.fetch_sub(units, Ordering::Relaxed);
    }
}

#[inline]
fn has_room(word: u64, units: u64, limit: u64) -> bool {
    (word & HELD) + (word >> HELD_BITS) + units <= limit
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn promises_bind_and_are_not_held() {
        let tally = Tally::new();
        assert_eq!(tally.hold(3), 3);
        assert!(tally.try_promise(4, 10) && tally.try_promise(3, 10));
        assert!(!tally.has_room(1, 10) && !tally.try_promise(1, 10) && tally.has_room(1, 11));
        assert_eq!(tally.held(), 3);
        tally.withdraw(3);
        assert_eq!(tally.hold(5), 8, "somebody overdraws meanwhile");
        assert!(tally.try_promise(1, 13));
        assert_eq!(tally.keep(4), (12, 13));
        tally.withdraw(1);
        tally.subtract(12);
        assert!(tally.held() == 0 && tally.has_room(10, 10));
    }

    #[test]
    fn sums_of_promises_that_overflow_leave_what_is_held_alone() {
        let tally = Tally::new();
        tally.hold(7);
        for _ in 0..1 << 10 {
            tally.promise(MAX_UNITS);
        }
        assert_eq!(tally.held(), 7);
        for _ in 0..1 << 10 {
            tally.withdraw(MAX_UNITS);
        }
        assert!(tally.held() == 7 && tally.has_room(3, 10));
    }
}
