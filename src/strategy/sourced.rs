//! `SourcedAllocator`: a strategy on a memory source, for use through the allocator trait.
//!
//! It owns both, takes ranges from the source as the strategy runs out of room, and gives them back
//! when their last block is freed. Everything it keeps about a range stands at that range's end, so
//! it works on nothing but the memory of its source.
//!
//! ```text
//!   range.start                                                     range.start + length
//!   │ extent: the strategy's blocks      │ strategy's metadata │ Record │
//! ```
//!
//! # When ranges come and go
//! A range is at least half as long as all that is held (a slab's 1/64: each size class has
//! ranges of its own; a free list's or bit set's as long, up to 16 and 32 GiB), so n bytes
//! are held in O(log n) ranges and the source is asked rarely; where the source has less, half of
//! that is asked for, down to what the request needs. One range without a block is kept, the
//! longest met, so that a program that frees its last block and allocates again does not go to
//! the source each time; [`release_unused`](LocalAllocator::release_unused) gives that back too,
//! as does a request that the source refuses. [`reserve`](SourcedAllocator::reserve) takes one
//! beforehand.
//!
//! # Costs
//! Beside the strategy's: the counts, and finding a freed block's extent, and a new block's unless
//! the strategy [tells](Strategy::TELLS_EMPTY) which are empty. That is one compare where there is
//! one range; else two if the last block in the same 1/256 of twice what is held was in the same
//! range, as nearly always; else some thirty instructions without a branch for the first 32 ranges,
//! and O(log n) for more.

mod asked;
mod direct;
mod few;
mod found;
mod out_of_line;
mod parked;
mod records;
mod resized;
mod shelf;
mod spare;
mod verify;

use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::fmt;
use core::ptr::NonNull;

use self::found::Found;
use self::parked::Parked;
use self::records::{Record, Records};
use self::shelf::{Shelf, is_bound};
use super::{Extent, Strategy};
use crate::allocator::{
    AllocError, Allocator, LocalAllocator, MemoryRange, MemorySource, MemoryUsage,
};
use crate::pointers;
use crate::units::{CHUNK_BYTES, round_down, round_up};

/// The alignment of extents, metadata and records.
const ALIGN: usize = 16;

/// A strategy on a memory source.
///
/// It serves blocks while it is borrowed, so collections take `&SourcedAllocator` and cannot
/// outlive it. It is `Send` and not `Sync`. Dropping it gives every range back.
///
/// Requests of zero bytes are answered with a dangling pointer and a length of zero.
pub struct SourcedAllocator<S: Strategy, M: MemorySource> {
    /// Borrowed for the length of one call and never across another: neither strategies nor sources
    /// call back.
    state: UnsafeCell<State<S>>,
    source: M,
}

struct State<S> {
    strategy: S,
    records: Records,
    found: Found,
    parked: Parked,
    shelf: Shelf,
    /// The one extent without a block that is kept, if there is one. Where the strategy tells which
    /// are empty, blocks may have been cut from it since: see [`empty_spare`](Self::empty_spare).
    spare: Option<NonNull<Record>>,
    /// What is allocated without what the strategy itself counts, and what is held; but for the
    /// count of blocks, which stays zero here.
    usage: MemoryUsage,
    /// Blocks that are currently allocated. Apart, so that two additions are two instructions: of
    /// two counts side by side the compiler makes one vector, which takes six.
    allocated_blocks: usize,
}

// SAFETY: the records and extents that the state points to belong to it alone. The source's memory
// is valid on any thread as long as the source is, and that is sent along.
unsafe impl<S: Strategy + Send, M: MemorySource + Send> Send for SourcedAllocator<S, M> {}

impl<S: Strategy, M: MemorySource + Default> Default for SourcedAllocator<S, M> {
    fn default() -> Self {
        Self::new(M::default())
    }
}

impl<S: Strategy, M: MemorySource> SourcedAllocator<S, M> {
    /// The strategy with its default settings on `source`. Takes nothing from the source yet.
    pub const fn new(source: M) -> Self {
        Self::of(S::DEFAULT, source)
    }

    /// The strategy with `settings` on `source`. Takes nothing from the source yet.
    pub fn with_settings(settings: S::Settings, source: M) -> Self {
        Self::of(S::new(settings), source)
    }

