//! The block that was freed last, while it may be asked for again.
//!
//! Where one block is freed and another of the same layout is allocated next, as in a table whose
//! entries are replaced, that block serves, and neither the strategy nor a count is told: all would
//! be as before. Telling them is most of what such a pair costs: some 100 instructions and 22
//! stores for a table in stripes, 41 and 9 without. Where the table does not fit the caches that
//! is what matters, because a processor that has less to do for one entry looks at more of them at
//! once. Stores matter most, for it has room for fewer of them than of instructions, and each waits
//! there until the memory has come that those before it write to: with a store more for an entry
//! of eight words the pair took a tenth more time, with 15 instructions less the same.
//!
//! So nothing is stored where the compiler sees the free and the request that follows: it drops
//! what the free stores, for the request stores to the same place, and what the request stores, for
//! that is there already. To see it, it needs
//! - that the block is known by a [number](pointers::number), and not by a pointer;
//! - that whether one is here is the last that a free asks before it parks a block;
//! - that a request takes out what is here before it asks whether that fits.
//!
//! Nobody can tell the difference: whatever else is asked first frees the block that is parked, and
//! so does the free that leaves it alone in its range, or another range without a block. As long as
//! no range without a block is kept, a block's range need not be looked for to park it.
//!
//! Only for strategies that [want it](Strategy::PARKS_LAST). Where requests of random sizes follow
//! frees, a block that was parked in vain costs some 15 instructions: 4 to 16 % of what others
//! than stripes take.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::State;
use super::records::Record;
use super::shelf::is_few_left;
use crate::allocator::{MemorySource, MemoryUsage};
use crate::pointers;
use crate::strategy::Strategy;
use crate::sys::abort_with;

/// A block that its user freed, or none.
///
/// # Invariants
/// The layout fits the block that is here, which was allocated and then freed; the strategy and all
/// counts still have it. Its range has another, or there is no spare.
pub(super) struct Parked {
    /// The block's [number](pointers::number), or 0.
    block: usize,
    /// Of the block, or of the one that was here last: where blocks come and go by one layout, it
    /// is compared and never stored.
    layout: Layout,
}

impl Parked {
    pub(super) const fn none() -> Self {
        Self { block: 0, layout: Layout::new::<u8>() }
    }

    #[inline]
    fn is_none(&self) -> bool {
        self.block == 0
    }

    /// The block, and the bytes that were asked for.
    pub(super) fn of(&self) -> Option<(NonNull<u8>, usize)> {
        // SAFETY: it is 0 or a block's number.
        Some((unsafe { pointers::of_number(self.block) }?, self.layout.size()))
    }

    /// Whether the layout is the one for blocks here.
    #[inline]
    pub(super) fn is_for(&self, layout: Layout) -> bool {
        self.layout.size() == layout.size() && self.layout.align() == layout.align()
    }

    /// The layout of the block that is here, or of the one that was here last.
    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// Puts a block of a layout in where none is.
    pub(super) fn put_of(&mut self, block: NonNull<u8>, layout: Layout) {
        self.layout = layout;
        self.put(block);
    }

    /// Puts a block in where none is, of the layout that is here.
    #[inline]
    fn put(&mut self, block: NonNull<u8>) {
        // SAFETY: a block is a byte long or more.
        self.block = unsafe { pointers::number(block) };
    }

    /// Takes out what is here. The pointer is the range's, which was exposed, and not that with
    /// which the block came back.
    #[inline]
    fn take(&mut self) -> Option<NonNull<u8>> {
        // SAFETY: it is 0 or a block's number.
        unsafe { pointers::of_number(core::mem::take(&mut self.block)) }
    }

    /// Whether the block at that address is parked.
    #[inline]
    pub(super) fn is_at(&self, address: NonNull<u8>) -> bool {
        // SAFETY: the address is in a range, or of a block that comes back.
        self.block == unsafe { pointers::number(address) }
    }
}

impl<S: Strategy> State<S> {
    /// Takes out the block that is parked if it fits the layout, which is not of size zero, and
    /// else frees it.
    #[inline]
    pub(super) fn take_parked(
        &mut self,
        source: &impl MemorySource,
        layout: Layout,
    ) -> Option<NonNull<[u8]>> {
        if !S::PARKS_LAST {
            return None;
        }
        let block = self.parked.take()?;
        if !self.parked.is_for(layout) {
            self.free_taken(source, block);
            return None;
        }
        Some(pointers::block(block, self.strategy.length_of_block(layout)))
    }

