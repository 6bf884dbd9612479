//! What the threads share: the memory, the tables, and the lock that the spans are under.
//!
//! The lock is held while a place is chosen or given back, never while bytes are copied. A second
//! one is held by the thread that moves blocks, over the copying. Nobody ever waits for a reader,
//! with a lock or without.

use core::ptr::NonNull;

use super::lane::own_lane;
use super::plan::{Outcome, Plan, Planner, give_back, give_back_withheld, withhold_or_give_back};
use super::space::{Content, Space};
use super::stash::{Found, Idle, Left, Stashes};
use super::table::{Place, Record, Tables};
use super::{Key, NONE, NoSuchKey, Units, WriteError, wait};
use crate::pointers;
use crate::sync::pins::{self, Hold, KeyWord, Meaning, Readers};
use crate::sys::lock::{Lock, LockGuard};

/// After so many searches that were disturbed, by copies or what was just freed, the next ones wait
/// for the copies.
const IMPATIENT_TRIES: u32 = 16;
/// After so many the write fails, if readers hold blocks as well. The last two thirds let others
/// run before each, which mostly ends what they are in the middle of. But who frees all the time is
/// in the middle of it each time, and must not keep the error from one who holds guards himself.
/// Without readers there is no error: what is free is enough, and is found when others pause.
const MOST_TRIES: u32 = 48;

/// On cache lines of its own: what writers change is not in the way of readers.
#[derive(Debug)]
#[repr(align(64))]
struct Apart<T>(T);

/// How often a thread looks at the store's lock before it sleeps: for about as long as that takes.
/// With a hundred times two threads that only replaced got through a third to two thirds of what
/// one did, with two thousand nine tenths.
const SPINS: u32 = 1000;

#[derive(Debug)]
pub(super) struct Shared {
    base: NonNull<u8>,
    granule: usize,
    number: u32,
    tables: Tables,
    stashes: Stashes,
    /// Taken before the stashes' locks.
    space: Apart<Lock<Space>>,
    /// Held by who moves blocks. Taken before `space`.
    mover: Apart<Lock<()>>,
}

// SAFETY: the memory at `base` is the store's alone. A block is written by who claimed it, and read
// by who pinned it, never both at once; free memory by who reserved it under the lock.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// A block that was reserved, and that only its writer knows.
struct NewBlock<'a> {
    record: &'a Record,
    number: u32,
    place: Place,
    key: Option<NewKey<'a>>,
}

/// A key that means nothing yet.
#[derive(Clone, Copy)]
struct NewKey<'a> {
    word: &'a KeyWord,
    index: u32,
}

/// What is to be reserved.
#[derive(Clone, Copy)]
struct Request {
    bytes: usize,
    /// Whether for a new key too.
    wants_key: bool,
}

impl Shared {
    /// # Safety
    /// `capacity` units of `granule` bytes at `base` are the caller's, who gives them to the store
    /// as long as it exists.
    pub(super) unsafe fn new(
        base: NonNull<u8>,
        granule: usize,
        capacity: Units,
        number: u32,
    ) -> Self {
        Self {
            base,
            granule,
            number,
            tables: Tables::new(),
            stashes: Stashes::new(capacity),
            space: Apart(Lock::new(Space::new(capacity))),
            mover: Apart(Lock::new(())),
        }
    }