    /// A strategy without extents on `source`.
    pub(super) const fn of(strategy: S, source: M) -> Self {
        const {
            assert!(!(S::TELLS_EMPTY && S::PARKS_LAST), "what is parked is not told of");
            assert!(S::TELLS_EMPTY || !S::COUNTS_ON_SOURCES, "who counts can tell");
            assert!(S::TELLS_EMPTY || !S::HAS_WAITING, "what waits is not counted");
        }
        let state = State {
            strategy,
            records: Records::new(),
            found: Found::new(),
            parked: Parked::none(),
            shelf: Shelf::new(),
            spare: None,
            usage: MemoryUsage::NONE,
            allocated_blocks: 0,
        };
        Self { state: UnsafeCell::new(state), source }
    }

    /// The memory source.
    pub fn source(&self) -> &M {
        &self.source
    }

    /// Checks every equation of the strategy's data structure, and of what is kept beside it;
    /// aborts with the strategy's name if one fails.
    pub fn verify(&self) {
        let state = self.state();
        state.strategy.verify();
        state.verify();
    }

    /// Calls `visit` with ranges that hold no block and nothing that is needed, so that their pages
    /// may be dropped: they may then read as zero or as before. `visit` must not use this
    /// allocator.
    pub fn visit_idle(&mut self, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        let state = self.state.get_mut();
        state.unpark(&self.source);
        state.records.visit(&mut |record| {
            if !record.is_direct {
                state.strategy.visit_idle(&record.extent, visit);
            }
        });
    }

    /// Calls `ask` with the strategy; it must not use this allocator.
    #[cfg(not(loom))]
    pub(super) fn with_strategy<T>(&self, ask: impl FnOnce(&S) -> T) -> T {
        ask(&self.state().strategy)
    }

    /// The state, for one call.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "the cell is this type's own and it is not Sync")]
    fn state(&self) -> &mut State<S> {
        // SAFETY: the type is not Sync, each method asks once, and nothing that it calls with the
        // result (strategies and sources) calls back into this allocator.
        unsafe { &mut *self.state.get() }
    }

    #[inline(always)] // measured: as `allocate`
    fn allocate_by(
        &self,
        layout: Layout,
        cut: fn(&mut S, Layout) -> Option<NonNull<[u8]>>,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(pointers::block(pointers::dangling(layout.align()), 0));
        }
        let state = self.state();
        state.unpark(&self.source);
        let block = match cut(&mut state.strategy, layout) {
            Some(block) => block,
            None => {
                state.extend(&self.source, layout)?;
                cut(&mut state.strategy, layout).ok_or(AllocError)?
            }
        };
        state.count_new(block);
        Ok(self.noted(block))
    }

    /// Notes who asked for a new block, where the strategy does that.
    #[inline]
    fn noted(&self, block: NonNull<[u8]>) -> NonNull<[u8]> {
        #[cfg(not(loom))]
        if self.state().strategy.sites().is_some() {
            super::sites::note_new(block, 0, || self.state().strategy.sites());
        }
        block
    }
}

impl<S: Strategy> State<S> {
    /// The record of the extent that a block is in.
    #[inline]
    fn record_of(&mut self, block: NonNull<u8>) -> Option<NonNull<Record>> {
        match self.guess(block) {
            None => self.find_record(block),
            record => record,
        }
    }

    /// The same, if no search is needed.
    #[inline]
    fn guess(&self, block: NonNull<u8>) -> Option<NonNull<Record>> {
        if let Some(record) = self.records.alone(block) {
            return Some(record);
        }
        // SAFETY: the extents of what is remembered are held, so the records are valid.
        let is_in = |record: &NonNull<Record>| unsafe { record.as_ref() }.extent.contains(block);
        self.found.guess(block).filter(is_in)
    }

    #[inline(never)]
    fn find_record(&mut self, block: NonNull<u8>) -> Option<NonNull<Record>> {
        let found = self.records.find(block)?;
        // SAFETY: the extent is held. One of a single block is found faster than forgotten.
        if !unsafe { found.as_ref() }.is_direct {
            self.found.remember(block, found);
        }
        Some(found)
    }

