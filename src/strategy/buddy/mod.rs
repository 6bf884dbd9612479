//! `Buddy`: blocks of powers of two from 32 bytes, split in halves and merged with their buddies.
//!
//! ```text
//!   order 9   512  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░        lists[9] ─▶ □ ⇄ □      doubly linked
//!   order 8   256  ████████████████░░░░░░░░░░░░░░░░        lists[8] ─▶ □
//!   order 7   128                  ████████░░░░░░░░        lists[7]
//!                                          ▲
//!   map            1 bit for each 32 bytes: does a free block start here?    out of line
//! ```
//!
//! A block of 2^n bytes lies at a multiple of 2^n, so the **buddy** that it was split from, and may
//! merge with, is found by flipping one bit of its address. Every alignment costs nothing but a
//! block as long. **Allocating** takes the first block of the least order that has one, and puts
//! the upper halves aside until it is short enough: a bit scan and at most one step an order.
//! **Freeing** merges for as long as the buddy is free and whole, which a bit out of line and the
//! order in the buddy's first words say; at most one step an order, and no search. Growing in place
//! takes buddies above.
//!
//! The block of each order that was freed last waits unmerged: a program that frees a block and
//! allocates another of its size would otherwise merge and split all the way each time. When
//! nothing else fits, those are merged too.
//!
//! [`BuddyAllocator`] is for one thread at a time; [`LockedBuddyAllocator`] for many.
//!
//! Costs: sizes become powers of two, a quarter of the memory on average if sizes are of all kinds,
//! and a bit for each 32 bytes. Not for: sizes just above powers of two; many small objects, for
//! which the slab wastes an eighth.

mod block;
mod extent;
#[cfg(test)]
mod tests;

use core::alloc::Layout;
use core::ptr::NonNull;

use self::block::{Block, Lists, MIN_ORDER, ORDERS};
use self::extent::Record;
use super::locked::Locked;
use super::sourced::SourcedAllocator;
use super::{Extent, Strategy};
use crate::allocator::AllocError;
use crate::pointers;
use crate::sys::abort_with;
use crate::units::{CHUNK_BYTES, PAGE_BYTES};

/// A buddy system on a memory source, for use through the allocator trait, by one thread at a time.
pub type BuddyAllocator<M> = SourcedAllocator<Buddy, M>;

/// A buddy system that threads share.
pub type LockedBuddyAllocator<M> = Locked<BuddyAllocator<M>>;

/// The bytes of the least block.
pub const MIN_BUDDY_BYTES: usize = 1 << MIN_ORDER;

/// The largest order of a block: beyond any address.
const MAX_ORDER: usize = MIN_ORDER + ORDERS - 1;

/// Blocks of powers of two, see the [module](self).
///
/// # Invariants
/// 1. Every granule of 32 bytes of an extent is in one block: allocated, waiting in `waiting`, or
///    in the list of its order. The map has a bit for the start of each listed block, no others.
/// 2. No two listed blocks are buddies of one order.
/// 3. `waiting[n]` is a block of order `MIN_ORDER + n` of an extent that was added and not removed.
#[derive(Debug)]
pub struct Buddy {
    lists: Lists,
    waiting: [Option<NonNull<Block>>; ORDERS],
    records: Option<NonNull<Record>>,
}

// SAFETY: the pointers lead to memory that is the strategy's alone.
unsafe impl Send for Buddy {}

/// The order of the block that serves a layout; more than [`MAX_ORDER`] where none does.
#[inline]
const fn order_for(layout: Layout) -> usize {
    let least = if layout.align() > MIN_BUDDY_BYTES { layout.align() } else { MIN_BUDDY_BYTES };
    let bytes = if layout.size() > least { layout.size() } else { least };
    (usize::BITS - (bytes - 1).leading_zeros()) as usize
}

impl Buddy {
    /// Allocates a block of an order.
    #[inline]
    fn take(&mut self, order: usize) -> Option<NonNull<u8>> {
        if let Some(block) = self.waiting.get_mut(order - MIN_ORDER)?.take() {
            return Some(block.cast());
        }
        self.split(order).or_else(|| {
            self.merge_waiting();
            self.split(order)
        })
    }

    /// Cuts a block from the least listed one that is long enough.
    fn split(&mut self, order: usize) -> Option<NonNull<u8>> {
        let (block, mut from) = self.lists.pop(order)?;
        // SAFETY: a listed block's record is valid, and the halves of the block are free.
        unsafe {
            let record = (*block.as_ptr()).record;
            record.as_ref().clear(block.cast());
            while from > order {
                from -= 1;
                self.list(pointers::forward(block.cast(), 1 << from), from, record);
            }
        }
        Some(block.cast())
    }

    /// Lists a block.
    ///
    /// # Safety
    /// It is free, of the record's extent, and cannot merge.
    #[inline]
    unsafe fn list(&mut self, start: NonNull<u8>, order: usize, record: NonNull<Record>) {
        // SAFETY: the caller's contract.
        unsafe {
            record.as_ref().set(start);
            self.lists.push(start, order, record);
        }
    }

