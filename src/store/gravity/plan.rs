//! Which blocks move to where, so that a hole of a length opens.
//!
//! A **window** is a stretch of neighbouring spans. Its blocks that fit into slots elsewhere are
//! moved there; those that do not are pushed to its two ends; what is left is the hole:
//!
//! ```text
//!   before   ... │ A │  slot  │ B │ C │ slot │ D │ ...  slot  │ ...
//!                     └────── window ───────┘
//!   after    ... │ A │ C │      hole         │ D │ ...  │ B │ │ ...
//! ```
//! Each block of a window moves once at the most, so a window costs no more than the bytes of its
//! blocks. Windows are sought around the pairs of slots with the greatest gravity (`windows`), and
//! tried from the cheapest on. Where none of them serves, the whole store is searched for the
//! cheapest stretch that holds enough free space by itself: pushing its blocks aside always works.
//! What readers pin is met when a window is tried, and then, in a second search, is a wall that no
//! window crosses.
//!
//! Planning happens under the lock, copying does not: the plan's blocks are claimed and its free
//! spans set aside, so others go on beside it. One plan at a time is made and carried out.
#![forbid(unsafe_code)]

use super::give_back::unclaim;
use super::space::{Content, NoMemory, Space, room};
use super::table::{Announced, Place, Record, Tables};
use super::windows::Window;
use super::{NONE, Units};
use crate::sync::pins::Hold;

/// One copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub(super) record: u32,
    pub(super) from: Units,
    pub(super) to: Units,
    length: Units,
    /// The span outside the window that it goes to, or none.
    target: u32,
}

/// A block that stays in the window.
#[derive(Clone, Copy, Debug)]
struct Kept {
    record: u32,
    length: Units,
    from: Units,
    to: Units,
}

/// What is to be done. Its blocks are claimed, its free spans reserved. The vectors have room for
/// the window's spans from the start, and need no more.
#[derive(Debug)]
pub(super) struct Plan {
    /// The window's spans in order.
    spans: Vec<u32>,
    /// In the order in which they are to be copied.
    pub(super) moves: Vec<Move>,
    kept: Vec<Kept>,
    /// How many of those are pushed to the window's start; the others are pushed to its end.
    left: usize,
    hole: (Units, Units),
    claimed: Vec<u32>,
}

/// What came of planning.
#[derive(Debug)]
pub(super) enum Outcome {
    Planned(Plan),
    /// Something is in the way.
    Blocked {
        /// The units in blocks that readers hold, as the search met them. Not 0, unless somebody
        /// is in the middle of something.
        pinned_units: Units,
        /// Whether somebody is in the middle of something, so that trying again may help.
        is_unsettled: bool,
    },
    /// There is no memory for a plan.
    NoMemory,
}

/// Where the blocks that stay are pushed to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Push {
    /// Wherever that is cheapest.
    Apart,
    /// All to the start.
    Left,
}

/// Finds windows, the cheapest first.
type Kind<'a> = fn(&mut Planner<'a>, Units) -> Result<Vec<Window>, NoMemory>;

/// One search for a plan.
#[derive(Debug)]
pub(super) struct Planner<'a> {
    pub(super) space: &'a mut Space,
    pub(super) tables: &'a Tables,
    /// What was read when the search began.
    announced: Announced,
    /// Whether windows are sought as if nothing held blocks.
    pub(super) is_bold: bool,
    /// Where a block lies that is held, as such a search met it.
    in_the_way: Option<Units>,
    is_unsettled: bool,
    /// Whether spans were joined, so that windows found before may not be there any more.
    is_outdated: bool,
    /// In blocks that readers hold, as a sweep or a claim met them: the most at once.
    pinned_units: Units,
}

impl<'a> Planner<'a> {
    pub(super) fn new(space: &'a mut Space, tables: &'a Tables) -> Self {
        let announced = tables.announced();
        Self {
            space,
            tables,
            announced,
            is_bold: false,
            in_the_way: None,
            is_unsettled: false,
            is_outdated: false,
            pinned_units: 0,
        }
    }

