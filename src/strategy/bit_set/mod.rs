//! `BitSet`: a bit set of free blocks, searched 64 bits at a time.
//!
//! Each extent is cut into blocks of one size, a power of two. One bit a block, out of line, says
//! whether it is free; a request takes as many adjacent blocks as its size needs. Free neighbours
//! are one run without being joined, any block may be freed with any size that rounds to the same
//! number of blocks, and nothing is written into free memory.
//!
//! ```text
//!   Extent::metadata                    the extent
//!   ┌────────┬──────────────────┐       ┌───┬─────┬─────┬─────┬─────┬─────┬──
//!   │ Header │ cells of the Map │       │   │  0  │  1  │  2  │  3  │  4  │ ...
//!   └────────┴──────────────────┘       └───┴─────┴─────┴─────┴─────┴─────┴──
//!     │ next, previous in its shelf         base, a multiple of the block size
//! ```
//!
//! - [`rank`] maps run lengths to bytes, eight of which compare at once;
//! - [`map`] keeps one extent's bits and finds runs in them;
//! - this file keeps the extents on **shelves** by the rank of their longest run, and does the
//!   arithmetic between layouts, addresses and indices.
//!
//! # Costs
//! An allocation reads one lane of ranks a megabyte or so of full memory below it, then one word;
//! freeing is O(1) but for huge runs, where it steps 64 words at a time. The metadata is 1 bit and
//! 1/8 bit a block: 0.44 % at 32-byte blocks. A large request marks each of its words, 8 bytes for
//! 2 KiB at 32-byte blocks; where most requests are large, choose larger blocks.
//!
//! # Not for
//! Requests far smaller than a block, which a slab packs tighter, and memory freed all at once, for
//! which bump allocation is several times cheaper.

mod map;
mod rank;
#[cfg(test)]
mod tests;

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;

use self::map::{Alignment, Map, Shape};
use super::sourced::SourcedAllocator;
use super::{Extent, Strategy};
use crate::allocator::AllocError;
use crate::pointers;
use crate::sys::abort_with;
use crate::units::{MIN_BLOCK_BYTES, PAGE_BYTES, round_up};

/// A bit set on a memory source, for use through the allocator trait.
pub type BitSetAllocator<M> = SourcedAllocator<BitSet, M>;

/// What can be chosen of a [`BitSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The size of a block in bytes. Raised to the next power of two, and to at least 8 and at most
    /// 1 GiB.
    pub block_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { block_bytes: 32 }
    }
}

/// The largest block size.
const MAX_BLOCK_BYTES: usize = 1 << 30;

/// Shelves: one for full extents, six for runs of up to 63 blocks, seven for longer ones.
const SHELVES: usize = 14;

/// Extents looked at, on the one shelf where a look may be in vain, before better shelves are tried.
const SHORT_LOOK: usize = 4;

/// What the strategy keeps about an extent, at the start of its metadata; the map's cells follow.
#[repr(C, align(16))]
struct Header {
    /// Where block 0 starts: a multiple of the block size.
    base: NonNull<u8>,
    /// Whole blocks between `base` and the extent's end.
    blocks: usize,
    shape: Shape,
    /// Of the longest free run, at least.
    rank: Cell<u8>,
    /// The blocks from here on were never allocated.
    fresh: Cell<usize>,
    /// The neighbours in the list of the rank's shelf.
    next: Cell<Option<NonNull<Extent>>>,
    previous: Cell<Option<NonNull<Extent>>>,
}

/// A bit set of free blocks.
///
/// # Invariants
/// - Each extent that was added and not removed is in exactly one shelf's list, that of its rank.
/// - `occupied` has the bits of the shelves whose list is not empty.
/// - `current` is one of these extents, if any.
#[derive(Debug)]
pub struct BitSet {
    block_shift: u32,
    occupied: u32,
    current: Option<NonNull<Extent>>,
    shelves: [Option<NonNull<Extent>>; SHELVES],
}

// SAFETY: the extents' records and their memory belong to the strategy alone while it has them, and
// nothing here depends on the thread.
unsafe impl Send for BitSet {}

/// An extent's header and map.
#[derive(Clone, Copy)]
struct View<'a> {
    header: &'a Header,
    map: Map<'a>,
}

/// A block as it was cut.
struct Cut {
    start: NonNull<u8>,
    /// Leading blocks that were allocated before; those after them are as the extent was added.
    used_blocks: usize,
    is_zeroed: bool,
}

