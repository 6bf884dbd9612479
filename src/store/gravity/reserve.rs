//! Where a new block goes: where one of the same length was freed a moment ago, into a slot, or
//! where others were moved away.
//!
//! # Who waits, and how long
//! Who moves blocks holds the mover's lock, and waits for nothing but what others are in the middle
//! of: copies, and blocks that are just being freed. For that they need no lock that is held
//! meanwhile. Where such things come and go so that searches fail, others are made to rest: each
//! ends what it began, and begins nothing, so the wait has an end. What readers hold is not waited
//! for; it is an error.

use std::sync::atomic::{AtomicBool, Ordering};

use super::plan::{Outcome, Plan, Planner};
use super::shared::Shared;
use super::space::{Content, NoMemory, Space};
use super::stash::{Found, Left};
use super::table::{Place, Record};
use super::{NONE, Units, WriteError, wait};
use crate::switch::lane::own_lane;
use crate::sync::pins::{Hold, KeyWord};

/// After so many searches that were disturbed, by copies or what was just freed, others begin
/// neither: see [`Rest`].
const TRIES_BESIDE: u32 = 16;
/// After so many the write fails, if readers hold blocks as well. The last two thirds let others
/// run before each, which mostly ends what they are in the middle of. But one of them may have
/// stopped there, and must not keep the error from one who holds guards himself.
/// Without readers there is no error: what is free is enough, and is found when what others are in
/// the middle of ends. Each of them ends at most what it began before it sees the rest, a copy or a
/// freeing, for which it needs no lock that is held meanwhile; so the wait has an end.
const MOST_TRIES: u32 = 48;
/// After so many a write fails for which what is free is not enough, though slack of blocks that
/// others are copying to may be: a thread that has stopped there must not keep the error. The last
/// three quarters sleep before each, 80 ms together.
const MOST_TRIES_FOR_SLACK: u32 = 1000;

/// A block that was reserved, and that only its writer knows.
pub(super) struct NewBlock<'a> {
    pub(super) record: &'a Record,
    pub(super) number: u32,
    pub(super) place: Place,
    pub(super) key: Option<NewKey<'a>>,
}

/// A key that means nothing yet.
#[derive(Clone, Copy)]
pub(super) struct NewKey<'a> {
    pub(super) word: &'a KeyWord,
    pub(super) index: u32,
}

/// What is to be reserved.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) bytes: usize,
    /// Whether for a new key too.
    pub(super) wants_key: bool,
}

