//! `BitSet`: a bit set of free blocks, and lists of their runs.
//!
//! Each extent is cut into blocks of one size, a power of two. A bit set, out of line, says which
//! are free; a request takes as many adjacent blocks as its size needs. Neighbours that are free
//! are one run at once, and any block may be freed with any size that rounds to the same number of
//! blocks: no header stands before a block.
//!
//! - `edges` is the bit set: two bits are flipped for a block of any length, and tell which of its
//!   neighbours are free;
//! - `bins` maps lengths to 64 bins, `lists` has one extent's free runs in them, and `runs` takes
//!   blocks from these and gives them back;
//! - quick lists keep a few blocks that were freed lately out of the bits, to be handed out again;
//! - `shelves` keep the extents by their longest run, and `used` what of each is;
//! - `cut` allocates and frees with all of these, and `verify` checks them;
//! - this file does the arithmetic between layouts, addresses and indices.
//!
//! # Costs
//! Allocating and freeing are O(1) as long as an extent has room in a bin above the request's own,
//! or at its end. Good fit: the first run of the request's own bin if that is long enough, else one
//! of the next bin above that has any, else the start of the run at the end. Where memory is nearly
//! full and only the own bin is left, each of its runs is looked at until one is long enough, in
//! each extent whose longest run is in that bin, so that nothing is refused that fits: O(runs of
//! lengths that differ by up to a quarter). Bins below 8 blocks have one length and no such search;
//! above 114,688 blocks (3.5 MiB at the default size) all lengths are in one bin. The metadata is
//! 352 bytes an extent and one bit a block: 1 % of a chunk at 32-byte blocks. At that size all
//! shifts are constants and most calls one function; other sizes take a longer way. No request of
//! more than 32 GiB is served.
//!
//! # Not for
//! Requests far smaller than a block, which a slab packs tighter, and memory freed all at once, for
//! which bump allocation is several times cheaper.

mod bins;
mod cut;
mod edges;
mod lists;
mod runs;
#[cfg(test)]
mod sabotage;
mod shelves;
#[cfg(test)]
mod tests;
mod used;
mod verify;

use core::alloc::Layout;
use core::ptr::NonNull;

use self::lists::{HEAD_BYTES, TAIL_BYTES};
use self::runs::{MAX_UNITS, Runs, UNIT};
use self::shelves::{SHELVES, shelf_of};
use self::used::Used;
use super::quick::{Quick, WAITING_BYTES};
use super::sourced::SourcedAllocator;
use super::{Extent, FreedAtOnce, Strategy};
use crate::allocator::{AllocError, MemorySource};
use crate::pointers;
use crate::units::{MIN_BLOCK_BYTES, PAGE_BYTES, round_up};

/// A bit set on a memory source, for use through the allocator trait.
pub type BitSetAllocator<M> = SourcedAllocator<BitSet, M>;

impl<M: MemorySource> BitSetAllocator<M> {
    /// A bit set of blocks of `block_bytes`, which is made good as [`Settings`] say, on `source`:
    /// `with_settings` for a static.
    pub const fn with_block_bytes(block_bytes: usize, source: M) -> Self {
        Self::of(BitSet::of(Settings { block_bytes }), source)
    }
}

/// What can be chosen of a [`BitSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The size of a block in bytes. Raised to the next power of two, and to at least 8 and at most
    /// 1 GiB.
    pub block_bytes: usize,
}

impl Settings {
    /// Blocks of 32 bytes.
    pub const DEFAULT: Self = Self { block_bytes: 32 };
}

impl Default for Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The largest block size.
const MAX_BLOCK_BYTES: usize = 1 << 30;

/// A bit set of free blocks.
///
/// # Invariants
/// - Each extent that was added and not removed is in exactly one shelf's list: that of its longest
///   run, or a higher one.
/// - `occupied` has the bits of the shelves whose list is not empty.
/// - `current` is one of these extents, if any.
#[derive(Debug)]
pub struct BitSet {
    block_shift: u32,
    occupied: u32,
    /// The bytes of a block but one.
    last_byte: usize,
    /// Longer blocks do not wait.
    quick_bytes: usize,
    current: Option<NonNull<Extent>>,
    quick: Quick<QUICK_LENGTHS>,
    shelves: [Option<NonNull<Extent>>; SHELVES],
}

// SAFETY: the extents' records and their memory belong to the strategy alone while it has them, and
// nothing here depends on the thread.
unsafe impl Send for BitSet {}

/// Blocks shorter than this, in blocks, may wait in quick lists.
const QUICK_LENGTHS: usize = 32;

/// How many of each length may wait. Where lengths are random each that finds room saves a wrong
/// guess as well, so of blocks of up to 1 KiB more wait: together 71 KiB at the usual block size.
const fn quick_room(block_shift: u32) -> [u8; QUICK_LENGTHS] {
    let mut room = [0; QUICK_LENGTHS];
    let mut blocks = 1;
    while blocks < QUICK_LENGTHS {
        // A block that is too short to hold its link cannot wait.
        if blocks << block_shift >= WAITING_BYTES {
            room[blocks] = match (blocks, blocks << block_shift <= 1 << 10) {
                (..4, _) | (4..8, true) => 8,
                (8..16, true) => 6,
                (_, true) | (4..8, _) => 4,
                (8..16, _) => 2,
                _ => 1,
            };
        }
        blocks += 1;
    }
    room
}

