//! Which stretches of the store may give a hole, and which of them are tried first.
//!
//! First those around the [`SEEDS`] pairs of slots with the greatest gravity and around the largest
//! slot, of which the [`TRIES`] cheapest are tried, the cheapest first: so compaction starts near
//! the strongest pairs, but not always at the strongest of all, where another's window costs less.
//! Then the cheapest of the whole store.
#![forbid(unsafe_code)]

use super::pairs::SEEDS;
use super::plan::Planner;
use super::space::{Content, NoMemory, Space, room};
use super::{NONE, Units};
use crate::sync::pins::Hold;

/// How far around a seed, in spans to each side, and how far at most where that is not long enough.
const REACH: usize = 24;
const FARTHEST: usize = 512;
/// How many windows are tried near the seeds, and in the whole store.
const TRIES: usize = 16;
const TRIES_EVERYWHERE: usize = 64;

/// A stretch of spans, by its ends. The cheaper is the lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Window {
    /// The units in its blocks.
    pub(super) cost: u64,
    pub(super) first: u32,
    pub(super) last: u32,
}

/// Puts a window among the cheapest, in order, of which there are at most `most`, and room for
/// those. To sort all of them was half of what a full store's writes took.
fn keep_cheapest(windows: &mut Vec<Window>, most: usize, window: Window) {
    let is_dear = windows.get(most - 1).is_some_and(|dearest| window >= *dearest);
    if !is_dear && let Err(at) = windows.binary_search(&window) {
        windows.truncate(most - 1);
        windows.insert(at, window);
    }
}

impl Planner<'_> {
    /// The cheapest windows around the strongest pairs and the largest slot, cheapest first.
    pub(super) fn near_seeds(&mut self, length: Units) -> Result<Vec<Window>, NoMemory> {
        let (mut windows, mut row) = (room(TRIES)?, room(2 * FARTHEST + 1)?);
        let strongest = self.space.slots.strongest();
        let seeds = strongest.map(|slot| self.space.slots.get(slot).span);
        let mut spans = [NONE; SEEDS + 1];
        let largest = self.space.slots.largest().map(|slot| slot.span);
        for (seed, span) in spans.iter_mut().zip(seeds.chain(largest)) {
            *seed = span;
        }
        for seed in spans.into_iter().take_while(|seed| *seed != NONE) {
            self.around(seed, length, &mut row);
            self.windows_in(&row, length, &mut windows);
        }
        Ok(windows)
    }

    /// Makes a row of the spans around a slot, up to the walls.
    fn around(&mut self, seed: u32, length: Units, row: &mut Vec<u32>) {
        row.clear();
        self.go(Space::before, seed, length, row);
        row.reverse();
        row.push(seed);
        self.go(Space::after, seed, length, row);
    }

    /// Adds the spans on one side of a slot to a row that has room for them.
    fn go(
        &mut self,
        step: impl Fn(&Space, u32) -> Option<u32>,
        seed: u32,
        length: Units,
        row: &mut Vec<u32>,
    ) {
        let (mut span, mut total) = (seed, 0_u64);
        for count in 0..FARTHEST {
            let Some(next) = step(self.space, span) else { return };
            let is_enough = count >= REACH && total >= u64::from(length);
            if is_enough || !(self.is_slot(next) || self.is_movable(next)) {
                return;
            }
            total += u64::from(self.space.get(next).length);
            row.push(next);
            span = next;
        }
    }

    /// Puts the windows of a row that may give a hole of `length` among the cheapest.
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
                if windows.get(TRIES - 1).is_some_and(|dearest| blocks > dearest.cost) {
                    // So do the longer ones.
                    break;
                }
                if slots + may_leave >= length {
                    let window = Window { cost: blocks, first: *first, last: *last };
                    keep_cheapest(windows, TRIES, window);
                }
                if slots >= length {
                    break;
                }
            }
        }
    }

    /// The cheapest window of the whole store whose slots are enough by themselves.
    pub(super) fn slots_everywhere(&mut self, length: Units) -> Result<Vec<Window>, NoMemory> {
        let mut cheapest = room(1)?;
        self.sweep(length, |slots, _| slots, |window| keep_cheapest(&mut cheapest, 1, window));
        Ok(cheapest)
    }

    /// Windows of the whole store that are as long as the hole: for where walls leave no other.
    pub(super) fn everywhere(&mut self, length: Units) -> Result<Vec<Window>, NoMemory> {
        let mut windows = room(TRIES_EVERYWHERE)?;
        let note = |window| keep_cheapest(&mut windows, TRIES_EVERYWHERE, window);
        self.sweep(length, |slots, blocks| slots + blocks, note);
        Ok(windows)
    }

    /// Notes for each span the shortest window that ends there and for which `usable`, of the units
    /// in slots and in blocks, is at least `length`. O(spans).
    fn sweep(
        &mut self,
        length: Units,
        usable: impl Fn(u64, u64) -> u64,
        mut note: impl FnMut(Window),
    ) {
        let length = u64::from(length);
        let (mut slots, mut blocks, mut pinned) = (0, 0, 0);
        let (mut start, mut span) = (self.space.first, self.space.first);
        while span != NONE {
            let here = *self.space.get(span);
            if self.is_slot(span) {
                slots += u64::from(here.length);
            } else {
                let hold = self.hold(span);
                if hold != Some(Hold::Nothing) {
                    if let (Some(Hold::Pinned), Content::Block(record)) = (hold, here.content) {
                        pinned += self.needed(record);
                    }
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
                note(Window { cost: blocks, first: start, last: span });
            }
            span = here.next;
        }
        self.note_pinned(pinned);
    }
}
