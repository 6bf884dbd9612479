//! What the threads share: the memory, the tables, and the lock that the spans are under.
//!
//! The lock is held while a place is chosen or given back, never while bytes are copied. A second
//! one is held by the thread that moves blocks, over the copying. Nobody ever waits for a reader,
//! with a lock or without.

use core::ptr::NonNull;

use std::sync::atomic::{AtomicBool, Ordering};

use super::give_back::{give_back, give_back_withheld, withhold_or_give_back};
use super::reserve::{NewBlock, NewKey, Request};
use super::space::{NoMemory, Space};
use super::stash::{Idle, Left, Stashes};
use super::table::{Place, Record, Tables};
use super::{Key, NONE, NoSuchKey, Units, WriteError, units_for, wait};
use crate::pointers;
use crate::switch::lane::own_lane;
use crate::sync::pins::{self, Hold, KeyWord, Meaning, Readers};
use crate::sys::lock::{Lock, LockGuard};

/// On cache lines of its own: what writers change is not in the way of readers.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Apart<T>(pub(super) T);

/// How often a thread looks at the store's lock before it sleeps: for about as long as that takes.
/// With a hundred times two threads that only replaced got through a third to two thirds of what
/// one did, with two thousand nine tenths.
const SPINS: u32 = 1000;

#[derive(Debug)]
pub(super) struct Shared {
    base: NonNull<u8>,
    granule: usize,
    number: u32,
    /// Whether who holds the mover's lock wants others to begin nothing. Read by each write.
    pub(super) wants_rest: AtomicBool,
    pub(super) tables: Tables,
    pub(super) stashes: Stashes,
    /// Taken before the stashes' locks.
    space: Apart<Lock<Space>>,
    /// Held by who moves blocks. Taken before `space`.
    pub(super) mover: Apart<Lock<()>>,
}

