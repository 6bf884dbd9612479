//! Cutting blocks from free blocks, and putting them back.

use core::ptr::NonNull;

use super::bins::Taken;
use super::free_block::{self, before, before_if, flagged_length, is_sorted};
use super::record::map_of;
use super::size_class::GRANULE;
use super::top::Top;
use super::{MultipleBinarySearchTree, count_new};
use crate::pointers::{block, forward, padding, prefetch};
use crate::strategy::Extent;

impl MultipleBinarySearchTree {
    /// Allocates `length` bytes, a multiple of the granule above zero.
    ///
    /// Out of line, as [`release`](Self::release) is: what a quick list serves then saves no
    /// register on the stack, and is so short that it is inlined.
    #[inline(never)]
    pub(super) fn cut(&mut self, length: usize) -> Option<NonNull<[u8]>> {
        if let Some(taken) = self.bins.take(length) {
            count_new(taken.extent);
            // SAFETY: the block was taken and is as long as asked.
            return Some(unsafe { self.cut_front(taken, length) });
        }
        if self.bins.may_find_sorted(length) {
            return self.cut_sorted(length);
        }
        self.cut_top(length)
    }

    /// Allocates from the top.
    #[inline]
    fn cut_top(&mut self, length: usize) -> Option<NonNull<[u8]>> {
        if let Some((cut, extent)) = self.top.cut(length) {
            count_new(extent);
            return Some(cut);
        }
        self.cut_flushed(length)
    }

    /// Allocates where nothing is left but, perhaps, what waits in quick lists.
    #[cold]
    #[inline(never)]
    fn cut_flushed(&mut self, length: usize) -> Option<NonNull<[u8]>> {
        if self.quick.is_empty() {
            return None;
        }
        self.flush();
        self.cut(length)
    }

    /// Allocates from the least block that a search finds, or else from the top.
    ///
    /// What remains of the block becomes the top where it is longer than the top that there is.
    #[cold]
    fn cut_sorted(&mut self, length: usize) -> Option<NonNull<[u8]>> {
        let Some(taken) = self.bins.take_sorted(length) else { return self.cut_top(length) };
        if taken.length - length <= self.top.length() {
            count_new(taken.extent);
            // SAFETY: the block was taken and is as long as asked.
            return Some(unsafe { self.cut_front(taken, length) });
        }
        self.release_top();
        // SAFETY: the block was taken, and by the flips its map says that it is allocated.
        unsafe {
            flip_ends(taken);
            self.top = Top::of(taken);
        }
        self.cut_top(length)
    }

    /// Allocates where the granule's alignment does not do: from a block so long that a multiple of
    /// the alignment with `length` bytes behind it lies in it wherever it starts. What remains in
    /// front and behind is free again. Out of line, for few requests need it.
    #[inline(never)]
    pub(super) fn cut_aligned(&mut self, length: usize, alignment: usize) -> Option<NonNull<[u8]>> {
        let mut taken = self.take(length.checked_add(alignment - GRANULE)?)?;
        count_new(taken.extent);
        let start = taken.block.cast();
        let front = padding(start, alignment);
        // SAFETY: the front is at most as long as what was added to the request, and so in the
        // block. The map says that the block is free, and so says of its front what it should.
        unsafe {
            if front != 0 {
                self.bins.insert(taken.block, front, taken.extent);
                taken.block = forward(start, front).cast();
                taken.length -= front;
            }
            Some(self.cut_front(taken, length))
        }
    }

    /// Takes a block of at least `length` bytes, wherever one is found.
    fn take(&mut self, length: usize) -> Option<Taken> {
        if let Some(taken) = self.bins.take(length) {
            return Some(taken);
        }
        if let Some(taken) = self.bins.take_sorted(length) {
            return Some(taken);
        }
        if length > self.top.length() {
            if self.quick.is_empty() {
                return None;
            }
            self.flush();
            return self.take(length);
        }
        let taken = self.top.take()?;
        // SAFETY: the top was allocated as far as the map says.
        unsafe { flip_ends(taken) };
        Some(taken)
    }

