//! A mapping for each block.
//!
//! [`MemoryMapAllocator`], through the allocator trait, costs an `mmap` and a `munmap` a block,
//! some microseconds and the faults of every page, and at least a page; what it gives is memory
//! that goes back to the system the moment it is freed, zeroed blocks for free, and growth that
//! moves page tables instead of bytes (`mremap`: 1 GiB grows as fast as 1 MiB). For few large
//! blocks: buffers, tables, the stacks of an interpreter.
//!
//! Its mappings lie outside the region, so it backs no heap that may become current. It cannot tell
//! whether an address is its own without asking the system, so it is no
//! [`LocalAllocator`](crate::allocator::LocalAllocator).
//!
//! [`MemoryMap`] is the same inside a heap, where only memory of the region may be: each block is a
//! run of chunks of its own, and no mapping, so that the system's limit on mappings does not bound
//! the blocks. It costs a lock or two a block, and the faults; at least 64 KiB of address space and
//! a page of memory. A block that is freed leaves nothing behind: its run goes back at once, and
//! its pages to the system when the region's decay comes to them. A block grows where it stands
//! while what follows is free, and is copied otherwise.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::{Extent, Strategy};
use crate::allocator::{AllocError, Allocator, MemoryRange, MemorySource};
use crate::pointers;
use crate::source::memory_map::{Refusal, Step};
use crate::source::{MemoryMapSettings, MemoryMapSettingsError, MemoryMapSource};
use crate::sys::page_bytes;
use crate::units::{CHUNK_SHIFT, PAGE_BYTES, chunks_for};

/// Serves each block with a mapping of its own. Any thread may use it at once.
///
/// A block is as long as its size rounded up to the settings' granule. A block of size zero has no
/// mapping.
#[derive(Debug)]
pub struct MemoryMapAllocator {
    source: MemoryMapSource,
}

impl MemoryMapAllocator {
    /// Blocks of whole pages of 4 KiB, as the system maps them.
    pub const fn new() -> Self {
        let settings = MemoryMapSettings::new().granule(PAGE_BYTES).alignment(PAGE_BYTES);
        match Self::with_settings(settings) {
            Ok(allocator) => allocator,
            Err(_) => panic!("a page is a valid granule"),
        }
    }

    /// Blocks that are mapped as `settings` say.
    ///
    /// # Errors
    /// A setting that no mapping can have.
    pub const fn with_settings(
        settings: MemoryMapSettings,
    ) -> Result<Self, MemoryMapSettingsError> {
        match MemoryMapSource::with_settings(settings) {
            Ok(source) => Ok(Self { source }),
            Err(error) => Err(error),
        }
    }

    /// How many blocks there are, each a mapping, or were and could not be unmapped.
    pub fn mapping_count(&self) -> usize {
        self.source.mapping_count()
    }

    /// The length of all blocks in bytes, and of what the system refused to unmap.
    pub fn mapped_bytes(&self) -> usize {
        self.source.mapped_bytes()
    }

