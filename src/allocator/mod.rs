//! The base traits and their contract.
//!
//! # Terms
//! - A block is **currently allocated** from the moment an allocator returned it until it is passed
//!   to `deallocate`, or to `grow` or `shrink` that succeed, of an allocator that may free it.
//! - A layout **fits** a block if it has the alignment that the block was requested with and a size
//!   from the requested one to the length of the slice that was returned. A block may be freed with
//!   any layout that fits it. Every allocator here returns slices *exactly* as long as that rule
//!   allows: all sizes from the requested one to the returned length, at that alignment, map to the
//!   same block, and the next larger size maps to another.
//! - A **range** is what a [`MemorySource`] hands out and takes back.
//!
//! The base trait of every allocator is [`allocator_api2::alloc::Allocator`] 0.2, so that they
//! serve the collections of hashbrown, bumpalo and allocator-api2 as they are.

mod usage;

use core::alloc::Layout;
use core::ptr::NonNull;

pub use allocator_api2::alloc::{AllocError, Allocator};
pub use usage::{MemoryUsage, MemoryUsageChange};

use crate::numa::{Placement, Residence};
use crate::sys::SystemError;

/// What routing needs of an allocator beside allocating and freeing.
///
/// # Safety
/// `contains` answers truthfully for every currently allocated block, and `block_length` gives
/// exactly the length of the slice that the allocator returns for that layout.
pub unsafe trait LocalAllocator: Allocator {
    /// Whether `address` lies in memory that this allocator took from its source. O(log n) or
    /// better.
    fn contains(&self, address: *const u8) -> bool;

    /// The length in bytes of every block that `layout` is served with.
    ///
    /// # Errors
    /// The layout is one that this allocator never serves.
    fn block_length(&self, layout: Layout) -> Result<usize, AllocError>;

    /// What it holds and what of that is allocated.
    fn memory_usage(&self) -> MemoryUsage;

    /// Gives back to the source what holds no block.
    fn release_unused(&self);
}

/// A range of memory from a [`MemorySource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// The first byte.
    pub start: NonNull<u8>,
    /// The length in bytes.
    pub length: usize,
    /// Whether every byte is known to be zero: fresh from the kernel, or given back to it with
    /// success since it was last written.
    pub is_zeroed: bool,
}

impl MemoryRange {
    /// The range as a slice.
    #[inline]
    pub fn as_slice(&self) -> NonNull<[u8]> {
        crate::pointers::block(self.start, self.length)
    }

    /// Whether `address` lies in the range.
    #[inline]
    pub fn contains(&self, address: *const u8) -> bool {
        address.addr().wrapping_sub(self.start.addr().get()) < self.length
    }
}

/// Gives and takes back ranges of memory.
///
/// # Safety
/// - A range that `take` returned is valid for reads and writes, overlaps no other range that is
///   taken, and stays so until it is passed to `give_back`, also when the source is moved.
/// - It is at least as long as was asked, a multiple of [`granule`](Self::granule) long, and
///   aligned as was asked. If it says zeroed, it is.
/// - No method allocates from a heap, frees to the heap that it serves, unwinds, or calls back into
///   whoever called it: it asks for no report and no account's figures either. A lock that it takes
///   is held nowhere else while a heap is entered or closed.
pub unsafe trait MemorySource {
    /// Takes a range of at least `request.size()` bytes aligned to `request.align()`.
    ///
    /// # Errors
    /// The source is exhausted, or the system refused.
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError>;

    /// Takes a range back.
    ///
    /// # Safety
    /// `range` has the start and length of one that this source's `take` (or
    /// `grow` or `shrink`) returned,
    /// which was not given back since, and nothing uses its memory any more.
    unsafe fn give_back(&self, range: MemoryRange);

