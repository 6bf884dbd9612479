//! `BitSet`: a bit set of free blocks, and lists of their runs.
//!
//! Each extent is cut into blocks of one size, a power of two. A bit set, out of line, says which
//! are free; a request takes as many adjacent blocks as its size needs. Neighbours that are free
//! are one run at once, and any block may be freed with any size that rounds to the same number of
//! blocks: no header stands before a block.
//!
//! - `edges` is the bit set: two bits are flipped for a block of any length, and tell which of its
//!   neighbours are free;
//! - `bins` maps lengths to 64 bins, and `runs` lists one extent's free runs in them;
//! - quick lists keep a few blocks that were freed lately out of the bits, to be handed out again;
//! - `shelves` keep the extents by their longest run;
//! - `verify` checks all that;
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
//! 336 bytes an extent and one bit a block: 1 % of a chunk at 32-byte blocks.
//!
//! # Not for
//! Requests far smaller than a block, which a slab packs tighter, and memory freed all at once, for
//! which bump allocation is several times cheaper.

mod bins;
mod edges;
mod runs;
#[cfg(test)]
mod sabotage;
mod shelves;
#[cfg(test)]
mod tests;
mod verify;

use core::alloc::Layout;
use core::cell::Cell;
use core::mem;
use core::ptr::NonNull;

use self::runs::{Alignment, HEAD_BYTES, MAX_BLOCKS, Runs, TAIL_BYTES};
use self::shelves::{SHELVES, shelf_of};
use super::quick::{Quick, WAITING_BYTES};
use super::sourced::SourcedAllocator;
use super::{Extent, Strategy};
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
    current: Option<NonNull<Extent>>,
    quick: Quick<QUICK_LENGTHS>,
    shelves: [Option<NonNull<Extent>>; SHELVES],
}

// SAFETY: the extents' records and their memory belong to the strategy alone while it has them, and
// nothing here depends on the thread.
unsafe impl Send for BitSet {}

/// A block as it was cut, and how many of its leading bytes may not be zero; more than it has for
/// all, also where nobody wants to know. A pair, so that it is returned in registers.
type Cut = (NonNull<u8>, usize);

/// How many blocks are allocated in an extent.
#[inline]
fn live_blocks(extent: &Extent) -> &Cell<usize> {
    &extent.words[0]
}

/// Blocks shorter than this, in blocks, may wait in quick lists.
const QUICK_LENGTHS: usize = 32;