    /// Parks a block, if none is parked and its range has another or would be kept without one; or
    /// else frees it.
    ///
    /// # Safety
    /// It is currently allocated, and the layout fits it.
    #[inline(always)] // measured: as `free`; parked and taken in sight of each other, see above
    pub(super) unsafe fn park_or_free(
        &mut self,
        source: &impl MemorySource,
        block: NonNull<u8>,
        layout: Layout,
    ) {
        if S::PARKS_LAST && !self.is_direct(layout) {
            // SAFETY: the caller's contract, for each call below.
            unsafe {
                if !self.parked.is_for(layout) || self.spare.is_some() {
                    if self.parked.is_none() {
                        return self.look_and_park(source, block, layout);
                    }
                } else if self.parked.is_none() {
                    self.check_held(block);
                    return self.parked.put(block);
                } else if self.try_shelve(block) {
                    return;
                }
                return self.find_and_free(source, block, layout);
            }
        }
        let Some(pointer) = self.record_of(block) else { return };
        // SAFETY: the record is of the block's extent, and the rest is the caller's contract.
        unsafe { self.free(source, block, layout, pointer) };
    }

    /// Frees a block, or lets it wait on the shelf if its own range has more than few, although
    /// another may not. Apart, so that whoever parks or shelves has registers left.
    ///
    /// # Safety
    /// As [`park_or_free`](Self::park_or_free), of a block that is not parked.
    #[inline(never)]
    unsafe fn find_and_free(
        &mut self,
        source: &impl MemorySource,
        block: NonNull<u8>,
        layout: Layout,
    ) {
        self.check_freed(block);
        let Some(pointer) = self.record_of(block) else { return };
        // SAFETY: the record is of the block's extent, and the rest is the caller's contract.
        unsafe {
            let is_shelved = self.parked.is_for(layout)
                && !self.parked.is_none()
                && self.shelf.try_push_of(block, pointer.as_ref().live_blocks.get());
            if !is_shelved {
                self.free(source, block, layout, pointer);
            }
        }
    }

    /// The same where none is parked, but the block's range must be looked at: the layout is
    /// another than that of the block that was parked last, or there is a spare.
    ///
    /// # Safety
    /// As [`park_or_free`](Self::park_or_free).
    #[inline(never)]
    unsafe fn look_and_park(
        &mut self,
        source: &impl MemorySource,
        block: NonNull<u8>,
        layout: Layout,
    ) {
        self.check_held(block);
        let Some(pointer) = self.record_of(block) else { return };
        // SAFETY: the record is of an extent that is held.
        let is_alone = unsafe { pointer.as_ref() }.live_blocks.get() == 1;
        if is_alone && self.spare.is_some() {
            // SAFETY: the record is of the block's extent, and the rest is the caller's contract.
            return unsafe { self.free(source, block, layout, pointer) };
        }
        if !self.parked.is_for(layout) {
            self.clear_shelf(source);
        }
        self.parked.put_of(block, layout);
    }

    /// In builds that check: aborts if that block is in no range, or was freed before.
    #[inline]
    fn check_held(&self, block: NonNull<u8>) {
        if cfg!(any(test, heapswitch_check)) {
            if self.records.find(block).is_none() {
                abort_with(&[S::NAME, ": a block is freed that is in no range"]);
            }
            if self.shelf.is_at(block) {
                abort_with(&[S::NAME, ": a block is freed that is free already"]);
            }
        }
    }

    /// Aborts if that block is parked, and in builds that check also if it waits beside that: it
    /// was freed before.
    #[inline]
    pub(super) fn check_freed(&self, block: NonNull<u8>) {
        let is_checked = cfg!(any(test, heapswitch_check));
        if self.parked.is_at(block) || (is_checked && self.shelf.is_at(block)) {
            abort_with(&[S::NAME, ": a block is freed that is free already"]);
        }
    }

    /// Frees the block that is parked, and those that wait beside it.
    #[inline]
    pub(super) fn unpark(&mut self, source: &impl MemorySource) {
        if S::PARKS_LAST {
            if self.shelf.length() != 0 {
                self.clear_shelf(source);
            }
            if !self.parked.is_none() {
                self.free_parked(source);
            }
        }
    }

    #[inline(never)]
    fn free_parked(&mut self, source: &impl MemorySource) {
        if let Some(block) = self.parked.take() {
            self.free_taken(source, block);
        }
    }

    /// Frees the block that was parked, and was just taken out.
    #[inline(never)]
    fn free_taken(&mut self, source: &impl MemorySource, block: NonNull<u8>) {
        let layout = self.parked.layout;
        if let Some(record) = self.record_of(block) {
            // SAFETY: the block was parked, so it was freed with that layout.
            unsafe { self.free(source, block, layout, record) };
        }
    }

