//! What is kept about an extent, out of line: its record, and the map of its free blocks.
//!
//! ```text
//!   order 5   1 bit for each place of 32 bytes   │ 0 1 0 0 0 0 0 0 │
//!   order 6   1 bit for each of 64               │  0   0   0   1  │ one after the other, without
//!   order 7   1 bit for each of 128              │    0       0    │ gaps; twice as many bits in
//!   ...                                          │        ...      │ all as there are granules
//! ```
//!
//! A bit says that a block of that order is listed there, so nothing that stands in blocks tells
//! which of them are free, or how long they are.

use core::cell::Cell;
use core::ptr::NonNull;

use super::MAX_ORDER;
use super::block::MIN_ORDER;
use crate::pointers;
use crate::strategy::Extent;

/// The record of an extent, at the start of its metadata; the map's words follow.
#[derive(Debug)]
pub(super) struct Record {
    start: NonNull<u8>,
    /// Whole granules of 32 bytes.
    usable_bytes: usize,
    /// Twice as many as granules: no fewer than places for blocks, of all orders.
    bits: usize,
    words: NonNull<u64>,
    /// The bytes of blocks that are currently allocated, or wait in front of all counts.
    used_bytes: Cell<usize>,
    /// The list of all records.
    pub(super) next: Option<NonNull<Record>>,
    pub(super) previous: Option<NonNull<Record>>,
}

const WORD_BITS: usize = u64::BITS as usize;

/// The metadata bytes for an extent.
pub(super) const fn metadata_bytes(extent_bytes: usize) -> usize {
    size_of::<Record>() + words_for(extent_bytes) * size_of::<u64>()
}

const fn words_for(extent_bytes: usize) -> usize {
    (2 * (extent_bytes >> MIN_ORDER)).div_ceil(WORD_BITS)
}

impl Record {
    /// Writes the record of an extent, as the first in the list.
    ///
    /// # Safety
    /// The extent upholds its type's invariants, its metadata is as long as [`metadata_bytes`]
    /// says; `first` is the first record in the list.
    pub(super) unsafe fn write(extent: &Extent, first: Option<NonNull<Self>>) -> NonNull<Self> {
        // SAFETY: the metadata has room for the record and the words behind it.
        unsafe {
            let record = extent.metadata().cast::<Self>();
            let words = pointers::forward(extent.metadata(), size_of::<Self>()).cast();
            let usable_bytes = extent.length() & !((1 << MIN_ORDER) - 1);
            let start = extent.start();
            record.write(Self {
                start,
                usable_bytes,
                bits: 2 * (usable_bytes >> MIN_ORDER),
                words,
                used_bytes: Cell::new(0),
                next: first,
                previous: None,
            });
            if let Some(first) = first {
                (*first.as_ptr()).previous = Some(record);
            }
            record
        }
    }

    /// Takes a record out of the list whose first is in `first`.
    ///
    /// # Safety
    /// It is in that list.
    pub(super) unsafe fn unlink(record: NonNull<Self>, first: &mut Option<NonNull<Self>>) {
        // SAFETY: the record is in the list, and so are those that it links.
        unsafe {
            let (next, previous) = (record.as_ref().next, record.as_ref().previous);
            if let Some(next) = next {
                (*next.as_ptr()).previous = previous;
            }
            match previous {
                Some(previous) => (*previous.as_ptr()).next = next,
                None => *first = next,
            }
        }
    }

    /// The bytes that are in blocks.
    pub(super) const fn usable_bytes(&self) -> usize {
        self.usable_bytes
    }

    /// The bytes of blocks that are allocated, and of the one in front of all counts.
    #[inline]
    pub(super) const fn used_bytes(&self) -> usize {
        self.used_bytes.get()
    }

    /// Counts a block that is allocated.
    #[inline]
    pub(super) fn count_taken(&self, order: usize) {
        self.used_bytes.set(self.used_bytes.get().wrapping_add(1 << order));
    }

    /// Counts a block that is free.
    #[inline]
    pub(super) fn count_freed(&self, order: usize) {
        self.used_bytes.set(self.used_bytes.get().wrapping_sub(1 << order));
    }

    /// Where the bits of an order begin in the map.
    #[inline]
    const fn base(&self, order: usize) -> usize {
        // The orders before have at least a half, a quarter ... of all: as many as blocks.
        self.bits - (self.bits >> (order - MIN_ORDER))
    }

    /// A word of the map.
    ///
    /// # Safety
    /// It has the bit of that number.
    #[inline]
    unsafe fn word(&self, bit: usize) -> NonNull<u64> {
        let bytes = bit / WORD_BITS * size_of::<u64>();
        // SAFETY: the caller's contract.
        unsafe { pointers::forward(self.words.cast(), bytes).cast() }
    }

    /// The word and the bit of a place for a block.
    ///
    /// # Safety
    /// A block of that order has room there in the extent.
    #[inline]
    unsafe fn bit(&self, offset: usize, order: usize) -> (NonNull<u64>, u64) {
        let bit = self.base(order) + (offset >> order);
        // SAFETY: the map has a bit for each place of each order.
        (unsafe { self.word(bit) }, 1 << (bit % WORD_BITS))
    }