    /// Counts that a block has another length.
    #[inline]
    fn count_resized(&mut self, had: usize, length: usize) {
        let allocated = self.usage.allocated_bytes;
        self.usage.allocated_bytes = allocated.wrapping_add(length).wrapping_sub(had);
    }

    /// Counts a block that the strategy allocated, if that does not do so itself.
    #[inline]
    fn count_new(&mut self, block: NonNull<[u8]>) {
        if S::COUNTS_ON_SOURCES {
            return;
        }
        self.usage.allocated_bytes += block.len();
        self.allocated_blocks += 1;
        if S::TELLS_EMPTY {
            return;
        }
        let Some(pointer) = self.record_of(block.cast()) else { return };
        // SAFETY: the extent is held, so its record is valid.
        let record = unsafe { pointer.as_ref() };
        let live = record.live_blocks.get();
        record.live_blocks.set(live + 1);
        if is_bound::<S>(live) {
            if S::PARKS_LAST {
                self.passed_bound(pointer, live);
            } else if self.spare == Some(pointer) {
                self.spare = None;
            }
        }
    }

    /// Counts that a block was freed, where the strategy tells what is empty, if it does not count
    /// itself.
    #[inline]
    fn count_freed(&mut self, layout: Layout) {
        if S::COUNTS_ON_SOURCES {
            return;
        }
        let length = self.strategy.length_of_block(layout);
        self.usage.allocated_bytes = self.usage.allocated_bytes.wrapping_sub(length);
        self.allocated_blocks = self.allocated_blocks.wrapping_sub(1);
    }

    /// Makes room from which `layout` can surely be served: in the spare, or a new range.
    #[cold]
    fn extend(&mut self, source: &impl MemorySource, layout: Layout) -> Result<(), AllocError> {
        #[cfg(heapswitch_check)]
        self.verify();
        let needed = self.strategy.extent_bytes(layout).ok_or(AllocError)?;
        if self.renew_spare(needed) {
            return Ok(());
        }
        let least = self.range_bytes(needed, source.granule()).ok_or(AllocError)?;
        let range = match self.take(source, least) {
            Err(_) if self.release_spare(source) => self.take(source, least)?,
            result => result?,
        };
        // SAFETY: `take` gave the range, at least as long as asked.
        unsafe { self.divide(range) };
        self.count_taken(range.length);
        Ok(())
    }

    /// Divides a range into extent, metadata and record, and gives the extent to the strategy.
    ///
    /// # Safety
    /// The range is this allocator's alone, in no extent of the strategy, and at least as long as
    /// [`range_bytes`](Self::range_bytes) of some extent.
    unsafe fn divide(&mut self, range: MemoryRange) -> NonNull<Record> {
        let end = range.length - size_of::<Record>();
        // The record is aligned by going down from the range's end, all else by going up.
        // SAFETY: `range_bytes` left room for the record in every range at least as long.
        let slot = unsafe { pointers::forward(range.start, end) };
        let record_at = end - (slot.addr().get() & (ALIGN - 1));
        // `range_bytes` found room for the metadata of a range as long.
        let metadata_bytes = self.metadata_bytes(range.length).unwrap_or(record_at);
        let metadata_at = round_down(record_at - metadata_bytes, ALIGN);
        // SAFETY: all parts lie in the range, which is this allocator's alone, in the order extent,
        // metadata, record; each is aligned to 16. The metadata is zeroed and the record valid
        // until the range is given back, which only happens after the extent was removed.
        unsafe {
            let metadata = pointers::forward(range.start, metadata_at);
            if !range.is_zeroed {
                metadata.write_bytes(0, record_at - metadata_at);
            }
            let extent = Extent::new(range.start, metadata_at, metadata, range.is_zeroed);
            let record = pointers::forward(range.start, record_at).cast::<Record>();
            record.write(Record::new(extent, range));
            if S::PARKS_LAST {
                pointers::expose(range.start);
            }
            self.records.insert(record);
            self.strategy.add_extent(&record.as_ref().extent);
            record
        }
    }