    /// Frees a block.
    ///
    /// # Safety
    /// It is currently allocated, the layout fits it, and it is neither parked nor waits; the
    /// record is of its extent.
    #[inline(always)] // measured: with a known layout, 30 instructions less for a block of stripes
    pub(super) unsafe fn free(
        &mut self,
        source: &impl MemorySource,
        block: NonNull<u8>,
        layout: Layout,
        pointer: NonNull<Record>,
    ) {
        if S::COUNTS_ON_SOURCES && !self.is_direct(layout) {
            // SAFETY: the record is of an extent that is held, the block is in it, and the layout
            // fits; where the strategy says so, no block in it is left.
            unsafe {
                let extent = &pointer.as_ref().extent;
                if !self.strategy.free(extent, block, layout) {
                    return;
                }
                if self.spare != Some(pointer) {
                    return self.became_empty(source, pointer);
                }
                // Kept already: for a program that has one block at a time, without a call.
                return self.strategy.became_empty(extent);
            }
        }
        let length = self.strategy.length_of_block(layout);
        // SAFETY: as above.
        let has_few_left = unsafe {
            let record = pointer.as_ref();
            if S::TELLS_EMPTY && !self.is_direct(layout) {
                self.strategy.free(&record.extent, block, layout)
            } else {
                if !self.is_direct(layout) {
                    self.strategy.deallocate(&record.extent, block, layout);
                }
                let live = record.live_blocks.get().wrapping_sub(1);
                record.live_blocks.set(live);
                is_few_left::<S>(live)
            }
        };
        self.usage.allocated_bytes = self.usage.allocated_bytes.wrapping_sub(length);
        self.allocated_blocks = self.allocated_blocks.wrapping_sub(1);
        if has_few_left {
            if S::TELLS_EMPTY && self.spare == Some(pointer) {
                // As above.
                // SAFETY: the record is of an extent that is held, and no block in it is left.
                return unsafe { self.strategy.became_empty(&pointer.as_ref().extent) };
            }
            self.became_almost_empty(source, pointer);
        }
    }

    /// A range has few blocks left, and of those as many as matter.
    #[cold]
    #[inline(never)]
    fn became_almost_empty(&mut self, source: &impl MemorySource, pointer: NonNull<Record>) {
        // SAFETY: the record is of an extent that is held.
        let record = unsafe { pointer.as_ref() };
        let live = record.live_blocks.get();
        if S::PARKS_LAST && !record.is_direct {
            self.fell_to(source, live);
        }
        if live == 0 {
            // Of two ranges without a block in use one goes.
            self.unpark(source);
            self.became_empty(source, pointer);
        } else if live == 1
            && self.parked.of().is_some_and(|(block, _)| record.extent.contains(block))
        {
            self.unpark(source);
        }
    }

