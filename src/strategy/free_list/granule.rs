//! An extent's memory by granules of 16 bytes, and what lies in a hole's first and last one.
//!
//! ```text
//!   first granule    │                          front │
//!   last granule     │ length   next   previous       │
//! ```
//!
//! Both have the hole's length, so that a block that is freed finds where the holes beside it begin
//! and end. A hole of one granule has all four.

use core::cell::Cell;
use core::ptr::NonNull;

use crate::pointers;

/// log2 of [`GRANULE`].
const GRANULE_SHIFT: u32 = 4;

/// What blocks are multiples of, and aligned to.
pub(super) const GRANULE: usize = 1 << GRANULE_SHIFT;

/// What lies in a granule of a hole; lengths are in granules.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Granule {
    /// In a hole's last granule: its length.
    pub(super) length: Cell<u32>,
    /// In a hole's last granule, for the index: which hole comes next.
    pub(super) next: Cell<u32>,
    /// In a hole's last granule, for the index: which hole comes before.
    pub(super) previous: Cell<u32>,
    /// In a hole's first granule: its length.
    pub(super) front: Cell<u32>,
}
const _: () = assert!(size_of::<Granule>() == GRANULE);

/// The granules of a block of `bytes`.
#[inline]
pub(super) const fn granules_for(bytes: usize) -> usize {
    // A layout's size is at most isize::MAX, so the sum does not overflow.
    (bytes + (GRANULE - 1)) >> GRANULE_SHIFT
}

/// The memory of an extent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground(NonNull<Granule>);

impl Ground {
    /// # Safety
    /// `start` leads to an extent whose holes are the caller's, as long as this is used.
    pub(super) const unsafe fn new(start: NonNull<u8>) -> Self {
        Self(start.cast())
    }

    /// Where a granule starts.
    ///
    /// # Safety
    /// It is one of the extent's, or its end.
    #[inline]
    pub(super) unsafe fn address(self, index: usize) -> NonNull<u8> {
        // SAFETY: the caller's contract.
        unsafe { pointers::element(self.0, index) }.cast()
    }

    /// The granule that an address lies in.
    #[inline]
    pub(super) fn index_of(self, address: NonNull<u8>) -> usize {
        pointers::distance(self.0.cast(), address) >> GRANULE_SHIFT
    }

    /// The granule before `end`, as the last one of a hole.
    ///
    /// # Safety
    /// It lies in a hole, or in granules that become one.
    #[inline]
    pub(super) unsafe fn last<'a>(self, end: usize) -> &'a Granule {
        // SAFETY: the granule is the strategy's alone, and all in it are cells.
        unsafe { self.first(end - 1) }
    }

    /// A granule as the first one of a hole.
    ///
    /// # Safety
    /// As [`last`](Self::last).
    #[inline]
    pub(super) unsafe fn first<'a>(self, start: usize) -> &'a Granule {
        // SAFETY: as above.
        unsafe { self.address(start).cast().as_ref() }
    }

    /// Writes a hole's length into its last granule and its first.
    ///
    /// # Safety
    /// The granules lie in a hole, or in granules that become one.
    #[inline]
    pub(super) unsafe fn write_length(self, end: usize, granules: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            self.last(end).length.set(granules as u32);
            self.first(end - granules).front.set(granules as u32);
        }
    }
}
