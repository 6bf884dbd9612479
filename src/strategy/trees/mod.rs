//! `MultipleBinarySearchTree`: red-black trees of free blocks.
//!
//! A general-purpose strategy: any sizes and alignments, in any order, coalesced, split, grown and
//! shrunk in place. It costs 1/256 of the memory for a map out of line, and rounds sizes
//! up to 32 bytes; an allocated block has no header. For many objects of one size below 32 bytes
//! the [bit set](super::bit_set) takes less memory; where nothing is freed before the end, a bump
//! is faster.
//!
//! ```text
//!   bins by size                                       trees of an octave
//!   occupied  ..0100110                                        ○ 1,440
//!                 │ ││                                       ╱   ╲
//!      ┌──────────┘ │└────────┐                       1,280 ●     ● 1,984
//!      ▼            ▼         ▼
//!   1,024..       96 ─ 96    64                        only blocks whose order was needed
//!      │
//!      └─ list: 1,248 ─ 1,024 ─ 1,152, the newest first
//!
//!   extent   ████████░░░░████░░████████░░░░░░████████████████▒▒▒▒▒▒▒▒▒▒▒▒▒▒
//!   map      0       1   1   1 1       1     1               0             0
//!                    └ listed └ listed └ listed               └ the top: cut last
//! ```
//!
//! - `size_class` says which bin a block belongs to,
//! - `bins` keeps the lists, and the trees for what the lists cannot tell,
//! - `free_block` has the nodes of the red-black trees, and the ends of free blocks,
//! - `record` keeps the map: where free and allocated memory meet,
//! - `top` is the free block that is in no list, and cut where no other fits,
//! - quick lists keep a few blocks that were freed lately out of all that, to be handed out again,
//! - `cut` allocates and frees with all of these, and `verify` checks them.
//!
//! **Allocating** takes a block of the length that waits, if one does; else the first block of the
//! first bin that fits, flips two bits, and lists what remains. **Freeing** has blocks below 1 KiB
//! wait, a few of each length, which are joined when nothing else fits, or when many wait and an
//! extent has no other; of others it flips two bits, whose old values say which neighbours are
//! free; those leave their lists, and the whole joins one. **Growing** in place takes the free
//! block behind, **shrinking** frees the tail. None of them searches, unless only the trees can
//! tell whether a block fits.
//!
//! Extents may touch: no block is coalesced across, so that each can be removed alone.

mod bins;
mod cut;
mod free_block;
mod record;
#[cfg(test)]
mod sabotage;
mod size_class;
#[cfg(test)]
mod tests;
mod top;
mod verify;

use core::alloc::Layout;
use core::mem;
use core::ptr::{self, NonNull};

use crate::allocator::AllocError;
use crate::pointers::{block, forward};
use crate::strategy::quick::Quick;
use crate::strategy::sourced::SourcedAllocator;
use crate::strategy::{Extent, FreedAtOnce, Strategy};
use crate::units::{PAGE_BYTES, round_down};
use bins::{Bins, Taken};
use free_block::{HEAD_BYTES, TAIL_BYTES};
use record::{Record, live_blocks, map_of, record_of};
use size_class::{GRANULE, GRANULE_SHIFT};
use top::Top;
use verify::broken;

/// Trees on a memory source, for use through the allocator trait.
pub type MultipleBinarySearchTreeAllocator<M> = SourcedAllocator<MultipleBinarySearchTree, M>;

/// Red-black trees of free blocks by size, see the [module](self).
///
/// # Invariants
/// 1. Every granule of an extent is in a block that is allocated, in one that waits in `quick`, in
///    a free block that is listed in `bins`, or in `top`.
/// 2. No two free blocks of an extent touch, the top included. Those that wait are allocated as far
///    as the map says.
/// 3. `records` leads to the records of all extents that were added and not removed, linked both
///    ways.
#[derive(Debug)]
pub struct MultipleBinarySearchTree {
    bins: Bins,
    top: Top,
    quick: Quick<QUICK_LENGTHS>,
    records: *mut Record,
}

/// Blocks shorter than this, in granules, may wait in quick lists.
const QUICK_LENGTHS: usize = 32;

/// How many of each length may wait: together 71 KiB. Each that finds room saves a wrong guess as
/// well, so more wait than a loop needs that frees what it allocated last.
const QUICK_ROOM: [u8; QUICK_LENGTHS] = {
    let mut room = [0; QUICK_LENGTHS];
    let mut granules = 1;
    while granules < QUICK_LENGTHS {
        room[granules] = match granules {
            ..8 => 8,
            8..16 => 6,
            _ => 4,
        };
        granules += 1;
    }
    room
};

// SAFETY: the pointers lead to memory that is the strategy's alone, by the contract of
// `add_extent`, and nothing in it belongs to a thread.
unsafe impl Send for MultipleBinarySearchTree {}

