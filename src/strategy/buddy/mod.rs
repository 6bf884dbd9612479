//! `Buddy`: blocks of powers of two from 32 bytes, split in halves and merged with their buddies.
//!
//! ```text
//!   order 9   512  ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░        lists[9] ─▶ □ ⇄ □      doubly linked
//!   order 8   256  ████████████████░░░░░░░░░░░░░░░░        lists[8] ─▶ □
//!   order 7   128                  ████████░░░░░░░░        lists[7]
//!                                          ▲
//!   maps           1 bit for each place of each order: is a block listed there?    out of line
//! ```
//!
//! A block of 2^n bytes lies at a multiple of 2^n, so the **buddy** that it was split from, and may
//! merge with, is found by flipping one bit of its address. Every alignment costs nothing but a
//! block as long. **Allocating** takes the first block of the least order that has one, and puts
//! the upper halves aside until it is short enough: a bit scan and at most one step an order.
//! **Freeing** merges for as long as the buddy is free and whole, which is a bit out of line; at
//! most one step an order, and no search. Growing in place takes buddies above. What is written to
//! a block after it was freed can break the links of the lists, and the address of the extent's
//! record beside them, which lie in listed blocks; not what is free or how long.
//!
//! The block of each order that was freed last waits unmerged: a program that frees a block and
//! allocates another of its size would otherwise merge and split all the way each time. The one
//! freed last of all waits in front of those, and of every count: to free it and to hand it out
//! again stores no count that the other would have to load at once. When nothing else fits, all
//! these are merged too. Nothing is written to a block that waits.
//!
//! - `block` has the lists,
//! - `extent` the record of an extent and its maps,
//! - `verify` the check of every equation.
//!
//! [`BuddyAllocator`] is for one thread at a time; [`LockedBuddyAllocator`] for many.
//!
//! Costs: sizes become powers of two, a quarter of the memory on average if sizes are of all kinds,
//! and two bits for each 32 bytes. Not for: sizes just above powers of two; many small objects, for
//! which the slab wastes an eighth.

mod block;
mod extent;
#[cfg(test)]
mod tests;
mod verify;

use core::alloc::Layout;
use core::ptr::NonNull;

use self::block::{Lists, MIN_ORDER, ORDERS};
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
/// 1. Every granule of 32 bytes of an extent is in one block: allocated, waiting in `waiting` or
///    in `last`, or in the list of its order. The maps have a bit for each listed block, no others.
/// 2. No two listed blocks are buddies of one order.
/// 3. `waiting[n]` is a block of order `MIN_ORDER + n` of an extent that was added and not removed.
/// 4. `last` is such a block of order `last_order`, unless that is `NO_ORDER`.
/// 5. The bytes that each record counts are those of its extent's allocated blocks, and of `last`;
///    `blocks` is how many these are in all extents.
#[derive(Debug)]
pub struct Buddy {
    last_order: usize,
    last: Waiting,
    blocks: usize,
    lists: Lists,
    waiting: [Option<Waiting>; ORDERS],
    records: Option<NonNull<Record>>,
}

/// The order of no block.
const NO_ORDER: usize = 0;

