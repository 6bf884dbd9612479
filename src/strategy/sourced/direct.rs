//! Requests that get a range of their own, where the strategy wants that.
//!
//! ```text
//!   range.start                                    range.start + length
//!   │ the block, and what its range has more      │ Record │
//! ```

use core::alloc::Layout;
use core::ptr::NonNull;

use super::records::Record;
use super::{ALIGN, Extent, SourcedAllocator, State};
use crate::allocator::{AllocError, MemoryRange, MemorySource};
use crate::pointers;
use crate::strategy::Strategy;
use crate::units::round_up;

impl<S: Strategy, M: MemorySource> SourcedAllocator<S, M> {
    /// Makes a block fit `new` where it stands, where it has a range of its own, or would have one.
    ///
    /// # Safety
    /// As [`resize_in_place`](Self::resize_in_place).
    #[cold]
    pub(super) unsafe fn resize_direct(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<NonNull<[u8]>> {
        let state = self.state();
        let had = state.strategy.block_length(old).ok()?;
        let record = state.record_of(block)?;
        // SAFETY: the record is of an extent that is held, and the block is in it.
        let (record, block) = unsafe { (record.as_ref(), record.as_ref().extent.own(block)) };
        let length = state.strategy.block_length(new).ok()?;
        if length == had {
            return Some(pointers::block(block, had));
        }
        let length = record.resize_direct(&state.strategy, new)?;
        #[cfg(not(loom))]
        if let Some(sites) = state.strategy.sites() {
            sites.resized(block, length);
        }
        if state.is_direct(old) {
            state.count_resized(had, length);
        }
        Some(pointers::block(block, length))
    }
}

impl<S: Strategy> State<S> {
    /// Whether a layout's block has a range of its own. A constant where no layout has.
    #[inline]
    pub(super) fn is_direct(&self, layout: Layout) -> bool {
        layout.size() > S::DIRECT_BYTES
    }

    /// Takes a range for one block.
    #[cold]
    pub(super) fn allocate_direct(
        &mut self,
        source: &impl MemorySource,
        layout: Layout,
        must_be_zeroed: bool,
    ) -> Result<NonNull<[u8]>, AllocError> {
        self.unpark(source);
        let length = self.strategy.block_length(layout)?;
        let with_record = length.checked_add(size_of::<Record>() + ALIGN).ok_or(AllocError)?;
        let bytes = round_up(with_record, source.granule().max(ALIGN)).ok_or(AllocError)?;
        let align = layout.align().max(ALIGN);
        let request = Layout::from_size_align(bytes, align).map_err(|_| AllocError)?;
        let range = match source.take(request) {
            Err(AllocError) if self.release_spare(source) => source.take(request)?,
            result => result?,
        };
        // SAFETY: the range was just taken, and is as long as asked: the record fits behind the
        // block.
        unsafe { self.record_direct(range) };
        self.count_taken(range.length);
        self.usage.allocated_bytes += length;
        self.allocated_blocks += 1;
        if must_be_zeroed && !range.is_zeroed {
            // SAFETY: the block is as long, and nobody else's.
            unsafe { range.start.write_bytes(0, length) };
        }
        Ok(pointers::block(range.start, length))
    }

    /// Writes the record of a range that serves one block, which is allocated.
    ///
    /// # Safety
    /// The range is this allocator's alone, and has room for the record and its alignment behind
    /// the block.
    unsafe fn record_direct(&mut self, range: MemoryRange) {
        // SAFETY: the record lies in the range by the contract; it is valid until the range is
        // given back, which is after it was removed.
        unsafe {
            let end = range.length - size_of::<Record>();
            let slot = pointers::forward(range.start, end);
            let record_at = end - (slot.addr().get() & (ALIGN - 1));
            let extent = Extent::new(range.start, record_at, NonNull::dangling(), range.is_zeroed);
            let record = pointers::forward(range.start, record_at).cast::<Record>();
            record.write(Record::direct(extent, range));
            self.records.insert(record);
        }
    }
}

impl Record {
    /// The length that `new` has in this range, if it stays there: where it still has a range of
    /// its own, fits, and does not leave more than half of the range unused.
    pub(super) fn resize_direct<S: Strategy>(&self, strategy: &S, new: Layout) -> Option<usize> {
        let length = strategy.block_length(new).ok()?;
        let fits = length <= self.extent.length() && length >= self.extent.length() / 2;
        (self.is_direct && new.size() > S::DIRECT_BYTES && fits).then_some(length)
    }
}