    /// Notes that a block is listed there.
    ///
    /// # Safety
    /// It lies in the extent.
    #[inline]
    pub(super) unsafe fn set(&self, start: NonNull<u8>, order: usize) {
        // SAFETY: the caller's contract; the word is the strategy's alone.
        unsafe {
            let (word, bit) = self.bit(pointers::distance(self.start, start), order);
            word.write(word.read() | bit);
        }
    }

    /// Notes that no block of that order is listed there.
    ///
    /// # Safety
    /// It lies in the extent.
    #[inline]
    pub(super) unsafe fn clear(&self, start: NonNull<u8>, order: usize) {
        // SAFETY: the caller's contract; the word is the strategy's alone.
        unsafe {
            let (word, bit) = self.bit(pointers::distance(self.start, start), order);
            word.write(word.read() & !bit);
        }
    }

    /// The offset of a place for a block, if the extent has it.
    #[inline]
    fn offset_of(&self, address: usize, order: usize) -> Option<usize> {
        let offset = address.wrapping_sub(self.start.addr().get());
        (offset <= self.usable_bytes.checked_sub(1 << order)?).then_some(offset)
    }

    /// Whether a block of that order is listed at an address, which may lie outside the extent.
    #[inline]
    fn is_listed_at(&self, address: usize, order: usize) -> bool {
        self.offset_of(address, order).is_some_and(|offset| {
            // SAFETY: the extent has that place.
            unsafe {
                let (word, bit) = self.bit(offset, order);
                word.read() & bit != 0
            }
        })
    }

    /// Whether a block of that order is listed there.
    pub(super) fn is_listed(&self, start: NonNull<u8>, order: usize) -> bool {
        self.is_listed_at(start.addr().get(), order)
    }

    /// Whether the buddy of a block is listed and of the same order.
    pub(super) fn has_free_buddy(&self, start: NonNull<u8>, order: usize) -> bool {
        order < MAX_ORDER && self.is_listed_at(start.addr().get() ^ (1 << order), order)
    }

    /// Notes that the buddy of a block is listed no more, if it was and of the same order; the
    /// buddy then.
    #[inline]
    pub(super) fn take_buddy(&self, start: NonNull<u8>, order: usize) -> Option<NonNull<u8>> {
        if order >= MAX_ORDER {
            return None;
        }
        let offset = self.offset_of(start.addr().get() ^ (1 << order), order)?;
        // SAFETY: the extent has that place; the word is the strategy's alone.
        unsafe {
            let (word, bit) = self.bit(offset, order);
            let bits = word.read();
            if bits & bit == 0 {
                return None;
            }
            word.write(bits & !bit);
            Some(pointers::forward(self.start, offset))
        }
    }

    /// Whether a listed block has a byte in common with the block there.
    ///
    /// # Safety
    /// The block lies in the extent.
    pub(super) unsafe fn overlaps_listed(&self, start: NonNull<u8>, order: usize) -> bool {
        let offset = pointers::distance(self.start, start);
        let within = (MIN_ORDER..order).any(|lower| {
            let first = self.base(lower) + (offset >> lower);
            self.next_set(first, first + (1 << (order - lower))).is_some()
        });
        within
            || (order..=MAX_ORDER)
                .any(|upper| self.is_listed_at(start.addr().get() >> upper << upper, upper))
    }

    /// The first bit that is set from `from` on, below `end`.
    fn next_set(&self, from: usize, end: usize) -> Option<usize> {
        let mut bit = from;
        while bit < end {
            // SAFETY: callers pass the bits of an order.
            let rest = unsafe { self.word(bit).read() } >> (bit % WORD_BITS);
            if rest != 0 {
                bit += rest.trailing_zeros() as usize;
                return (bit < end).then_some(bit);
            }
            bit = (bit / WORD_BITS + 1) * WORD_BITS;
        }
        None
    }

    /// Calls `visit` with the start and the order of each block of the first division: the longest
    /// blocks that there are, in order of address.
    pub(super) fn divide(&self, visit: &mut dyn FnMut(NonNull<u8>, usize)) {
        let mut offset = 0;
        while offset < self.usable_bytes {
            // SAFETY: the offset lies in the extent.
            let start = unsafe { pointers::forward(self.start, offset) };
            let by_address = start.addr().get().trailing_zeros() as usize;
            let by_length = (self.usable_bytes - offset).ilog2() as usize;
            let order = by_address.min(by_length).min(MAX_ORDER);
            visit(start, order);
            offset += 1 << order;
        }
    }

    /// Calls `visit` with each listed block and its order, which ascends. The block may be unlinked
    /// or overwritten then.
    pub(super) fn visit(&self, visit: &mut dyn FnMut(NonNull<u8>, usize)) {
        for order in MIN_ORDER..=MAX_ORDER {
            let (base, places) = (self.base(order), self.usable_bytes >> order);
            // Blocks lie at multiples of their length.
            let first = self.start.addr().get().wrapping_neg() & ((1 << order) - 1);
            let mut next = base;
            while let Some(bit) = self.next_set(next, base + places) {
                // SAFETY: where a bit is set a block is listed.
                visit(
                    unsafe { pointers::forward(self.start, first + ((bit - base) << order)) },
                    order,
                );
                next = bit + 1;
            }
        }
    }
}