    /// Takes a range of at least `least` bytes: if the source gives as much, of that part of what
    /// is held that the strategy says.
    fn take(&self, source: &impl MemorySource, least: usize) -> Result<MemoryRange, AllocError> {
        let align = S::EXTENT_ALIGN.max(ALIGN);
        let granule = source.granule();
        let mut bytes = Self::usual_bytes(self.usage.committed_bytes);
        while bytes > least {
            let rounded = round_up(bytes, granule).ok_or(AllocError)?;
            let request = Layout::from_size_align(rounded, align).map_err(|_| AllocError)?;
            if let Ok(range) = source.take(request) {
                return Ok(range);
            }
            bytes /= 2;
        }
        source.take(Layout::from_size_align(least, align).map_err(|_| AllocError)?)
    }

    /// The length of a new range where so much is held, if the source gives as much.
    const fn usual_bytes(committed_bytes: usize) -> usize {
        let part = committed_bytes / S::EXTENT_DIVISOR;
        let part = if part < S::MOST_RANGE_BYTES { part } else { S::MOST_RANGE_BYTES };
        // Whole chunks, so that ranges that must start at one follow each other without a gap.
        let bytes = round_down(part, CHUNK_BYTES);
        if bytes > CHUNK_BYTES { bytes } else { CHUNK_BYTES }
    }

    /// The length of a range whose extent is at least `extent_bytes` long.
    fn range_bytes(&self, extent_bytes: usize, granule: usize) -> Option<usize> {
        let fixed = size_of::<Record>() + 2 * ALIGN;
        let mut range_bytes = extent_bytes;
        // The metadata grows with the range that it is itself a part of. It is a small part, so a
        // few rounds do; a strategy with more metadata than blocks is refused.
        for _ in 0..64 {
            let metadata_bytes = self.metadata_bytes(range_bytes)?;
            let sum = extent_bytes.checked_add(fixed)?.checked_add(metadata_bytes)?;
            let needed = round_up(sum, granule.max(ALIGN))?;
            if needed <= range_bytes {
                return Some(range_bytes);
            }
            range_bytes = needed;
        }
        None
    }

    /// The metadata for the extent of a range, as if that were as long as the range.
    fn metadata_bytes(&self, range_bytes: usize) -> Option<usize> {
        round_up(self.strategy.metadata_bytes(range_bytes), ALIGN)
    }

    /// Gives an extent back.
    ///
    /// # Safety
    /// It is held, no block in it is allocated, and it is not the spare.
    unsafe fn release(&mut self, source: &impl MemorySource, pointer: NonNull<Record>) {
        // SAFETY: the record is valid until its range, of which a copy is made, is given back.
        unsafe {
            let record = pointer.as_ref();
            let range = record.range;
            self.records.remove(record);
            if !record.is_direct {
                self.found.forget(pointer);
                self.strategy.remove_extent(&record.extent);
            }
            self.usage.committed_bytes -= range.length;
            source.give_back(range);
        }
    }
}

