//! The top: the free block that is cut last.
//!
//! Where no listed block fits, blocks are cut one after another from the front of one large free
//! block. To keep its ends, its bits in the map and its place in a list up to date at each cut
//! would cost ten times the cut, so the top is none of that: nothing is written in it, the map says
//! that it is allocated, and no list holds it. In exchange whoever frees a block compares its two
//! ends with the top's.

use core::mem;
use core::ptr::NonNull;

use super::bins::Taken;
use crate::pointers::{block, distance, forward};
use crate::strategy::Extent;

/// The top, see the [module](self).
///
/// # Invariants
/// `start..end` is free memory of `extent`, coalesced: no free block touches it. It
/// is empty where `extent` is none, and may be empty otherwise.
#[derive(Debug)]
pub(super) struct Top {
    start: NonNull<u8>,
    end: NonNull<u8>,
    extent: Option<NonNull<Extent>>,
}

impl Top {
    /// An empty top in no extent.
    pub(super) const fn new() -> Self {
        let nowhere = NonNull::dangling();
        Self { start: nowhere, end: nowhere, extent: None }
    }

    /// Makes a free block the top.
    ///
    /// # Safety
    /// The block is free memory of the extent that it names, coalesced, and allocated as far as the
    /// map and the lists say.
    pub(super) unsafe fn of(taken: Taken) -> Self {
        let start = taken.block.cast();
        // SAFETY: the end of the block lies in its extent, or at its end.
        let end = unsafe { forward(start, taken.length) };
        Self { start, end, extent: Some(taken.extent) }
    }

    /// Empties the top, and gives what it was unless that was empty.
    pub(super) fn take(&mut self) -> Option<Taken> {
        let old = mem::replace(self, Self::new());
        let extent = old.extent.filter(|_| old.length() > 0)?;
        Some(Taken { block: old.start.cast(), length: old.length(), extent })
    }

    #[inline]
    pub(super) fn length(&self) -> usize {
        distance(self.start, self.end)
    }

    #[inline]
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    #[inline]
    pub(super) fn is_in(&self, extent: NonNull<Extent>) -> bool {
        self.extent == Some(extent)
    }

    /// Whether the top starts at `end`, and in `extent`.
    #[inline]
    pub(super) fn starts_at(&self, end: NonNull<u8>, extent: NonNull<Extent>) -> bool {
        end == self.start && self.is_in(extent)
    }

    /// Cuts `length` bytes, more than none, from the front, and tells the extent.
    #[inline]
    pub(super) fn cut(&mut self, length: usize) -> Option<(NonNull<[u8]>, NonNull<Extent>)> {
        if length > self.length() {
            return None;
        }
        let extent = self.extent?;
        let start = self.start;
        // SAFETY: the top is at least that long.
        self.start = unsafe { forward(start, length) };
        Some((block(start, length), extent))
    }

    /// Whether `start..end` ends where the top starts, or the other way round. If so, whether it is
    /// in the same extent is still to be asked: extents may touch.
    #[inline]
    pub(super) fn touches(&self, start: NonNull<u8>, end: NonNull<u8>) -> bool {
        (end == self.start) | (start == self.end)
    }

    /// Adds what lies between `start` and the top.
    ///
    /// # Safety
    /// This is free memory of the same extent, allocated as far as the map and the lists say, and
    /// with it the top is coalesced.
    #[inline]
    pub(super) unsafe fn lower(&mut self, start: NonNull<u8>) {
        self.start = start;
    }

    /// Adds what lies between the top and `end`.
    ///
    /// # Safety
    /// As [`lower`](Self::lower).
    #[inline]
    pub(super) unsafe fn lengthen(&mut self, end: NonNull<u8>) {
        self.end = end;
    }
}