impl BitSet {
    /// A strategy without extents.
    pub(super) const fn of(settings: Settings) -> Self {
        let clamped = match settings.block_bytes {
            ..MIN_BLOCK_BYTES => MIN_BLOCK_BYTES,
            MAX_BLOCK_BYTES.. => MAX_BLOCK_BYTES,
            bytes => bytes,
        };
        let block_shift = usize::BITS - (clamped - 1).leading_zeros();
        Self {
            block_shift,
            occupied: 0,
            last_byte: (1 << block_shift) - 1,
            quick_bytes: (QUICK_LENGTHS - 1) << block_shift,
            current: None,
            quick: Quick::new(quick_room(block_shift)),
            shelves: [None; SHELVES],
        }
    }

    #[inline]
    const fn block_bytes(&self) -> usize {
        self.last_byte + 1
    }

    /// The blocks for a layout.
    #[inline]
    const fn blocks_for(&self, layout: Layout) -> usize {
        // A layout's size is at most isize::MAX, so the sum does not overflow.
        (layout.size() + self.last_byte) >> self.block_shift
    }

    /// The place of a block of an extent's.
    #[inline]
    fn place_of(runs: Runs<'_>, block: NonNull<u8>) -> usize {
        pointers::distance(runs.base, block) / UNIT
    }
}

// SAFETY:
// - A block is cut from a run that was free, and marked as taken until it is given to a run again;
//   the quick lists hand blocks out only while they are marked and freed. `take_aligned` takes only
//   aligned places; the rest is only for alignments that every block has.
// - `block_length` rounds the size up to whole blocks: monotone, the same for all sizes up to it.
// - Only the metadata, the extents' words, both ends of free runs and what waits are written.
// - `extent_bytes` leaves room to align both block 0 and the request.
// - Nothing here allocates or unwinds: no index that could be out of range, no arithmetic that can
//   overflow.
unsafe impl Strategy for BitSet {
    type Settings = Settings;

    const NAME: &'static str = "bit_set";

    /// A cache line: then blocks of up to 64 bytes, and requests aligned to as much, need no room
    /// for alignment, and a request of a whole chunk fits into one.
    const EXTENT_ALIGN: usize = 64;

    /// A count beside the extent's address: which extent it is, its owner would have to find.
    const TELLS_EMPTY: bool = true;

    const COUNTS_ON_SOURCES: bool = true;

    const HAS_WAITING: bool = true;

    /// As long as all that is held: then extents are few, and fewer runs end where one does.
    const EXTENT_DIVISOR: usize = 1;

    /// In whole KiB.
    const MOST_RANGE_BYTES: usize = (MAX_UNITS * UNIT) >> 10 << 10;

    const DEFAULT: Self = Self::of(Settings::DEFAULT);

    fn new(settings: Settings) -> Self {
        Self::of(settings)
    }

    fn metadata_bytes(&self, extent_bytes: usize) -> usize {
        runs::metadata_bytes(extent_bytes.min(MAX_UNITS * UNIT) >> self.block_shift)
    }

    fn extent_bytes(&self, layout: Layout) -> Option<usize> {
        let length = self.block_length(layout).ok()?;
        // Block 0 loses at most the first term to its alignment, and the request, which then starts
        // at a multiple of the larger of both, at most that in all.
        let align = layout.align().max(self.block_bytes());
        // More of an extent is not used.
        let used = length.checked_add(align - self.block_bytes())?;
        (used <= MAX_UNITS * UNIT).then_some(())?;
        length.checked_add(align.saturating_sub(Self::EXTENT_ALIGN))
    }

