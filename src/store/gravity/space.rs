//! What lies where: the store's memory as one row of spans, blocks and free slots, under the lock.
//!
//! ```text
//!   spans    │ block 3 │ slot │ block 0 │ block 7 │ slot        │ block 2 │      linked in order
//!   units    0         5      9         12        20            47        50
//! ```
//! # Invariants
//! - The spans follow each other without a gap, from 0 to the capacity; none is empty.
//! - A span that is a slot is in the treap with the same borders; no two slots touch.
//! - The record of a span that is a block names this span and has its start.
//! - `free_units` is the capacity less the lengths of all blocks, also of those just being moved.
//!
//! # Memory
//! What is noted grows only in [`Space::make_room`], before anything is changed: so whatever gives
//! back, joins or undoes cannot fail.
#![forbid(unsafe_code)]

use super::slots::Slots;
use super::stash::SLACK_SHARE;
use super::table::{Numbers, Record};
use super::{NONE, Units, units_for};

/// Which part of the store is free where blocks may have slack.
const ROOMY_SHARE: Units = 16;

/// What a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Free; the slot's number in the treap.
    Slot(u32),
    /// The block of a record.
    Block(u32),
    /// Free, and set aside by who moves blocks, or for a block that is not there yet.
    Reserved,
}

/// A stretch of the store's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: Units,
    pub(super) length: Units,
    pub(super) previous: u32,
    pub(super) next: u32,
    pub(super) content: Content,
}

impl Span {
    pub(super) fn end(&self) -> Units {
        self.start + self.length
    }
}

/// The system has no memory for what is noted of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoMemory;

/// An empty vector with room for `count`.
pub(super) fn room<T>(count: usize) -> Result<Vec<T>, NoMemory> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(count).map_err(|_| NoMemory)?;
    Ok(vector)
}

/// What the store did so far, in units.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) written: u64,
    pub(super) moved: u64,
    pub(super) compactions: u64,
}

#[derive(Debug)]
pub(super) struct Space {
    spans: Vec<Span>,
    /// Unused spans, a list through `next`.
    unused: u32,
    pub(super) first: u32,
    pub(super) slots: Slots,
    pub(super) capacity: Units,
    /// log2 of a unit's bytes.
    unit_shift: u32,
    pub(super) free_units: Units,
    /// Whether there may be blocks with slack.
    pub(super) has_slack: bool,
    /// In blocks that were freed, and that readers hold.
    pub(super) withheld_units: Units,
    /// Records of blocks that were freed and would be given back, had they not been announced as
    /// read: a list through them. Whoever looks through it gives back those that are not any more.
    pub(super) withheld: u32,
    pub(super) withheld_count: usize,
    /// From how many of those on they are looked through in any case.
    pub(super) most_withheld: usize,
    pub(super) blocks: usize,
    pub(super) records: Numbers,
    pub(super) keys: Numbers,
    pub(super) totals: Totals,
}

impl Space {
    /// All of it free, which is not nothing.
    pub(super) fn new(capacity: Units, unit_shift: u32) -> Result<Self, NoMemory> {
        let mut space = Self {
            spans: Vec::new(),
            unused: NONE,
            first: 0,
            slots: Slots::new(),
            capacity,
            unit_shift,
            free_units: capacity,
            has_slack: false,
            withheld_units: 0,
            withheld: NONE,
            withheld_count: 0,
            most_withheld: 0,
            blocks: 0,
            records: Numbers::new(),
            keys: Numbers::new(),
            totals: Totals::default(),
        };
        space.make_room(1)?;
        let content = Content::Slot(space.slots.insert(0, 0, capacity));
        space.store(Span { start: 0, length: capacity, previous: NONE, next: NONE, content });
        Ok(space)
    }

    /// Whether so much is free that blocks may have slack, were this all.
    pub(super) fn is_roomy(&self) -> bool {
        self.free_units >= self.capacity / ROOMY_SHARE
    }

    /// Makes room for so many more spans, and for the slots that may come of all; nothing is
    /// changed if there is no memory. O(1) on the average.
    pub(super) fn make_room(&mut self, spans: usize) -> Result<(), NoMemory> {
        self.spans.try_reserve(spans).map_err(|_| NoMemory)?;
        // Slots do not touch, so there is something else between any two.
        self.slots.make_room((self.spans.len() + spans).div_ceil(2))
    }

    pub(super) fn get(&self, span: u32) -> &Span {
        &self.spans[span as usize]
    }

    pub(super) fn span(&mut self, span: u32) -> &mut Span {
        &mut self.spans[span as usize]
    }

    /// The span behind another; `None` behind the last.
    pub(super) fn after(&self, span: u32) -> Option<u32> {
        Some(self.get(span).next).filter(|next| *next != NONE)
    }

    /// Cuts `length` units, reserved, from the start of a slot that has them and not many more.
    /// There is room for a span.
    pub(super) fn carve(&mut self, length: Units) -> Option<u32> {
        let slot = self.slots.tight_fit(length)?;
        let span = self.slots.get(slot).span;
        if self.get(span).length == length {
            self.slots.remove(slot);
            self.span(span).content = Content::Reserved;
            return Some(span);
        }
        let front = self.split(span, length);
        let rest = *self.get(span);
        self.slots.resize(slot, rest.start, rest.length);
        Some(front)
    }

