//! `MultipleBinarySearchTree`: red-black trees of free blocks.
mod bins;
mod free_block;
mod record;
mod red_black;
mod size_class;
mod top;
#[cfg(test)]
mod tests;
mod verify;

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use crate::allocator::AllocError;
use crate::pointers::{block, distance, forward, padding};
use crate::strategy::{Extent, Strategy};
use crate::units::{PAGE_BYTES, round_down, round_up};
use bins::{Bins, Taken};
use free_block::{HEAD_BYTES, TAIL_BYTES, before};
use record::Record;
use size_class::GRANULE;
use top::Top;
use verify::broken;

/// See the [module](self).
#[derive(Debug)]
pub struct MultipleBinarySearchTree {
    bins: Bins,
    top: Top,
    records: *mut Record,
}

// SAFETY: the pointers lead to memory that is the strategy's alone, by the contract of `add_extent`.
unsafe impl Send for MultipleBinarySearchTree {}

impl MultipleBinarySearchTree {
    /// Cuts `length` bytes from the front of a block that was taken, and frees the rest.
    ///
    /// # Safety
    /// The block was taken just now, is at least that long and marked in its map as one free block;
    /// `length` is a multiple of [`GRANULE`] above zero.
    #[inline]
    unsafe fn cut_front(&mut self, taken: Taken, length: usize) -> NonNull<[u8]> {
        let start = taken.block.cast::<u8>();
        let rest = taken.length - length;
        // SAFETY: the block lies in the extent of its record, and both parts in the block.
        unsafe {
            let map = taken.record.as_ref().map;
            let end = forward(start, length);
            map.flip(start.addr().get());
            map.flip(end.addr().get());
            if rest != 0 {
                self.bins.insert(end.cast(), rest, taken.record);
            }
        }
        block(start, length)
    }

    /// Allocates from the least block that a search finds, or else from the top.
    #[cold]
    fn allocate_sorted(&mut self, length: usize) -> Option<NonNull<[u8]>> {
        let Some(taken) = self.bins.take_sorted(length) else { return self.top.cut(length) };
        if taken.length - length <= self.top.length() {
            // SAFETY: the block was taken and is as long as asked.
            return Some(unsafe { self.cut_front(taken, length) });
        }
        // SAFETY: both tops are free blocks of their extents, the old one in no list.
        unsafe {
            self.release_top();
            let start = taken.block.cast::<u8>();
            let map = taken.record.as_ref().map;
            map.flip(start.addr().get());
            map.flip(start.addr().get() + taken.length);
            self.top = Top::of(taken);
        }
        self.top.cut(length)
    }

    /// Makes the top a free block like others.
    unsafe fn release_top(&mut self) {
        let Some(Taken { block, length, record }) = core::mem::replace(&mut self.top, Top::new()).taken() else { return };
        // SAFETY: the top is a free block of its extent.
        unsafe {
            let map = record.as_ref().map;
            map.flip(block.addr().get());
            map.flip(block.addr().get() + length);
            self.bins.insert(block, length, record);
        }
    }

    /// Takes a block of at least `length` bytes out, wherever one is found.
    fn take(&mut self, length: usize) -> Option<Taken> {
        if let Some(taken) = self.bins.take(length) {
            return Some(taken);
        }
        if let Some(taken) = self.bins.take_sorted(length) {
            return Some(taken);
        }
        if length > self.top.length() { return None; }
        let taken = core::mem::replace(&mut self.top, Top::new()).taken()?;
        unsafe {
            let map = taken.record.as_ref().map;
            map.flip(taken.block.addr().get());
            map.flip(taken.block.addr().get() + taken.length);
        }
        Some(taken)
    }

    /// [`free`](Self::free) beside the top, which is not marked in the map.
    #[inline(never)]
    unsafe fn free_beside_top(&mut self, extent: &Extent, start: NonNull<u8>, length: usize) {
        let record = extent.metadata().cast::<Record>();
        if !self.top.is_in(record) {
            return unsafe { self.free_apart(extent, start, length) };
        }
        unsafe {
            let map = record.as_ref().map;
            let mut end = forward(start, length);
            let mut first = start;
            if map.is_set(end.addr().get()) {
                let behind = free_block::length(end.cast());
                self.bins.remove(end.cast());
                map.flip(end.addr().get());
                end = forward(end, behind);
                map.flip(end.addr().get());
            }
            if map.is_set(start.addr().get()) {
                let (block, _) = before(start);
                self.bins.remove(block);
                first = block.cast();
                map.flip(first.addr().get());
                map.flip(start.addr().get());
            }
            self.top.join(first, end);
        }
    }

    /// Allocates where the granule's alignment does not do.
    #[inline(never)]
    fn allocate_aligned(&mut self, length: usize, alignment: usize) -> Option<NonNull<[u8]>> {
        let mut taken = self.take(length.checked_add(alignment - GRANULE)?)?;
        let start = taken.block.cast::<u8>();
        let front = padding(start, alignment);
        if front != 0 {
            // SAFETY: the front is shorter than what the request was lengthened by, and so lies in the
            // block. It stays marked at its start, gets its end and the block behind it a start.
            unsafe {
                let aligned = forward(start, front);
                self.bins.insert(taken.block, front, taken.record);
                taken.block = aligned.cast();
                taken.length -= front;
            }
        }
        // SAFETY: the block was taken, and is as long as asked behind its front.
        Some(unsafe { self.cut_front(taken, length) })
    }