impl Shared {
    /// Finds room, moving blocks if need be.
    pub(super) fn reserve(&self, request: Request) -> Result<NewBlock<'_>, WriteError> {
        self.let_rest();
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
            if let Some(block) = self.carve(&mut space, units, request)? {
                return Ok(block);
            }
            if self.stashes.is_roomy()
                && self.open_slot(&mut space, units)
                && let Some(block) = self.carve(&mut space, units, request)?
            {
                return Ok(block);
            }
            self.settle(&mut space);
            if let Some(block) = self.carve(&mut space, units, request)? {
                return Ok(block);
            }
            if units > space.free_units + space.withheld_units + space.most_slack() {
                return Err(self.full(&space, bytes));
            }
        }
        self.reserve_by_moving(units, request)
    }

    /// Takes back a stashed block that is long enough, with the slots beside it; whether there is
    /// one. So a write of an uncommon length does not empty the stashes. Where blocks have no slack
    /// that would happen too often to look through a stash each time.
    fn open_slot(&self, space: &mut Space, units: Units) -> bool {
        let is_long = |number| {
            let record = self.tables.records.get(number);
            record.is_some_and(|record| space.joined_length(record.span()) >= units)
        };
        let idle = self.stashes.remove_that(own_lane(), is_long);
        if let Some(idle) = idle {
            self.take_back(space, Left::Block(idle));
        }
        idle.is_some()
    }

    /// Cuts a block from a slot that is long enough, if there is one.
    fn carve(
        &self,
        space: &mut Space,
        units: Units,
        request: Request,
    ) -> Result<Option<NewBlock<'_>>, WriteError> {
        space.make_room(1).map_err(|NoMemory| WriteError::NoRecords)?;
        // What waits in stashes is free, too, so less than that says nothing.
        if space.is_roomy() {
            self.stashes.set_roomy(true);
        }
        space.carve(units).map(|span| self.adopt(space, span, request)).transpose()
    }

    /// Finds room by moving blocks, as the only one who does.
    fn reserve_by_moving(
        &self,
        units: Units,
        request: Request,
    ) -> Result<NewBlock<'_>, WriteError> {
        let bytes = request.bytes;
        let _mover = self.mover.0.lock();
        let mut rest = None;
        let mut tries = 0_u32;
        loop {
            let mut space = self.settled_space();
            let is_slack_unsettled = self.take_slack_back(&mut space);
            // Whoever moved blocks before may have left room.
            if let Some(block) = self.carve(&mut space, units, request)? {
                return Ok(block);
            }
            let outcome = if units > space.free_units {
                match self.returning(&space, units) {
                    Some(outcome) => outcome,
                    None if is_slack_unsettled && tries < MOST_TRIES_FOR_SLACK => {
                        Outcome::Blocked { pinned_units: 0, is_unsettled: true }
                    }
                    None => return Err(self.full(&space, bytes)),
                }
            } else {
                Planner::new(&mut space, &self.tables).plan(units)
            };
            match outcome {
                Outcome::NoMemory => return Err(WriteError::NoRecords),
                Outcome::Blocked { pinned_units, is_unsettled } => {
                    let is_unsettled = is_unsettled || is_slack_unsettled;
                    if !is_unsettled || (pinned_units > 0 && tries >= MOST_TRIES) {
                        return Err(WriteError::Pinned {
                            asked_bytes: bytes,
                            free_bytes: self.bytes_of(space.free_units),
                            pinned_bytes: self.bytes_of(pinned_units),
                        });
                    }
                    drop(space);
                    if tries == TRIES_BESIDE {
                        rest = Some(Rest::new(&self.wants_rest));
                    }
                    // Four times as fast as who waits for one copy: a search is much work.
                    wait(tries.saturating_mul(4));
                    tries = tries.saturating_add(1);
                }
                Outcome::Planned(plan) => {
                    drop(space);
                    // The plan's blocks are claimed.
                    drop(rest.take());
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

    /// Moves blocks without need, at most `most` units at once; how many bytes it moved, in whole
    /// units: an empty value takes one, too.
    pub(super) fn compact_step(&self, most: Units) -> usize {
        let _mover = self.mover.0.lock();
        let mut space = self.settled_space();
        let plan = Planner::new(&mut space, &self.tables).plan_step(most);
        let Some(plan) = plan else { return 0 };
        drop(space);
        self.carry_out(&plan);
        let mut space = self.lock_space();
        let moved_before = space.totals.moved;
        let hole = plan.commit(&mut space, &self.tables);
        space.join(hole);
        (space.totals.moved - moved_before) as usize * self.granule()
    }

    /// Copies the blocks of a plan. They are claimed, and where they go is reserved or was left by
    /// the one before, so no lock is held.
    fn carry_out(&self, plan: &Plan) {
        for made in &plan.moves {
            let Some(record) = self.tables.records.get(made.record) else { continue };
            let length = record.place().bytes as usize;
            // SAFETY: both lie in the store's memory; see above. They may overlap.
            unsafe {
                let (from, to) = (self.address(made.from), self.address(made.to));
                to.as_ptr().copy_from(from.as_ptr(), length);
            }
        }
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
        record.set_units(length);
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
        let (number, record) = space.records.take(&self.tables.records)?;
        if !wants_key {
            return Some((number, record, None));
        }
        let Some((index, word)) = space.keys.take(&self.tables.keys) else {
            space.records.give_back(&self.tables.records, number);
            return None;
        };
        Some((number, record, Some(NewKey { word, index })))
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
                pinned_units += space.needed(record);
                kept += if record.pins.is_owned() { 0 } else { here.length };
            }
            span = here.next;
        }
        // The others come back without the readers.
        let is_unsettled = units <= space.free_units + space.withheld_units.saturating_sub(kept);
        let pinned_units = if is_unsettled { 0 } else { pinned_units };
        Some(Outcome::Blocked { pinned_units, is_unsettled })
    }
}

/// While it exists, others begin neither copies nor to free. Only who holds the mover's lock has
/// one, and he waits for nothing but what they began before.
struct Rest<'a>(&'a AtomicBool);

impl<'a> Rest<'a> {
    fn new(wants_rest: &'a AtomicBool) -> Self {
        // Relaxed, here and below: it guards nothing, and is seen soon.
        wants_rest.store(true, Ordering::Relaxed);
        Self(wants_rest)
    }
}

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