    /// A plan for a hole of `length`, which is not more than what is free.
    pub(super) fn plan(mut self, length: Units) -> Outcome {
        match self.search(length) {
            Ok(Some(plan)) => Outcome::Planned(plan),
            Ok(None) => Outcome::Blocked {
                pinned_units: self.pinned_units,
                is_unsettled: self.is_unsettled || self.is_outdated,
            },
            Err(NoMemory) => Outcome::NoMemory,
        }
    }

    fn search(&mut self, length: Units) -> Result<Option<Plan>, NoMemory> {
        self.is_bold = true;
        let plan = self.search_by(&[Self::near_seeds, Self::between_slots], length)?;
        self.is_bold = false;
        if plan.is_some() || self.is_outdated {
            return Ok(plan);
        }
        (self.announced, self.pinned_units) = (self.tables.announced(), 0);
        self.search_by(&[Self::near_seeds, Self::slots_everywhere, Self::everywhere], length)
    }

    /// The first plan that comes of one of these kinds of windows.
    fn search_by(&mut self, kinds: &[Kind<'a>], length: Units) -> Result<Option<Plan>, NoMemory> {
        for windows in kinds {
            for window in windows(self, length)? {
                if self.is_bold && self.is_held(window) {
                    continue;
                }
                let plan = self.try_window(window, length, Push::Apart)?;
                if plan.is_some() || self.is_outdated {
                    return Ok(plan);
                }
            }
        }
        Ok(None)
    }

    /// A plan that brings the slots of greatest gravity together, or at least closer, by moving at
    /// most `most` units, or one block; `None` where there is nothing to do, or no memory for it.
    pub(super) fn plan_step(mut self, most: Units) -> Option<Plan> {
        for slot in self.space.slots.strongest() {
            let slot = *self.space.slots.get(slot);
            if slot.next == NONE {
                continue;
            }
            let mut window = Window { cost: 0, first: slot.span, last: slot.span };
            while let Some(next) = self.space.after(window.last) {
                let length = u64::from(self.space.get(next).length);
                let is_first = window.cost == 0;
                let fits = window.cost + length <= u64::from(most) || is_first;
                if !self.is_movable(next) || !fits {
                    break;
                }
                (window.cost, window.last) = (window.cost + length, next);
            }
            if window.cost > 0 {
                let plan = self.try_window(window, slot.length, Push::Left).ok()?;
                if plan.is_some() || self.is_outdated {
                    return plan;
                }
            }
        }
        None
    }

    fn record(&self, record: u32) -> Option<&'a Record> {
        self.tables.records.get(record)
    }

    /// Whether a span is a block that nothing holds.
    pub(super) fn is_movable(&mut self, span: u32) -> bool {
        self.hold(span) == Some(Hold::Nothing)
    }

    /// What holds the block that a span is.
    pub(super) fn hold(&mut self, span: u32) -> Option<Hold> {
        let Content::Block(number) = self.space.get(span).content else { return None };
        let record = self.record(number)?;
        if self.announced.has(number) {
            return Some(Hold::Pinned);
        }
        let hold = record.pins.look();
        self.is_unsettled |= matches!(hold, Hold::Busy | Hold::Gone);
        Some(hold)
    }

    pub(super) fn is_slot(&self, span: u32) -> bool {
        matches!(self.space.get(span).content, Content::Slot(_))
    }

    /// Whether anything holds one of a window's blocks. It is not claimed then: who reads them need
    /// not wait for that. What held the last one is in the way of others that overlap.
    fn is_held(&mut self, window: Window) -> bool {
        let (from, to) = (self.space.get(window.first).start, self.space.get(window.last).start);
        if self.in_the_way.is_some_and(|start| (from..=to).contains(&start)) {
            return true;
        }
        let mut next = Some(window.first);
        while let Some(span) = next {
            if !self.is_slot(span) && !self.is_movable(span) {
                self.in_the_way = Some(self.space.get(span).start);
                return true;
            }
            next = if span == window.last { None } else { self.space.after(span) };
        }
        false
    }

