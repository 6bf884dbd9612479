//! Blocks that were freed a moment ago, as they are: a write of the same length takes one, or of up
//! to a sixteenth less, and neither it nor the freeing goes through the store's lock, nor through
//! treap and spans. What a block has beyond its need is its slack: see `slack`.
//!
//! There are a few stashes, each for some of the threads, so threads that write and free seldom
//! meet. For the row of spans what is here is still a block, of a record that nobody owns; so it
//! is not joined with its neighbours. Where a write finds no slot, one whose neighbours make it one
//! goes; where there is none such, and whenever somebody asks what is free, all stashes are emptied
//! first.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

use super::{NONE, Units};
use crate::sys::lock::Lock;

/// How many stashes there are.
const STASHES: usize = 16;
/// Which part of the store each may keep at most: so that a small store has none.
const SHARE: Units = 32;
/// How many blocks and keys a stash has room for. The more it has, the more often a write finds a
/// block of about its length: values of 64 to 256 bytes have 25 lengths, those of 1 to 4 KiB 385.
const ROOM: usize = 256;
/// Which part of its length a block has at most as slack, where there is room for that. With a
/// thirty-second two threads replaced values of 1 to 4 KiB at three quarters of the speed, and
/// values of other lengths at the same.
pub(super) const SLACK_SHARE: Units = 16;
/// A block with a quarter of that is sought first: so the mean slack is a hundredth.
const LITTLE_SLACK: Units = 4;
/// How many go at least when it is full: the store's lock is taken once for all of them.
const SURPLUS: usize = 16;

/// A block that nobody owns nor reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Idle {
    pub(super) record: u32,
    /// Its length, which is not 0.
    pub(super) units: Units,
}

/// What a write finds: a record with its block, and a key if one was wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) record: u32,
    pub(super) key: u32,
}

/// What leaves a stash, to be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Block(Idle),
    Key(u32),
}

/// # Invariants
/// - `lengths` is empty, or `ROOM` long. Its first ones, as many as `records`, are those blocks'
///   lengths, the others are 0.
/// - `units` is their sum.
#[derive(Debug, Default)]
pub(super) struct Stash {
    lengths: Vec<Units>,
    records: Vec<u32>,
    keys: Vec<u32>,
    units: Units,
    /// Which block goes next.
    next: usize,
    /// What was done with blocks from here, and the store does not know of yet.
    done: Done,
}

/// What writes did that found their blocks in stashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// In units.
    pub(super) written: u64,
    /// Whether a block was longer than asked.
    pub(super) gave_slack: bool,
}

impl Stash {
    /// Takes a block of that length, or one that is longer by at most `slack`, and a key if one is
    /// wanted; both or none.
    fn take(&mut self, units: Units, slack: Units, wants_key: bool) -> Option<Found> {
        let little = self.find(units, slack / LITTLE_SLACK);
        let at = match little {
            None if slack > 0 => self.find(units, slack)?,
            little => little?,
        };
        let key = if wants_key { self.keys.pop()? } else { NONE };
        self.done.written += u64::from(units);
        self.done.gave_slack |= self.lengths[at] != units;
        Some(Found { record: self.remove(at).record, key })
    }

    /// Adds a block, and a key if it is one; false, and nothing is changed, if there is no room for
    /// both, or with the block there were more than `most` units.
    fn put(&mut self, idle: Idle, key: u32, most: Units) -> bool {
        if !self.has_room(idle.units, most) || (key != NONE && self.keys.len() == ROOM) {
            return false;
        }
        if !self.open() {
            return false;
        }
        self.lengths[self.records.len()] = idle.units;
        self.records.push(idle.record);
        self.units += idle.units;
        self.keys.extend(Some(key).filter(|key| *key != NONE));
        true
    }

    fn has_room(&self, units: Units, most: Units) -> bool {
        self.records.len() < ROOM && u64::from(self.units) + u64::from(units) <= u64::from(most)
    }

    /// As [`put`](Self::put), but makes room: gives out what has to go, be it what was to be added.
    fn put_anyway(&mut self, idle: Idle, key: u32, most: Units, mut left: impl FnMut(Left)) {
        // What would not fit into an empty stash drives nothing out.
        if idle.units <= most {
            let mut removed = 0;
            while !self.has_room(idle.units, most) || (1..SURPLUS).contains(&removed) {
                let Some(idle) = self.remove_next() else { break };
                left(Left::Block(idle));
                removed += 1;
            }
            if key != NONE && self.keys.len() == ROOM {
                self.keys.drain(ROOM - SURPLUS..).for_each(|key| left(Left::Key(key)));
            }
        }
        if !self.put(idle, key, most) {
            left(Left::Block(idle));
            if key != NONE {
                left(Left::Key(key));
            }
        }
    }

