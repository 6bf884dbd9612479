//! The arena's tables, out of line: which ranges it has, and a link for each block.
//!
//! ```text
//!   links    range_blocks words a slot     the stack's
//!   bases    one pointer a slot            null, REMOVED, or where the slot's range starts
//!   lengths  one word a slot               as long as the inner source made the range
//!   counts   one word a slot               scratch of a release, zero between releases
//! ```
//! A range's slot is found by hashing its start and searching on from there; ranges are aligned to
//! their size, so a block's address gives its range's start. Block `b` of slot `s` has the number
//! `s * range_blocks + b`, for the slot never changes while the range is there.
//!
//! # Why a reader needs no lock
//! Whoever looks for a block's slot holds that block, so the slot is taken and stays so. Every slot
//! before it on the search's way was not null when it was inserted, and no slot ever becomes null
//! again: a removed one is marked. At least half of the slots are not taken, and insertion takes
//! the first that is free, so the way is short.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::index_stack::Links;
use super::settings::ArenaSettings;
use crate::allocator::MemoryRange;
use crate::pointers;
use crate::sync::AtomicU64;
use crate::sys::SystemError;
use crate::sys::memory::{self, MapFlags};
use crate::units::{PAGE_BYTES, round_down, round_up};

/// Marks a slot whose range was given back. No range starts at address 1.
const REMOVED: *mut u8 = core::ptr::without_provenance_mut(1);

/// A view of the tables.
///
/// # Invariants
/// `memory` is a mapping of [`Table::bytes`] of the same settings, zeroed when it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    memory: NonNull<u8>,
    settings: &'a ArenaSettings,
}

impl<'a> Table<'a> {
    /// Maps tables, all zero.
    pub(super) fn map(settings: &'a ArenaSettings) -> Result<Self, SystemError> {
        let how = MapFlags { is_unreserved: true, ..MapFlags::default() };
        let memory = memory::map_anonymous(Self::bytes(settings), how)?;
        Ok(Self { memory, settings })
    }

    /// The tables at `memory`.
    ///
    /// # Safety
    /// It comes from the [`memory`](Self::memory) of a table of these settings that is not unmapped
    /// for as long as `'a`.
    pub(super) unsafe fn at(memory: NonNull<u8>, settings: &'a ArenaSettings) -> Self {
        Self { memory, settings }
    }

    /// Where the tables are.
    pub(super) fn memory(&self) -> NonNull<u8> {
        self.memory
    }

    /// Unmaps the tables.
    ///
    /// # Safety
    /// Nobody uses them any more.
    pub(super) unsafe fn unmap(self) {
        // Where that is refused, their addresses stay.
        // SAFETY: the invariant, and the caller's contract.
        let _ = unsafe { memory::unmap(self.memory, Self::bytes(self.settings)) };
    }

    fn bytes(settings: &ArenaSettings) -> usize {
        let words = settings.slots() * (settings.range_blocks() + 3);
        // The settings bound the words to below 2^28.
        round_up(words * size_of::<u64>(), PAGE_BYTES).unwrap_or(usize::MAX)
    }