    /// Notes that readers hold so many units.
    pub(super) fn note_pinned(&mut self, units: Units) {
        self.pinned_units = self.pinned_units.max(units);
    }

    /// Claims a window and plans its moves; `None`, and nothing is changed, where readers or the
    /// sizes of other slots do not allow it.
    fn try_window(
        &mut self,
        window: Window,
        length: Units,
        push: Push,
    ) -> Result<Option<Plan>, NoMemory> {
        // All memory first: then there is nothing to be undone for the want of it.
        let mut plan = Plan::of(self.space, window)?;
        let mut leavers = room(plan.spans.len())?;
        // One for each block that leaves, and one for what the hole is longer than it was to be.
        self.space.make_room(plan.spans.len() + 1)?;
        if !self.claim(&mut plan) {
            return Ok(None);
        }
        let mut free = self.set_slots_aside(&plan.spans);
        // Largest first: they have the fewest places.
        leavers.extend_from_slice(&plan.claimed);
        leavers.sort_unstable_by_key(|record| {
            (core::cmp::Reverse(self.length_of(*record)), self.start_of(*record))
        });
        for record in leavers {
            if free >= length {
                break;
            }
            let units = self.length_of(record);
            if let Some(target) = self.space.carve(units) {
                let (from, to) = (self.start_of(record), self.space.get(target).start);
                plan.moves.push(Move { record, from, to, length: units, target });
                free += units;
            }
        }
        if free < length {
            self.undo(&plan);
            return Ok(None);
        }
        self.push_aside(&mut plan, push);
        Ok(Some(plan))
    }

    fn length_of(&self, record: u32) -> Units {
        self.record(record).map_or(0, |record| self.space.get(record.span()).length)
    }

    /// The units that a block's bytes take, which are what readers hold of it.
    pub(super) fn needed(&self, record: u32) -> Units {
        self.record(record).map_or(0, |record| self.space.needed(record))
    }

    fn start_of(&self, record: u32) -> Units {
        self.record(record).map_or(0, |record| record.place().start)
    }

    /// Claims all blocks of the plan's spans, or none.
    fn claim(&mut self, plan: &mut Plan) -> bool {
        for span in &plan.spans {
            let Content::Block(number) = self.space.get(*span).content else { continue };
            let claim = self.record(number).map_or(Err(Hold::Gone), |record| record.pins.claim());
            if let Err(hold) = claim {
                if hold == Hold::Pinned {
                    self.note_pinned(self.needed(number));
                }
                self.give_up(&plan.claimed);
                return false;
            }
            plan.claimed.push(number);
        }
        let mut read = 0;
        self.tables.lanes.each(|record| {
            if plan.claimed.contains(&record) {
                read = self.needed(record).max(read);
            }
        });
        if read > 0 {
            self.note_pinned(read);
            self.give_up(&plan.claimed);
        }
        read == 0
    }

    /// Somebody was faster; next time a block that is read is a wall.
    fn give_up(&mut self, claimed: &[u32]) {
        self.is_unsettled = true;
        self.is_outdated |= unclaim(self.space, self.tables, claimed);
    }

    /// Takes the spans' slots out of the treap; how many units they are.
    fn set_slots_aside(&mut self, spans: &[u32]) -> Units {
        let mut units = 0;
        for span in spans {
            if let Content::Slot(slot) = self.space.get(*span).content {
                self.space.slots.remove(slot);
                let span = self.space.span(*span);
                span.content = Content::Reserved;
                units += span.length;
            }
        }
        units
    }

    fn undo(&mut self, plan: &Plan) {
        for span in &plan.spans {
            if self.space.get(*span).content == Content::Reserved {
                self.space.join(*span);
            }
        }
        // The last cut first, so that what is left of each slot keeps its number: windows that are
        // tried next are told by it.
        for made in plan.moves.iter().rev() {
            self.space.join(made.target);
        }
        self.is_outdated |= unclaim(self.space, self.tables, &plan.claimed);
    }