    /// Makes a range longer where it stands.
    ///
    /// # Errors
    /// What follows the range is not free; the range is unchanged.
    ///
    /// # Safety
    /// As [`give_back`](Self::give_back), but the memory may be in use, and the old range counts as
    /// given back when this succeeds.
    unsafe fn grow(&self, range: MemoryRange, length: usize) -> Result<MemoryRange, AllocError> {
        let _ = (range, length);
        Err(AllocError)
    }

    /// Takes the end of a range back and leaves the first `length` bytes, a multiple of the
    /// granule above zero and shorter than the range, where they stand.
    ///
    /// # Errors
    /// It takes back whole ranges only; the range is unchanged.
    ///
    /// # Safety
    /// As [`give_back`](Self::give_back), but only the end must be unused, and the old range counts
    /// as given back when this succeeds.
    unsafe fn shrink(&self, range: MemoryRange, length: usize) -> Result<MemoryRange, AllocError> {
        let _ = (range, length);
        Err(AllocError)
    }

    /// The unit of what it hands out, in bytes, a power of two; ranges are multiples of it long.
    fn granule(&self) -> usize;

    /// On which NUMA nodes it wants its ranges' pages.
    fn placement(&self) -> Placement {
        Placement::DEFAULT
    }

    /// Takes its locks around every `fork` from now on, so that a child never finds one held by a
    /// thread that it does not have. Called, once or more often, of the sources that the macro or
    /// [`HeapBuilder::source`](crate::HeapBuilder::source) names, before a heap takes anything from
    /// them; of others it is for whoever made them.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn protect_fork(&'static self) -> Result<(), SystemError> {
        Ok(())
    }

    /// On which NUMA nodes the pages of a range lie, as the kernel says, beside where the source
    /// wants them. For any range of memory; nothing is touched.
    ///
    /// # Errors
    /// The system's: `ENOSYS` where it has no NUMA, `EPERM` where a sandbox forbids to ask.
    fn residence_of(&self, range: MemoryRange) -> Result<Residence, SystemError> {
        let mut residence = Residence::wanted(self.placement().policy);
        residence.count_range(range.start, range.length)?;
        residence.look_up_backing(range.start, range.length);
        Ok(residence)
    }
}

// SAFETY: the contract holds for `S` and a shared reference only forwards.
unsafe impl<S: MemorySource + ?Sized> MemorySource for &S {
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        (**self).take(request)
    }

    unsafe fn give_back(&self, range: MemoryRange) {
        // SAFETY: the caller's contract is the same.
        unsafe { (**self).give_back(range) }
    }

    unsafe fn grow(&self, range: MemoryRange, length: usize) -> Result<MemoryRange, AllocError> {
        // SAFETY: the caller's contract is the same.
        unsafe { (**self).grow(range, length) }
    }

    unsafe fn shrink(&self, range: MemoryRange, length: usize) -> Result<MemoryRange, AllocError> {
        // SAFETY: the caller's contract is the same.
        unsafe { (**self).shrink(range, length) }
    }

    fn granule(&self) -> usize {
        (**self).granule()
    }

    fn placement(&self) -> Placement {
        (**self).placement()
    }

    fn protect_fork(&'static self) -> Result<(), SystemError> {
        (**self).protect_fork()
    }

    fn residence_of(&self, range: MemoryRange) -> Result<Residence, SystemError> {
        (**self).residence_of(range)
    }
}

/// A source whose ranges are runs of chunks of the region: the only kind that may back a heap that
/// can become current, for only there an address tells its owner.
///
/// # Safety
/// Every range lies in the region, starts at a chunk's start and is whole chunks long; it came from
/// the region's runs, and any thread may give it back. Where the granule is one chunk, ranges are
/// exactly as long as was asked, rounded up to chunks. Heaps are made on such sources only.
#[diagnostic::on_unimplemented(
    message = "heaps cannot be on `{Self}`: its memory lies outside the region",
    label = "no `RegionSource`",
    note = "write a `RegionMapSource`, or an `ArenaMemorySource` over one; in the macro also \
            `memory_map` or `arena`"
)]
pub unsafe trait RegionSource: MemorySource + Sync + core::fmt::Debug {}