    /// Frees `start..start + length`, and coalesces it with the free blocks on either side.
    ///
    /// # Safety
    /// These are whole granules of the extent, in no free block and no longer allocated; `start` has
    /// the provenance of the extent.
    #[inline]
    unsafe fn free(&mut self, extent: &Extent, start: NonNull<u8>, length: usize) {
        if self.top.touches(start, length) {
            return unsafe { self.free_beside_top(extent, start, length) };
        }
        unsafe { self.free_apart(extent, start, length) }
    }

    #[inline]
    unsafe fn free_apart(&mut self, extent: &Extent, start: NonNull<u8>, length: usize) {
        let record = extent.metadata().cast::<Record>();
        // SAFETY: the extent was added, so its record was written. Where a bit of the map beside the
        // range is set, a free block ends or starts there, and is listed.
        unsafe {
            let map = record.as_ref().map;
            let end = forward(start, length);
            let (mut first, mut length) = (start.cast(), length);
            if map.flip(end.addr().get()) {
                let behind = free_block::length(end.cast());
                self.bins.remove(end.cast());
                length += behind;
            }
            if map.flip(start.addr().get()) {
                let ahead;
                (first, ahead) = before(start);
                self.bins.remove(first);
                length += ahead;
            }
            self.bins.insert(first, length, record);
        }
    }
}

/// The length of the block that serves a request of `size` bytes.
#[inline]
const fn rounded(size: usize) -> usize {
    // A layout's size is at most `isize::MAX`, so this does not overflow.
    (size + (GRANULE - 1)) & !(GRANULE - 1)
}

/// The pointer to `block` with the provenance of its extent.
///
/// # Safety
/// `block` lies in `extent`.
#[inline]
unsafe fn in_extent(extent: &Extent, block: NonNull<u8>) -> NonNull<u8> {
    // SAFETY: the block lies in the extent by the contract.
    unsafe { forward(extent.start(), distance(extent.start(), block)) }
}

// SAFETY: TODO
unsafe impl Strategy for MultipleBinarySearchTree {
    type Settings = ();

    const NAME: &'static str = "MultipleBinarySearchTree";

    const EXTENT_ALIGN: usize = GRANULE;

    fn new((): ()) -> Self {
        Self { bins: Bins::new(), top: Top::new(), records: ptr::null_mut() }
    }

    fn metadata_bytes(&self, extent_bytes: usize) -> usize {
        record::metadata_bytes(extent_bytes)
    }

    fn extent_bytes(&self, layout: Layout) -> Option<usize> {
        let length = self.block_length(layout).ok()?;
        length.checked_add(layout.align().saturating_sub(GRANULE))
    }

    #[inline]
    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        match rounded(layout.size()) {
            length if length <= isize::MAX as usize => Ok(length),
            _ => Err(AllocError),
        }
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let length = rounded(layout.size());
        if layout.align() > GRANULE {
            return self.allocate_aligned(length, layout.align());
        }
        if let Some(taken) = self.bins.take(length) {
            // SAFETY: the block was taken and is as long as asked.
            return Some(unsafe { self.cut_front(taken, length) });
        }
        if self.bins.may_find_sorted(length) {
            return self.allocate_sorted(length);
        }
        self.top.cut(length)
    }

    #[inline]
    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the block is allocated, as long as `block_length` of any layout that fits it.
        unsafe { self.free(extent, in_extent(extent, block), rounded(layout.size())) }
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
        let record = extent.metadata().cast::<Record>();
        // SAFETY: the block lies in the extent, whose record was written; where the map says so, a
        // free block starts at its end.
        unsafe {
            let end = forward(in_extent(extent, block), old_length);
            if self.top.starts_at(end, record) {
                return self.top.cut(more).map(|_| new_length);
            }
            if !record.as_ref().map.is_set(end.addr().get()) {
                return None;
            }
            let length = free_block::length(end.cast());
            if length < more {
                return None;
            }
            self.bins.remove(end.cast());
            self.cut_front(Taken { block: end.cast(), length, record }, more);
        }
        Some(new_length)
    }

    unsafe fn shrink_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        let (old_length, new_length) = (rounded(old.size()), rounded(new.size()));
        // SAFETY: the tail lies in the block, which the caller gives up to its new length.
        unsafe {
            let tail = forward(in_extent(extent, block), new_length);
            self.free(extent, tail, old_length - new_length);
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
            self.free(extent, extent.start(), round_down(extent.length(), GRANULE));
        }
    }

    unsafe fn remove_extent(&mut self, extent: &Extent) {
        let record = extent.metadata().cast::<Record>();
        // SAFETY: the extent was added, so its record is in the list. Nothing in it is allocated, so
        // all of it is one free block, by coalescing at once.
        unsafe {
            let length = round_down(extent.length(), GRANULE);
            if self.top.is_in(record) {
                self.release_top();
            }
            if free_block::length(extent.start().cast()) != length {
                broken("an extent is removed that is not one free block");
            }
            self.bins.remove(extent.start().cast());
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
        let record = extent.metadata().cast::<Record>();
        // SAFETY: TODO
        unsafe {
            verify::for_each_free(record, |first, length| {
                let start = distance(extent.start(), first.cast());
                let _ = (start, length, PAGE_BYTES, HEAD_BYTES, TAIL_BYTES, round_up(1,1));
                let _ = &visit;
            });
        }
    }
}