    /// What is in use: with what the strategy counted, without the block that is parked and those
    /// that wait beside it.
    pub(super) fn usage_now(&self) -> MemoryUsage {
        let mut usage = MemoryUsage { allocated_blocks: self.allocated_blocks, ..self.usage };
        if S::COUNTS_ON_SOURCES {
            let (blocks, bytes) = self.strategy.used();
            usage.allocated_blocks += blocks;
            usage.allocated_bytes += bytes;
        }
        let freed = self.shelf.length() + usize::from(!self.parked.is_none());
        usage.allocated_bytes -= freed * self.strategy.length_of_block(self.parked.layout);
        usage.allocated_blocks -= freed;
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StripeAllocator;
    use crate::allocator::{Allocator, LocalAllocator};
    use crate::source::BorrowedSliceSource;
    use core::mem::MaybeUninit;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    fn counts(allocator: &impl LocalAllocator) -> (usize, usize) {
        let usage = allocator.memory_usage();
        (usage.allocated_blocks, usage.allocated_bytes)
    }

    #[test]
    fn the_block_freed_last_serves_its_layout_and_the_counts_do_not_know() {
        let mut memory = vec![MaybeUninit::new(0xa5); 64 << 10];
        let stripes = StripeAllocator::new(BorrowedSliceSource::new(&mut memory));
        let blocks = [(); 4].map(|()| stripes.allocate(layout(64)).unwrap());
        // SAFETY: each is allocated, and freed with its layout.
        unsafe {
            stripes.deallocate(blocks[1].cast(), layout(64));
            assert_eq!(counts(&stripes), (3, 3 * 64));
            assert_eq!(stripes.allocate(layout(64)), Ok(blocks[1]));
            assert_eq!(counts(&stripes), (4, 4 * 64));
            // Two are freed: the first of them is parked, and both serve again.
            stripes.deallocate(blocks[3].cast(), layout(64));
            stripes.deallocate(blocks[0].cast(), layout(64));
            let mut again = [(); 2].map(|()| stripes.allocate(layout(64)).unwrap());
            again.sort_by_key(|block| block.addr());
            assert_eq!(again, [blocks[0], blocks[3]]);
            // What is asked to be zero is not taken as it is.
            blocks[2].cast::<u64>().write(7);
            stripes.deallocate(blocks[2].cast(), layout(64));
            let zeroed = stripes.allocate_zeroed(layout(64)).unwrap();
            assert_eq!(zeroed.cast::<u64>().read(), 0);
        }
        assert_eq!(counts(&stripes), (4, 4 * 64));
        stripes.verify();
    }

    #[test]
    fn another_layout_finds_the_block_free() {
        let mut memory = vec![MaybeUninit::new(0xa5); 64 << 10];
        let stripes = StripeAllocator::new(BorrowedSliceSource::new(&mut memory));
        let first = stripes.allocate(layout(8192)).unwrap();
        let next = stripes.allocate(layout(8192)).unwrap();
        // SAFETY: each is allocated, and freed with its layout.
        unsafe {
            stripes.deallocate(first.cast(), layout(8192));
            let shorter = stripes.allocate(layout(6144)).unwrap();
            assert_eq!(shorter.cast::<u8>(), first.cast(), "in the same place");
            stripes.deallocate(next.cast(), layout(8192));
            let grown = stripes.grow(shorter.cast(), layout(6144), layout(16_384)).unwrap();
            assert_eq!(grown.cast::<u8>(), first.cast(), "nothing is in the way any more");
        }
        assert_eq!(counts(&stripes), (1, 16_384));
        stripes.verify();
    }

    /// As many ranges go back as if each free told the strategy at once.
    #[test]
    fn no_range_is_kept_for_a_block_that_is_parked() {
        let mut memory = vec![MaybeUninit::new(0xa5); 8 << 20];
        let source = BorrowedSliceSource::new(&mut memory);
        let stripes = StripeAllocator::new(&source);
        let committed = || stripes.memory_usage().committed_bytes;
        let (mut blocks, mut ranges) = (Vec::new(), Vec::new());
        let free = |block: NonNull<[u8]>| {
            // SAFETY: those below are allocated with that layout.
            unsafe { stripes.deallocate(block.cast(), layout(1024)) };
        };
        // Until there is one block in the third range.
        while ranges.len() < 3 {
            let before = committed();
            blocks.push(stripes.allocate(layout(1024)).unwrap());
            ranges.extend(Some(committed() - before).filter(|more| *more != 0));
        }
        let last = blocks.pop().unwrap();
        // The second of all is parked until it is asked for again; the second range is the spare.
        blocks[1..].iter().for_each(|block| free(*block));
        assert_eq!(stripes.allocate(layout(1024)), Ok(blocks[1]));
        assert_eq!(committed(), ranges.iter().sum());
        free(last);
        assert_eq!(committed(), ranges[0] + ranges[1].max(ranges[2]), "alone, it is not parked");
        free(blocks[1]);
        free(blocks[0]);
        assert_eq!(committed(), ranges.iter().copied().max().unwrap(), "all are free by now");
        assert_eq!(counts(&stripes), (0, 0));
    }

    #[test]
    fn of_two_ranges_without_a_block_in_use_one_goes() {
        let mut memory = vec![MaybeUninit::new(0xa5); 8 << 20];
        let source = BorrowedSliceSource::new(&mut memory);
        let stripes = StripeAllocator::new(&source);
        let committed = || stripes.memory_usage().committed_bytes;
        let mut blocks = vec![stripes.allocate(layout(1024)).unwrap()];
        let first_range = committed();
        while committed() == first_range {
            blocks.push(stripes.allocate(layout(1024)).unwrap());
        }
        let longest = first_range.max(committed() - first_range);
        let last = blocks.pop().unwrap();
        // SAFETY: all are allocated with that layout.
        let free = |block: &NonNull<[u8]>| unsafe {
            stripes.deallocate(block.cast(), layout(1024));
        };
        blocks[1..].iter().for_each(free);
        // Frees what is parked.
        stripes.release_unused();
        free(&blocks[0]);
        assert!(committed() > longest, "there is no spare yet, so it may be parked");
        free(&last);
        assert_eq!((committed(), counts(&stripes)), (longest, (0, 0)));
    }
}