    /// Completes a plan: where the blocks that stay go.
    fn push_aside(&self, plan: &mut Plan, push: Push) {
        let Plan { spans, moves, kept, claimed, .. } = plan;
        let (first, last) = (spans.first().copied(), spans.last().copied());
        let start = first.map_or(0, |span| self.space.get(span).start);
        let end = last.map_or(0, |span| self.space.get(span).end());
        for record in claimed {
            if !moves.iter().any(|made| made.record == *record) {
                let (length, from) = (self.length_of(*record), self.start_of(*record));
                kept.push(Kept { record: *record, length, from, to: from });
            }
        }
        let left = place(kept, (start, end), push);
        let hole_start = kept[..left].last().map_or(start, |block| block.to + block.length);
        let hole_end = kept[left..].first().map_or(end, |block| block.to);
        // Each goes where the one before it has been.
        for block in kept[..left].iter().chain(kept[left..].iter().rev()) {
            let Kept { record, length, from, to } = *block;
            if from != to {
                moves.push(Move { record, from, to, length, target: NONE });
            }
        }
        (plan.left, plan.hole) = (left, (hole_start, hole_end));
    }
}

/// Decides where the blocks that stay go; how many of them go to the start.
fn place(kept: &mut [Kept], (start, end): (Units, Units), push: Push) -> usize {
    let cost = |block: &Kept, to: Units| if block.from == to { 0 } else { u64::from(block.length) };
    // Where each goes if it is pushed to the end: whatever is in front of it goes elsewhere or not.
    let mut at = end;
    let mut sum = 0;
    for block in kept.iter_mut().rev() {
        at -= block.length;
        block.to = at;
        sum += cost(block, at);
    }
    // The first `left` go to the start instead.
    let (mut left, mut least, mut at) = (0, sum, start);
    for (count, block) in (1..).zip(kept.iter()) {
        sum = sum + cost(block, at) - cost(block, block.to);
        at += block.length;
        if sum < least || push == Push::Left {
            (left, least) = (count, sum);
        }
    }
    let mut at = start;
    for block in &mut kept[..left] {
        block.to = at;
        at += block.length;
    }
    left
}

impl Plan {
    /// A plan of a window without anything in it yet, with room for all that may be; empty if the
    /// window is no stretch of spans.
    fn of(space: &Space, window: Window) -> Result<Self, NoMemory> {
        let behind = |span: &u32| if *span == window.last { None } else { space.after(*span) };
        let row = || core::iter::successors(Some(window.first), behind);
        let count = row().count();
        let (mut spans, hole) = (room(count)?, (0, 0));
        spans.extend(row());
        let (moves, kept, claimed) = (room(count)?, room(count)?, room(count)?);
        Ok(Self { spans, moves, kept, left: 0, hole, claimed })
    }

    /// Notes under the lock that the copies are done, and lets go of the blocks. Returns the hole,
    /// a reserved span.
    pub(super) fn commit(self, space: &mut Space, tables: &Tables) -> u32 {
        let settle = |space: &mut Space, number: u32, span: u32, start: Units| {
            space.span(span).content = Content::Block(number);
            if let Some(record) = tables.records.get(number) {
                record.set_span(span);
                record.set_place(Place { start, ..record.place() });
            }
        };
        for made in &self.moves {
            space.totals.moved += u64::from(made.length);
            if made.target != NONE {
                settle(space, made.record, made.target, made.to);
            }
        }
        // The window's spans are used again, in order: blocks, the hole, blocks.
        let mut hole = NONE;
        let mut spans = self.spans.iter().copied();
        let (left, right) = self.kept.split_at(self.left);
        let pieces = left.iter().map(Some).chain([None]).chain(right.iter().map(Some));
        for (piece, number) in pieces.zip(spans.by_ref()) {
            let (start, end) = piece.map_or(self.hole, |block| (block.to, block.to + block.length));
            let span = space.span(number);
            (span.start, span.length) = (start, end - start);
            match piece {
                Some(block) => settle(space, block.record, number, start),
                None => {
                    span.content = Content::Reserved;
                    hole = number;
                }
            }
        }
        spans.for_each(|surplus| space.unlink(surplus));
        space.totals.compactions += 1;
        unclaim(space, tables, &self.claimed);
        hole
    }
}