    /// What the system refused of it so far; nothing where every block is as it was asked.
    pub fn refusals(&self) -> impl Iterator<Item = Refusal> + '_ {
        self.source.refusals()
    }

    /// The last reason for which the system refused a mapping.
    pub fn last_map_refusal(&self) -> Option<Refusal> {
        self.source.refusals().find(|refusal| refusal.step == Step::Map)
    }

    fn empty(layout: Layout) -> NonNull<[u8]> {
        pointers::block(pointers::dangling(layout.align()), 0)
    }

    /// The range of a block with that layout.
    fn range(&self, block: NonNull<u8>, layout: Layout) -> Result<MemoryRange, AllocError> {
        let length = self.source.length_for(layout.size())?;
        Ok(MemoryRange { start: block, length, is_zeroed: false })
    }

    /// Resizes a block, by its page tables where that is possible, else by copying.
    ///
    /// # Safety
    /// As [`Allocator::grow`] or [`Allocator::shrink`]; neither size is zero.
    unsafe fn resize(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let range = self.range(block, old)?;
        let length = self.source.length_for(new.size())?;
        if !pointers::is_aligned(block, new.align()) {
            // SAFETY: the caller's contract.
            return unsafe { self.copy(block, old, new) };
        }
        if length == range.length {
            return Ok(range.as_slice());
        }
        // What moves lands at a page's alignment.
        let may_move = new.align().max(self.source.settings().minimum_alignment()) <= page_bytes();
        // SAFETY: the range is the block's mapping, and the old one is not used after a move.
        match unsafe { self.source.resize(range, length, may_move) } {
            Ok(resized) => Ok(resized.as_slice()),
            // SAFETY: the caller's contract.
            Err(_) => unsafe { self.copy(block, old, new) },
        }
    }

    /// Moves a block's bytes to a new one. What is behind them is zero.
    ///
    /// # Safety
    /// As [`resize`](Self::resize).
    #[cold]
    unsafe fn copy(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let moved = self.allocate(new)?;
        // SAFETY: both blocks are valid for the lesser of the sizes and do not overlap; the old one
        // is the caller's to free.
        unsafe {
            let kept = old.size().min(new.size());
            moved.cast::<u8>().copy_from_nonoverlapping(block, kept);
            self.deallocate(block, old);
        }
        Ok(moved)
    }
}

impl Default for MemoryMapAllocator {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: a block is a mapping of its own until it is freed, wherever the allocator is. Its length
// is a function of its size, the same for every size up to that length, so any layout that fits
// frees it.
unsafe impl Allocator for MemoryMapAllocator {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(Self::empty(layout));
        }
        Ok(self.source.take(layout)?.as_slice())
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // The kernel zeroes every mapping.
        self.allocate(layout)
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        if layout.size() == 0 {
            return;
        }
        // A layout that fits never overflows: the block was made with it.
        if let Ok(range) = self.range(block, layout) {
            // SAFETY: the range is the block's mapping, and nothing uses it any more.
            unsafe { self.source.give_back(range) };
        }
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
        // SAFETY: the caller's contract; `new` is not smaller than `old`.
        unsafe { self.resize(block, old, new) }
    }

    /// Bytes behind the old block are fresh from the kernel.
    unsafe fn grow_zeroed(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract.
        let grown = unsafe { self.grow(block, old, new) }?;
        // The trait would let what is between the old size and the old block's end stay as it was;
        // but then what a caller sees as zero depends on the granule.
        let end = self.source.length_for(old.size()).unwrap_or(0).min(new.size());
        if old.size() > 0 && end > old.size() {
            // SAFETY: the part lies behind the old size in the block that was just made.
            unsafe { pointers::forward(grown.cast(), old.size()).write_bytes(0, end - old.size()) };
        }
        Ok(grown)
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
            return Ok(Self::empty(new));
        }
        // SAFETY: the caller's contract; `new` is not larger than `old`.
        unsafe { self.resize(block, old, new) }
    }
}

/// The strategy of heaps in which each block is a run of chunks of its own; see the
/// [module](self).
///
/// It has no extent, and no request reaches it: its owner asks the source for each block.
#[derive(Debug)]
pub struct MemoryMap;

// SAFETY: it cuts no block. The length of one is a function of its size alone, grows with it, and
// is the same for every size up to it. No extent is long enough for a layout, so none is asked for.
unsafe impl Strategy for MemoryMap {
    type Settings = ();

    const NAME: &'static str = "memory_map";
    const HAS_NO_EXTENTS: bool = true;
    const DEFAULT: Self = Self;
    const DIRECT_BYTES: usize = 0;

    fn new((): ()) -> Self {
        Self
    }

    fn extent_bytes(&self, _: Layout) -> Option<usize> {
        None
    }

    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        let chunks = chunks_for(layout.size()).ok_or(AllocError)?;
        Ok(chunks << CHUNK_SHIFT)
    }

    fn allocate(&mut self, _: Layout) -> Option<NonNull<[u8]>> {
        None
    }

    unsafe fn deallocate(&mut self, _: &Extent, _: NonNull<u8>, _: Layout) {}

    unsafe fn add_extent(&mut self, _: &Extent) {}

    unsafe fn remove_extent(&mut self, _: &Extent) {}
}