/// How many of each length may wait.
const fn quick_room(block_shift: u32) -> [u8; QUICK_LENGTHS] {
    let mut room = [0; QUICK_LENGTHS];
    let mut blocks = 1;
    while blocks < QUICK_LENGTHS {
        // A block that is too short to hold its link cannot wait.
        if blocks << block_shift >= WAITING_BYTES {
            room[blocks] = match blocks {
                ..4 => 8,
                4..8 => 4,
                8..16 => 2,
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
            current: None,
            quick: Quick::new(quick_room(block_shift)),
            shelves: [None; SHELVES],
        }
    }

    #[inline]
    const fn block_bytes(&self) -> usize {
        1 << self.block_shift
    }

    /// The blocks that `bytes` need.
    #[inline]
    const fn blocks_for(&self, bytes: usize) -> usize {
        // Not the usual sum, which could overflow. At least one, though no size is zero here.
        (bytes.wrapping_sub(1) >> self.block_shift) + 1
    }

    /// Cuts a block; where the caller asks, it is told how much of it may not be zero.
    #[inline]
    fn cut<const MUST_TELL: bool>(&mut self, layout: Layout) -> Option<Cut> {
        let blocks = self.blocks_for(layout.size());
        if layout.align() <= self.block_bytes()
            && let Some((start, extent)) = self.quick.pop(blocks)
        {
            // SAFETY: a quick list's extents were added and not removed.
            let live = live_blocks(unsafe { extent.as_ref() });
            live.set(live.get() + 1);
            return Some((start, usize::MAX));
        }
        self.cut_from_runs::<MUST_TELL>(blocks, layout.align())
    }

    #[inline(never)]
    fn cut_from_runs<const MUST_TELL: bool>(&mut self, blocks: usize, align: usize) -> Option<Cut> {
        if let Some(current) = self.current {
            // SAFETY: by the type's invariant the extent was added and not removed.
            let (extent, runs) = unsafe { (current.as_ref(), Runs::of(current.as_ref())) };
            if runs.would_touch_new(blocks)
                && align <= self.block_bytes()
                && let cut @ Some(_) = self.cut_from_fuller::<MUST_TELL>(runs, blocks)
            {
                return cut;
            }
            let cut = self.cut_from::<MUST_TELL>(extent, runs, blocks, align);
            if cut.is_some() {
                return cut;
            }
        }
        self.cut_elsewhere::<MUST_TELL>(blocks, align)
    }

    #[inline(always)] // measured: with `Runs::take`, a tenth of a call with random sizes
    fn cut_from<const MUST_TELL: bool>(
        &self,
        extent: &Extent,
        runs: Runs<'_>,
        blocks: usize,
        align: usize,
    ) -> Option<Cut> {
        let fresh = runs.header.fresh.get();
        let index = if align <= self.block_bytes() {
            match runs.take(blocks) {
                None => take_from_bin(extent, blocks),
                index => index,
            }
        } else {
            self.take_aligned(extent, blocks, align)
        }?;
        live_blocks(extent).set(live_blocks(extent).get() + 1);
        let used_bytes = match MUST_TELL && extent.is_zeroed() {
            true => fresh.saturating_sub(index) << self.block_shift,
            false => usize::MAX,
        };
        // SAFETY: the runs hold only indices of blocks between the base and the extent's end.
        let start = unsafe { pointers::forward(runs.header.base, index << self.block_shift) };
        Some((start, used_bytes))
    }

    /// Frees the blocks in the quick lists.
    fn flush(&mut self) {
        // The lists are emptied by a copy, for giving a block to its run needs the strategy.
        let mut quick = mem::replace(&mut self.quick, Quick::new(quick_room(self.block_shift)));
        quick.drain(|extent, block, blocks| {
            // SAFETY: a block that waits is marked as taken, in an extent that was added and not
            // removed, and was freed.
            unsafe { self.release_to_run(extent, block, blocks) };
        });
    }

    /// Looks in all extents; once more after the quick lists were flushed if blocks wait in them.
    #[cold]
    fn cut_elsewhere<const MUST_TELL: bool>(&mut self, blocks: usize, align: usize) -> Option<Cut> {
        let cut = self.cut_from_shelves::<MUST_TELL>(blocks, align);
        if cut.is_some() || self.quick.is_empty() {
            return cut;
        }
        self.flush();
        self.cut_from_shelves::<MUST_TELL>(blocks, align)
    }

    /// Takes blocks of an alignment above theirs.
    #[inline(never)]
    fn take_aligned(&self, extent: &Extent, blocks: usize, align: usize) -> Option<usize> {
        // SAFETY: only asked of extents that were added and not removed.
        let runs = unsafe { Runs::of(extent) };
        let alignment = Alignment {
            stride: align >> self.block_shift,
            phase: pointers::padding(runs.header.base, align) >> self.block_shift,
        };
        runs.take_aligned(blocks, alignment)
    }

    /// The index of a block.
    #[inline]
    fn index_of(&self, runs: Runs<'_>, block: NonNull<u8>) -> usize {
        pointers::distance(runs.header.base, block) >> self.block_shift
    }

    /// Frees a block: into its quick list, or its run.
    ///
    /// # Safety
    /// The block is allocated in the extent, and `blocks` long.
    #[inline]
    unsafe fn release(&mut self, extent: &Extent, block: NonNull<u8>, blocks: usize) {
        if cfg!(any(test, heapswitch_check)) {
            // SAFETY: a block is allocated in the extent, so that was added and not removed.
            let runs = unsafe { Runs::of(extent) };
            self.check_is_taken(extent.into(), runs, self.index_of(runs, block), blocks);
        }
        // SAFETY: a freed block, marked as taken until it is given to its run.
        if unsafe { self.quick.push(extent, block, blocks) } {
            return;
        }
        // SAFETY: as above.
        unsafe { self.release_to_run(extent, block, blocks) }
    }

    /// Frees a block into its run.
    ///
    /// # Safety
    /// As [`release`](Self::release).
    #[inline(never)]
    unsafe fn release_to_run(&mut self, extent: &Extent, block: NonNull<u8>, blocks: usize) {
        // SAFETY: a block is allocated in the extent, so that was added and not removed.
        let runs = unsafe { Runs::of(extent) };
        let shelf = shelf_of(runs.give(self.index_of(runs, block), blocks));
        if shelf > runs.header.shelf.get() {
            self.raise(extent, shelf);
        }
    }
}

// SAFETY:
// - A block is cut from a run that was free, and marked as taken until it is given to a run again;
//   the quick lists hand blocks out only while they are marked and freed. `take_aligned` takes only
//   aligned indices; the rest is only for alignments that every index has.
// - `block_length` rounds the size up to whole blocks: monotone, the same for all sizes up to it.
// - Only the metadata, the extents' words, both ends of free runs and what waits are written.
// - `extent_bytes` leaves room to align both block 0 and the request.
// - Nothing here allocates or unwinds: no index that could be out of range, no arithmetic that can
//   overflow.
unsafe impl Strategy for BitSet {
    type Settings = Settings;

    const NAME: &'static str = "BitSet";

    /// A cache line: then blocks of up to 64 bytes, and requests aligned to as much, need no room
    /// for alignment, and a request of a whole chunk fits into one.
    const EXTENT_ALIGN: usize = 64;

    /// A count beside the extent's address: which extent it is, its owner would have to find.
    const TELLS_EMPTY: bool = true;

    /// As long as all that is held: then extents are few, and fewer runs end where one does.
    const EXTENT_DIVISOR: usize = 1;

    /// What the shortest blocks use of one, in whole KiB.
    const MOST_RANGE_BYTES: usize = (MAX_BLOCKS * MIN_BLOCK_BYTES) >> 10 << 10;

    const DEFAULT: Self = Self::of(Settings::DEFAULT);

    fn new(settings: Settings) -> Self {
        Self::of(settings)
    }

    fn metadata_bytes(&self, extent_bytes: usize) -> usize {
        runs::metadata_bytes((extent_bytes >> self.block_shift).min(MAX_BLOCKS))
    }

    fn extent_bytes(&self, layout: Layout) -> Option<usize> {
        let length = self.block_length(layout).ok()?;
        // Block 0 loses at most the first term to its alignment, and the request, which then starts
        // at a multiple of the larger of both, at most that in all.
        let align = layout.align().max(self.block_bytes());
        length.checked_add(align.saturating_sub(Self::EXTENT_ALIGN))
    }

    #[inline]
    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        match round_up(layout.size(), self.block_bytes()) {
            Some(length) if length >> self.block_shift <= MAX_BLOCKS => Ok(length),
            _ => Err(AllocError),
        }
    }

    #[inline]
    fn length_of_block(&self, layout: Layout) -> usize {
        self.blocks_for(layout.size()) << self.block_shift
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let length = self.blocks_for(layout.size()) << self.block_shift;
        self.cut::<false>(layout).map(|(start, _)| pointers::block(start, length))
    }

    fn allocate_zeroed(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let length = self.blocks_for(layout.size()) << self.block_shift;
        let (start, used_bytes) = self.cut::<true>(layout)?;
        // SAFETY: at most the length of the block, which is the caller's alone now.
        unsafe { start.write_bytes(0, used_bytes.min(length)) };
        Some(pointers::block(start, length))
    }

    #[inline]
    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's contract.
        let _ = unsafe { self.free(extent, block, layout) };
    }

    #[inline]
    unsafe fn free(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) -> bool {
        let live = live_blocks(extent).get().wrapping_sub(1);
        live_blocks(extent).set(live);
        // SAFETY: the block is allocated in the extent, so that was added and not removed.
        unsafe { self.release(extent, block, self.blocks_for(layout.size())) };
        live == 0
    }

    fn is_empty(&self, extent: &Extent) -> bool {
        live_blocks(extent).get() == 0
    }

    unsafe fn grow_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        let (had, wanted) = (self.blocks_for(old.size()), self.blocks_for(new.size()));
        // SAFETY: the block is allocated in the extent, so that was added and not removed.
        let runs = unsafe { Runs::of(extent) };
        let end = self.index_of(runs, block) + had;
        if wanted > had && !runs.take_at(end, wanted - had) {
            return None;
        }
        Some(wanted << self.block_shift)
    }

    unsafe fn shrink_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        let (had, wanted) = (self.blocks_for(old.size()), self.blocks_for(new.size()));
        if wanted < had {
            // SAFETY: the end of the block, which the caller gives up.
            unsafe {
                let end = pointers::forward(block, wanted << self.block_shift);
                self.release_to_run(extent, end, had - wanted);
            }
        }
        Some(wanted << self.block_shift)
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
        runs.edges.visit_runs(runs.header.blocks, |first, blocks| {
            let length = blocks << self.block_shift;
            let Some(length) = length.checked_sub(HEAD_BYTES + TAIL_BYTES) else { return };
            // SAFETY: the run lies between the base and the extent's end; what is written at its
            // ends is skipped.
            let start = unsafe {
                pointers::forward(runs.header.base, (first << self.block_shift) + HEAD_BYTES)
            };
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
        runs.edges.visit_runs(runs.header.blocks, |first, blocks| {
            // SAFETY: the run lies between the base and the extent's end.
            let start = unsafe { pointers::forward(runs.header.base, first << self.block_shift) };
            visit(pointers::block(start, blocks << self.block_shift));
        });
    }

    fn verify(&self) {
        self.verify_all();
    }
}

/// [`Runs::take_from_bin`] in an extent that was added and not removed. Apart, so that the runs
/// stay in registers where it is not called.
#[inline(never)]
fn take_from_bin(extent: &Extent, blocks: usize) -> Option<usize> {
    // SAFETY: as above.
    unsafe { Runs::of(extent) }.take_from_bin(blocks)
}
