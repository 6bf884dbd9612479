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
//! blocks. Windows are sought around the pairs of slots with the greatest gravity, and tried from
//! the cheapest on. Where none of them serves, the whole store is searched for the cheapest stretch
//! that holds enough free space by itself: pushing its blocks aside always works. Blocks that
//! readers pin are walls that no window crosses.
//!
//! Planning happens under the lock, copying does not: the plan's blocks are claimed and its free
//! spans set aside, so others go on beside it. One plan at a time is made and carried out.
#![forbid(unsafe_code)]

use super::space::{Content, Space};
use super::table::{Announced, Place, Record, Tables};
use super::{NONE, Units};
use crate::sync::pins::Hold;

/// How many pairs of slots windows are sought around.
const SEEDS: usize = 8;
/// How far around, in spans to each side, and how far at most where that is not long enough.
const REACH: usize = 24;
const FARTHEST: usize = 512;
/// How many windows are tried near the seeds, and in the whole store.
const TRIES: usize = 16;
const TRIES_EVERYWHERE: usize = 64;

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

/// What is to be done. Its blocks are claimed, its free spans reserved.
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
}

/// A stretch of spans, by its ends. The cheaper is the lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Window {
    /// The units in its blocks.
    cost: u64,
    first: u32,
    last: u32,
}

/// Where the blocks that stay are pushed to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Push {
    /// Wherever that is cheapest.
    Apart,
    /// All to the start.
    Left,
}

/// One search for a plan.
#[derive(Debug)]
pub(super) struct Planner<'a> {
    pub(super) space: &'a mut Space,
    pub(super) tables: &'a Tables,
    /// What was read when the search began.
    announced: Announced,
    /// Whether copies of others are waited for, and not just avoided.
    is_patient: bool,
    is_unsettled: bool,
    /// In blocks that readers hold, as a sweep met them: the most of all sweeps.
    pinned_units: Units,
}

impl<'a> Planner<'a> {
    pub(super) fn new(space: &'a mut Space, tables: &'a Tables, is_patient: bool) -> Self {
        let announced = tables.announced();
        Self { space, tables, announced, is_patient, is_unsettled: false, pinned_units: 0 }
    }

    /// A plan for a hole of `length`, which is not more than what is free.
    pub(super) fn plan(mut self, length: Units) -> Outcome {
        for windows in [Self::near_seeds, Self::slots_everywhere, Self::everywhere] {
            for window in windows(&mut self, length) {
                if let Some(plan) = self.try_window(window, length, Push::Apart) {
                    return Outcome::Planned(plan);
                }
            }
        }
        Outcome::Blocked { pinned_units: self.pinned_units, is_unsettled: self.is_unsettled }
    }

    /// A plan that brings the slots of greatest gravity together, or at least closer, by moving at
    /// most `most` units, or one block; `None` where there is nothing to do.
    pub(super) fn plan_step(mut self, most: Units) -> Option<Plan> {
        for slot in self.space.slots.strongest(SEEDS) {
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
            if window.cost > 0
                && let Some(plan) = self.try_window(window, slot.length, Push::Left)
            {
                return Some(plan);
            }
        }
        None
    }

