//! The spare: one extent without a block, kept so that a program that frees its last block and
//! allocates again does not go to the source each time.
//!
//! A strategy that [tells](Strategy::TELLS_EMPTY) which extents are empty is asked whether the
//! spare still is, when that matters: so nobody looks, at each new block, whether it is cut from
//! the spare.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::records::Record;
use super::{ALIGN, SourcedAllocator, State};
use crate::allocator::{AllocError, MemoryRange, MemorySource};
use crate::strategy::Strategy;
use crate::units::round_up;

impl<S: Strategy, M: MemorySource> SourcedAllocator<S, M> {
    /// Takes a range of at least `bytes` from the source now, unless one as long is held without a
    /// block. What is kept about the range, records and metadata, is a part of it.
    ///
    /// For whoever knows how much will be needed, or has one piece of memory for all: blocks at the
    /// end of one range never join what is free at the start of the next, so one range serves the
    /// same blocks from less memory than several, and faster. Call it before the first block: a
    /// bump does not return to the range that it leaves. Of no use to a slab, whose classes have
    /// ranges of their own, nor for requests that the strategy leaves [to the
    /// source](Strategy::DIRECT_BYTES).
    ///
    /// The range is kept while it has blocks, or is the longest without: until
    /// [`release_unused`](crate::allocator::LocalAllocator::release_unused), or until the source
    /// refuses a request.
    ///
    /// ```
    /// use core::alloc::Layout;
    /// use core::mem::MaybeUninit;
    /// use heapswitch::allocator::{Allocator, LocalAllocator};
    /// use heapswitch::{BorrowedSliceSource, MultipleBinarySearchTreeAllocator};
    ///
    /// let mut memory = [MaybeUninit::uninit(); 64 << 10];
    /// let trees = MultipleBinarySearchTreeAllocator::new(BorrowedSliceSource::new(&mut memory));
    /// trees.reserve(60 << 10)?;
    /// let held = trees.memory_usage().committed_bytes;
    /// let block = trees.allocate(Layout::new::<[u8; 50 << 10]>())?;
    /// assert_eq!(trees.memory_usage().committed_bytes, held);
    /// # unsafe { trees.deallocate(block.cast(), Layout::new::<[u8; 50 << 10]>()) };
    /// # Ok::<(), allocator_api2::alloc::AllocError>(())
    /// ```
    ///
    /// # Errors
    /// The source has no such range, or it is longer than what the strategy [ever
    /// takes](Strategy::MOST_RANGE_BYTES). Nothing has changed but that a shorter range without a
    /// block may have gone back.
    pub fn reserve(&self, bytes: usize) -> Result<(), AllocError> {
        let state = self.state();
        state.unpark(&self.source);
        state.reserve(&self.source, bytes)
    }
}

impl<S: Strategy> State<S> {
    /// The spare, if there is one and it has no block.
    fn empty_spare(&self) -> Option<NonNull<Record>> {
        let spare = self.spare?;
        // SAFETY: the spare is held, so its record is valid.
        let is_empty = !S::TELLS_EMPTY || self.strategy.is_empty(unsafe { &spare.as_ref().extent });
        is_empty.then_some(spare)
    }

    /// Counts a range that was taken.
    pub(super) fn count_taken(&mut self, bytes: usize) {
        let usage = &mut self.usage;
        usage.committed_bytes += bytes;
        usage.peak_committed_bytes = usage.peak_committed_bytes.max(usage.committed_bytes);
        self.found.fit(usage.committed_bytes);
    }

    /// Makes the spare a range of at least `bytes`.
    #[cold]
    fn reserve(&mut self, source: &impl MemorySource, bytes: usize) -> Result<(), AllocError> {
        #[cfg(heapswitch_check)]
        self.verify();
        if bytes == 0 {
            return Ok(());
        }
        let granule = source.granule().max(ALIGN);
        let shortest = self.strategy.extent_bytes(Layout::new::<u8>()).ok_or(AllocError)?;
        let least = self.range_bytes(shortest, granule).ok_or(AllocError)?;
        let bytes = round_up(bytes.max(least), granule).ok_or(AllocError)?;
        // SAFETY: the spare is held, so its record is valid.
        let is_as_long = |spare: NonNull<Record>| unsafe { spare.as_ref() }.range.length >= bytes;
        if self.empty_spare().is_some_and(is_as_long) {
            return Ok(());
        }
        if bytes > S::MOST_RANGE_BYTES {
            return Err(AllocError);
        }
        let align = S::EXTENT_ALIGN.max(ALIGN);
        let request = Layout::from_size_align(bytes, align).map_err(|_| AllocError)?;
        // What is shorter and without a block would not be kept beside it.
        self.release_spare(source);
        let range = source.take(request)?;
        // SAFETY: the range was just taken, and has room for the shortest extent of use.
        self.spare = Some(unsafe { self.divide(range) });
        self.count_taken(range.length);
        Ok(())
    }

