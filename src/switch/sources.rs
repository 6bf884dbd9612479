//! The memory sources that the macro makes for heaps: one arena of chunks for all contexts, or for
//! all threads' heaps.
//!
//! ```text
//!   heap ── a chunk ──────▶ arena ── a range of chunks ──▶ the region, as the settings say
//!        ── a longer run ───────────────────────────────▶
//! ```
//!
//! Taking and giving back a chunk are an exchange on the arena's stack, without a lock. Chunks that
//! heaps give back stay with the arena, which keeps an idle range and some more
//! ([`ArenaMemorySource`]): neither decay nor a purge reaches those.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::configuration::region_for;
use super::in_use::CurrentAllocatorInUse;
use crate::allocator::{AllocError, MemoryRange, MemorySource, RegionSource};
use crate::numa::Placement;
use crate::source::region_map::RegionMapSource;
use crate::source::{ArenaMemorySource, ArenaSettings, ArenaSizes};
use crate::sys::SystemError;
use crate::units::CHUNK_BYTES;

/// Runs of the region as the settings of contexts or of threads' heaps say, for no node in
/// particular.
#[derive(Clone, Copy, Debug)]
struct Configured {
    in_use: CurrentAllocatorInUse,
}

impl Configured {
    fn region(&self) -> &'static RegionMapSource {
        region_for(self.in_use, None)
    }
}

// SAFETY: every method is that of the region's source. A range goes back to the segments that it is
// from, whichever source of the region is asked.
unsafe impl MemorySource for Configured {
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        self.region().take(request)
    }

    unsafe fn give_back(&self, range: MemoryRange) {
        // SAFETY: the caller's contract is the same.
        unsafe { self.region().give_back(range) }
    }

    unsafe fn grow(&self, range: MemoryRange, length: usize) -> Result<MemoryRange, AllocError> {
        // SAFETY: the caller's contract is the same.
        unsafe { self.region().grow(range, length) }
    }

    unsafe fn shrink(&self, range: MemoryRange, length: usize) -> Result<MemoryRange, AllocError> {
        // SAFETY: the caller's contract is the same.
        unsafe { self.region().shrink(range, length) }
    }

    fn granule(&self) -> usize {
        CHUNK_BYTES
    }

    fn placement(&self) -> Placement {
        self.region().placement()
    }
}

// SAFETY: ranges are those of the region's source.
unsafe impl RegionSource for Configured {}

/// An arena of chunks over the region. Longer runs, and such as are aligned to more, are the
/// region's own.
#[derive(Debug)]
pub struct Arena {
    chunks: ArenaMemorySource<Configured>,
    runs: Configured,
}

/// An arena for the heaps of contexts or of threads. It takes `range_bytes` of the region at a
/// time, and `maximum_bytes` at most.
///
/// # Panics
/// In a constant, so when it is compiled: for sizes that no arena can have.
pub const fn arena(
    in_use: CurrentAllocatorInUse,
    range_bytes: usize,
    maximum_bytes: usize,
) -> Arena {
    let sizes = ArenaSizes { block_bytes: CHUNK_BYTES, range_bytes, maximum_bytes };
    let Ok(settings) = ArenaSettings::new(sizes) else { panic!("no arena has these sizes") };
    let runs = Configured { in_use };
    Arena { chunks: ArenaMemorySource::new(runs, settings), runs }
}

/// Whether the arena serves a request, but for its bound.
const fn is_chunk(request: Layout) -> bool {
    request.size() <= CHUNK_BYTES && request.align() <= CHUNK_BYTES
}

impl Arena {
    fn is_of_arena(&self, start: NonNull<u8>, length: usize) -> bool {
        length == CHUNK_BYTES && self.chunks.is_block(start)
    }
}

// SAFETY: a range is the arena's or the region's, and goes back to where it is from: one that is
// taken lies in no range of the arena unless it is a block of it.
unsafe impl MemorySource for Arena {
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        if is_chunk(request) { self.chunks.take(request) } else { self.runs.take(request) }
    }

    unsafe fn give_back(&self, range: MemoryRange) {
        // SAFETY: the caller's contract.
        unsafe {
            if self.is_of_arena(range.start, range.length) {
                self.chunks.give_back(range);
            } else {
                self.runs.give_back(range);
            }
        }
    }

    unsafe fn grow(&self, range: MemoryRange, length: usize) -> Result<MemoryRange, AllocError> {
        if self.is_of_arena(range.start, range.length) {
            return Err(AllocError);
        }
        // SAFETY: the caller's contract.
        unsafe { self.runs.grow(range, length) }
    }

    unsafe fn shrink(&self, range: MemoryRange, length: usize) -> Result<MemoryRange, AllocError> {
        if self.is_of_arena(range.start, range.length) {
            return Err(AllocError);
        }
        // SAFETY: the caller's contract.
        unsafe { self.runs.shrink(range, length) }
    }

    fn granule(&self) -> usize {
        CHUNK_BYTES
    }

    fn placement(&self) -> Placement {
        self.runs.placement()
    }

    fn protect_fork(&'static self) -> Result<(), SystemError> {
        self.chunks.protect_fork()
    }
}

// SAFETY: ranges are chunks of an arena over the region, or the region's own, exactly as long as
// was asked in whole chunks; any thread may give either back.
unsafe impl RegionSource for Arena {}