/// The header and the map of an extent.
///
/// # Safety
/// The extent was added to a `BitSet` and not removed since.
#[inline]
unsafe fn view<'a>(extent: &'a Extent) -> View<'a> {
    let metadata = extent.metadata();
    // SAFETY: `add_extent` wrote a header there, and whole zeroed cells stood behind it, as many as
    // `metadata_bytes` asked for. All that changes later is in cells, and the strategy is not Sync.
    unsafe {
        let header = metadata.cast::<Header>().as_ref();
        let cells = pointers::forward(metadata, size_of::<Header>()).cast::<Cell<u64>>();
        let cells = NonNull::slice_from_raw_parts(cells, header.shape.cells).as_ref();
        View { header, map: Map::new(cells, header.shape) }
    }
}

/// The shelf for extents of that rank. Does not fall as the rank grows.
#[inline]
const fn shelf_of(rank: u8) -> usize {
    match rank {
        0..64 => (u8::BITS - rank.leading_zeros()) as usize,
        // The rank less 63 is the run's length in words, rounded up: 1 to 64.
        _ => 7 + (rank - 63).ilog2() as usize,
    }
}

impl BitSet {
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

    #[inline]
    fn cut(&mut self, layout: Layout) -> Option<Cut> {
        let blocks = self.blocks_for(layout.size());
        if let Some(current) = self.current
            && layout.align() <= self.block_bytes()
        {
            // SAFETY: by the type's invariant the extent was added and not removed.
            let view = unsafe { view(current.as_ref()) };
            if view.header.rank.get() >= rank::of(blocks)
                && let Some(index) = view.map.take(blocks)
            {
                // SAFETY: as above.
                return Some(self.cut_at(unsafe { current.as_ref() }, view, index, blocks));
            }
        }
        self.cut_elsewhere(blocks, layout.align())
    }

    /// The block that the map took at `index`.
    #[inline]
    fn cut_at(&self, extent: &Extent, view: View<'_>, index: usize, blocks: usize) -> Cut {
        let fresh = view.header.fresh.get();
        let end = index + blocks;
        if end > fresh {
            view.header.fresh.set(end);
        }
        Cut {
            // SAFETY: the map holds only indices of blocks between the base and the extent's end.
            start: unsafe { pointers::forward(view.header.base, index << self.block_shift) },
            used_blocks: fresh.min(end).saturating_sub(index),
            is_zeroed: extent.is_zeroed(),
        }
    }

    /// Looks in all extents: first in a few of those that perhaps have room, then in those that
    /// surely had when their rank was last right, last in all that perhaps have.
    #[cold]
    fn cut_elsewhere(&mut self, blocks: usize, align: usize) -> Option<Cut> {
        let shelf = shelf_of(rank::of(blocks));
        if let Some(cut) = self.cut_from_shelf(shelf, SHORT_LOOK, blocks, align) {
            return Some(cut);
        }
        for better in shelf + 1..SHELVES {
            if self.occupied >> better & 1 != 0
                && let Some(cut) = self.cut_from_shelf(better, usize::MAX, blocks, align)
            {
                return Some(cut);
            }
        }
        self.cut_from_shelf(shelf, usize::MAX, blocks, align)
    }

    fn cut_from_shelf(
        &mut self,
        shelf: usize,
        mut looks: usize,
        blocks: usize,
        align: usize,
    ) -> Option<Cut> {
        let mut next = *self.shelves.get(shelf)?;
        while let Some(pointer) = next
            && looks > 0
        {
            looks -= 1;
            // SAFETY: every extent in a shelf's list was added and not removed.
            let (extent, view) = unsafe { (pointer.as_ref(), view(pointer.as_ref())) };
            next = view.header.next.get();
            if view.header.rank.get() < rank::of(blocks) {
                continue;
            }
            let taken = match self.alignment_in(view, align) {
                None => view.map.take(blocks),
                Some(alignment) => view.map.take_aligned(blocks, alignment),
            };
            if let Some(index) = taken {
                self.current = Some(pointer);
                return Some(self.cut_at(extent, view, index, blocks));
            }
            self.set_rank(extent, view, view.map.rank());
        }
        None
    }

    /// Which indices have that alignment; `None` if all have.
    fn alignment_in(&self, view: View<'_>, align: usize) -> Option<Alignment> {
        (align > self.block_bytes()).then(|| Alignment {
            stride: align >> self.block_shift,
            phase: pointers::padding(view.header.base, align) >> self.block_shift,
        })
    }

