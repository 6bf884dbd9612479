//! The spare: one extent without a block, kept so that a program that frees its last block and
//! allocates again does not go to the source each time.
//!
//! A strategy that [tells](Strategy::TELLS_EMPTY) which extents are empty is asked whether the
//! spare still is, when that matters: so nobody looks, at each new block, whether it is cut from
//! the spare.

use core::ptr::NonNull;

use super::State;
use super::records::Record;
use crate::allocator::{MemoryRange, MemorySource};
use crate::strategy::Strategy;

impl<S: Strategy> State<S> {
    /// The spare, if there is one and it has no block.
    fn empty_spare(&self) -> Option<NonNull<Record>> {
        let spare = self.spare?;
        // SAFETY: the spare is held, so its record is valid.
        let is_empty = !S::TELLS_EMPTY || self.strategy.is_empty(unsafe { &spare.as_ref().extent });
        is_empty.then_some(spare)
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
            self.divide(range);
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
    use crate::strategy::free_list::FreeList;
    use crate::strategy::slab::Slab;
    use crate::strategy::sourced::SourcedAllocator;
    use crate::strategy::trees::MultipleBinarySearchTree;

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

    /// The range that is kept is given back only while it has no block.
    fn is_kept_while_used<S: Strategy>() {
        let mut memory = vec![MaybeUninit::new(0xa5); 8 << 20];
        let allocator = SourcedAllocator::<S, _>::new(BorrowedSliceSource::new(&mut memory));
        let layout = Layout::from_size_align(100, 8).unwrap();
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
        is_kept_while_used::<FreeList>();
        is_kept_while_used::<Slab>();
        is_kept_while_used::<Buddy>();
    }
}