    fn record(&self, record: u32) -> Option<&'a Record> {
        self.tables.records.get(record)
    }

    /// Whether a span is a block that nothing holds.
    fn is_movable(&mut self, span: u32) -> bool {
        self.hold(span) == Some(Hold::Nothing)
    }

    /// What holds the block that a span is.
    fn hold(&mut self, span: u32) -> Option<Hold> {
        let Content::Block(number) = self.space.get(span).content else { return None };
        let record = self.record(number)?;
        if self.announced.has(number) {
            return Some(Hold::Pinned);
        }
        let mut hold = record.pins.look();
        let mut waited = 0;
        // Who writes a block needs no lock to finish.
        while hold == Hold::Busy && self.is_patient {
            super::wait(waited);
            waited += 1;
            hold = record.pins.look();
        }
        self.is_unsettled |= matches!(hold, Hold::Busy | Hold::Gone);
        Some(hold)
    }

    fn is_slot(&self, span: u32) -> bool {
        matches!(self.space.get(span).content, Content::Slot(_))
    }

    /// The cheapest windows around the strongest pairs and the largest slot, cheapest first.
    fn near_seeds(&mut self, length: Units) -> Vec<Window> {
        let mut seeds: Vec<u32> = self
            .space
            .slots
            .strongest(SEEDS)
            .iter()
            .map(|s| self.space.slots.get(*s).span)
            .collect();
        seeds.extend(self.space.slots.largest().map(|slot| slot.span));
        let mut windows = Vec::new();
        for seed in seeds {
            let row = self.around(seed, length);
            self.windows_in(&row, length, &mut windows);
        }
        windows
    }

    /// The spans around a slot, up to the walls.
    fn around(&mut self, seed: u32, length: Units) -> Vec<u32> {
        let mut sides = [Vec::new(), Vec::new()];
        for (side, step) in sides.iter_mut().zip([Space::before, Space::after]) {
            let (mut span, mut total) = (seed, 0_u64);
            while let Some(next) = step(self.space, span) {
                let is_enough = side.len() >= REACH && total >= u64::from(length);
                if is_enough || side.len() >= FARTHEST {
                    break;
                }
                if !self.is_slot(next) && !self.is_movable(next) {
                    break;
                }
                total += u64::from(self.space.get(next).length);
                side.push(next);
                span = next;
            }
        }
        let [mut row, right] = sides;
        row.reverse();
        row.push(seed);
        row.extend(right);
        row
    }

    /// Puts the windows of a row that may give a hole of `length` among the cheapest, in order, of
    /// which at most [`TRIES`] stay. A row has hundreds: to sort all of them was half of what a
    /// full store's writes took.
    fn windows_in(&self, row: &[u32], length: Units, windows: &mut Vec<Window>) {
        let length = u64::from(length);
        let largest = self.space.slots.largest().map_or(0, |slot| slot.length);
        for (at, first) in row.iter().enumerate() {
            let (mut slots, mut blocks, mut may_leave) = (0_u64, 0_u64, 0_u64);
            for last in &row[at..] {
                let span = self.space.get(*last);
                let units = u64::from(span.length);
                if self.is_slot(*last) {
                    slots += units;
                } else {
                    blocks += units;
                    // Larger ones fit nowhere else.
                    may_leave += if span.length <= largest { units } else { 0 };
                }
                let window = Window { cost: blocks, first: *first, last: *last };
                let dearest = windows.get(TRIES - 1);
                if dearest.is_some_and(|dearest| blocks > dearest.cost) {
                    // So do the longer ones.
                    break;
                }
                if dearest.is_none_or(|dearest| window < *dearest)
                    && slots + may_leave >= length
                    && let Err(at) = windows.binary_search(&window)
                {
                    windows.truncate(TRIES - 1);
                    windows.insert(at, window);
                }
                if slots >= length {
                    break;
                }
            }
        }
    }

    /// The cheapest window of the whole store whose slots are enough by themselves.
    fn slots_everywhere(&mut self, length: Units) -> Vec<Window> {
        self.sweep(length, |slots, _| slots)
            .into_iter()
            .min_by_key(|w| w.cost)
            .into_iter()
            .collect()
    }

    /// Windows of the whole store that are as long as the hole: for where walls leave no other.
    fn everywhere(&mut self, length: Units) -> Vec<Window> {
        let mut windows = self.sweep(length, |slots, blocks| slots + blocks);
        windows.sort_unstable_by_key(|window| window.cost);
        windows.truncate(TRIES_EVERYWHERE);
        windows
    }

    /// For each span, the shortest window that ends there and for which `usable`, of the units in
    /// slots and in blocks, is at least `length`. O(spans).
    fn sweep(&mut self, length: Units, usable: impl Fn(u64, u64) -> u64) -> Vec<Window> {
        let length = u64::from(length);
        let mut windows = Vec::new();
        let (mut slots, mut blocks, mut pinned) = (0, 0, 0);
        let (mut start, mut span) = (self.space.first, self.space.first);
        while span != NONE {
            let here = *self.space.get(span);
            if self.is_slot(span) {
                slots += u64::from(here.length);
            } else {
                let hold = self.hold(span);
                if hold != Some(Hold::Nothing) {
                    pinned += if hold == Some(Hold::Pinned) { here.length } else { 0 };
                    (slots, blocks, start, span) = (0, 0, here.next, here.next);
                    continue;
                }
                blocks += u64::from(here.length);
            }
            loop {
                let first = *self.space.get(start);
                let units = u64::from(first.length);
                let less = match self.is_slot(start) {
                    true => (slots - units, blocks),
                    false => (slots, blocks - units),
                };
                if start == span || usable(less.0, less.1) < length {
                    break;
                }
                ((slots, blocks), start) = (less, first.next);
            }
            if usable(slots, blocks) >= length {
                windows.push(Window { cost: blocks, first: start, last: span });
            }
            span = here.next;
        }
        self.pinned_units = self.pinned_units.max(pinned);
        windows
    }

    /// Claims a window and plans its moves; `None`, and nothing is changed, where readers or the
    /// sizes of other slots do not allow it.
    fn try_window(&mut self, window: Window, length: Units, push: Push) -> Option<Plan> {
        let mut spans = vec![window.first];
        while *spans.last()? != window.last {
            spans.push(self.space.after(*spans.last()?)?);
        }
        let claimed = self.claim(&spans)?;
        let mut free = self.set_slots_aside(&spans);
        // Largest first: they have the fewest places.
        let mut leavers = claimed.clone();
        leavers.sort_by_key(|record| core::cmp::Reverse(self.length_of(*record)));
        let mut moves = Vec::new();
        for record in leavers {
            if free >= length {
                break;
            }
            let units = self.length_of(record);
            if let Some(target) = self.space.carve(units) {
                let (from, to) = (self.start_of(record), self.space.get(target).start);
                moves.push(Move { record, from, to, length: units, target });
                free += units;
            }
        }
        if free < length {
            self.undo(&spans, &moves, &claimed);
            return None;
        }
        Some(self.push_aside(spans, moves, claimed, push))
    }

    fn length_of(&self, record: u32) -> Units {
        self.record(record).map_or(0, |record| self.space.get(record.span()).length)
    }

    fn start_of(&self, record: u32) -> Units {
        self.record(record).map_or(0, |record| record.place().start)
    }

    /// Claims all blocks of the spans, or none.
    fn claim(&mut self, spans: &[u32]) -> Option<Vec<u32>> {
        let mut claimed = Vec::new();
        for span in spans {
            let Content::Block(number) = self.space.get(*span).content else { continue };
            if self.record(number)?.pins.claim().is_err() {
                return self.give_up(&claimed);
            }
            claimed.push(number);
        }
        let mut is_read = false;
        self.tables.lanes.each(|record| is_read |= claimed.contains(&record));
        if is_read { self.give_up(&claimed) } else { Some(claimed) }
    }

    /// A reader was faster; next time its block is a wall.
    fn give_up(&mut self, claimed: &[u32]) -> Option<Vec<u32>> {
        self.is_unsettled = true;
        unclaim(self.space, self.tables, claimed);
        None
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

    fn undo(&mut self, spans: &[u32], moves: &[Move], claimed: &[u32]) {
        for span in spans {
            if self.space.get(*span).content == Content::Reserved {
                self.space.join(*span);
            }
        }
        // The last cut first, so that what is left of each slot keeps its number: windows that are
        // tried next are told by it.
        for made in moves.iter().rev() {
            self.space.join(made.target);
        }
        unclaim(self.space, self.tables, claimed);
    }

    /// Completes a plan: where the blocks that stay go.
    fn push_aside(
        &mut self,
        spans: Vec<u32>,
        mut moves: Vec<Move>,
        claimed: Vec<u32>,
        push: Push,
    ) -> Plan {
        let (first, last) = (spans.first().copied(), spans.last().copied());
        let start = first.map_or(0, |span| self.space.get(span).start);
        let end = last.map_or(0, |span| self.space.get(span).end());
        let mut kept = Vec::new();
        for record in &claimed {
            if !moves.iter().any(|made| made.record == *record) {
                let (length, from) = (self.length_of(*record), self.start_of(*record));
                kept.push(Kept { record: *record, length, from, to: from });
            }
        }
        let left = place(&mut kept, (start, end), push);
        let hole_start = kept[..left].last().map_or(start, |block| block.to + block.length);
        let hole_end = kept[left..].first().map_or(end, |block| block.to);
        // Each goes where the one before it has been.
        for block in kept[..left].iter().chain(kept[left..].iter().rev()) {
            let Kept { record, length, from, to } = *block;
            if from != to {
                moves.push(Move { record, from, to, length, target: NONE });
            }
        }
        Plan { spans, moves, kept, left, hole: (hole_start, hole_end), claimed }
    }
}

