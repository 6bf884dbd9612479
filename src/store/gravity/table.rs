//! A table that grows while others read it: segments, each twice as long as the one before, which
//! never move.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use super::{NONE, Units};
use crate::sync::lanes::{Lanes, MOST_ANNOUNCED};
use crate::sync::pins::{KeyWord, Meaning, Pinned, Pins};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// log2 of the first segment's length.
const FIRST_SHIFT: u32 = 6;
/// Enough for every 32-bit number.
const SEGMENTS: usize = 33 - FIRST_SHIFT as usize;

/// Elements by their numbers, from 0.
#[derive(Debug)]
pub(super) struct Table<T> {
    segments: [OnceLock<Box<[T]>>; SEGMENTS],
}

impl<T: Default> Table<T> {
    pub(super) const fn new() -> Self {
        Self { segments: [const { OnceLock::new() }; SEGMENTS] }
    }

    /// The segment of a number, and the place in it: number + 64 has its highest bit at the
    /// segment's number + 6, and the rest of it is the place.
    #[inline]
    fn locate(number: u32) -> (usize, usize) {
        let biased = u64::from(number) + (1 << FIRST_SHIFT);
        let shift = biased.ilog2();
        ((shift - FIRST_SHIFT) as usize, (biased - (1 << shift)) as usize)
    }

    /// The element; `None` if there is no room for it yet.
    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        let (segment, place) = Self::locate(number);
        self.segments[segment].get()?.get(place)
    }

    /// The element, for which room is made; `None` if there is no memory. O(1) on the average.
    pub(super) fn get_or_make(&self, number: u32) -> Option<&T> {
        let (segment, _) = Self::locate(number);
        if self.segments[segment].get().is_none() {
            let length = 1_usize << (segment + FIRST_SHIFT as usize);
            let mut elements = Vec::new();
            elements.try_reserve_exact(length).ok()?;
            elements.resize_with(length, T::default);
            // Others may have set it at the same time; theirs is as good.
            let _ = self.segments[segment].set(elements.into_boxed_slice());
        }
        self.get(number)
    }
}

/// An element that, while it is unused, or waits, can hold the number of another.
pub(super) trait Linked {
    fn next(&self) -> u32;

    fn set_next(&self, next: u32);
}

/// Numbers of a table's elements that are handed out, and come back. The returned ones are a list
/// through their elements, so that a return takes no memory.
#[derive(Debug)]
pub(super) struct Numbers {
    returned: u32,
    fresh: u32,
}

impl Numbers {
    pub(super) const fn new() -> Self {
        Self { returned: NONE, fresh: 0 }
    }

    /// An element that nobody has, and its number; `None` if there is no memory for one, or there
    /// are four thousand million.
    pub(super) fn take<'a, T: Default + Linked>(
        &mut self,
        table: &'a Table<T>,
    ) -> Option<(u32, &'a T)> {
        if self.returned != NONE {
            let number = self.returned;
            let element = table.get(number)?;
            self.returned = element.next();
            return Some((number, element));
        }
        let number = self.fresh;
        let following = number.checked_add(1).filter(|next| *next != NONE)?;
        let element = table.get_or_make(number)?;
        self.fresh = following;
        Some((number, element))
    }

    pub(super) fn give_back<T: Default + Linked>(&mut self, table: &Table<T>, number: u32) {
        if let Some(element) = table.get(number) {
            element.set_next(self.returned);
            self.returned = number;
        }
    }
}

impl Linked for KeyWord {
    fn next(&self) -> u32 {
        self.meaning().record
    }

    /// Nobody has a key of the generation that the word has while it is unused.
    fn set_next(&self, next: u32) {
        self.publish(Meaning { record: next, ..self.meaning() });
    }
}

/// What is known of a block beside its span.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) pins: Pins,
    /// Where the block starts, in units, and how many bytes it has. Written by who claimed it, read
    /// by who pinned it: the pins' word orders the two.
    place: AtomicU64,
    /// The block's span. Only used under the store's lock.
    span: AtomicU32,
    /// The next record in the list of the unused ones, or of the withheld, under the store's lock.
    /// Else how many units the block has: written by who claimed it, under that lock, and read by
    /// who ended the ownership.
    next_or_units: AtomicU32,
}

impl Linked for Record {
    fn next(&self) -> u32 {
        self.next_or_units.load(Ordering::Relaxed)
    }

    fn set_next(&self, next: u32) {
        self.next_or_units.store(next, Ordering::Relaxed);
    }
}

impl Pinned for Record {
    #[inline]
    fn pins(&self) -> &Pins {
        &self.pins
    }
}

impl Record {
    #[inline]
    pub(super) fn place(&self) -> Place {
        // Relaxed: see the field.
        let place = self.place.load(Ordering::Relaxed);
        Place { start: (place >> 32) as u32, bytes: place as u32 }
    }

    pub(super) fn set_place(&self, Place { start, bytes }: Place) {
        // Relaxed: see the field.
        self.place.store((u64::from(start) << 32) | u64::from(bytes), Ordering::Relaxed);
    }

    /// How many units the block has, which is in no list.
    pub(super) fn units(&self) -> Units {
        // Relaxed: the pins' word orders it, as the place.
        self.next_or_units.load(Ordering::Relaxed)
    }

    pub(super) fn set_units(&self, units: Units) {
        self.next_or_units.store(units, Ordering::Relaxed);
    }

    pub(super) fn span(&self) -> u32 {
        self.span.load(Ordering::Relaxed)
    }

    pub(super) fn set_span(&self, span: u32) {
        self.span.store(span, Ordering::Relaxed);
    }
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The first unit.
    pub(super) start: u32,
    /// How many bytes it has.
    pub(super) bytes: u32,
}

/// The store's tables.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) records: Table<Record>,
    pub(super) keys: Table<KeyWord>,
    /// Which records are read.
    pub(super) lanes: Lanes,
}

impl Tables {
    /// All empty.
    pub(super) fn new() -> Self {
        Self { records: Table::new(), keys: Table::new(), lanes: Lanes::new() }
    }

    /// The records that are announced as read.
    pub(super) fn announced(&self) -> Announced {
        let mut announced = Announced { records: [0; MOST_ANNOUNCED], count: 0 };
        self.lanes.each(|record| {
            announced.records[announced.count] = record;
            announced.count += 1;
        });
        announced.records[..announced.count].sort_unstable();
        announced
    }
}

/// Records that were read when it was made.
#[derive(Debug)]
pub(super) struct Announced {
    records: [u32; MOST_ANNOUNCED],
    count: usize,
}

impl Announced {
    /// Whether a record was.
    pub(super) fn has(&self, record: u32) -> bool {
        self.records[..self.count].binary_search(&record).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_place_of_its_own() {
        assert_eq!(Table::<u8>::locate(0), (0, 0));
        assert_eq!(Table::<u8>::locate(63), (0, 63));
        assert_eq!(Table::<u8>::locate(64), (1, 0));
        assert_eq!(Table::<u8>::locate(191), (1, 127));
        assert_eq!(Table::<u8>::locate(192), (2, 0));
        let (segment, place) = Table::<u8>::locate(u32::MAX);
        assert!(segment < SEGMENTS && place < 1 << (segment + FIRST_SHIFT as usize));
        let table = Table::<u8>::new();
        assert!(table.get(100).is_none());
        let made: *const u8 = table.get_or_make(100).unwrap();
        table.get_or_make(10_000).unwrap();
        assert!(std::ptr::eq(made, table.get(100).unwrap()));
    }
}