    /// Cuts the first `length` units off a span, which has more. Returns the new one, reserved, for
    /// which there is room.
    pub(super) fn split(&mut self, span: u32, length: Units) -> u32 {
        let whole = *self.get(span);
        let front = self.store(Span {
            start: whole.start,
            length,
            previous: whole.previous,
            next: span,
            content: Content::Reserved,
        });
        match whole.previous {
            NONE => self.first = front,
            previous => self.span(previous).next = front,
        }
        let rest = self.span(span);
        rest.previous = front;
        rest.start += length;
        rest.length -= length;
        front
    }

    /// Makes a span that is no slot part of the free slots, one with those that it touches.
    pub(super) fn join(&mut self, span: u32) {
        let Span { start, length, previous, next, .. } = *self.get(span);
        let slot_of = |neighbour: u32| match self.spans.get(neighbour as usize)?.content {
            Content::Slot(slot) => Some(slot),
            _ => None,
        };
        match (slot_of(previous), slot_of(next)) {
            (Some(before), Some(behind)) => {
                let length = self.get(previous).length + length + self.get(next).length;
                self.slots.remove(behind);
                self.unlink(span);
                self.unlink(next);
                self.span(previous).length = length;
                self.slots.resize(before, self.get(previous).start, length);
            }
            (Some(before), None) => {
                self.unlink(span);
                let joined = self.span(previous);
                joined.length += length;
                let Span { start, length, .. } = *joined;
                self.slots.resize(before, start, length);
            }
            (None, Some(behind)) => {
                self.unlink(span);
                let joined = self.span(next);
                joined.start = start;
                joined.length += length;
                let length = joined.length;
                self.slots.resize(behind, start, length);
            }
            (None, None) => {
                let slot = self.slots.insert(span, start, length);
                self.span(span).content = Content::Slot(slot);
            }
        }
    }

    /// The units that a record's bytes take: its block's length, less the slack.
    pub(super) fn needed(&self, record: &Record) -> Units {
        units_for(record.place().bytes as usize, self.unit_shift) as Units
    }

    /// The most units that may be slack.
    pub(super) fn most_slack(&self) -> Units {
        let blocks = self.capacity - self.free_units;
        // Of a block of 17 units 16 are needed, and one is slack.
        if self.has_slack { blocks / (SLACK_SHARE + 1) } else { 0 }
    }

    /// How long a span and the slots beside it are.
    pub(super) fn joined_length(&self, span: u32) -> Units {
        let Span { length, previous, next, .. } = *self.get(span);
        let free = |neighbour: u32| match self.spans.get(neighbour as usize) {
            Some(Span { content: Content::Slot(_), length, .. }) => *length,
            _ => 0,
        };
        free(previous) + length + free(next)
    }

    /// Takes a span out of the row. Its neighbours take over what it covered.
    pub(super) fn unlink(&mut self, span: u32) {
        let Span { previous, next, .. } = *self.get(span);
        match previous {
            NONE => self.first = next,
            previous => self.span(previous).next = next,
        }
        if next != NONE {
            self.span(next).previous = previous;
        }
        self.span(span).next = self.unused;
        self.unused = span;
    }

    /// Adds a span, for which there is room.
    fn store(&mut self, span: Span) -> u32 {
        if self.unused == NONE {
            self.spans.push(span);
            return self.spans.len() as u32 - 1;
        }
        let number = self.unused;
        self.unused = self.get(number).next;
        *self.span(number) = span;
        number
    }

    /// Panics where an invariant is broken; returns every block's record and span in order.
    #[cfg(any(test, heapswitch_check))]
    pub(super) fn verify(&self) -> Vec<(u32, Span)> {
        let (mut slots, mut blocks, mut free) = (Vec::new(), Vec::new(), 0);
        let (mut end, mut previous) = (0, NONE);
        let mut span = self.first;
        while span != NONE {
            let here = *self.get(span);
            assert_eq!((here.start, here.previous), (end, previous), "spans follow each other");
            assert!(here.length > 0, "an empty span");
            match here.content {
                Content::Slot(slot) => {
                    let slot = self.slots.get(slot);
                    let borders = (slot.span, slot.start, slot.length);
                    assert_eq!(borders, (span, here.start, here.length), "a slot's borders");
                    slots.push(span);
                    free += here.length;
                }
                Content::Block(record) => blocks.push((record, here)),
                Content::Reserved => free += here.length,
            }
            (end, previous, span) = (here.end(), span, here.next);
        }
        assert_eq!(end, self.capacity, "the spans' end");
        assert_eq!(free, self.free_units, "the free units");
        assert_eq!(blocks.len(), self.blocks, "the number of blocks");
        assert_eq!(self.slots.verify(), slots, "the slots of the treap");
        blocks
    }
}