    /// Frees a block: it waits, and the one that waited merges.
    ///
    /// # Safety
    /// It is allocated, of that order, in the record's extent.
    #[inline]
    unsafe fn free(&mut self, start: NonNull<u8>, order: usize, record: NonNull<Record>) {
        let Some(slot) = self.waiting.get_mut(order - MIN_ORDER) else { return };
        let block = start.cast::<Block>();
        // SAFETY: the block is free now, and at least as long as the words in it.
        unsafe { block.write(Block::new(order, record)) };
        if let Some(waited) = slot.replace(block) {
            // SAFETY: what waits is free and in no list.
            unsafe { self.merge(waited) };
        }
    }

    /// Merges a block with its buddies, as far as they are free, and lists it.
    ///
    /// # Safety
    /// The block is free, in no list, and says its order and record.
    #[inline(never)]
    unsafe fn merge(&mut self, block: NonNull<Block>) {
        // SAFETY: the caller's contract; a buddy whose bit is set is listed.
        unsafe {
            let Block { mut order, record, .. } = *block.as_ptr();
            let mut start = block.cast::<u8>();
            while let Some(buddy) = record.as_ref().free_buddy(start, order) {
                record.as_ref().clear(buddy.cast());
                self.lists.unlink(buddy);
                if buddy.addr() < start.addr() {
                    start = buddy.cast();
                }
                order += 1;
            }
            self.list(start, order, record);
        }
    }

    /// Merges every block that waits.
    #[cold]
    fn merge_waiting(&mut self) {
        for index in 0..ORDERS {
            if let Some(block) = self.waiting.get_mut(index).and_then(Option::take) {
                // SAFETY: what waits is free and in no list.
                unsafe { self.merge(block) };
            }
        }
    }

    /// Aborts if a block that is being freed is free.
    fn check_is_allocated(&self, start: NonNull<u8>, order: usize, record: &Record) {
        let range = start.addr().get()..start.addr().get() + (1 << order);
        let waits = self.waiting.iter().flatten().any(|block| range.contains(&block.addr().get()));
        if waits || record.has_free_in(start, 1 << order) {
            abort_with(&["Buddy: a block is freed that is free already"]);
        }
    }

    /// Makes a block one of another order, where it stands. Whether the sizes grow does not tell
    /// whether the order does: alignments count as well.
    ///
    /// # Safety
    /// The block is allocated in the extent, and of the first order.
    unsafe fn resize(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        (had, wanted): (usize, usize),
    ) -> Option<usize> {
        // SAFETY: a block is allocated in the extent, so that was added and not removed; listed
        // buddies are taken, all or none. The pointer takes the extent's provenance.
        unsafe {
            let record = record_of(extent);
            let offset = pointers::distance(extent.start(), block);
            let start = pointers::forward(extent.start(), offset);
            self.halve(start, had, wanted, record);
            let record = record.as_ref();
            let buddies = (had..wanted).map(|order| {
                let is_lower = start.addr().get() >> order & 1 == 0;
                is_lower.then(|| record.free_buddy(start, order)).flatten()
            });
            if !buddies.clone().all(|buddy| buddy.is_some()) {
                return None;
            }
            for buddy in buddies.flatten() {
                record.clear(buddy.cast());
                self.lists.unlink(buddy);
            }
        }
        Some(1 << wanted)
    }

    /// Gives the upper part of a block back, down to `order`.
    ///
    /// # Safety
    /// The block is allocated, of order `from`, in the record's extent.
    unsafe fn halve(
        &mut self,
        start: NonNull<u8>,
        from: usize,
        order: usize,
        record: NonNull<Record>,
    ) {
        for half in (order..from).rev() {
            // SAFETY: the upper half is part of the block, and given up. Its buddy, the lower half,
            // is allocated.
            unsafe {
                self.list(pointers::forward(start, 1 << half), half, record);
            }
        }
    }
}

/// # Safety
/// The extent was added and not removed.
#[inline]
unsafe fn record_of(extent: &Extent) -> NonNull<Record> {
    // SAFETY: the strategy asks for metadata, and the extent is its.
    unsafe { extent.metadata() }.cast()
}

// SAFETY:
// - A block is a listed one or a half of one, at a multiple of its length, and in no list or slot
//   while it is allocated.
// - `block_length` is the power of two from size and alignment on: monotone, and itself for every
//   size up to it.
// - Only free blocks and the metadata are written.
// - An extent of `extent_bytes` has a multiple of the block's length with as much behind it, so its
//   first division has a block at least as long.
// - Nothing here allocates or unwinds.
unsafe impl Strategy for Buddy {
    type Settings = ();

    const NAME: &'static str = "Buddy";

    /// A chunk: then blocks of up to a chunk need no room for alignment.
    const EXTENT_ALIGN: usize = CHUNK_BYTES;

