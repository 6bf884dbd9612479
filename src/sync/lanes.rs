//! Which records are being read: announcements, in a cache line for each thread that reads.
//!
//! ```text
//!   opened   lane 1, lane 2
//!   lane 1   │ 7 │ 0 │ 0 │ 0 │ ...        a guard holds record 6
//!   lane 2   │ 0 │ 3 │ 0 │ 0 │ ...        one holds record 2; one before it was dropped
//!   lane 3   │ closed        │ ...        no thread has come here yet
//! ```
//! A reader announces a record by one compare-and-swap in its own lane, and **then** looks whether
//! it may read. Who wants the record for himself makes that known first, and **then** goes through
//! the lanes. These four accesses are in one order for all threads, so whoever comes second sees
//! the other: the reader withdraws, or the other leaves the record alone. Withdrawing is a plain
//! store, by whichever thread has the guard then.
//!
//! Readers write to nothing that other readers write to; a count in each record slowed them down
//! (two threads among 500 records read 1.1 to 1.3 times as fast as one). The price is paid by who
//! goes through the lanes: a line for each lane that was ever used, at most 63.

use super::{AtomicU32, AtomicU64, Ordering};

/// How many lanes there are. Threads beyond that share them, which is slower and as right.
pub const LANES: usize = if cfg!(loom) { 3 } else { 64 };
/// How many announcements a lane has room for.
const WORDS: usize = if cfg!(loom) { 1 } else { 8 };

/// How many records may be announced at once.
pub const MOST_ANNOUNCED: usize = LANES * WORDS;

/// Nothing is announced; else it is the record's number and one.
const EMPTY: u32 = 0;
/// The lane's bit in `opened` is not set yet.
const CLOSED: u32 = u32::MAX;

// Loom must find the models failing with these weakened.
#[inline]
pub(super) fn announce() -> Ordering {
    weakened!("lanes_announce", Ordering::Acquire, Ordering::SeqCst)
}
#[inline]
pub(super) fn scan() -> Ordering {
    weakened!("lanes_scan", Ordering::Acquire, Ordering::SeqCst)
}
#[inline]
fn withdraw() -> Ordering {
    weakened!("lanes_withdraw", Ordering::Relaxed, Ordering::Release)
}

/// Between an access with the first ordering and one with the second. The language has SeqCst
/// accesses in one order without more, and a fence would cost as much as the compare-and-swap.
#[cfg(not(loom))]
#[inline]
pub(super) fn in_one_order(_: Ordering, _: Ordering) {}

/// Loom takes SeqCst accesses for weaker ones; of fences it knows the order of all threads. There
/// is one where both are SeqCst, so each of them can be weakened alone. But a fence also orders
/// what comes after the second access.
#[cfg(loom)]
pub(super) fn in_one_order(first: Ordering, second: Ordering) {
    if first == Ordering::SeqCst && second == Ordering::SeqCst {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

#[derive(Debug)]
#[cfg_attr(not(loom), repr(align(64)))]
struct Lane {
    words: [AtomicU32; WORDS],
}

/// The announcements of all threads.
#[derive(Debug)]
pub struct Lanes {
    lanes: [Lane; LANES],
    /// A bit for each lane that was ever used. Others are not looked at.
    opened: AtomicU64,
}

/// That a record is read. It stays until it is withdrawn.
#[derive(Debug)]
pub struct Announcement<'a> {
    word: &'a AtomicU32,
}

impl Announcement<'_> {
    /// Ends it; once, and nothing of the record is read afterwards.
    #[inline]
    pub fn withdraw(&self) {
        // Release pairs with the scan in `each`: what was read is read before it is overwritten. A
        // later announcement in the same word is a read-modify-write, which hands that on.
        self.word.store(EMPTY, withdraw());
    }
}

impl Lanes {
    /// No announcements.
    pub fn new() -> Self {
        let word = |_| AtomicU32::new(CLOSED);
        let lane = |_| Lane { words: core::array::from_fn(word) };
        Self { lanes: core::array::from_fn(lane), opened: AtomicU64::new(0) }
    }

    /// Announces a record in a lane, which is the calling thread's by preference; `None` if that is
    /// full. Whether the record may be read is to be looked at after that, by SeqCst loads.
    #[inline]
    pub fn announce(&self, lane: usize, record: u32) -> Option<Announcement<'_>> {
        let words = &self.lanes[lane % LANES].words;
        if Self::take(&words[0], record) {
            return Some(Announcement { word: &words[0] });
        }
        self.announce_behind(lane % LANES, record)
    }

    /// The first word is not to be had.
    #[cold]
    #[inline(never)]
    fn announce_behind(&self, lane: usize, record: u32) -> Option<Announcement<'_>> {
        let words = &self.lanes[lane].words;
        if words[WORDS - 1].load(Ordering::Relaxed) == CLOSED {
            // Before the words can be taken: SeqCst as for those. Release in the second pairs with
            // announce(), for another thread of this lane.
            self.opened.fetch_or(1 << lane, announce());
            for word in words {
                let _ = word.compare_exchange(CLOSED, EMPTY, Ordering::Release, Ordering::Relaxed);
            }
        }
        let word = words.iter().find(|word| Self::take(word, record))?;
        Some(Announcement { word })
    }

    #[inline]
    fn take(word: &AtomicU32, record: u32) -> bool {
        // SeqCst pairs with the scan: see the head of the file. Acquire pairs with `withdraw`, so
        // that whoever sees this announcement withdrawn sees the one before withdrawn.
        word.load(Ordering::Relaxed) == EMPTY
            && word.compare_exchange(EMPTY, record + 1, announce(), Ordering::Relaxed).is_ok()
    }

    /// Every record that is announced. One that the caller made unreadable before, by a SeqCst
    /// read-modify-write or under a lock, and that is not among them, is read by nobody from now
    /// on, and what was read of it is done.
    #[inline]
    pub fn each(&self, mut note: impl FnMut(u32)) {
        // SeqCst and Acquire pair with `announce` and `withdraw`.
        let mut opened = self.opened.load(scan());
        while opened != 0 {
            for word in &self.lanes[opened.trailing_zeros() as usize % LANES].words {
                let word = word.load(scan());
                if word != EMPTY && word != CLOSED {
                    note(word - 1);
                }
            }
            opened &= opened - 1;
        }
    }

    /// Whether a record is announced; see [`each`](Self::each).
    pub fn announces(&self, record: u32) -> bool {
        let mut is_announced = false;
        self.each(|other| is_announced |= other == record);
        is_announced
    }
}

impl Default for Lanes {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_filled_and_emptied() {
        let lanes = Lanes::new();
        assert!(!lanes.announces(0));
        let announced: Vec<_> = (0..WORDS as u32).map(|n| lanes.announce(5, n).unwrap()).collect();
        assert!(lanes.announce(5 + LANES, 9).is_none(), "the lane is full");
        let other = lanes.announce(6, u32::MAX - 2).unwrap();
        announced[1].withdraw();
        let mut found = Vec::new();
        lanes.each(|record| found.push(record));
        let left: Vec<u32> = (0..WORDS as u32).filter(|n| *n != 1).chain([u32::MAX - 2]).collect();
        assert_eq!(found, left);
        let again = lanes.announce(5, 1).unwrap();
        assert!(lanes.announces(1));
        announced.iter().for_each(Announcement::withdraw);
        other.withdraw();
        again.withdraw();
        lanes.each(|record| panic!("{record} is left"));
    }
}
