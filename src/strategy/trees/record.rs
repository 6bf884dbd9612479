//! What is kept about an extent: its record and the map of where free memory ends, out of line, and
//! beside its address what each call needs: where the map is, and the count of its blocks.
//!
//! ```text
//!   extent      ████░░░░░░░░████████░░██████░░░░        █ allocated  ░ free, two letters a granule
//!   map         0 0 1 0 0 0 1 0 0 0 1 1 0 0 1 0 1
//!
//!   metadata    record │ 64 boundaries │ 64 boundaries │ ...
//! ```
//!
//! There is a bit for each boundary between two granules, and one for either end of the extent; it
//! is set where allocated and free memory meet. What lies outside the extent counts as allocated.
//! So, of a block that is allocated, the bit at an end says whether a free block follows there. And
//! whatever is allocated or freed, *both bits at its ends flip*: where the neighbour is free too,
//! they coalesce and the boundary vanishes. No case needs to be told from another.
//!
//! One bit of 256: 264 bytes of map for a chunk of 64 KiB, and nothing beside an allocated block.

use core::cell::Cell;
use core::ptr::{self, NonNull};

use super::free_block::{self, FreeBlock, before};
use super::size_class::{GRANULE, GRANULE_SHIFT};
use super::verify::broken;
use crate::pointers::forward;
use crate::strategy::Extent;
use crate::units::round_down;

/// log2 of the bytes of an extent that one word of the map stands for.
const WORD_SHIFT: u32 = GRANULE_SHIFT + u64::BITS.ilog2();

/// The record of an extent, at the start of its metadata.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Record {
    /// The list of all records.
    pub(super) next: *mut Record,
    pub(super) previous: *mut Record,
    extent: NonNull<Extent>,
}

/// The metadata bytes for an extent of `extent_bytes`, wherever it starts.
pub(super) fn metadata_bytes(extent_bytes: usize) -> usize {
    // One word more for the boundary at the end, or for a start inside a word.
    let words = extent_bytes.div_ceil(1 << WORD_SHIFT) + 1;
    size_of::<Record>() + words * size_of::<u64>()
}

impl Record {
    /// The extent that it is the record of.
    pub(super) fn extent(&self) -> NonNull<Extent> {
        self.extent
    }

    /// Calls `visit` with every free block of the extent, in order of address, and its length; not
    /// with the top, which the map calls allocated. Aborts where the map and a block's lengths
    /// differ.
    ///
    /// # Safety
    /// The extent was added and not removed.
    pub(super) unsafe fn for_each_free(&self, visit: &mut dyn FnMut(NonNull<FreeBlock>, usize)) {
        // SAFETY: the extent is valid until it is removed. Every second boundary is the end of the
        // free block that starts at the one before.
        unsafe {
            let extent = self.extent.as_ref();
            let (map, start, length) = (map_of(extent), extent.start(), extent.length());
            let last = start.addr().get() + round_down(length, GRANULE);
            let mut from = start.addr().get();
            while let Some(first) = map.next_set(from, last) {
                let Some(end) = map.next_set(first + GRANULE, last) else {
                    broken("the map has a free block without an end")
                };
                let block = forward(start, first - start.addr().get()).cast();
                let (before_end, length) = before(forward(block.cast(), end - first));
                if before_end != block || free_block::length(block) != length {
                    broken("a free block's lengths differ from the map")
                }
                visit(block, length);
                from = end + GRANULE;
            }
        }
    }

    /// Writes the record of an extent into its metadata.
    ///
    /// # Safety
    /// The extent upholds its type's invariants, and its metadata is as long as [`metadata_bytes`]
    /// says.
    pub(super) unsafe fn write(extent: &Extent) -> NonNull<Self> {
        // SAFETY: the metadata holds a record and at least one word more, is aligned to 16 and
        // nobody else's.
        unsafe {
            let record = extent.metadata().cast::<Self>();
            record.write(Self {
                next: ptr::null_mut(),
                previous: ptr::null_mut(),
                extent: extent.into(),
            });
            let first_word = forward(extent.metadata(), size_of::<Self>());
            extent.words[0].set(Map::bias(first_word, extent.start()));
            extent.words[1].set(0);
            record
        }
    }
}

/// The record of an extent that was added and not removed.
#[inline]
pub(super) fn record_of(extent: &Extent) -> NonNull<Record> {
    // SAFETY: trees ask for metadata, and the extent is theirs.
    unsafe { extent.metadata() }.cast()
}

/// How many blocks are allocated in an extent.
#[inline]
pub(super) fn live_blocks(extent: &Extent) -> &Cell<usize> {
    &extent.words[1]
}

/// The map of an extent that was added and not removed.
#[inline]
pub(super) fn map_of(extent: &Extent) -> Map {
    // SAFETY: trees ask for metadata.
    Map { metadata: unsafe { extent.metadata() }.as_ptr(), bias: extent.words[0].get() }
}

/// The map of an extent: the address of the word that would stand for address zero.
///
/// Biased so, a word is found by one shift, one mask and one addition, and the extent's start need
/// not be loaded. The bias stands beside that, in the extent; the metadata's address is here for
/// its provenance alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map {
    metadata: *mut u8,
    bias: usize,
}

impl Map {
    fn bias(first_word: NonNull<u8>, start: NonNull<u8>) -> usize {
        first_word.addr().get().wrapping_sub(Self::word_offset(start.addr().get()))
    }

    #[inline]
    const fn word_offset(address: usize) -> usize {
        (address >> WORD_SHIFT) * size_of::<u64>()
    }

    #[inline]
    fn word(self, address: usize) -> *mut u64 {
        let word = self.bias.wrapping_add(Self::word_offset(address));
        self.metadata.with_addr(word).cast()
    }

    #[inline]
    const fn bit(address: usize) -> u64 {
        1 << ((address >> GRANULE_SHIFT) % u64::BITS as usize)
    }

    /// Whether free and allocated memory meet at `address`.
    ///
    /// # Safety
    /// `address` lies in the extent or at its end.
    #[inline]
    pub(super) unsafe fn is_set(self, address: usize) -> bool {
        // SAFETY: the map has a word for every boundary of the extent.
        unsafe { *self.word(address) & Self::bit(address) != 0 }
    }

    /// Flips the bit of `address`, and says whether it was set.
    ///
    /// # Safety
    /// `address` lies in the extent or at its end.
    #[inline]
    pub(super) unsafe fn flip(self, address: usize) -> bool {
        let word = self.word(address);
        // SAFETY: the map has a word for every boundary of the extent.
        unsafe {
            let old = *word;
            *word = old ^ Self::bit(address);
            old & Self::bit(address) != 0
        }
    }

    /// The first boundary from `address` on and up to `last` that is set.
    ///
    /// # Safety
    /// Both lie in the extent or at its end, unless `address` is above `last`.
    unsafe fn next_set(self, mut address: usize, last: usize) -> Option<usize> {
        while address <= last {
            // SAFETY: the map has a word for every boundary of the extent.
            let rest = unsafe { *self.word(address) } & !(Self::bit(address) - 1);
            let word_start = round_down(address, 1 << WORD_SHIFT);
            if rest != 0 {
                let found = word_start + rest.trailing_zeros() as usize * GRANULE;
                return (found <= last).then_some(found);
            }
            address = word_start + (1 << WORD_SHIFT);
        }
        None
    }
}