    const DEFAULT: Self = Self { lists: Lists::new(), waiting: [None; ORDERS], records: None };

    fn new((): ()) -> Self {
        Self::DEFAULT
    }

    fn metadata_bytes(&self, extent_bytes: usize) -> usize {
        extent::metadata_bytes(extent_bytes)
    }

    fn extent_bytes(&self, layout: Layout) -> Option<usize> {
        let length = self.block_length(layout).ok()?;
        length.checked_add(length.saturating_sub(Self::EXTENT_ALIGN))
    }

    #[inline]
    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        let order = order_for(layout);
        if order > MAX_ORDER { Err(AllocError) } else { Ok(1 << order) }
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let order = order_for(layout);
        if order > MAX_ORDER {
            return None;
        }
        Some(pointers::block(self.take(order)?, 1 << order))
    }

    #[inline]
    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) {
        let order = order_for(layout);
        // SAFETY: a block is allocated in the extent, so that was added and not removed; the
        // layout fits the block, so this is its order. The pointer takes the extent's provenance.
        unsafe {
            let record = record_of(extent);
            let offset = pointers::distance(extent.start(), block);
            let start = pointers::forward(extent.start(), offset);
            if cfg!(any(test, heapswitch_check)) {
                self.check_is_allocated(start, order, record.as_ref());
            }
            self.free(start, order, record);
        }
    }

    unsafe fn grow_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        // SAFETY: the caller's contract.
        unsafe { self.resize(extent, block, (order_for(old), order_for(new))) }
    }

    unsafe fn shrink_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        // SAFETY: the caller's contract.
        unsafe { self.resize(extent, block, (order_for(old), order_for(new))) }
    }

    unsafe fn add_extent(&mut self, extent: &Extent) {
        // SAFETY: the caller's contract; the metadata is as long as asked. Each block of the
        // division is free, in no list, and as long as it may be.
        unsafe {
            let record = Record::write(extent, self.records);
            self.records = Some(record);
            record.as_ref().divide(&mut |start, order| self.list(start, order, record));
        }
    }

    unsafe fn remove_extent(&mut self, extent: &Extent) {
        self.merge_waiting();
        // SAFETY: the extent was added and not removed; nothing in it is allocated, so now all of
        // it is in lists.
        unsafe {
            let record = record_of(extent);
            let mut bytes = 0;
            record.as_ref().visit(&mut |block, order| {
                bytes += 1 << order;
                self.lists.unlink(block);
            });
            if bytes != record.as_ref().usable_bytes() {
                abort_with(&["Buddy: an extent is removed that is not free"]);
            }
            Record::unlink(record, &mut self.records);
        }
    }

    fn visit_idle(&self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        // SAFETY: owners ask only about extents that they added and did not remove; a free block's
        // words lie in its first page.
        unsafe {
            record_of(extent).as_ref().visit(&mut |block, order| {
                if 1 << order > PAGE_BYTES {
                    let behind = pointers::forward(block.cast(), PAGE_BYTES);
                    visit(pointers::block(behind, (1 << order) - PAGE_BYTES));
                }
            });
        }
    }

    fn visit_unallocated(&mut self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        // Before the first extent is visited: nothing waits any more at the next ones.
        self.merge_waiting();
        // SAFETY: as above; a block's order is read before the block is visited.
        unsafe {
            record_of(extent).as_ref().visit(&mut |block, order| {
                visit(pointers::block(block.cast(), 1 << order));
            });
        }
    }

    fn verify(&self) {
        if let Some(fault) = self.fault() {
            abort_with(&["Buddy: ", fault]);
        }
    }
}

impl Buddy {
    /// What is wrong, if anything is.
    fn fault(&self) -> Option<&'static str> {
        let (listed, mut counted) = match self.lists.count() {
            Ok(listed) => (listed, 0),
            Err(fault) => return Some(fault),
        };
        let mut fault = None;
        let mut next = self.records;
        let mut previous = None;
        while let Some(record) = next {
            // SAFETY: records in the list are of extents that were added and not removed.
            let record = unsafe { record.as_ref() };
            if record.previous != previous {
                return Some("the list of extents reads differently backwards");
            }
            // SAFETY: as above.
            unsafe {
                record.visit(&mut |block, order| {
                    counted += 1;
                    if record.free_buddy(block.cast(), order).is_some() {
                        fault = Some("two free buddies are not merged");
                    }
                });
            }
            previous = next;
            next = record.next;
        }
        let waits = self.waiting.iter().enumerate().any(|(index, block)| {
            // SAFETY: what waits is free and says its order.
            block.is_some_and(|block| unsafe { (*block.as_ptr()).order } != index + MIN_ORDER)
        });
        if waits {
            return Some("a block that waits was written to after it was freed");
        }
        if counted != listed {
            return Some("the map and the lists have different blocks");
        }
        fault
    }
}