    /// Gives out all that is here, and returns what was done since the last time.
    fn empty(&mut self, mut left: impl FnMut(Left)) -> Done {
        while let Some(idle) = self.remove_next() {
            left(Left::Block(idle));
        }
        self.keys.drain(..).for_each(|key| left(Left::Key(key)));
        core::mem::take(&mut self.done)
    }

    /// Makes room once; false if there is no memory.
    fn open(&mut self) -> bool {
        if !self.lengths.is_empty() {
            return true;
        }
        let is_open = self.records.try_reserve_exact(ROOM).is_ok()
            && self.keys.try_reserve_exact(ROOM).is_ok()
            && self.lengths.try_reserve_exact(ROOM).is_ok();
        if is_open {
            self.lengths.resize(ROOM, 0);
        }
        is_open
    }

    /// Where a block of that length is, or of at most `slack` more.
    fn find(&self, units: Units, slack: Units) -> Option<usize> {
        // Below zero is above all, so a shorter one, or none, does not fit.
        let fits = |length: &Units| length.wrapping_sub(units) <= slack;
        // Eight are compared at once.
        let (chunks, _) = self.lengths.as_chunks::<8>();
        let is_here = |chunk: &[Units; 8]| chunk.iter().fold(false, |is, length| is | fits(length));
        let chunk = chunks.iter().position(is_here)?;
        Some(chunk * 8 + chunks[chunk].iter().position(fits)?)
    }

    /// Removes the first block whose record is right.
    fn remove_that(&mut self, is_right: impl Fn(u32) -> bool) -> Option<Idle> {
        let at = self.records.iter().position(|record| is_right(*record))?;
        Some(self.remove(at))
    }

    /// Removes one in turn, so that all lengths have their time.
    fn remove_next(&mut self) -> Option<Idle> {
        self.next += 1;
        let at = self.next.checked_rem(self.records.len())?;
        Some(self.remove(at))
    }

    fn remove(&mut self, at: usize) -> Idle {
        let last = self.records.len() - 1;
        let units = self.lengths[at];
        self.lengths[at] = self.lengths[last];
        self.lengths[last] = 0;
        self.units -= units;
        Idle { record: self.records.swap_remove(at), units }
    }
}

/// One stash, on cache lines of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Apart(Lock<Stash>);

/// All stashes of a store.
#[derive(Debug)]
pub(super) struct Stashes {
    stashes: [Apart; STASHES],
    /// What each may keep.
    most: Units,
    /// Whether blocks may have slack.
    is_roomy: AtomicBool,
}

impl Stashes {
    pub(super) fn new(capacity: Units) -> Self {
        Self {
            stashes: [(); STASHES].map(|()| Apart(Lock::new(Stash::default()))),
            most: capacity / SHARE,
            is_roomy: AtomicBool::new(true),
        }
    }

    fn of(&self, lane: usize) -> &Lock<Stash> {
        &self.stashes[lane % STASHES].0
    }

    /// A block of that length, or a little more, and a key if one is wanted, from the stash of a
    /// lane.
    pub(super) fn take(&self, lane: usize, units: Units, wants_key: bool) -> Option<Found> {
        if units > self.most {
            return None;
        }
        let slack = if self.is_roomy() { units / SLACK_SHARE } else { 0 };
        self.of(lane).lock().take(units, slack, wants_key)
    }

    /// The longest block that one keeps.
    pub(super) fn longest(&self) -> Units {
        self.most
    }

    /// Whether blocks may have slack.
    pub(super) fn is_roomy(&self) -> bool {
        // Relaxed, here and below: it guards nothing.
        self.is_roomy.load(Ordering::Relaxed)
    }

    /// Says whether blocks may have slack from now on.
    pub(super) fn set_roomy(&self, is_roomy: bool) {
        // Written only where it changes, for every write reads it.
        if self.is_roomy() != is_roomy {
            self.is_roomy.store(is_roomy, Ordering::Relaxed);
        }
    }

    /// Removes the first block of a lane's stash whose record is right. The caller has the store's
    /// lock, so whoever takes that finds the block in either place.
    pub(super) fn remove_that(&self, lane: usize, is_right: impl Fn(u32) -> bool) -> Option<Idle> {
        self.of(lane).lock().remove_that(is_right)
    }

    /// Puts a block into the stash of a lane, and a key if it is one; false if there is no room.
    pub(super) fn put(&self, lane: usize, idle: Idle, key: u32) -> bool {
        idle.units <= self.most && self.of(lane).lock().put(idle, key, self.most)
    }

    /// As [`put`](Self::put), but makes room: gives out what has to go, be it what was to be added.
    /// The caller has the store's lock, so whoever takes that finds what goes in either place.
    pub(super) fn put_anyway(&self, lane: usize, idle: Idle, key: u32, left: impl FnMut(Left)) {
        self.of(lane).lock().put_anyway(idle, key, self.most, left);
    }

