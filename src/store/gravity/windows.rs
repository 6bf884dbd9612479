//! Which stretches of the store may give a hole, and which of them are tried first.
//!
//! First those around the [`SEEDS`] pairs of slots with the greatest gravity and around the largest
//! slot, of which the [`TRIES`] cheapest are tried, the cheapest first: so compaction starts near
//! the strongest pairs, but not always at the strongest of all, where another's window costs less.
//! Then the cheapest of the whole store, from slot to slot.
//!
//! At first as if nothing held the blocks: mostly nothing does, and it is seen when a window is
//! tried. To look at what holds all that are near took a fifth of a full store's writes, and to
//! go through all blocks of the store, instead of its slots, another third. Then with the blocks
//! that are held as walls.
#![forbid(unsafe_code)]

use super::pairs::SEEDS;
use super::plan::Planner;
use super::space::{Content, NoMemory, Span, room};
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

/// A span of a row: what it adds to a window.
#[derive(Clone, Copy)]
struct Piece {
    span: u32,
    /// If it is a slot, else 0.
    free: Units,
    /// If it is a block, else 0.
    cost: Units,
    /// Free, if it is not too large a block to leave.
    usable: Units,
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
        // From where to where each row reaches: the strongest pairs often lie beside each other.
        let mut seen = [(0, 0); SEEDS + 1];
        for (count, seed) in spans.into_iter().take_while(|seed| *seed != NONE).enumerate() {
            let start = self.space.get(seed).start;
            if seen.iter().any(|(from, to)| (*from..*to).contains(&start)) {
                continue;
            }
            self.around(seed, length, &mut row);
            windows_in(&row, length, &mut windows);
            if let (Some(first), Some(last)) = (row.first(), row.last()) {
                seen[count] = (self.space.get(first.span).start, self.space.get(last.span).start);
            }
        }
        Ok(windows)
    }

    /// Makes a row of the spans around a slot, up to the walls.
    fn around(&mut self, seed: u32, length: Units, row: &mut Vec<Piece>) {
        row.clear();
        let largest = self.space.slots.largest().map_or(0, |slot| slot.length);
        let Span { previous, next, length: free, .. } = *self.space.get(seed);
        self.go(previous, |span| span.previous, (length, largest), row);
        row.reverse();
        row.push(Piece { span: seed, free, cost: 0, usable: free });
        self.go(next, |span| span.next, (length, largest), row);
    }

    /// Adds the spans on one side of a slot, from `span` on, to a row that has room for them.
    fn go(
        &mut self,
        mut span: u32,
        beside: impl Fn(&Span) -> u32,
        (length, largest): (Units, Units),
        row: &mut Vec<Piece>,
    ) {
        let mut total = 0_u64;
        for count in 0..FARTHEST {
            if span == NONE || (count >= REACH && total >= u64::from(length)) {
                return;
            }
            let here = *self.space.get(span);
            let units = here.length;
            let piece = match here.content {
                Content::Slot(_) => Piece { span, free: units, cost: 0, usable: units },
                Content::Block(_) if self.is_bold || self.is_movable(span) => {
                    // A larger one fits nowhere else.
                    let usable = if units > largest { 0 } else { units };
                    Piece { span, free: 0, cost: units, usable }
                }
                _ => return,
            };
            row.push(piece);
            total += u64::from(units);
            span = beside(&here);
        }
    }

    /// The cheapest windows, from slot to slot of the whole store, whose slots are enough by
    /// themselves, whatever holds the blocks between. O(slots).
    pub(super) fn between_slots(&mut self, length: Units) -> Result<Vec<Window>, NoMemory> {
        let mut windows = room(TRIES)?;
        let (length, mut free) = (u64::from(length), 0);
        let mut firsts = self.space.slots.in_order().peekable();
        for last in self.space.slots.in_order() {
            free += u64::from(last.length);
            while let Some(first) = firsts.next_if(|first| free - u64::from(first.length) >= length)
            {
                free -= u64::from(first.length);
            }
            if let Some(first) = firsts.peek().filter(|_| free >= length) {
                let cost = u64::from(last.end() - first.start) - free;
                if is_cheap(&windows, cost) {
                    let window = Window { cost, first: first.span, last: last.span };
                    keep_cheapest(&mut windows, TRIES, window);
                }
            }
        }
        Ok(windows)
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

/// What a stretch of a row adds up to.
#[derive(Clone, Copy, Default)]
struct Sums {
    free: u64,
    cost: u64,
    usable: u64,
}

impl Sums {
    fn include(&mut self, piece: Piece) {
        self.free += u64::from(piece.free);
        self.cost += u64::from(piece.cost);
        self.usable += u64::from(piece.usable);
    }

    fn exclude(&mut self, piece: Piece) {
        self.free -= u64::from(piece.free);
        self.cost -= u64::from(piece.cost);
        self.usable -= u64::from(piece.usable);
    }
}

/// Puts the windows of a row that may give a hole of `length`, which is not 0, among the cheapest:
/// from each piece on the shortest, and longer ones, from which less has to leave. One that begins
/// or ends with a block that cannot leave is no better than without it.
fn windows_in(row: &[Piece], length: Units, windows: &mut Vec<Window>) {
    let (mut sums, mut count) = (Sums::default(), 0);
    for (at, first) in row.iter().enumerate() {
        while sums.usable < u64::from(length) {
            let Some(last) = row.get(count) else { return };
            sums.include(*last);
            count += 1;
        }
        if first.usable > 0 && is_cheap(windows, sums.cost) {
            windows_from(&row[at..], count - at, sums, length, windows);
        }
        sums.exclude(*first);
    }
}

/// Whether a window that costs so much is among the cheapest.
fn is_cheap(windows: &[Window], cost: u64) -> bool {
    windows.get(TRIES - 1).is_none_or(|dearest| cost < dearest.cost)
}

/// Puts the windows from the first piece of a row on among the cheapest, of which the shortest has
/// so many pieces and adds up to `sums`.
fn windows_from(
    row: &[Piece],
    count: usize,
    mut sums: Sums,
    length: Units,
    windows: &mut Vec<Window>,
) {
    let (front, behind) = row.split_at(count);
    let mut behind = behind.iter();
    let mut last = front.last();
    // The longer ones cost no less.
    while let Some(piece) = last
        && is_cheap(windows, sums.cost)
    {
        if piece.usable > 0 {
            let window = Window { cost: sums.cost, first: row[0].span, last: piece.span };
            keep_cheapest(windows, TRIES, window);
        }
        if sums.free >= u64::from(length) {
            return;
        }
        last = behind.next();
        last.into_iter().for_each(|piece| sums.include(*piece));
    }
}
