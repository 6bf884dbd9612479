//! Blocks that were freed a moment ago, as they are: a write of the same length takes one, and
//! neither it nor the freeing goes through the store's lock, nor through treap and spans.
//!
//! There are a few stashes, each for some of the threads, so threads that write and free seldom
//! meet. For the row of spans what is here is still a block, of a record that nobody owns; so it
//! is not joined with its neighbours. Whenever that matters, because a write finds no room, or
//! somebody asks what is free, all stashes are emptied first.
#![forbid(unsafe_code)]

use super::{NONE, Units};
use crate::sys::lock::Lock;

/// How many stashes there are.
const STASHES: usize = 16;
/// Which part of the store each may keep, more or less: so that a small store has none.
const SHARE: Units = 128;
/// How many blocks and keys a stash has room for: with two dozen lengths in use, three writes of
/// four find theirs among half as many.
const ROOM: usize = 64;
/// How many go when it is full: the store's lock is taken once for all of them.
const SURPLUS: usize = 4;

/// A block that nobody owns nor reads.
#[derive(Clone, Copy, Debug)]
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

/// What has no room in a stash.
#[derive(Debug, Default)]
pub(super) struct Surplus {
    pub(super) blocks: [Option<Idle>; SURPLUS],
    pub(super) keys: [Option<u32>; SURPLUS],
}

impl Surplus {
    /// Whether it is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks[0].is_none() && self.keys[0].is_none()
    }
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
    /// What was written to blocks from here, in units, and is not in the store's totals yet.
    written: u64,
}

impl Stash {
    /// Takes a block of exactly that length, and a key if one is wanted; both or none.
    fn take(&mut self, units: Units, wants_key: bool) -> Option<Found> {
        let at = self.find(units)?;
        let key = if wants_key { self.keys.pop()? } else { NONE };
        self.written += u64::from(units);
        Some(Found { record: self.remove(at).record, key })
    }

    /// Adds a block, and a key if it is one. Keeps not much more than `most` units.
    fn put(&mut self, idle: Idle, key: u32, most: Units) -> Surplus {
        let mut surplus = Surplus::default();
        let key = Some(key).filter(|key| *key != NONE);
        if idle.units > most || !self.open() {
            (surplus.blocks[0], surplus.keys[0]) = (Some(idle), key);
            return surplus;
        }
        if self.records.len() == ROOM || self.units > most - idle.units {
            surplus.blocks = [(); SURPLUS].map(|()| self.remove_next());
        }
        if self.keys.len() == ROOM {
            surplus.keys = [(); SURPLUS].map(|()| self.keys.pop());
        }
        self.lengths[self.records.len()] = idle.units;
        self.records.push(idle.record);
        self.units += idle.units;
        self.keys.extend(key);
        surplus
    }

    /// Gives out all that is here: blocks and keys, and what was written since the last time.
    fn empty(&mut self, mut block: impl FnMut(Idle), mut key: impl FnMut(u32)) -> u64 {
        while let Some(idle) = self.remove_next() {
            block(idle);
        }
        self.keys.drain(..).for_each(&mut key);
        core::mem::take(&mut self.written)
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

    /// Where a block of that length is.
    fn find(&self, units: Units) -> Option<usize> {
        // Eight are compared at once.
        let (chunks, _) = self.lengths.as_chunks::<8>();
        let is_here = |chunk: &[Units; 8]| chunk.iter().fold(false, |is, l| is | (*l == units));
        let chunk = chunks.iter().position(is_here)?;
        Some(chunk * 8 + chunks[chunk].iter().position(|length| *length == units)?)
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
}

impl Stashes {
    pub(super) fn new(capacity: Units) -> Self {
        Self {
            stashes: [(); STASHES].map(|()| Apart(Lock::new(Stash::default()))),
            most: capacity / SHARE,
        }
    }

    fn of(&self, lane: usize) -> &Lock<Stash> {
        &self.stashes[lane % STASHES].0
    }

    /// A block of exactly that length, and a key if one is wanted, from the stash of a lane.
    pub(super) fn take(&self, lane: usize, units: Units, wants_key: bool) -> Option<Found> {
        if units > self.most { None } else { self.of(lane).lock().take(units, wants_key) }
    }

    /// Puts a block into the stash of a lane, and a key if it is one. What it has no room for is
    /// to be given back.
    pub(super) fn put(&self, lane: usize, idle: Idle, key: u32) -> Surplus {
        self.of(lane).lock().put(idle, key, self.most)
    }

    /// Gives out all that is in any of them, at one moment: blocks and keys; what was written
    /// since the last time. The caller has the store's lock, and so is alone with this.
    pub(super) fn empty(&self, mut block: impl FnMut(Idle), mut key: impl FnMut(u32)) -> u64 {
        if self.most == 0 {
            return 0;
        }
        // All at once: else what one thread frees while another writes might be nowhere.
        let mut stashes = self.stashes.each_ref().map(|stash| stash.0.lock());
        stashes.iter_mut().map(|stash| stash.empty(&mut block, &mut key)).sum()
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
            assert!(stash.put(Idle { record, units }, 10 + record, MOST).is_empty());
        }
        assert!(stash.take(4, true).is_none());
        assert_eq!(stash.take(9, true).map(|found| (found.record, found.key)), Some((1, 12)));
        assert_eq!(stash.take(5, false).map(|found| found.key), Some(NONE));
        assert!(stash.take(5, true).is_some_and(|found| found.key == 11));
        assert!(stash.take(5, true).is_none());
        let (mut left, mut keys) = (0, Vec::new());
        assert_eq!(stash.empty(|_| left += 1, |key| keys.push(key)), 19);
        assert_eq!((left, keys), (0, vec![10]));
    }

    #[test]
    fn nothing_is_lost_when_it_is_full() {
        let mut stash = Stash::default();
        let mut seen = std::collections::BTreeMap::new();
        let mut keys = 0;
        for record in 0..1000 {
            let idle = Idle { record, units: 1 + record % 30 };
            let surplus = stash.put(idle, if record % 3 == 0 { NONE } else { record }, MOST);
            assert!(stash.units <= MOST + 30 && stash.records.len() <= ROOM);
            assert_eq!(stash.units, stash.lengths.iter().sum());
            for idle in surplus.blocks.into_iter().flatten() {
                assert!(seen.insert(idle.record, idle.units).is_none());
            }
            keys += surplus.keys.iter().flatten().count();
        }
        stash.empty(|idle| assert!(seen.insert(idle.record, idle.units).is_none()), |_| keys += 1);
        assert!(seen.into_iter().eq((0..1000).map(|record| (record, 1 + record % 30))));
        assert_eq!(keys, 666);
        let surplus = stash.put(Idle { record: 0, units: MOST + 1 }, 5, MOST);
        assert!(surplus.blocks[0].is_some() && surplus.keys[0] == Some(5));
    }
}