    /// Gives out all that is in any of them, at one moment; what was done since the last time.
    /// The caller has the store's lock, and so is alone with this.
    pub(super) fn empty(&self, mut left: impl FnMut(Left)) -> Done {
        let mut done = Done::default();
        if self.most == 0 {
            return done;
        }
        // All at once: else what one thread frees while another writes might be nowhere.
        let mut stashes = self.stashes.each_ref().map(|stash| stash.0.lock());
        for stash in &mut stashes {
            let Done { written, gave_slack } = stash.empty(&mut left);
            done.written += written;
            done.gave_slack |= gave_slack;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Units = 500;

    #[test]
    fn a_stash_gives_the_length_that_was_asked() {
        let mut stash = Stash::default();
        for (record, units) in [(0, 5), (1, 9), (2, 5)] {
            assert!(stash.put(Idle { record, units }, 10 + record, MOST));
        }
        assert!(stash.take(4, 0, true).is_none());
        assert_eq!(stash.take(9, 0, true).map(|found| (found.record, found.key)), Some((1, 12)));
        assert_eq!(stash.take(5, 0, false).map(|found| found.key), Some(NONE));
        assert!(stash.take(5, 0, true).is_some_and(|found| found.key == 11));
        assert!(stash.take(5, 0, true).is_none());
        let mut left = Vec::new();
        let done = stash.empty(|it| left.push(it));
        assert_eq!(done, Done { written: 19, gave_slack: false });
        assert_eq!(left, [Left::Key(10)]);
    }

    #[test]
    fn a_stash_gives_a_little_more_than_was_asked() {
        let mut stash = Stash::default();
        for (record, units) in [(0, 108), (1, 106), (2, 101), (3, 99)] {
            assert!(stash.put(Idle { record, units }, NONE, MOST));
        }
        let mut take = |slack| stash.take(100, slack, false).map(|found| found.record);
        // What has little slack is preferred to the first.
        assert_eq!(
            [take(0), take(6), take(6), take(6), take(8)],
            [None, Some(2), Some(1), None, Some(0)]
        );
        assert_eq!(stash.empty(|_| {}), Done { written: 300, gave_slack: true });
        assert_eq!(stash.empty(|_| {}), Done::default());
    }

    #[test]
    fn what_has_no_room_gets_no_slack() {
        let stashes = Stashes::new(100 * SHARE);
        let idle = Idle { record: 7, units: 34 };
        assert!(stashes.put(1, idle, NONE));
        stashes.set_roomy(false);
        assert!(stashes.take(1, 33, false).is_none());
        stashes.set_roomy(true);
        assert!(stashes.take(1, 31, false).is_none());
        assert_eq!(stashes.take(1, 32, false).map(|found| found.record), Some(7));
    }

    #[test]
    fn nothing_is_lost_when_it_is_full() {
        let mut stash = Stash::default();
        let mut seen = std::collections::BTreeMap::new();
        let mut keys = 0;
        let mut note = |left| match left {
            Left::Block(idle) => assert!(seen.insert(idle.record, idle.units).is_none()),
            Left::Key(_) => keys += 1,
        };
        // Small ones, with now and then one that only fits where many of those go.
        let units = |record: u32| if record % 400 == 399 { MOST - 3 } else { 1 + record % 2 };
        for record in 0..1000 {
            let idle = Idle { record, units: units(record) };
            let key = if record % 3 == 0 { NONE } else { record };
            let (before, was) = (stash.records.len(), stash.units);
            if !stash.put(idle, key, MOST) {
                assert_eq!((stash.records.len(), stash.units), (before, was));
                stash.put_anyway(idle, key, MOST, &mut note);
            }
            assert!(stash.units <= MOST && stash.records.len() <= ROOM);
            assert_eq!(stash.units, stash.lengths.iter().sum());
            assert_eq!(stash.lengths[stash.records.len() - 1], idle.units);
        }
        stash.empty(&mut note);
        assert!(seen.into_iter().eq((0..1000).map(|record| (record, units(record)))));
        assert_eq!(keys, 666);
    }

    #[test]
    fn what_is_too_long_goes_and_drives_nothing_out() {
        let stashes = Stashes::new(10 * SHARE);
        let (small, large) = (Idle { record: 0, units: 4 }, Idle { record: 1, units: 11 });
        assert!(stashes.put(1, small, 5) && !stashes.put(1, large, 6));
        let mut left = Vec::new();
        stashes.put_anyway(1, large, 6, |it| left.push(it));
        assert_eq!(left, [Left::Block(large), Left::Key(6)]);
        assert!(stashes.take(1, 4, true).is_some_and(|found| (found.record, found.key) == (0, 5)));
    }

    #[test]
    fn a_stash_is_as_large_as_the_store_page_says() {
        let mut stash = Stash::default();
        assert!(stash.open());
        assert_eq!(
            4 * (stash.lengths.len() + stash.records.capacity() + stash.keys.capacity()),
            3 << 10
        );
    }
}