#[cfg(all(test, not(heapswitch_pass_through)))]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    fn layout(bytes: usize, alignment: usize) -> Layout {
        Layout::from_size_align(bytes, alignment).unwrap()
    }

    fn bytes_of(block: NonNull<[u8]>) -> &'static mut [u8] {
        // SAFETY: the block is a mapping, so initialised, and the test's alone until it is freed.
        unsafe { &mut *block.as_ptr() }
    }

    #[test]
    fn blocks_are_zeroed_aligned_and_gone_when_freed() {
        let allocator = MemoryMapAllocator::new();
        for shift in [0, 4, 12, 16, 22] {
            for size in [1, PAGE, PAGE + 1, 100_000] {
                let asked = layout(size, 1 << shift);
                let block = allocator.allocate_zeroed(asked).unwrap();
                assert!(pointers::is_aligned(block.cast(), 1 << shift));
                assert_eq!(block.len(), size.next_multiple_of(PAGE));
                assert!(bytes_of(block).iter().all(|byte| *byte == 0));
                bytes_of(block).fill(1);
                assert_eq!(allocator.mapping_count(), 1);
                // Any size from the requested one to the returned length frees it.
                // SAFETY: allocated above.
                unsafe { allocator.deallocate(block.cast(), layout(block.len(), 1 << shift)) };
                assert_eq!((allocator.mapping_count(), allocator.mapped_bytes()), (0, 0));
            }
        }
    }

    #[test]
    fn size_zero_maps_nothing() {
        let allocator = MemoryMapAllocator::new();
        let block = allocator.allocate(layout(0, 64)).unwrap();
        assert_eq!((block.len(), allocator.mapping_count()), (0, 0));
        // SAFETY: allocated above; each block is replaced by the next.
        unsafe {
            let grown = allocator.grow(block.cast(), layout(0, 64), layout(10, 64)).unwrap();
            assert_eq!(allocator.mapping_count(), 1);
            let empty = allocator.shrink(grown.cast(), layout(10, 64), layout(0, 64)).unwrap();
            allocator.deallocate(empty.cast(), layout(0, 64));
        }
        assert_eq!(allocator.mapping_count(), 0);
        assert!(allocator.allocate(layout(isize::MAX as usize, 1)).is_err());
    }

    #[test]
    fn growing_and_shrinking_keep_contents_at_every_alignment() {
        let allocator = MemoryMapAllocator::new();
        for shift in [0, 12, 16, 21] {
            let mut now = layout(PAGE / 2, 1 << shift);
            let mut block = allocator.allocate(now).unwrap();
            bytes_of(block)[..now.size()].fill(9);
            let sizes = [PAGE, PAGE + 1, 300_000, 9 << 20, 300_000, PAGE + 1, 10];
            for (step, size) in sizes.into_iter().enumerate() {
                // Each second step asks for another alignment as well.
                let next = layout(size, if step % 2 == 0 { 1 << shift } else { 1 << 14 });
                let kept = now.size().min(size);
                // SAFETY: the block was allocated with `now`.
                block = unsafe {
                    if size >= now.size() {
                        allocator.grow_zeroed(block.cast(), now, next)
                    } else {
                        allocator.shrink(block.cast(), now, next)
                    }
                }
                .unwrap();
                assert!(pointers::is_aligned(block.cast(), next.align()));
                assert_eq!(block.len(), size.next_multiple_of(PAGE));
                let (old, new) = bytes_of(block)[..size].split_at(kept);
                assert!(old.iter().all(|byte| *byte == 9) && new.iter().all(|byte| *byte == 0));
                bytes_of(block)[..size].fill(9);
                assert_eq!((allocator.mapping_count(), allocator.mapped_bytes()), (1, block.len()));
                now = next;
            }
            // SAFETY: the block was allocated with `now`.
            unsafe { allocator.deallocate(block.cast(), now) };
        }
        assert_eq!((allocator.mapping_count(), allocator.mapped_bytes()), (0, 0));
    }
}
