//! What is kept about an extent, out of line: its record, and the map of where free blocks start.

use core::ptr::NonNull;

use super::MAX_ORDER;
use super::block::{Block, MIN_ORDER};
use crate::pointers;
use crate::strategy::Extent;

/// The record of an extent, at the start of its metadata; the map's words follow.
#[derive(Debug)]
pub(super) struct Record {
    start: NonNull<u8>,
    /// Whole granules of 32 bytes.
    usable_bytes: usize,
    words: NonNull<u64>,
    /// The list of all records.
    pub(super) next: Option<NonNull<Record>>,
    pub(super) previous: Option<NonNull<Record>>,
}

/// The metadata bytes for an extent.
pub(super) const fn metadata_bytes(extent_bytes: usize) -> usize {
    size_of::<Record>() + words_for(extent_bytes) * size_of::<u64>()
}

const fn words_for(extent_bytes: usize) -> usize {
    extent_bytes.div_ceil((u64::BITS as usize) << MIN_ORDER)
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
            record.write(Self { start, usable_bytes, words, next: first, previous: None });
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

    /// A word of the map.
    ///
    /// # Safety
    /// There are as many.
    #[inline]
    unsafe fn word(&self, index: usize) -> NonNull<u64> {
        // SAFETY: the caller's contract.
        unsafe { pointers::forward(self.words.cast(), index * size_of::<u64>()).cast() }
    }

    /// The word and the bit of a granule's start.
    ///
    /// # Safety
    /// `start` lies in the extent.
    #[inline]
    unsafe fn bit(&self, start: NonNull<u8>) -> (NonNull<u64>, u64) {
        let granule = pointers::distance(self.start, start) >> MIN_ORDER;
        // SAFETY: the map has a bit for each granule of the extent.
        let word = unsafe { self.word(granule / u64::BITS as usize) };
        (word, 1 << (granule % u64::BITS as usize))
    }

    /// Notes that a free block starts there.
    ///
    /// # Safety
    /// `start` lies in the extent.
    #[inline]
    pub(super) unsafe fn set(&self, start: NonNull<u8>) {
        // SAFETY: the caller's contract; the word is the strategy's alone.
        unsafe {
            let (word, bit) = self.bit(start);
            word.write(word.read() | bit);
        }
    }

    /// Notes that no free block starts there.
    ///
    /// # Safety
    /// `start` lies in the extent.
    #[inline]
    pub(super) unsafe fn clear(&self, start: NonNull<u8>) {
        // SAFETY: the caller's contract; the word is the strategy's alone.
        unsafe {
            let (word, bit) = self.bit(start);
            word.write(word.read() & !bit);
        }
    }

    /// Whether a free block starts there; not if that lies outside the extent.
    #[inline]
    pub(super) fn is_set(&self, start: NonNull<u8>) -> bool {
        if pointers::distance(self.start, start) >= self.usable_bytes {
            return false;
        }
        // SAFETY: the start lies in the extent.
        unsafe {
            let (word, bit) = self.bit(start);
            word.read() & bit != 0
        }
    }

    /// The buddy of a block, if it is listed and of the same order.
    ///
    /// # Safety
    /// The block lies in the extent.
    #[inline]
    pub(super) unsafe fn free_buddy(
        &self,
        start: NonNull<u8>,
        order: usize,
    ) -> Option<NonNull<Block>> {
        if order >= MAX_ORDER {
            return None;
        }
        let address = start.addr().get() ^ (1 << order);
        let offset = address.wrapping_sub(self.start.addr().get());
        if offset >= self.usable_bytes {
            return None;
        }
        // SAFETY: the offset lies in the extent; where the bit is set a listed block starts.
        unsafe {
            let buddy = pointers::forward(self.start, offset);
            let (word, bit) = self.bit(buddy);
            let block = buddy.cast::<Block>();
            (word.read() & bit != 0 && (*block.as_ptr()).order == order).then_some(block)
        }
    }

    /// Whether a free block starts in the range.
    pub(super) fn has_free_in(&self, start: NonNull<u8>, bytes: usize) -> bool {
        let offset = pointers::distance(self.start, start);
        (offset..offset + bytes).step_by(1 << MIN_ORDER).any(|offset| {
            // SAFETY: the range lies in the extent.
            self.is_set(unsafe { pointers::forward(self.start, offset) })
        })
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

    /// Calls `visit` with each listed block and its order, in order of address. The block may be
    /// unlinked or overwritten then.
    ///
    /// # Safety
    /// The extent was added and not removed.
    pub(super) unsafe fn visit(&self, visit: &mut dyn FnMut(NonNull<Block>, usize)) {
        for index in 0..words_for(self.usable_bytes) {
            // SAFETY: the words are as many.
            let mut rest = unsafe { self.word(index).read() };
            while rest != 0 {
                let granule = index * u64::BITS as usize + rest.trailing_zeros() as usize;
                rest &= rest - 1;
                // SAFETY: where a bit is set a listed block starts.
                unsafe {
                    let block = pointers::forward(self.start, granule << MIN_ORDER).cast::<Block>();
                    visit(block, (*block.as_ptr()).order);
                }
            }
        }
    }
}