    /// Gives the spare to the strategy anew if it is `needed` bytes long. A strategy that did not
    /// find room in an extent without a block had gone past it (bump), or had it for another size
    /// (slab). Whether it did.
    pub(super) fn renew_spare(&mut self, needed: usize) -> bool {
        let Some(pointer) = self.empty_spare() else { return false };
        // SAFETY: the spare is held, so its record is valid, and no block in it is allocated; the
        // record is read for the last time before it is written anew, at the same place.
        unsafe {
            let record = pointer.as_ref();
            if record.extent.length() < needed {
                return false;
            }
            let range = MemoryRange { is_zeroed: false, ..record.range };
            self.records.remove(record);
            self.strategy.remove_extent(&record.extent);
            // At the same place.
            let _ = self.divide(range);
        }
        true
    }

    /// Gives the spare back to the source. Whether there was one.
    pub(super) fn release_spare(&mut self, source: &impl MemorySource) -> bool {
        let Some(spare) = self.empty_spare() else { return false };
        self.spare = None;
        // SAFETY: the spare is held and has no block, and it is the spare no more.
        unsafe { self.release(source, spare) };
        true
    }

    /// An extent's last block was freed: keeps it or the spare, the longer, and releases the other.
    #[cold]
    #[inline(never)]
    pub(super) fn became_empty(&mut self, source: &impl MemorySource, emptied: NonNull<Record>) {
        // SAFETY: the extents are held, so their records are valid, and neither has a block.
        unsafe {
            if emptied.as_ref().is_direct {
                return self.release(source, emptied);
            }
            if self.spare == Some(emptied) {
                return self.strategy.became_empty(&emptied.as_ref().extent);
            }
            let length = |record: NonNull<Record>| record.as_ref().range.length;
            match self.empty_spare() {
                Some(spare) if length(spare) >= length(emptied) => {
                    return self.release(source, emptied);
                }
                Some(spare) => self.release(source, spare),
                None => {}
            }
            self.spare = Some(emptied);
            self.strategy.became_empty(&emptied.as_ref().extent);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::alloc::Layout;
    use core::mem::MaybeUninit;

    use crate::allocator::{Allocator, LocalAllocator};
    use crate::source::BorrowedSliceSource;
    use crate::strategy::Strategy;
    use crate::strategy::bit_set::BitSet;
    use crate::strategy::buddy::Buddy;
    use crate::strategy::bump::Bump;
    use crate::strategy::free_list::FreeList;
    use crate::strategy::slab::{PlainSlab, Slab};
    use crate::strategy::sourced::SourcedAllocator;
    use crate::strategy::stripes::Stripes;
    use crate::strategy::trees::MultipleBinarySearchTree;
    use crate::units::CHUNK_BYTES;

    /// Blocks are cut from the spare without anybody being told.
    fn what_is_cut_from_the_spare_keeps_it<S: Strategy>() {
        let mut memory = vec![MaybeUninit::new(0xa5); 8 << 20];
        let allocator = SourcedAllocator::<S, _>::new(BorrowedSliceSource::new(&mut memory));
        let layout = Layout::from_size_align(1024, 8).unwrap();
        let committed = || allocator.memory_usage().committed_bytes;
        let new = || allocator.allocate(layout).unwrap().cast::<u8>();
        // SAFETY: those below are allocated with that layout.
        let free = |block| unsafe { allocator.deallocate(block, layout) };
        let mut blocks = vec![new()];
        let first_range = committed();
        while committed() == first_range {
            blocks.push(new());
        }
        let both_ranges = committed();
        let last = blocks.pop().unwrap();
        // The second range is the spare, and a block is cut from it again.
        free(last);
        let mut again = new();
        allocator.release_unused();
        assert_eq!(committed(), both_ranges, "none is without a block");
        // SAFETY: the block is allocated.
        unsafe { again.write_bytes(7, 1024) };
        // The first range is emptied, and kept; the second is, and the longer stays.
        blocks.drain(..).for_each(free);
        assert_eq!(committed(), both_ranges);
        // SAFETY: as above.
        assert!((0..1024).all(|at| unsafe { again.add(at).read() } == 7));
        free(again);
        let longest = first_range.max(both_ranges - first_range);
        assert_eq!(committed(), longest);
        // The spare is emptied again and again.
        for _ in 0..3 {
            again = new();
            free(again);
            assert_eq!(committed(), longest);
        }
        allocator.verify();
        allocator.release_unused();
        let usage = allocator.memory_usage();
        assert_eq!((usage.committed_bytes, usage.allocated_blocks), (0, 0));
    }

    #[test]
    fn blocks_in_the_spare_keep_it() {
        what_is_cut_from_the_spare_keeps_it::<MultipleBinarySearchTree>();
        what_is_cut_from_the_spare_keeps_it::<BitSet>();
        what_is_cut_from_the_spare_keeps_it::<FreeList>();
    }

    /// Where ranges have room, what was freed in one serves before pages that nobody has touched of
    /// another.
    fn serves_what_was_freed<S: Strategy>() {
        let mut memory = vec![MaybeUninit::new(0xa5); 8 << 20];
        let allocator = SourcedAllocator::<S, _>::new(BorrowedSliceSource::new(&mut memory));
        let new = |size| {
            let layout = Layout::from_size_align(size, 8).unwrap();
            (allocator.allocate(layout).unwrap().cast::<u8>(), layout)
        };
        // SAFETY: those below are allocated with their layouts.
        let free = |(block, layout)| unsafe { allocator.deallocate(block, layout) };
        let committed = || allocator.memory_usage().committed_bytes;
        let mut blocks = vec![new(4000)];
        while committed() < 4 << 20 {
            blocks.push(new(4000));
        }
        // In the last range is one block, and a hole that is nearly as long as what is asked for
        // below.
        let shorter = new(1800);
        let mut kept = vec![blocks.pop().unwrap(), new(4000)];
        free(shorter);
        // The others are full, and every other block of these goes.
        let mut freed = Vec::new();
        for (index, block) in blocks.into_iter().enumerate() {
            if index % 2 == 1 {
                freed.push(block.0.addr().get());
                free(block);
            } else {
                kept.push(block);
            }
        }
        let mut elsewhere = 0;
        for _ in 1..freed.len() {
            let (block, layout) = new(1900);
            let address = block.addr().get();
            let is_in = |start: &usize| (*start..*start + 4032 - 1900).contains(&address);
            elsewhere += usize::from(!freed.iter().any(is_in));
            kept.push((block, layout));
        }
        assert!(elsewhere <= 2, "{}: {elsewhere} of {}", S::NAME, freed.len());
        kept.into_iter().for_each(free);
    }

    #[test]
    fn what_was_freed_serves_before_what_nobody_has_touched() {
        serves_what_was_freed::<MultipleBinarySearchTree>();
        serves_what_was_freed::<BitSet>();
        serves_what_was_freed::<FreeList>();
    }

    /// What is reserved serves, stays, and goes back; a longer range takes its place.
    fn serves_what_is_reserved<S: Strategy>() {
        const MIB: usize = 1 << 20;
        let mut memory = vec![MaybeUninit::new(0xa5); 8 * MIB];
        let allocator = SourcedAllocator::<S, _>::new(BorrowedSliceSource::new(&mut memory));
        let committed = || allocator.memory_usage().committed_bytes;
        assert!(allocator.reserve(9 * MIB).is_err() && allocator.reserve(usize::MAX).is_err());
        allocator.reserve(0).unwrap();
        assert_eq!((committed(), allocator.source().free_bytes()), (0, 8 * MIB));
        allocator.reserve(1).unwrap();
        let least = committed();
        assert!((16..=CHUNK_BYTES).contains(&least), "{}: {least}", S::NAME);
        let byte = allocator.allocate(Layout::new::<u8>()).unwrap();
        assert_eq!(committed(), least, "the shortest range serves");
        // SAFETY: allocated with that layout.
        unsafe { allocator.deallocate(byte.cast(), Layout::new::<u8>()) };
        allocator.reserve(MIB).unwrap();
        allocator.reserve(MIB / 2).unwrap();
        assert_eq!(committed(), MIB, "what is there does");
        allocator.reserve(5 * MIB).unwrap();
        assert_eq!(committed(), 5 * MIB, "the shorter one had no block");
        allocator.verify();
        let layout = Layout::from_size_align(1000, 8).unwrap();
        for _ in 0..2 {
            let blocks: Vec<_> = (0..4000)
                .map(|_| {
                    let block = allocator.allocate_zeroed(layout).unwrap();
                    // SAFETY: the block is allocated.
                    assert!(unsafe { block.as_ref() }.iter().all(|&byte| byte == 0));
                    block.cast::<u8>()
                })
                .collect();
            assert_eq!(committed(), 5 * MIB, "all are from it");
            allocator.verify();
            // It has blocks, so another is taken.
            allocator.reserve(MIB).unwrap();
            assert_eq!(committed(), 6 * MIB);
            for block in blocks {
                // SAFETY: allocated above with that layout.
                unsafe { allocator.deallocate(block, layout) };
            }
            allocator.verify();
            assert_eq!(committed(), 5 * MIB, "the longer one stays");
        }
        allocator.release_unused();
        assert_eq!((committed(), allocator.source().free_bytes()), (0, 8 * MIB));
    }

    #[test]
    fn what_is_reserved_serves() {
        serves_what_is_reserved::<MultipleBinarySearchTree>();
        serves_what_is_reserved::<BitSet>();
        serves_what_is_reserved::<FreeList>();
        serves_what_is_reserved::<Buddy>();
        serves_what_is_reserved::<Stripes>();
        serves_what_is_reserved::<Bump<false>>();
    }

    /// A range may be too short for some classes of a slab.
    #[test]
    fn what_is_reserved_for_short_blocks_is_in_the_way_of_no_others() {
        let mut memory = vec![MaybeUninit::new(0xa5); 1 << 20];
        let source = BorrowedSliceSource::new(&mut memory);
        let allocator = SourcedAllocator::<PlainSlab, _>::new(source);
        allocator.reserve(20 << 10).unwrap();
        let layout = Layout::from_size_align(32 << 10, 8).unwrap();
        let blocks: Vec<_> = (0..8).map(|_| allocator.allocate(layout).unwrap()).collect();
        allocator.verify();
        for block in blocks {
            // SAFETY: allocated above with that layout.
            unsafe { allocator.deallocate(block.cast(), layout) };
        }
        allocator.verify();
        allocator.release_unused();
    }

    /// The range that is kept is given back only while it has no block.
    fn is_kept_while_used<S: Strategy>(bytes: usize) {
        let mut memory = vec![MaybeUninit::new(0xa5); 8 << 20];
        let allocator = SourcedAllocator::<S, _>::new(BorrowedSliceSource::new(&mut memory));
        let layout = Layout::from_size_align(bytes, 8).unwrap();
        let usage = || allocator.memory_usage();
        for _ in 0..3 {
            let block = allocator.allocate(layout).unwrap();
            assert_eq!(usage().allocated_blocks, 1);
            assert_eq!(usage().allocated_bytes, block.len());
            allocator.release_unused();
            assert_ne!(usage().committed_bytes, 0);
            // SAFETY: allocated above, and written to only while it is.
            unsafe {
                block.cast::<u8>().write_bytes(7, block.len());
                allocator.deallocate(block.cast(), layout);
            }
            assert_eq!((usage().allocated_blocks, usage().allocated_bytes), (0, 0));
            assert_ne!(usage().committed_bytes, 0, "it is kept");
        }
        allocator.release_unused();
        assert_eq!(usage().committed_bytes, 0);
    }

    #[test]
    fn a_range_that_has_a_block_again_is_no_spare() {
        for bytes in [100, 2000, 9000] {
            is_kept_while_used::<FreeList>(bytes);
            is_kept_while_used::<Slab>(bytes);
            is_kept_while_used::<Buddy>(bytes);
        }
    }
}