    /// The `index`-th word of the table that starts at word `first`.
    fn word<T>(&self, first: usize, index: usize, length: usize) -> &'a T {
        const { assert!(size_of::<T>() == size_of::<u64>() || cfg!(loom)) };
        assert_in_bounds(index < length);
        // SAFETY: the word lies in the mapping, which is aligned to a page, lives for `'a`, and is
        // only reached through atomics; a zeroed word is a valid atomic of any type used here.
        // (Loom's atomics are none: its model keeps its links elsewhere.)
        unsafe {
            let word = pointers::forward(self.memory, (first + index) * size_of::<u64>());
            word.cast::<T>().as_ref()
        }
    }

    fn base(&self, slot: usize) -> &'a AtomicPtr<u8> {
        let slots = self.settings.slots();
        self.word(slots * self.settings.range_blocks(), slot, slots)
    }

    fn length(&self, slot: usize) -> &'a AtomicUsize {
        let slots = self.settings.slots();
        self.word(slots * (self.settings.range_blocks() + 1), slot, slots)
    }

    /// A slot's scratch word, used under the arena's lock only.
    pub(super) fn count(&self, slot: usize) -> &'a AtomicUsize {
        let slots = self.settings.slots();
        self.word(slots * (self.settings.range_blocks() + 2), slot, slots)
    }

    /// The slots in the order in which a range that starts at `base` may lie in them.
    fn search(&self, base: usize) -> impl Iterator<Item = usize> + use<> {
        let mask = self.settings.slots() - 1;
        // Fibonacci hashing: the high bits of the product are well mixed.
        let range = (base >> self.settings.range_shift()) as u64;
        let start = (range.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize;
        (0..=mask).map(move |step| start.wrapping_add(step) & mask)
    }

    /// Enters a range; its slot. Under the arena's lock. `None` where every slot is taken.
    pub(super) fn insert(&self, range: MemoryRange) -> Option<usize> {
        let is_free = |slot: &usize| {
            let base = self.base(*slot).load(Ordering::Relaxed);
            base.is_null() || base == REMOVED
        };
        let slot = self.search(range.start.addr().get()).find(is_free)?;
        self.length(slot).store(range.length, Ordering::Relaxed);
        // Relaxed: whoever looks for it has a block of it, which the stack's push published.
        self.base(slot).store(range.start.as_ptr(), Ordering::Relaxed);
        Some(slot)
    }

    /// Takes a range out. Under the arena's lock, and nobody has a block of it.
    pub(super) fn remove(&self, slot: usize) -> Option<MemoryRange> {
        let start = NonNull::new(self.base(slot).swap(REMOVED, Ordering::Relaxed))?;
        let length = self.length(slot).load(Ordering::Relaxed);
        Some(MemoryRange { start, length, is_zeroed: false })
    }

    /// Whether so many ranges are entered, each aligned, long enough and found by its start, and no
    /// release is under way. Under the arena's lock.
    pub(super) fn is_sound(&self, ranges: usize) -> bool {
        let mut entered = 0;
        let is_each_sound = (0..self.settings.slots()).all(|slot| {
            let base = self.base(slot).load(Ordering::Relaxed);
            let is_idle = self.count(slot).load(Ordering::Relaxed) == 0;
            let Some(start) = NonNull::new(base).filter(|_| base != REMOVED) else {
                return is_idle;
            };
            entered += 1;
            let first = (slot << self.settings.range_blocks_shift()) as u32;
            is_idle
                && pointers::is_aligned(start, self.settings.range_bytes())
                && self.length(slot).load(Ordering::Relaxed) >= self.settings.range_bytes()
                && self.number(start) == Some(first)
        });
        is_each_sound && entered == ranges
    }

    /// Whether a number is that of a block in a range that is entered. Under the arena's lock.
    pub(super) fn is_entered(&self, number: u32) -> bool {
        let slot = self.slot(number);
        let base = || self.base(slot).load(Ordering::Relaxed);
        slot < self.settings.slots() && !base().is_null() && base() != REMOVED
    }

    /// The ranges that are entered. Under the arena's lock.
    pub(super) fn ranges(self) -> impl Iterator<Item = MemoryRange> + use<'a> {
        (0..self.settings.slots()).filter_map(move |slot| {
            let start = NonNull::new(self.base(slot).load(Ordering::Relaxed))?;
            let length = self.length(slot).load(Ordering::Relaxed);
            (start.as_ptr() != REMOVED).then_some(MemoryRange { start, length, is_zeroed: false })
        })
    }

    /// The number of the block at `block`; `None` where no range of the arena holds it.
    #[inline]
    pub(super) fn number(&self, block: NonNull<u8>) -> Option<u32> {
        let address = block.addr().get();
        let base = round_down(address, self.settings.range_bytes());
        for slot in self.search(base) {
            // Relaxed: see "Why a reader needs no lock".
            let found = self.base(slot).load(Ordering::Relaxed);
            if found.addr() == base {
                let block = (address - base) >> self.settings.block_shift();
                let first = slot << self.settings.range_blocks_shift();
                return u32::try_from(first + block).ok();
            }
            if found.is_null() {
                return None;
            }
        }
        None
    }

    /// The slot of a block's number.
    pub(super) fn slot(&self, number: u32) -> usize {
        number as usize >> self.settings.range_blocks_shift()
    }

    /// Where the block of this number starts. The caller owns it.
    #[inline]
    pub(super) fn block(&self, number: u32) -> Option<NonNull<u8>> {
        let base = NonNull::new(self.base(self.slot(number)).load(Ordering::Relaxed))?;
        let block = number as usize & (self.settings.range_blocks() - 1);
        // SAFETY: the owner of a block's number keeps its range, which has that many blocks.
        Some(unsafe { pointers::forward(base, block << self.settings.block_shift()) })
    }
}

impl Links for Table<'_> {
    #[inline]
    fn link(&self, index: u32) -> &AtomicU64 {
        self.word(0, index as usize, self.settings.slots() * self.settings.range_blocks())
    }
}

/// Numbers come from the tables themselves, so this only fails when memory was overwritten.
#[inline]
fn assert_in_bounds(is_in_bounds: bool) {
    if !is_in_bounds {
        crate::sys::abort_with(&[
            "an arena's free list names a block that the arena does not have",
        ]);
    }
}