    /// Sets an extent's rank and moves it to the shelf for it.
    fn set_rank(&mut self, extent: &Extent, view: View<'_>, rank: u8) {
        let before = view.header.rank.get();
        if shelf_of(before) == shelf_of(rank) {
            view.header.rank.set(rank);
            return;
        }
        self.unshelve(view);
        view.header.rank.set(rank);
        self.shelve(extent, view);
    }

    /// Puts an extent that is in no list into that of its rank's shelf.
    fn shelve(&mut self, extent: &Extent, view: View<'_>) {
        let shelf = shelf_of(view.header.rank.get());
        let Some(head) = self.shelves.get_mut(shelf) else { return };
        if let Some(next) = *head {
            // SAFETY: every extent in a shelf's list was added and not removed.
            unsafe { self::view(next.as_ref()) }.header.previous.set(Some(extent.into()));
        }
        view.header.previous.set(None);
        view.header.next.set(*head);
        // INVARIANT: the extent is in this list now, and its shelf is occupied.
        *head = Some(extent.into());
        self.occupied |= 1 << shelf;
    }

    /// Takes an extent out of its list.
    fn unshelve(&mut self, view: View<'_>) {
        let shelf = shelf_of(view.header.rank.get());
        let (next, previous) = (view.header.next.get(), view.header.previous.get());
        if let Some(next) = next {
            // SAFETY: every extent in a shelf's list was added and not removed.
            unsafe { self::view(next.as_ref()) }.header.previous.set(previous);
        }
        if let Some(previous) = previous {
            // SAFETY: as above.
            unsafe { self::view(previous.as_ref()) }.header.next.set(next);
        } else if let Some(head) = self.shelves.get_mut(shelf) {
            *head = next;
            if next.is_none() {
                // INVARIANT: the list is empty now.
                self.occupied &= !(1 << shelf);
            }
        }
    }

    /// The index of a block.
    #[inline]
    fn index_of(&self, view: View<'_>, block: NonNull<u8>) -> usize {
        pointers::distance(view.header.base, block) >> self.block_shift
    }

    /// Frees blocks of an extent.
    #[inline]
    fn give(&mut self, extent: &Extent, view: View<'_>, index: usize, blocks: usize) {
        match view.map.give(index, blocks) {
            Ok(rank) if rank > view.header.rank.get() => self.set_rank(extent, view, rank),
            Ok(_) => {}
            Err(()) => abort_with("BitSet: a block is freed that is free already"),
        }
    }
}

// SAFETY:
// - The map hands a block out only after it found its bits set, and clears them; `cut_elsewhere`
//   takes only indices that are aligned, `cut` is only for alignments that every index has.
// - `block_length` rounds the size up to whole blocks: monotone, and the same for all sizes up to it.
// - Only the metadata is written.
// - `extent_bytes` leaves room to align both block 0 and the request.
// - Nothing here allocates or unwinds: no indexing, no arithmetic that can overflow.
unsafe impl Strategy for BitSet {
    type Settings = Settings;

    const NAME: &'static str = "BitSet";

    /// A cache line: then blocks of up to 64 bytes, and requests aligned to as much, need no room
    /// for alignment, and a request of a whole chunk fits into one.
    const EXTENT_ALIGN: usize = 64;

    fn new(settings: Settings) -> Self {
        let clamped = settings.block_bytes.clamp(MIN_BLOCK_BYTES, MAX_BLOCK_BYTES);
        Self {
            block_shift: usize::BITS - (clamped - 1).leading_zeros(),
            occupied: 0,
            current: None,
            shelves: [None; SHELVES],
        }
    }