// SAFETY: blocks are cut from free memory of extents, see the type's invariants; they are rounded
// up to the granule whatever the alignment, so every size from the requested one to the block's
// length gives that length. A new extent is one free block, listed or the top, and found. Nothing
// here unwinds but by a bug in it, and nothing allocates.
unsafe impl Strategy for MultipleBinarySearchTree {
    type Settings = ();

    const NAME: &'static str = "trees";

    /// A count beside the extent's address: which extent it is, its owner would have to find.
    const TELLS_EMPTY: bool = true;

    const HAS_WAITING: bool = true;

    const EXTENT_ALIGN: usize = GRANULE;

    const DEFAULT: Self = Self {
        bins: Bins::new(),
        top: Top::new(),
        quick: Quick::new(QUICK_ROOM),
        records: ptr::null_mut(),
    };

    fn new((): ()) -> Self {
        Self::DEFAULT
    }

    fn metadata_bytes(&self, extent_bytes: usize) -> usize {
        record::metadata_bytes(extent_bytes)
    }

    fn extent_bytes(&self, layout: Layout) -> Option<usize> {
        let length = self.block_length(layout).ok()?;
        // What `cut_aligned` asks for.
        length.checked_add(layout.align().saturating_sub(GRANULE))
    }

    #[inline]
    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        match rounded(layout.size()) {
            length if length <= isize::MAX.unsigned_abs() => Ok(length),
            _ => Err(AllocError),
        }
    }

    #[inline]
    fn length_of_block(&self, layout: Layout) -> usize {
        rounded(layout.size())
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let length = rounded(layout.size());
        if layout.align() > GRANULE {
            return self.cut_aligned(length, layout.align());
        }
        match self.take_waiting(layout) {
            None => self.cut(length),
            block => block,
        }
    }

    #[inline]
    fn may_wait(&self, layout: Layout) -> bool {
        layout.size() <= (QUICK_LENGTHS - 1) * GRANULE
    }

    #[inline]
    fn take_waiting(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        if layout.align() > GRANULE {
            return None;
        }
        let length = rounded(layout.size());
        let (start, extent) = self.quick.pop(length >> GRANULE_SHIFT)?;
        count_new(extent);
        Some(block(start, length))
    }

    #[inline(always)] // measured: as of the free list
    fn allocate_at_once(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        if layout.align() > GRANULE {
            return None;
        }
        self.cut_at_once(rounded(layout.size()))
    }

    #[inline]
    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's contract.
        let _ = unsafe { <Self as Strategy>::free(self, extent, block, layout) };
    }

    #[inline]
    unsafe fn free(&mut self, extent: &Extent, freed: NonNull<u8>, layout: Layout) -> bool {
        let length = rounded(layout.size());
        let live = live_blocks(extent).get().wrapping_sub(1);
        live_blocks(extent).set(live);
        // What is cut next would lie between them: the share at refusal is 0.1 % less then.
        if live == 0 && self.quick.many_wait() {
            self.flush();
        }
        // SAFETY: the block is allocated, in the extent, and as long as any layout rounds to that
        // fits. What waits is allocated as far as the map says.
        unsafe {
            let start = extent.own(freed);
            if cfg!(any(test, heapswitch_check)) {
                let address = start.addr().get();
                self.check_is_taken(extent, &(address..address + length));
            }
            if !self.quick.push(extent, start, length >> GRANULE_SHIFT) {
                self.release(extent, block(start, length));
            }
            live == 0
        }
    }

    #[inline(always)] // measured: as of the free list
    unsafe fn free_at_once(
        &mut self,
        extent: &Extent,
        freed: NonNull<u8>,
        layout: Layout,
    ) -> Option<FreedAtOnce> {
        let live = live_blocks(extent).get().wrapping_sub(1);
        if live == 0 && self.quick.many_wait() {
            return None;
        }
        let length = rounded(layout.size());
        // SAFETY: as in `free`.
        unsafe {
            let start = extent.own(freed);
            if cfg!(any(test, heapswitch_check)) {
                let address = start.addr().get();
                self.check_is_taken(extent, &(address..address + length));
            }
            if !self.release_at_once(extent, block(start, length)) {
                return None;
            }
        }
        live_blocks(extent).set(live);
        Some(if live == 0 { FreedAtOnce::Emptied } else { FreedAtOnce::Done })
    }

    unsafe fn settle(&mut self, extent: &Extent) -> bool {
        self.is_empty(extent)
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
        let (old_length, new_length) = (rounded(old.size()), rounded(new.size()));
        let more = new_length - old_length;
        if more == 0 {
            return Some(new_length);
        }
        // SAFETY: the block lies in the extent, whose record is valid; where the map says so, a
        // free block follows it, and is listed.
        unsafe {
            let end = forward(extent.own(block), old_length);
            if self.top.starts_at(end, extent.into()) {
                return self.top.cut(more).map(|_| new_length);
            }
            if !map_of(extent).is_set(end.addr().get()) {
                return None;
            }
            let behind = Taken {
                block: end.cast(),
                length: free_block::length(end.cast()),
                extent: extent.into(),
            };
            if behind.length < more {
                return None;
            }
            self.bins.remove(behind.block);
            self.cut_front(behind, more);
        }
        Some(new_length)
    }

    unsafe fn shrink_in_place(
        &mut self,
        extent: &Extent,
        whole: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        let (old_length, new_length) = (rounded(old.size()), rounded(new.size()));
        if old_length != new_length {
            // SAFETY: the tail is whole granules of the block, which the caller gives up.
            unsafe {
                let tail = forward(extent.own(whole), new_length);
                self.release_tail(extent, block(tail, old_length - new_length));
            }
        }
        Some(new_length)
    }

    unsafe fn add_extent(&mut self, extent: &Extent) {
        // SAFETY: the extent upholds its invariants, its metadata is as long as asked, its memory
        // is free; the first record in the list is valid.
        unsafe {
            let record = Record::write(extent);
            (*record.as_ptr()).next = self.records;
            if !self.records.is_null() {
                (*self.records).previous = record.as_ptr();
            }
            self.records = record.as_ptr();
            // The map, all zero, says that the extent is allocated: as it should of the top.
            let length = usable_length(extent);
            if length > self.top.length() {
                self.release_top();
                self.top =
                    Top::of(Taken { block: extent.start().cast(), length, extent: extent.into() });
            } else if length != 0 {
                self.release(extent, block(extent.start(), length));
            }
        }
    }

    unsafe fn remove_extent(&mut self, extent: &Extent) {
        let record = record_of(extent);
        if self.quick.has(extent) {
            self.flush();
        }
        if self.top.is_in(extent.into()) {
            self.release_top();
        }
        let length = usable_length(extent);
        // SAFETY: the extent was added, so its record is in the list. Nothing in it is allocated,
        // so all of it is one free block, which is listed.
        unsafe {
            if length != 0 {
                let whole = extent.start().cast();
                if !map_of(extent).is_set(whole.addr().get()) || free_block::length(whole) != length
                {
                    broken("an extent is removed that is not one free block");
                }
                self.bins.remove(whole);
            }
            let Record { next, previous, .. } = *record.as_ptr();
            match NonNull::new(previous) {
                Some(previous) => (*previous.as_ptr()).next = next,
                None => self.records = next,
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
        }
    }

    fn visit_idle(&self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        let record = record_of(extent);
        let mut visit_pages = |start: NonNull<u8>, length: usize| {
            let into_page = start.addr().get().wrapping_neg() % PAGE_BYTES;
            let pages = round_down(length.saturating_sub(into_page), PAGE_BYTES);
            if pages != 0 {
                // SAFETY: the pages lie in the free memory that was passed.
                visit(block(unsafe { forward(start, into_page) }, pages));
            }
        };
        // SAFETY: the record is valid where the extent was added, and a free block is at least as
        // long as what is subtracted from it here.
        unsafe {
            record.as_ref().for_each_free(&mut |free, length| {
                if length > PAGE_BYTES {
                    let start = forward(free.cast(), HEAD_BYTES);
                    visit_pages(start, length - HEAD_BYTES - TAIL_BYTES);
                }
            });
        }
        if self.top.is_in(extent.into()) {
            visit_pages(self.top.start(), self.top.length());
        }
    }

    fn visit_unallocated(&mut self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        // Reads the links in all extents, before the first one is visited.
        self.flush();
        let record = record_of(extent);
        // SAFETY: the record is valid where the extent was added. A block is read before it is
        // visited, and no other's memory is read to find it.
        unsafe {
            record.as_ref().for_each_free(&mut |free, length| visit(block(free.cast(), length)));
        }
        if self.top.is_in(extent.into()) {
            visit(block(self.top.start(), self.top.length()));
        }
    }

    fn verify(&self) {
        self.verify_all();
    }
}

impl MultipleBinarySearchTree {
    /// Frees the blocks in the quick lists.
    #[cold]
    #[inline(never)]
    fn flush(&mut self) {
        // The lists are emptied by a copy, for freeing a block needs the strategy.
        let mut quick = mem::replace(&mut self.quick, Quick::new(QUICK_ROOM));
        quick.drain(|extent, start, granules| {
            // SAFETY: a block that waits was freed, and is allocated as far as the map says.
            unsafe { self.release(extent, block(start, granules << GRANULE_SHIFT)) };
        });
    }
}

/// Counts a block that is allocated now, in an extent that was added and not removed.
#[inline]
fn count_new(extent: NonNull<Extent>) {
    // SAFETY: an extent is valid until it is removed.
    let live = live_blocks(unsafe { extent.as_ref() });
    live.set(live.get() + 1);
}

/// The length of the block that serves a request of `size` bytes.
#[inline]
const fn rounded(size: usize) -> usize {
    // A layout's size is at most `isize::MAX`, so this does not overflow.
    (size + (GRANULE - 1)) & !(GRANULE - 1)
}

/// The whole granules of an extent, in bytes.
const fn usable_length(extent: &Extent) -> usize {
    round_down(extent.length(), GRANULE)
}