// SAFETY: blocks come from the strategy, whose contract is this trait's for as long as the extents
// stay, and an extent is given back only without a live block, or when the allocator is dropped.
// Moving the allocator moves neither extents nor records. It is not Clone.
unsafe impl<S: Strategy, M: MemorySource> Allocator for SourcedAllocator<S, M> {
    #[inline(always)] // measured: with a known layout, 60 instructions less for a pair of stripes'
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if S::HAS_WAITING {
            if self.state().strategy.may_wait(layout)
                && let Some(block) = self.state().strategy.take_waiting(layout)
            {
                self.state().count_new(block);
                return Ok(self.noted(block));
            }
            return self.allocate_out_of_line(layout);
        }
        if layout.size() > S::DIRECT_BYTES {
            let block = self.state().allocate_direct(&self.source, layout, false)?;
            return Ok(self.noted(block));
        }
        if layout.size() != 0 {
            if let Some(block) = self.state().take_parked(&self.source, layout) {
                return Ok(self.noted(block));
            }
            if let Some(block) = self.state().take_shelved(layout) {
                return Ok(self.noted(block));
            }
        }
        self.allocate_by(layout, S::allocate)
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() > S::DIRECT_BYTES {
            let block = self.state().allocate_direct(&self.source, layout, true)?;
            return Ok(self.noted(block));
        }
        self.allocate_by(layout, S::allocate_zeroed)
    }

    #[inline(always)] // measured: as `allocate`
    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        if S::HAS_WAITING && !self.state().strategy.may_wait(layout) {
            // SAFETY: the caller's contract; what is of size zero may wait.
            return unsafe { self.deallocate_out_of_line(block, layout) };
        }
        if layout.size() == 0 {
            return;
        }
        let state = self.state();
        #[cfg(not(loom))]
        if let Some(sites) = state.strategy.sites() {
            sites.forget(block);
        }
        // SAFETY: the caller's contract.
        unsafe { state.park_or_free(&self.source, block, layout) };
    }

    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() == 0 {
            return self.allocate(new);
        }
        // SAFETY: the caller's contract; the new size is at least the old one, which is not zero.
        unsafe {
            match self.resize_in_place(block, old, new) {
                Some(grown) => Ok(grown),
                // Where that was refused, what waited is free now, perhaps behind the block.
                None => self
                    .reallocate(block, old, new, old.size())
                    .or_else(|_| self.resize_in_place(block, old, new).ok_or(AllocError)),
            }
        }
    }

    unsafe fn grow_zeroed(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() == 0 {
            return self.allocate_zeroed(new);
        }
        // SAFETY: the caller's contract; what is cleared is the part that the caller had not used.
        unsafe {
            let grown = self.grow(block, old, new)?;
            let kept = old.size();
            pointers::forward(grown.cast(), kept).write_bytes(0, grown.len() - kept);
            Ok(grown)
        }
    }

    unsafe fn shrink(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if new.size() == 0 {
            // SAFETY: the caller's contract.
            unsafe { self.deallocate(block, old) };
            return self.allocate(new);
        }
        // SAFETY: the caller's contract; neither size is zero.
        unsafe {
            match self.resize_in_place(block, old, new) {
                Some(shrunk) => Ok(shrunk),
                None => self.reallocate(block, old, new, new.size()),
            }
        }
    }
}

// SAFETY: the tree of records holds every extent there is, and every block is in one; the length of
// a block is the strategy's answer, on which its own blocks rest.
unsafe impl<S: Strategy, M: MemorySource> LocalAllocator for SourcedAllocator<S, M> {
    fn contains(&self, address: *const u8) -> bool {
        NonNull::new(address.cast_mut())
            .is_some_and(|address| self.state().records.find(address).is_some())
    }

    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        if layout.size() == 0 { Ok(0) } else { self.state().strategy.block_length(layout) }
    }

    fn memory_usage(&self) -> MemoryUsage {
        self.state().usage_now()
    }

    fn release_unused(&self) {
        let state = self.state();
        state.unpark(&self.source);
        state.release_spare(&self.source);
    }
}

impl<S: Strategy, M: MemorySource> Drop for SourcedAllocator<S, M> {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        while let Some(pointer) = state.records.pop() {
            // SAFETY: the range was taken and not given back; its record is read before that. No
            // block outlives the borrow under which it was allocated.
            unsafe {
                let range = pointer.as_ref().range;
                self.source.give_back(range);
            }
        }
    }
}

impl<S: Strategy, M: MemorySource> fmt::Debug for SourcedAllocator<S, M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("SourcedAllocator");
        shown.field("strategy", &S::NAME).field("usage", &self.memory_usage());
        shown.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::free_list::FreeList;
    use crate::strategy::slab::PlainSlab;

    #[test]
    fn ranges_grow_with_what_is_held_up_to_what_can_be_used() {
        const GIB: usize = 1 << 30;
        type List = State<FreeList>;
        assert_eq!(List::usual_bytes(0), CHUNK_BYTES);
        assert_eq!(List::usual_bytes(CHUNK_BYTES * 5 + 1), CHUNK_BYTES * 5);
        assert_eq!(List::usual_bytes(15 * GIB), 15 * GIB);
        for held in [16 * GIB, 17 * GIB, 1024 * GIB, usize::MAX] {
            assert_eq!(List::usual_bytes(held), FreeList::MOST_RANGE_BYTES);
        }
        assert_eq!(State::<PlainSlab>::usual_bytes(1024 * GIB), 16 * GIB);
    }
}