/// Decides where the blocks that stay go; how many of them go to the start.
fn place(kept: &mut [Kept], (start, end): (Units, Units), push: Push) -> usize {
    let cost = |block: &Kept, to: Units| if block.from == to { 0 } else { u64::from(block.length) };
    // What it costs to push the first `n` to the start, and the others to the end.
    let mut to_start = vec![0_u64];
    let mut at = start;
    for block in kept.iter() {
        to_start.push(to_start.last().map_or(0, |sum| sum + cost(block, at)));
        at += block.length;
    }
    let mut to_end = vec![0_u64];
    let mut at = end;
    for block in kept.iter().rev() {
        at -= block.length;
        to_end.push(to_end.last().map_or(0, |sum| sum + cost(block, at)));
    }
    let left = match push {
        Push::Left => kept.len(),
        Push::Apart => (0..=kept.len())
            .min_by_key(|left| to_start[*left] + to_end[kept.len() - left])
            .unwrap_or(0),
    };
    let mut at = start;
    for block in &mut kept[..left] {
        block.to = at;
        at += block.length;
    }
    let mut at = end;
    for block in kept[left..].iter_mut().rev() {
        at -= block.length;
        block.to = at;
    }
    left
}

/// Ends the claims on blocks, and gives those back that were freed meanwhile.
fn unclaim(space: &mut Space, tables: &Tables, claimed: &[u32]) {
    for number in claimed {
        if let Some(record) = tables.records.get(*number)
            && record.pins.unclaim()
        {
            withhold_or_give_back(space, tables, *number);
        }
    }
}