/// A block that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    block: NonNull<u8>,
    /// Of the extent that it is in.
    record: NonNull<Record>,
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
    /// Allocates a block of an order; none of an order that there is not.
    #[inline]
    fn take(&mut self, order: usize) -> Option<NonNull<u8>> {
        if self.last_order == order {
            // INVARIANT: none waits in front; the block is counted already.
            self.last_order = NO_ORDER;
            return Some(self.last.block);
        }
        self.take_counted(order)
    }

    /// Allocates a block that does not wait in front of the counts.
    #[inline]
    fn take_counted(&mut self, order: usize) -> Option<NonNull<u8>> {
        let Waiting { block, record } = match self.waiting.get_mut(order - MIN_ORDER)?.take() {
            Some(waiting) => waiting,
            None => self.split(order)?,
        };
        self.blocks += 1;
        // SAFETY: the extent was added and not removed.
        unsafe { record.as_ref() }.count_taken(order);
        Some(block)
    }

    /// Cuts a block from the least listed one that is long enough, after those that wait have
    /// merged if none is.
    #[inline(never)]
    fn split(&mut self, order: usize) -> Option<Waiting> {
        let (block, mut from) = self.lists.pop(order).or_else(|| {
            self.merge_waiting();
            self.lists.pop(order)
        })?;
        // SAFETY: a listed block's record is valid, and the halves of the block are free.
        unsafe {
            let (record, block) = ((*block.as_ptr()).record, block.cast::<u8>());
            record.as_ref().clear(block, from);
            while from > order {
                from -= 1;
                self.list(pointers::forward(block, 1 << from), from, record);
            }
            Some(Waiting { block, record })
        }
    }

    /// Lists a block.
    ///
    /// # Safety
    /// It is free, of the record's extent, and cannot merge.
    #[inline]
    unsafe fn list(&mut self, start: NonNull<u8>, order: usize, record: NonNull<Record>) {
        // SAFETY: the caller's contract.
        unsafe {
            record.as_ref().set(start, order);
            self.lists.push(start, order, record);
        }
    }

    /// Lets the block in front, if there is one, wait among those of its order, and merges the one
    /// that waited there.
    #[inline]
    fn put_last_back(&mut self) {
        let order = self.last_order;
        if order == NO_ORDER {
            return;
        }
        self.last_order = NO_ORDER;
        self.blocks = self.blocks.wrapping_sub(1);
        // SAFETY: the extent was added and not removed.
        unsafe { self.last.record.as_ref() }.count_freed(order);
        let Some(slot) = self.waiting.get_mut(order - MIN_ORDER) else { return };
        if let Some(waited) = slot.replace(self.last) {
            // SAFETY: what waits is free and in no list.
            unsafe { self.merge(waited, order) };
        }
    }

    /// The bytes of the block in front, if that is one of this record's.
    #[inline]
    fn last_bytes(&self, record: NonNull<Record>) -> usize {
        let is_there = self.last_order != NO_ORDER && self.last.record == record;
        if is_there { 1 << self.last_order } else { 0 }
    }

    /// Merges a block with its buddies, as far as they are free, and lists it.
    ///
    /// # Safety
    /// The block is free, of that order, and neither listed nor waiting.
    #[inline(never)]
    unsafe fn merge(&mut self, waited: Waiting, order: usize) {
        let (Waiting { block: mut start, record }, mut order) = (waited, order);
        // SAFETY: the caller's contract; a buddy whose bit is set is listed.
        unsafe {
            while let Some(buddy) = record.as_ref().take_buddy(start, order) {
                self.lists.unlink(buddy.cast(), order);
                if buddy.addr() < start.addr() {
                    start = buddy;
                }
                order += 1;
            }
            self.list(start, order, record);
        }
    }

    /// Merges every block that waits.
    #[cold]
    fn merge_waiting(&mut self) {
        self.put_last_back();
        for index in 0..ORDERS {
            if let Some(waiting) = self.waiting.get_mut(index).and_then(Option::take) {
                // SAFETY: what waits is free, of that order, and in no list.
                unsafe { self.merge(waiting, MIN_ORDER + index) };
            }
        }
    }

    /// The blocks that wait, with their orders; first the one in front.
    fn all_waiting(&self) -> impl Iterator<Item = (usize, Waiting)> {
        let last = (self.last_order != NO_ORDER).then_some((self.last_order, self.last));
        let others = (MIN_ORDER..).zip(&self.waiting);
        last.into_iter().chain(others.filter_map(|(order, waits)| Some((order, (*waits)?))))
    }

    /// Whether a block that is being freed is free, or a part of it, or is part of a free one.
    ///
    /// # Safety
    /// It lies in the record's extent.
    unsafe fn is_free(&self, start: NonNull<u8>, order: usize, record: &Record) -> bool {
        let range = |start: NonNull<u8>, order: usize| {
            start.addr().get()..start.addr().get() + (1 << order)
        };
        let freed = range(start, order);
        let waits = self.all_waiting().any(|(order, waiting)| {
            let waits = range(waiting.block, order);
            waits.start < freed.end && freed.start < waits.end
        });
        // SAFETY: the caller's contract.
        waits || unsafe { record.overlaps_listed(start, order) }
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
            let start = extent.own(block);
            self.halve(start, had, wanted, record);
            let record = record.as_ref();
            let fits =
                |order| start.addr().get() >> order & 1 == 0 && record.has_free_buddy(start, order);
            if !(had..wanted).all(fits) {
                return None;
            }
            for order in had..wanted {
                if let Some(buddy) = record.take_buddy(start, order) {
                    self.lists.unlink(buddy.cast(), order);
                }
            }
            record.count_freed(had);
            record.count_taken(wanted);
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

    const NAME: &'static str = "buddy";

    /// A chunk: then blocks of up to a chunk need no room for alignment.
    const EXTENT_ALIGN: usize = CHUNK_BYTES;

    const COUNTS_ON_SOURCES: bool = true;
    const TELLS_EMPTY: bool = true;

    const DEFAULT: Self = Self {
        last_order: NO_ORDER,
        last: Waiting { block: NonNull::dangling(), record: NonNull::dangling() },
        blocks: 0,
        lists: Lists::new(),
        waiting: [None; ORDERS],
        records: None,
    };

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
    fn length_of_block(&self, layout: Layout) -> usize {
        1 << order_for(layout)
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let order = order_for(layout);
        Some(pointers::block(self.take(order)?, 1 << order))
    }

    #[inline]
    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { self.free(extent, block, layout) };
    }

    #[inline]
    unsafe fn free(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) -> bool {
        let order = order_for(layout);
        // SAFETY: a block is allocated in the extent, so that was added and not removed; the
        // layout fits the block, so this is its order. The pointer takes the extent's provenance.
        unsafe {
            let record = record_of(extent);
            let start = extent.own(block);
            if cfg!(any(test, heapswitch_check)) && self.is_free(start, order, record.as_ref()) {
                abort_with(&["buddy: a block is freed that is free already"]);
            }
            self.put_last_back();
            // INVARIANT: the block is free, of that order, and still counted.
            self.last_order = order;
            self.last = Waiting { block: start, record };
            record.as_ref().used_bytes() == 1 << order
        }
    }

    #[inline]
    fn is_empty(&self, extent: &Extent) -> bool {
        // SAFETY: owners ask only about extents that they added and did not remove.
        unsafe {
            let record = record_of(extent);
            record.as_ref().used_bytes() == self.last_bytes(record)
        }
    }

    fn used(&self) -> (usize, usize) {
        let (mut bytes, mut next) = (0, self.records);
        while let Some(pointer) = next {
            // SAFETY: records in the list are of extents that were added and not removed.
            let record = unsafe { pointer.as_ref() };
            bytes += record.used_bytes() - self.last_bytes(pointer);
            next = record.next;
        }
        (self.blocks - usize::from(self.last_order != NO_ORDER), bytes)
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
                self.lists.unlink(block.cast(), order);
            });
            if bytes != record.as_ref().usable_bytes() {
                abort_with(&["buddy: an extent is removed that is not free"]);
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
                    let behind = pointers::forward(block, PAGE_BYTES);
                    visit(pointers::block(behind, (1 << order) - PAGE_BYTES));
                }
            });
        }
    }

    fn visit_unallocated(&mut self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        // Before the first extent is visited: nothing waits any more at the next ones.
        self.merge_waiting();
        // SAFETY: as above. Nothing is read of what is visited: the maps are out of line.
        unsafe {
            record_of(extent).as_ref().visit(&mut |block, order| {
                visit(pointers::block(block, 1 << order));
            });
        }
    }

    fn verify(&self) {
        if let Some(fault) = self.fault() {
            abort_with(&["buddy: ", fault]);
        }
    }
}
