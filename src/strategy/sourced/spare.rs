//! The one extent without a block that is kept.
//!
//! So a program that frees its last block and allocates again does not go to the source each time.
//! Nobody is told when a block is allocated in it: whether it is still without one is asked when it
//! is wanted.

use core::ptr::NonNull;

use super::State;
use super::records::Record;
use crate::allocator::{MemoryRange, MemorySource};
use crate::strategy::Strategy;

impl<S: Strategy> State<S> {
    /// The spare, if it still has no block.
    pub(super) fn unused_spare(&mut self) -> Option<NonNull<Record>> {
        // SAFETY: the spare is held, so its record is valid.
        let record = unsafe { self.spare?.as_ref() };
        let live = match S::COUNTS_ON_SOURCES {
            true => self.strategy.live_blocks(&record.extent) as usize,
            false => record.live_blocks.get(),
        };
        if live != 0 {
            self.spare = None;
        }
        self.spare
    }

    /// Gives the spare to the strategy anew if it is `needed` bytes long. A strategy that did not
    /// find room in an extent without a block had gone past it (bump), or had it for another size
    /// (slab). Whether it did.
    pub(super) fn renew_spare(&mut self, needed: usize) -> bool {
        let Some(pointer) = self.unused_spare() else { return false };
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
        let Some(spare) = self.unused_spare() else { return false };
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
            let length = |record: NonNull<Record>| record.as_ref().range.length;
            match self.unused_spare() {
                // The spare itself had blocks meanwhile.
                Some(spare) if spare == emptied => {}
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

    use crate::allocator::{Allocator, LocalAllocator};
    use crate::source::MemoryMapSource;
    use crate::strategy::free_list::FreeList;
    use crate::strategy::slab::Slab;
    use crate::strategy::sourced::SourcedAllocator;
    use crate::strategy::{Strategy, buddy::Buddy};

    /// The range that is kept is given back only while it has no block.
    fn is_kept_while_used<S: Strategy>() {
        let allocator = SourcedAllocator::<S, _>::new(MemoryMapSource::new());
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