    #[inline]
    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        match round_up(layout.size(), self.block_bytes()) {
            Some(length) if length / UNIT <= MAX_UNITS => Ok(length),
            _ => Err(AllocError),
        }
    }

    #[inline]
    fn length_of_block(&self, layout: Layout) -> usize {
        self.blocks_for(layout) << self.block_shift
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let length = self.length_of_block(layout);
        self.cut::<false>(layout).map(|(start, _)| pointers::block(start, length))
    }

    #[inline]
    fn may_wait(&self, layout: Layout) -> bool {
        layout.size() <= self.quick_bytes
    }

    #[inline]
    fn take_waiting(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let start = self.pop_quick(layout)?;
        Some(pointers::block(start, self.length_of_block(layout)))
    }

    #[inline(always)] // measured: as of the free list
    fn allocate_at_once(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        if layout.align() - 1 > self.last_byte {
            return None;
        }
        // SAFETY: by the type's invariant the extent was added and not removed.
        let extent = unsafe { self.current?.as_ref() };
        // SAFETY: as above.
        let runs = unsafe { Runs::of(extent) };
        let blocks = self.blocks_for(layout);
        let first = runs.take_at_once(blocks)?;
        Used::of(extent).count_new(blocks);
        let (start, _) = Self::block_at::<false>(extent, runs, first, 0);
        Some(pointers::block(start, blocks << self.block_shift))
    }

    fn allocate_zeroed(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let length = self.length_of_block(layout);
        let (start, used_bytes) = self.cut::<true>(layout)?;
        // SAFETY: at most the length of the block, which is the caller's alone now.
        unsafe { start.write_bytes(0, used_bytes.min(length)) };
        Some(pointers::block(start, length))
    }

    #[inline]
    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { self.release(extent, block, layout) };
    }

    #[inline]
    unsafe fn free(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) -> bool {
        // SAFETY: the caller's contract.
        unsafe { self.release(extent, block, layout) };
        self.is_empty(extent)
    }

    #[inline(always)] // measured: as of the free list
    unsafe fn free_at_once(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        layout: Layout,
    ) -> Option<FreedAtOnce> {
        let blocks = self.blocks_for(layout);
        if cfg!(any(test, heapswitch_check)) {
            self.check_is_taken(extent, block, blocks);
        }
        // SAFETY: a block is allocated in the extent, so that was added and not removed.
        let runs = unsafe { Runs::of(extent) };
        let bin = runs.give_at_once::<true>(Self::place_of(runs, block), blocks)?;
        Used::of(extent).count_freed(blocks);
        Some(match shelf_of(bin) > runs.header.shelf.get() {
            true => FreedAtOnce::ToSettle,
            false if self.is_empty(extent) => FreedAtOnce::Emptied,
            false => FreedAtOnce::Done,
        })
    }

    unsafe fn settle(&mut self, extent: &Extent) -> bool {
        // SAFETY: the caller's contract.
        let shelf = shelf_of(unsafe { Runs::of(extent) }.top_bin());
        self.raise(extent, shelf);
        self.is_empty(extent)
    }

    fn is_empty(&self, extent: &Extent) -> bool {
        Used::of(extent).requests.get() == 0
    }

    fn used(&self) -> (usize, usize) {
        let (mut requests, mut blocks) = (0, 0);
        self.visit_extents(|extent| {
            requests += Used::of(extent).requests.get();
            blocks += Used::of(extent).blocks.get();
        });
        (requests, blocks << self.block_shift)
    }

    unsafe fn grow_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        let (had, wanted) = (self.blocks_for(old), self.blocks_for(new));
        // SAFETY: the block is allocated in the extent, so that was added and not removed.
        let runs = unsafe { Runs::of(extent) };
        let end = Self::place_of(runs, block) + (had << runs.step);
        if wanted > had && !runs.take_at(end, (wanted - had) << runs.step) {
            return None;
        }
        Used::of(extent).resize(had, wanted);
        Some(wanted << self.block_shift)
    }

    unsafe fn shrink_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        let (had, wanted) = (self.blocks_for(old), self.blocks_for(new));
        let length = wanted << self.block_shift;
        if wanted < had {
            Used::of(extent).resize(had, wanted);
            // SAFETY: the end of the block, which the caller gives up.
            unsafe { self.release_tail(extent, pointers::forward(block, length), had - wanted) };
        }
        Some(length)
    }

    unsafe fn add_extent(&mut self, extent: &Extent) {
        // SAFETY: the caller's contract; the metadata is as long as `metadata_bytes` asked.
        let runs = unsafe { Runs::start(extent, self.block_shift) };
        self.shelve(extent, runs, shelf_of(runs.top_bin()));
    }

    unsafe fn remove_extent(&mut self, extent: &Extent) {
        if cfg!(any(test, heapswitch_check)) {
            self.check_is_empty(extent);
        }
        self.quick.forget(extent);
        // SAFETY: the extent was added and not removed.
        self.unshelve(unsafe { Runs::of(extent) });
        if self.current == Some(extent.into()) {
            self.current = None;
        }
    }

    fn visit_idle(&self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        // SAFETY: owners ask only about extents that they added and did not remove.
        let runs = unsafe { Runs::of(extent) };
        runs.visit(|first, units| {
            let Some(length) = (units * UNIT).checked_sub(HEAD_BYTES + TAIL_BYTES) else { return };
            // SAFETY: the run lies between the base and the extent's end; what is written at its
            // ends is skipped.
            let start = unsafe { pointers::forward(runs.base, first * UNIT + HEAD_BYTES) };
            let skipped = pointers::padding(start, PAGE_BYTES);
            let pages = length.saturating_sub(skipped) & !(PAGE_BYTES - 1);
            if pages > 0 {
                // SAFETY: `skipped` is less than the run's length here.
                visit(pointers::block(unsafe { pointers::forward(start, skipped) }, pages));
            }
        });
    }

    fn visit_unallocated(&mut self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        // Reads the links in all extents, before the first one is visited.
        self.flush();
        // SAFETY: owners ask only about extents that they added and did not remove.
        let runs = unsafe { Runs::of(extent) };
        runs.visit(|first, units| {
            // SAFETY: the run lies between the base and the extent's end.
            let start = unsafe { pointers::forward(runs.base, first * UNIT) };
            visit(pointers::block(start, units * UNIT));
        });
    }

    fn verify(&self) {
        self.verify_all();
    }
}