    fn metadata_bytes(&self, extent_bytes: usize) -> usize {
        size_of::<Header>() + Shape::of(extent_bytes >> self.block_shift).cells * size_of::<u64>()
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
            Some(length) if length <= isize::MAX as usize => Ok(length),
            _ => Err(AllocError),
        }
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let length = self.blocks_for(layout.size()) << self.block_shift;
        self.cut(layout).map(|cut| pointers::block(cut.start, length))
    }

    fn allocate_zeroed(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let length = self.blocks_for(layout.size()) << self.block_shift;
        let cut = self.cut(layout)?;
        let dirty = if cut.is_zeroed { cut.used_blocks << self.block_shift } else { length };
        // SAFETY: `dirty` is at most the length of the block, which is the caller's alone now.
        unsafe { cut.start.write_bytes(0, dirty) };
        Some(pointers::block(cut.start, length))
    }

    #[inline]
    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the block is allocated in the extent, so that was added and not removed.
        let view = unsafe { view(extent) };
        self.give(extent, view, self.index_of(view, block), self.blocks_for(layout.size()));
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
        let view = unsafe { view(extent) };
        let end = self.index_of(view, block) + had;
        if wanted > had {
            if !view.map.take_at(end, wanted - had) {
                return None;
            }
            view.header.fresh.set(view.header.fresh.get().max(end + (wanted - had)));
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
            // SAFETY: the block is allocated in the extent, so that was added and not removed.
            let view = unsafe { view(extent) };
            self.give(extent, view, self.index_of(view, block) + wanted, had - wanted);
        }
        Some(wanted << self.block_shift)
    }

    unsafe fn add_extent(&mut self, extent: &Extent) {
        let lost = pointers::padding(extent.start(), self.block_bytes()).min(extent.length());
        let blocks = (extent.length() - lost) >> self.block_shift;
        let rank = rank::of(blocks);
        let header = Header {
            // SAFETY: at most the extent's length above its start.
            base: unsafe { pointers::forward(extent.start(), lost) },
            blocks,
            shape: Shape::of(blocks),
            rank: Cell::new(rank),
            fresh: Cell::new(0),
            next: Cell::new(None),
            previous: Cell::new(None),
        };
        // SAFETY: the metadata is long enough by `metadata_bytes`, aligned to 16, zeroed and, like
        // the extent, the strategy's alone. So a view is valid from here on.
        let view = unsafe {
            extent.metadata().cast::<Header>().write(header);
            view(extent)
        };
        view.map.fill(0, blocks, true);
        view.map.cover(0);
        self.shelve(extent, view);
    }

    unsafe fn remove_extent(&mut self, extent: &Extent) {
        // SAFETY: the extent was added and not removed.
        self.unshelve(unsafe { view(extent) });
        if self.current == Some(extent.into()) {
            self.current = None;
        }
    }

    fn visit_idle(&self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        // SAFETY: owners ask only about extents that they added and did not remove.
        let view = unsafe { view(extent) };
        view.map.visit_runs(|first, blocks| {
            // SAFETY: the run lies between the base and the extent's end.
            let start = unsafe { pointers::forward(view.header.base, first << self.block_shift) };
            let length = blocks << self.block_shift;
            let skipped = pointers::padding(start, PAGE_BYTES);
            let pages = length.saturating_sub(skipped) & !(PAGE_BYTES - 1);
            if pages > 0 {
                // SAFETY: `skipped` is less than the run's length here.
                visit(pointers::block(unsafe { pointers::forward(start, skipped) }, pages));
            }
        });
    }

    fn verify(&self) {
        let mut found_current = self.current.is_none();
        for (shelf, head) in self.shelves.iter().enumerate() {
            if (self.occupied >> shelf & 1 != 0) != head.is_some() {
                abort_with("BitSet: a shelf's occupied bit disagrees with its list");
            }
            let mut previous = None;
            let mut next = *head;
            while let Some(pointer) = next {
                // SAFETY: every extent in a shelf's list was added and not removed.
                let view = unsafe { view(pointer.as_ref()) };
                if view.header.previous.get() != previous {
                    abort_with("BitSet: a list reads differently backwards");
                }
                if shelf_of(view.header.rank.get()) != shelf {
                    abort_with("BitSet: an extent is on another shelf than its rank's");
                }
                if view.map.rank() > view.header.rank.get() {
                    abort_with("BitSet: an extent's rank is below one of its groups'");
                }
                if let Some(fault) = view.map.fault(view.header.blocks) {
                    abort_with_fault(fault);
                }
                found_current |= self.current == Some(pointer);
                previous = next;
                next = view.header.next.get();
            }
        }
        if !found_current {
            abort_with("BitSet: the current extent is on no shelf");
        }
    }
}

/// Aborts with a map's fault, under the strategy's name.
#[cold]
fn abort_with_fault(fault: &str) -> ! {
    let mut message = [0u8; 128];
    let text = BitSet::NAME.bytes().chain(": ".bytes()).chain(fault.bytes());
    let mut length = 0;
    for (to, from) in message.iter_mut().zip(text) {
        *to = from;
        length += 1;
    }
    abort_with(message.get(..length).and_then(|text| str::from_utf8(text).ok()).unwrap_or(fault))
}