    /// What lies where, with nothing stashed, nor withheld that is not read any more.
    pub(super) fn settled_space(&self) -> LockGuard<'_, Space> {
        let mut space = self.lock_space();
        self.settle(&mut space);
        space
    }

    fn lock_space(&self) -> LockGuard<'_, Space> {
        self.space.0.lock_after(SPINS)
    }

    fn settle(&self, space: &mut Space) {
        give_back_withheld(space, &self.tables);
        let written = self.stashes.empty(|left| self.take_back(space, left));
        space.totals.written += written;
    }

    /// Takes back what leaves a stash.
    fn take_back(&self, space: &mut Space, left: Left) {
        match left {
            Left::Key(key) => space.keys.give_back(key),
            Left::Block(idle) => {
                if let Some(record) = self.tables.records.get(idle.record) {
                    give_back(space, record, idle.record);
                }
            }
        }
    }

    pub(super) fn granule(&self) -> usize {
        self.granule
    }

    /// Where a unit is.
    ///
    /// # Safety
    /// The unit is not above the capacity.
    unsafe fn address(&self, unit: Units) -> NonNull<u8> {
        // SAFETY: the caller's contract.
        unsafe { pointers::forward(self.base, unit as usize * self.granule) }
    }

    /// How many units so many bytes take.
    fn units(&self, bytes: usize) -> usize {
        // The granule is a power of two, so this is no division; and the last one is counted in.
        ((bytes.max(1) - 1) >> self.granule.trailing_zeros()) + 1
    }

    fn bytes_of(&self, units: Units) -> usize {
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
        let block = self.write_block(bytes, true)?;
        let NewKey { word, index } = block.key.ok_or(WriteError::NoRecords)?;
        // Even while it is unused, and below the last one.
        let generation = word.meaning().generation + 1;
        word.publish(Meaning { generation, record: block.number });
        Ok(Key { store: self.number, index, generation })
    }

    /// A new block with these bytes, which nobody knows of, and which may be moved already.
    fn write_block(&self, bytes: &[u8], wants_key: bool) -> Result<NewBlock<'_>, WriteError> {
        let block = self.reserve(Request { bytes: bytes.len(), wants_key })?;
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

    /// Finds room, moving blocks if need be.
    fn reserve(&self, request: Request) -> Result<NewBlock<'_>, WriteError> {
        let bytes = request.bytes;
        let units = Units::try_from(self.units(bytes)).ok();
        let (Some(units), Ok(_)) = (units, u32::try_from(bytes)) else {
            return Err(self.full(&self.settled_space(), bytes));
        };
        if let Some(found) = self.stashes.take(own_lane(), units, request.wants_key)
            && let Some(block) = self.take_over(found, request)
        {
            return Ok(block);
        }
        {
            let mut space = self.lock_space();
            if let Some(span) = space.carve(units) {
                return self.adopt(&mut space, span, request);
            }
            self.settle(&mut space);
            if let Some(span) = space.carve(units) {
                return self.adopt(&mut space, span, request);
            }
            if units > space.free_units + space.withheld_units {
                return Err(self.full(&space, bytes));
            }
        }
        let _mover = self.mover.0.lock();
        let mut tries = 0;
        loop {
            let mut space = self.settled_space();
            // Whoever moved blocks before may have left room.
            if let Some(span) = space.carve(units) {
                return self.adopt(&mut space, span, request);
            }
            let is_patient = tries > IMPATIENT_TRIES;
            let outcome = if units > space.free_units {
                self.returning(&space, units).ok_or_else(|| self.full(&space, bytes))?
            } else {
                Planner::new(&mut space, &self.tables, is_patient).plan(units)
            };
            match outcome {
                Outcome::Blocked { pinned_units, is_unsettled } => {
                    if !is_unsettled || (pinned_units > 0 && tries >= MOST_TRIES) {
                        return Err(WriteError::Pinned {
                            asked_bytes: bytes,
                            free_bytes: self.bytes_of(space.free_units),
                            pinned_bytes: self.bytes_of(pinned_units),
                        });
                    }
                    drop(space);
                    if is_patient {
                        std::thread::yield_now();
                    } else {
                        wait(tries);
                    }
                    tries = tries.saturating_add(1);
                }
                Outcome::Planned(plan) => {
                    drop(space);
                    self.carry_out(&plan);
                    let mut space = self.lock_space();
                    let hole = plan.commit(&mut space, &self.tables);
                    if space.get(hole).length == units {
                        return self.adopt(&mut space, hole, request);
                    }
                    let front = space.split(hole, units);
                    space.join(hole);
                    return self.adopt(&mut space, front, request);
                }
            }
        }
    }

    /// Moves blocks without need, at most `most` units at once; how many bytes it moved.
    pub(super) fn compact_step(&self, most: Units) -> usize {
        let _mover = self.mover.0.lock();
        let mut space = self.settled_space();
        let plan = Planner::new(&mut space, &self.tables, false).plan_step(most);
        let Some(plan) = plan else { return 0 };
        drop(space);
        let bytes = self.carry_out(&plan);
        let mut space = self.lock_space();
        let hole = plan.commit(&mut space, &self.tables);
        space.join(hole);
        bytes
    }

    /// Copies the blocks of a plan; how many bytes that were. The blocks are claimed, and where
    /// they go is reserved or was left by the one before, so no lock is held.
    fn carry_out(&self, plan: &Plan) -> usize {
        let mut bytes = 0;
        for made in &plan.moves {
            let Some(record) = self.tables.records.get(made.record) else { continue };
            let length = record.place().bytes as usize;
            bytes += length;
            // SAFETY: both lie in the store's memory; see above. They may overlap.
            unsafe {
                let (from, to) = (self.address(made.from), self.address(made.to));
                to.as_ptr().copy_from(from.as_ptr(), length);
            }
        }
        bytes
    }

    /// Makes a reserved span a block, claimed by the caller.
    fn adopt(
        &self,
        space: &mut Space,
        span: u32,
        request: Request,
    ) -> Result<NewBlock<'_>, WriteError> {
        let Some((number, record, key)) = self.numbers(space, request.wants_key) else {
            space.join(span);
            return Err(WriteError::NoRecords);
        };
        let taken = space.span(span);
        taken.content = Content::Block(number);
        let (start, length) = (taken.start, taken.length);
        space.free_units -= length;
        space.blocks += 1;
        space.totals.written += u64::from(length);
        // The caller has compared the length with this type's largest.
        let place = Place { start, bytes: request.bytes as u32 };
        record.set_span(span);
        record.set_place(place);
        record.pins.begin();
        Ok(NewBlock { record, number, place, key })
    }

    /// Makes what was found in a stash a block, claimed by the caller.
    fn take_over(&self, found: Found, request: Request) -> Option<NewBlock<'_>> {
        let record = self.tables.records.get(found.record)?;
        let key = match request.wants_key {
            true => Some(NewKey { word: self.tables.keys.get(found.key)?, index: found.key }),
            false => None,
        };
        let place = Place { bytes: request.bytes as u32, ..record.place() };
        record.set_place(place);
        record.pins.begin();
        Some(NewBlock { record, number: found.record, place, key })
    }

    /// A record, and a key if one is wanted; `None` if there is no memory for them.
    fn numbers(
        &self,
        space: &mut Space,
        wants_key: bool,
    ) -> Option<(u32, &Record, Option<NewKey<'_>>)> {
        let number = space.records.take()?;
        let Some(record) = self.tables.records.get_or_make(number) else {
            space.records.give_back(number);
            return None;
        };
        if !wants_key {
            return Some((number, record, None));
        }
        if let Some(index) = space.keys.take() {
            if let Some(word) = self.tables.keys.get_or_make(index) {
                return Some((number, record, Some(NewKey { word, index })));
            }
            space.keys.give_back(index);
        }
        space.records.give_back(number);
        None
    }

    pub(super) fn free(&self, key: Key) -> Result<(), NoSuchKey> {
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
            space.keys.give_back_if_one(key);
            space.withheld_units += space.get(record.span()).length;
            if record.pins.disown() {
                withhold_or_give_back(&mut space, &self.tables, number);
            }
        } else if self.tables.lanes.announces(number) {
            let mut space = self.lock_space();
            space.keys.give_back_if_one(key);
            space.withheld_units += space.get(record.span()).length;
            withhold_or_give_back(&mut space, &self.tables, number);
        } else {
            // Nobody reads it, nor will.
            let units = self.units(record.place().bytes as usize) as Units;
            let (lane, idle) = (own_lane(), Idle { record: number, units });
            if !self.stashes.put(lane, idle, key) {
                let mut space = self.lock_space();
                self.stashes.put_anyway(lane, idle, key, |left| self.take_back(&mut space, left));
            }
        }
    }

    /// Gives a key other bytes: in place where they fit and nobody reads the old ones.
    pub(super) fn replace(&self, key: Key, bytes: &[u8]) -> Result<(), ReplaceFailure> {
        let word = self.key_word(key).ok_or(ReplaceFailure::NoSuchKey)?;
        let mut waited = 0;
        loop {
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
                    waited += 1;
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
        let block = self.write_block(bytes, false).map_err(ReplaceFailure::Write)?;
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

    /// The error for a block of that length; for tests, which cannot have such a slice.
    #[cfg(test)]
    pub(super) fn too_long(&self, bytes: usize) -> Option<WriteError> {
        self.reserve(Request { bytes, wants_key: false }).err()
    }

    /// The error of a store without room.
    fn full(&self, space: &Space, bytes: usize) -> WriteError {
        WriteError::Full { asked_bytes: bytes, free_bytes: self.bytes_of(space.free_units) }
    }

    /// What keeps so many units, of which not enough are free, from being so: readers, or copies
    /// that blocks were freed under. `None` if what was freed is not enough either. O(blocks).
    fn returning(&self, space: &Space, units: Units) -> Option<Outcome> {
        if units > space.free_units + space.withheld_units {
            return None;
        }
        let announced = self.tables.announced();
        let (mut pinned_units, mut kept) = (0, 0);
        let mut span = space.first;
        while span != NONE {
            let here = space.get(span);
            if let Content::Block(number) = here.content
                && let Some(record) = self.tables.records.get(number)
                && (announced.has(number) || record.pins.look() == Hold::Pinned)
            {
                pinned_units += here.length;
                kept += if record.pins.is_owned() { 0 } else { here.length };
            }
            span = here.next;
        }
        // The others come back without the readers.
        let is_unsettled = units <= space.free_units + space.withheld_units.saturating_sub(kept);
        let pinned_units = if is_unsettled { 0 } else { pinned_units };
        Some(Outcome::Blocked { pinned_units, is_unsettled })
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