/// Gives back the block of a record that nobody owns, and that counts as withheld, once no reader
/// announces it.
pub(super) fn withhold_or_give_back(space: &mut Space, tables: &Tables, number: u32) {
    if !tables.lanes.announces(number) {
        return give_back_one_withheld(space, tables, number);
    }
    space.withheld.push(number);
    // A reader that is done does not say so. Each time the list has doubled since the last time it
    // is looked through, so that costs O(1) for each block.
    if space.withheld.len() >= space.most_withheld {
        give_back_withheld(space, tables);
        space.most_withheld = 2 * space.withheld.len() + 8;
    }
}

/// Gives back what is withheld and not read any more.
pub(super) fn give_back_withheld(space: &mut Space, tables: &Tables) {
    if space.withheld.is_empty() {
        return;
    }
    let announced = tables.announced();
    let (kept, unread) =
        space.withheld.iter().partition::<Vec<u32>, _>(|number| announced.has(**number));
    space.withheld = kept;
    unread.into_iter().for_each(|number| give_back_one_withheld(space, tables, number));
}

fn give_back_one_withheld(space: &mut Space, tables: &Tables, number: u32) {
    let Some(record) = tables.records.get(number) else { return };
    space.withheld_units -= space.get(record.span()).length;
    give_back(space, record, number);
}

/// Gives back the block of a record that nobody owns or reads.
pub(super) fn give_back(space: &mut Space, record: &Record, number: u32) {
    let span = record.span();
    space.free_units += space.get(span).length;
    space.blocks -= 1;
    space.join(span);
    space.records.give_back(number);
}

impl Plan {
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
