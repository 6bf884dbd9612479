//! Runs of the region as a memory source.

use core::alloc::Layout;

use crate::allocator::{AllocError, MemoryRange, MemorySource, RegionSource};
use crate::region::{self, KindSettings, Run, SegmentKind};
use crate::units::{CHUNK_BYTES, CHUNK_SHIFT, chunks_for};

/// Memory maps inside the region: what heaps that can become current draw from.
///
/// Taking and giving back are O(1) behind one lock for each kind of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionMapSource {
    kind: SegmentKind,
}

/// The source of contexts: never huge pages.
pub static CONTEXT_SOURCE: RegionMapSource = RegionMapSource { kind: SegmentKind::CONTEXT };

/// The source of thread heaps: huge pages as the system is set.
pub static THREAD_SOURCE: RegionMapSource = RegionMapSource { kind: SegmentKind::THREAD };

impl RegionMapSource {
    /// A source whose segments have these settings. `None` when the process has 32 kinds of
    /// segments.
    pub fn new(settings: KindSettings) -> Option<Self> {
        Some(Self { kind: region::register_kind(settings)? })
    }
}

/// The run of a range that is given back: what it says of zeros was true when it was taken.
fn run_of(range: MemoryRange) -> Option<Run> {
    let offset = region::offset_of(range.start.as_ptr())?;
    Some(Run::at_offset(offset, range.length >> CHUNK_SHIFT, false))
}

fn range_of(run: Run) -> MemoryRange {
    MemoryRange { start: run.start(), length: run.bytes(), is_zeroed: run.is_zeroed }
}

// SAFETY: ranges are runs of the region, which overlap no other run that is taken; the region is
// never unmapped and its locks neither allocate nor unwind.
unsafe impl MemorySource for RegionMapSource {
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        let chunks = chunks_for(request.size()).ok_or(AllocError)?;
        let align_chunks = request.align().div_ceil(CHUNK_BYTES);
        region::take_run(self.kind, chunks, align_chunks).map(range_of).ok_or(AllocError)
    }

    unsafe fn give_back(&self, range: MemoryRange) {
        if let Some(run) = run_of(range) {
            // SAFETY: the caller's contract.
            unsafe { region::return_run(run) };
        }
    }

    unsafe fn grow(&self, range: MemoryRange, length: usize) -> Result<MemoryRange, AllocError> {
        let run = run_of(range).ok_or(AllocError)?;
        let chunks = chunks_for(length).ok_or(AllocError)?;
        // SAFETY: the caller's contract.
        unsafe { region::grow_run(run, chunks) }.map(range_of).ok_or(AllocError)
    }

    fn granule(&self) -> usize {
        CHUNK_BYTES
    }
}

// SAFETY: every range is a run of the region, and any thread may give one back.
unsafe impl RegionSource for RegionMapSource {}