    /// Allocates the first `length` bytes of a block that was taken, and frees the rest.
    ///
    /// # Safety
    /// The block was taken just now, is at least that long and still free as far as the map says;
    /// `length` is a multiple of [`GRANULE`] above zero.
    #[inline]
    pub(super) unsafe fn cut_front(&mut self, taken: Taken, length: usize) -> NonNull<[u8]> {
        let start = taken.block.cast::<u8>();
        // SAFETY: both parts lie in the block, and the block in the extent that it names.
        unsafe {
            let end = forward(start, length);
            let map = map_of(taken.extent.as_ref());
            map.flip(start.addr().get());
            map.flip(end.addr().get());
            if taken.length != length {
                self.bins.insert(end.cast(), taken.length - length, taken.extent);
            }
        }
        block(start, length)
    }

    /// Frees a range, and coalesces it with what is free on either side. Out of line, see
    /// [`cut`](Self::cut).
    ///
    /// # Safety
    /// These are whole granules of the extent, at least one, no part of a free block and no longer
    /// allocated; the range's start has the provenance of the extent.
    #[inline(never)]
    pub(super) unsafe fn release(&mut self, extent: &Extent, freed: NonNull<[u8]>) {
        // SAFETY: the contract is the same but for the top; the block's end lies in the extent, or
        // at its end.
        unsafe {
            if self.top.touches(freed.cast(), forward(freed.cast(), freed.len())) {
                return self.free_beside_top(extent, freed);
            }
            if !self.free_apart::<true>(extent, freed) {
                self.free_beside_sorted(extent, freed);
            }
        }
    }

    /// As [`release`](Self::release), in line, where that takes few steps. If not nothing is done.
    ///
    /// # Safety
    /// As there.
    #[inline(always)] // measured: with it all is one function that saves few registers
    pub(super) unsafe fn release_at_once(&mut self, extent: &Extent, freed: NonNull<[u8]>) -> bool {
        let start = freed.cast::<u8>();
        // SAFETY: the caller's contract; the block's end lies in the extent, or at its end.
        unsafe {
            let end = forward(start, freed.len());
            if !self.top.touches(start, end) {
                return self.free_apart::<true>(extent, freed);
            }
            // What was cut last goes back so: before it nothing is free.
            let is_plain = self.top.starts_at(end, extent.into())
                && !map_of(extent).is_set(start.addr().get());
            if is_plain {
                self.top.lower(start);
            }
            is_plain
        }
    }

    /// [`release`](Self::release) of what lies right behind an allocated block.
    ///
    /// # Safety
    /// As there.
    #[inline]
    pub(super) unsafe fn release_tail(&mut self, extent: &Extent, freed: NonNull<[u8]>) {
        // SAFETY: the caller's contract; the tail's end lies in the extent, or at its end.
        unsafe {
            let end = forward(freed.cast(), freed.len());
            if self.top.touches(freed.cast(), end) || !self.free_apart::<false>(extent, freed) {
                self.release(extent, freed);
            }
        }
    }

    /// As [`cut`](Self::cut), in line, where that takes few steps.
    #[inline(always)] // measured: as `release_at_once`
    pub(super) fn cut_at_once(&mut self, length: usize) -> Option<NonNull<[u8]>> {
        if let Some(taken) = self.bins.take(length) {
            count_new(taken.extent);
            // SAFETY: the block was taken and is as long as asked.
            return Some(unsafe { self.cut_front(taken, length) });
        }
        if self.bins.may_find_sorted(length) {
            return None;
        }
        let (cut, extent) = self.top.cut(length)?;
        count_new(extent);
        Some(cut)
    }