// SAFETY: the memory at `base` is the store's alone. A block is written by who claimed it, and read
// by who pinned it, never both at once; free memory by who reserved it under the lock.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// `capacity` units of `granule` bytes at `base` are the caller's, who gives them to the store
    /// as long as it exists.
    pub(super) unsafe fn new(
        base: NonNull<u8>,
        granule: usize,
        capacity: Units,
        number: u32,
    ) -> Result<Self, NoMemory> {
        Ok(Self {
            base,
            granule,
            number,
            wants_rest: AtomicBool::new(false),
            tables: Tables::new(),
            stashes: Stashes::new(capacity),
            space: Apart(Lock::new(Space::new(capacity, granule.trailing_zeros())?)),
            mover: Apart(Lock::new(())),
        })
    }

    /// Waits while a mover wants rest. The caller is in the middle of nothing: no block is claimed
    /// by him, or being freed.
    #[inline]
    pub(super) fn let_rest(&self) {
        // Relaxed: whoever does not see it yet ends what he begins.
        if self.wants_rest.load(Ordering::Relaxed) {
            self.wait_for_mover();
        }
    }

    #[cold]
    #[inline(never)]
    fn wait_for_mover(&self) {
        // Not on the mover's lock: that is held over copies, which need no rest.
        let mut times = 0_u32;
        while self.wants_rest.load(Ordering::Relaxed) {
            wait(times);
            times = times.saturating_add(1);
        }
    }

    /// What lies where, with nothing stashed, nor withheld that is not read any more.
    pub(super) fn settled_space(&self) -> LockGuard<'_, Space> {
        let mut space = self.lock_space();
        self.settle(&mut space);
        space
    }

    pub(super) fn lock_space(&self) -> LockGuard<'_, Space> {
        self.space.0.lock_after(SPINS)
    }

    pub(super) fn settle(&self, space: &mut Space) {
        give_back_withheld(space, &self.tables);
        let done = self.stashes.empty(|left| self.take_back(space, left));
        space.totals.written += done.written;
        space.has_slack |= done.gave_slack;
        self.stashes.set_roomy(space.is_roomy());
    }

    /// Takes back what leaves a stash.
    pub(super) fn take_back(&self, space: &mut Space, left: Left) {
        match left {
            Left::Key(key) => self.take_key_back(space, key),
            Left::Block(idle) => {
                if let Some(record) = self.tables.records.get(idle.record) {
                    give_back(space, &self.tables, record, idle.record);
                }
            }
        }
    }

    /// Takes back a key, if it is one.
    fn take_key_back(&self, space: &mut Space, key: u32) {
        if key != NONE {
            space.keys.give_back(&self.tables.keys, key);
        }
    }

    pub(super) fn granule(&self) -> usize {
        self.granule
    }

    /// Where a unit is.
    ///
    /// # Safety
    /// The unit is not above the capacity.
    pub(super) unsafe fn address(&self, unit: Units) -> NonNull<u8> {
        // SAFETY: the caller's contract.
        unsafe { pointers::forward(self.base, unit as usize * self.granule) }
    }

    /// How many units so many bytes take.
    pub(super) fn units(&self, bytes: usize) -> usize {
        units_for(bytes, self.granule.trailing_zeros())
    }

    pub(super) fn bytes_of(&self, units: Units) -> usize {
        units as usize * self.granule
    }

    #[inline]
    pub(super) fn key_word(&self, key: Key) -> Option<&KeyWord> {
        if key.store == self.number { self.tables.keys.get(key.index) } else { None }
    }

    /// Pins the block of a key. The bytes stay where they are until [`unpin`](Self::unpin).
    #[inline]
    pub(super) fn pin(&self, key: Key) -> Result<(Pin<'_>, NonNull<[u8]>), NoSuchKey> {
        let word = self.key_word(key).ok_or(NoSuchKey)?;
        let readers = Readers {
            lanes: &self.tables.lanes,
            lane: own_lane(),
            record: |number| self.tables.records.get(number),
            wait,
            give_back: |number| self.give_back(number),
        };
        let (pin, record) = readers.pin(word, key.generation).ok_or(NoSuchKey)?;
        let place = record.place();
        // SAFETY: blocks lie in the store's memory.
        let start = unsafe { self.address(place.start) };
        Ok((pin, pointers::block(start, place.bytes as usize)))
    }

    #[inline]
    pub(super) fn unpin(&self, pin: &Pin<'_>) {
        if let Some(number) = pin.end() {
            self.give_back(number);
        }
    }

    /// Whether a key means a block.
    pub(super) fn contains(&self, key: Key) -> bool {
        self.key_word(key).is_some_and(|word| word.meaning().generation == key.generation)
    }

    /// Gives back a block whose last holder the caller was, but for those who announced it.
    #[cold]
    fn give_back(&self, number: u32) {
        withhold_or_give_back(&mut self.lock_space(), &self.tables, number);
    }

    pub(super) fn write(&self, bytes: &[u8]) -> Result<Key, WriteError> {
        self.write_pausing(bytes, || {})
    }

    /// As [`write`](Self::write), with a pause when the block is reserved and the copy begins: for
    /// tests.
    pub(super) fn write_pausing(
        &self,
        bytes: &[u8],
        pause: impl FnOnce(),
    ) -> Result<Key, WriteError> {
        let block = self.write_block(bytes, true, pause)?;
        let NewKey { word, index } = block.key.ok_or(WriteError::NoRecords)?;
        // Even while it is unused, and below the last one.
        let generation = word.meaning().generation + 1;
        word.publish(Meaning { generation, record: block.number });
        Ok(Key { store: self.number, index, generation })
    }

    /// A new block with these bytes, which nobody knows of, and which may be moved already.
    fn write_block(
        &self,
        bytes: &[u8],
        wants_key: bool,
        pause: impl FnOnce(),
    ) -> Result<NewBlock<'_>, WriteError> {
        let block = self.reserve(Request { bytes: bytes.len(), wants_key })?;
        pause();
        // SAFETY: the block is claimed, and has room for the bytes.
        unsafe { self.copy_in(bytes, block.place.start) };
        block.record.pins.finish();
        Ok(block)
    }

    /// # Safety
    /// The caller has claimed the block at `start`, whose units have room for the bytes.
    unsafe fn copy_in(&self, bytes: &[u8], start: Units) {
        // SAFETY: the caller's contract. A borrowed slice may be bytes of another block, which its
        // guard pins, never of this one, which is claimed.
        unsafe {
            let to = self.address(start).as_ptr();
            to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    pub(super) fn free(&self, key: Key) -> Result<(), NoSuchKey> {
        self.let_rest();
        let word = self.key_word(key).ok_or(NoSuchKey)?;
        let record = loop {
            let meaning = word.meaning();
            if meaning.generation != key.generation {
                return Err(NoSuchKey);
            }
            let unused = Meaning { generation: key.generation.wrapping_add(1), record: NONE };
            if word.change(meaning, unused) {
                break meaning.record;
            }
        };
        // The generation after the last one would be the first again: such a key is not used anew.
        let key = if key.generation == u32::MAX { NONE } else { key.index };
        self.release(record, key);
        Ok(())
    }

    /// Ends the ownership of a block that no key means any more, and gives back a key if it is one.
    fn release(&self, number: u32, key: u32) {
        let Some(record) = self.tables.records.get(number) else { return };
        if !record.pins.disown_unheld() {
            let mut space = self.lock_space();
            self.take_key_back(&mut space, key);
            space.withheld_units += space.get(record.span()).length;
            if record.pins.disown() {
                withhold_or_give_back(&mut space, &self.tables, number);
            }
        } else if self.tables.lanes.announces(number) {
            let mut space = self.lock_space();
            self.take_key_back(&mut space, key);
            space.withheld_units += space.get(record.span()).length;
            withhold_or_give_back(&mut space, &self.tables, number);
        } else {
            // Nobody reads it, nor will.
            let (lane, idle) = (own_lane(), Idle { record: number, units: record.units() });
            if !self.stashes.put(lane, idle, key) {
                let mut space = self.lock_space();
                self.stashes.put_anyway(lane, idle, key, |left| self.take_back(&mut space, left));
            }
        }
    }

    /// Gives a key other bytes: in place where they fit and nobody reads the old ones.
    pub(super) fn replace(&self, key: Key, bytes: &[u8]) -> Result<(), ReplaceFailure> {
        let word = self.key_word(key).ok_or(ReplaceFailure::NoSuchKey)?;
        let mut waited = 0_u32;
        loop {
            self.let_rest();
            let meaning = word.meaning();
            if meaning.generation != key.generation {
                return Err(ReplaceFailure::NoSuchKey);
            }
            let record = self.tables.records.get(meaning.record);
            let record = record.ok_or(ReplaceFailure::NoSuchKey)?;
            match self.claim(record, meaning.record) {
                Ok(()) => {}
                Err(Hold::Pinned) => return self.replace_elsewhere(key, word, bytes),
                Err(_) => {
                    wait(waited);
                    waited = waited.saturating_add(1);
                    continue;
                }
            }
            let place = record.place();
            let is_meant = word.meaning() == meaning;
            let is_in_place =
                is_meant && self.units(bytes.len()) == self.units(place.bytes as usize);
            if is_in_place {
                // SAFETY: the block is claimed, and has as many units.
                unsafe { self.copy_in(bytes, place.start) };
                record.set_place(Place { bytes: bytes.len() as u32, ..place });
            }
            if record.pins.unclaim() {
                self.give_back(meaning.record);
            }
            if is_in_place {
                return Ok(());
            }
            if is_meant {
                return self.replace_elsewhere(key, word, bytes);
            }
        }
    }

    /// Claims a block that nobody reads; else says what holds it.
    fn claim(&self, record: &Record, number: u32) -> Result<(), Hold> {
        record.pins.claim()?;
        if !self.tables.lanes.announces(number) {
            return Ok(());
        }
        if record.pins.unclaim() {
            self.give_back(number);
        }
        Err(Hold::Pinned)
    }

    /// Writes a new block, and lets the key mean that.
    fn replace_elsewhere(
        &self,
        key: Key,
        word: &KeyWord,
        bytes: &[u8],
    ) -> Result<(), ReplaceFailure> {
        let block = self.write_block(bytes, false, || {}).map_err(ReplaceFailure::Write)?;
        loop {
            let meaning = word.meaning();
            if meaning.generation != key.generation {
                self.release(block.number, NONE);
                return Err(ReplaceFailure::NoSuchKey);
            }
            if word.change(meaning, Meaning { record: block.number, ..meaning }) {
                self.release(meaning.record, NONE);
                return Ok(());
            }
        }
    }

    /// The record of a key, and its number; for tests, which stop others in the middle with it.
    #[cfg(test)]
    pub(super) fn record(&self, key: Key) -> Option<(&Record, u32)> {
        let number = self.key_word(key)?.meaning().record;
        Some((self.tables.records.get(number)?, number))
    }

    /// As when the copy ends whose claim on the block of a record it was; for tests.
    #[cfg(test)]
    pub(super) fn end_copy(&self, record: &Record, number: u32) {
        if record.pins.unclaim() {
            self.give_back(number);
        }
    }

    /// Whether somebody moves blocks; for tests.
    #[cfg(test)]
    pub(super) fn has_mover(&self) -> bool {
        self.mover.0.try_lock().is_none()
    }

    /// Panics where an invariant is broken. Nothing may be going on.
    #[cfg(any(test, heapswitch_check))]
    pub(super) fn verify(&self) {
        let space = self.settled_space();
        for (number, span) in space.verify() {
            let record = self.tables.records.get(number);
            let place = record.map(|record| record.place());
            assert_eq!(place.map(|place| place.start), Some(span.start), "a record's place");
            let needed = place.map_or(0, |place| self.units(place.bytes as usize));
            assert!(needed <= span.length as usize, "a block is as long as its bytes");
            // What is withheld has a link there.
            let owned = record.filter(|record| record.pins.is_owned());
            let is_known = owned.is_none_or(|record| record.units() == span.length);
            assert!(is_known, "a record knows its block's length");
        }
    }
}

/// Why a key keeps its bytes.
pub(super) enum ReplaceFailure {
    NoSuchKey,
    Write(WriteError),
}

/// What pins a block.
pub(super) type Pin<'a> = pins::Pin<'a, Record>;
