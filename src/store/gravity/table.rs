//! A table that grows while others read it: segments, each twice as long as the one before, which
//! never move.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use crate::sync::lanes::Lanes;
use crate::sync::pins::{KeyWord, Pinned, Pins};
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

/// What is known of a block beside its span.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) pins: Pins,
    /// Where the block starts, in units, and how many bytes it has. Written by who claimed it, read
    /// by who pinned it: the pins' word orders the two.
    place: AtomicU64,
    /// The block's span. Only used under the store's lock.
    span: AtomicU32,
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
        let mut records = Vec::new();
        self.lanes.each(|record| records.push(record));
        records.sort_unstable();
        Announced(records)
    }
}

/// Records that were read when it was made.
#[derive(Debug)]
pub(super) struct Announced(Vec<u32>);

impl Announced {
    /// Whether a record was.
    pub(super) fn has(&self, record: u32) -> bool {
        self.0.binary_search(&record).is_ok()
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