    /// [`release`](Self::release) of what does not touch the top, unless what lies beside it is
    /// sorted: then nothing is done. Whether it was freed.
    ///
    /// Whether anything on either side is free nobody can foresee, so no branch asks: where nothing
    /// is, an empty block is joined. What the map will say is not waited for to fetch what lies at
    /// both ends.
    ///
    /// # Safety
    /// As there. Without `ANYWHERE` nothing before it is free.
    #[inline(always)] // measured: as `release_at_once`
    unsafe fn free_apart<const ANYWHERE: bool>(
        &mut self,
        extent: &Extent,
        freed: NonNull<[u8]>,
    ) -> bool {
        let (start, length) = (freed.cast::<u8>(), freed.len());
        prefetch(start, length);
        if ANYWHERE {
            prefetch(start, 0_usize.wrapping_sub(GRANULE));
        }
        // SAFETY: the extent was added, so its record is valid. Where a bit of the map was set, a
        // free block of the extent lies beyond, and is listed.
        unsafe {
            let map = map_of(extent);
            let end = forward(start, length);
            let has_behind = map.is_set(end.addr().get());
            let has_ahead = ANYWHERE && map.is_set(start.addr().get());
            let behind = free_block::or_nothing(has_behind, end.cast());
            let (first, ahead) = before_if(has_ahead, start);
            let total = length + flagged_length(behind) + ahead;
            let ahead = free_block::or_nothing(has_ahead, first);
            if is_sorted(behind) | is_sorted(ahead) {
                return false;
            }
            map.flip(end.addr().get());
            map.flip(start.addr().get());
            self.bins.unlink(behind);
            if ANYWHERE {
                self.bins.unlink(ahead);
            }
            self.bins.insert(first, total, extent.into());
        }
        true
    }

    /// [`release`](Self::release) of what does not touch the top, where a sorted block lies beside
    /// it.
    ///
    /// # Safety
    /// As there.
    #[cold]
    #[inline(never)]
    unsafe fn free_beside_sorted(&mut self, extent: &Extent, freed: NonNull<[u8]>) {
        let (mut first, mut total) = (freed.cast::<u8>(), freed.len());
        // SAFETY: as in `free_apart`.
        unsafe {
            let map = map_of(extent);
            let end = forward(first, total);
            if map.flip(end.addr().get()) {
                total += free_block::length(end.cast());
                self.bins.remove(end.cast());
            }
            if map.flip(first.addr().get()) {
                let (ahead, length) = before(first);
                total += length;
                self.bins.remove(ahead);
                first = ahead.cast();
            }
            self.bins.insert(first.cast(), total, extent.into());
        }
    }

    /// [`release`](Self::release) of what touches the top, or the top of the extent next to its
    /// own.
    ///
    /// # Safety
    /// As there.
    #[inline(never)]
    unsafe fn free_beside_top(&mut self, extent: &Extent, freed: NonNull<[u8]>) {
        let (start, length) = (freed.cast::<u8>(), freed.len());
        // SAFETY: as in `free_apart`; what joins the top is allocated as far as the map says, by
        // the flips, also the free block on the side away from the top. On the top's side is none,
        // for the top is coalesced.
        unsafe {
            if !self.top.is_in(extent.into()) {
                if !self.free_apart::<true>(extent, freed) {
                    self.free_beside_sorted(extent, freed);
                }
                return;
            }
            let map = map_of(extent);
            let end = forward(start, length);
            if end == self.top.start() {
                let mut first = start;
                if map.is_set(first.addr().get()) {
                    let (block, length) = before(first);
                    self.bins.remove(block);
                    flip_ends(Taken { block, length, extent: extent.into() });
                    first = block.cast();
                }
                self.top.lower(first);
            } else {
                let mut end = end;
                if map.is_set(end.addr().get()) {
                    let (block, length) = (end.cast(), free_block::length(end.cast()));
                    self.bins.remove(block);
                    flip_ends(Taken { block, length, extent: extent.into() });
                    end = forward(end, length);
                }
                self.top.lengthen(end);
            }
        }
    }

    /// Makes the top a free block like others.
    pub(super) fn release_top(&mut self) {
        let Some(taken) = self.top.take() else { return };
        // SAFETY: the top was free memory of its extent, coalesced, allocated as far as the map
        // says, and in no list.
        unsafe {
            flip_ends(taken);
            self.bins.insert(taken.block, taken.length, taken.extent);
        }
    }
}

/// Has the map say of a block, which is not next to a free one, that it is free instead of
/// allocated, or the other way round.
///
/// # Safety
/// The block lies in the extent that it names, which was added and not removed.
unsafe fn flip_ends(taken: Taken) {
    let start = taken.block.addr().get();
    // SAFETY: both ends lie in the extent or at its end.
    unsafe {
        let map = map_of(taken.extent.as_ref());
        map.flip(start);
        map.flip(start + taken.length);
    }
}
