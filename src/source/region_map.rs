//! Runs of the region as a memory source.

use core::alloc::Layout;

use crate::allocator::{AllocError, MemoryRange, MemorySource, RegionSource};
use crate::numa::{Placement, Residence};
use crate::region::{self, KindSettings, Run, SegmentKind};
use crate::sys::SystemError;
use crate::sys::memory::{self, Advice};
use crate::units::{CHUNK_BYTES, CHUNK_SHIFT, HUGE_PAGE_BYTES, chunks_for};

/// Memory maps inside the region: what heaps that can become current draw from.
///
/// Taking and giving back are O(1) behind one lock for each kind of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionMapSource {
    kind: SegmentKind,
}

/// The source of contexts on any node: never huge pages.
pub static CONTEXT_SOURCE: RegionMapSource = RegionMapSource::CONTEXTS;

/// The source of thread heaps on any node: huge pages as the system is set.
pub static THREAD_SOURCE: RegionMapSource = RegionMapSource::THREADS;

/// A source for each kind of segments, for whoever needs one that lives for ever.
static SOURCES: [RegionMapSource; region::MAX_KINDS] = {
    let mut sources = [RegionMapSource { kind: SegmentKind::CONTEXT }; region::MAX_KINDS];
    let mut index = 0;
    while index < region::MAX_KINDS {
        sources[index] = RegionMapSource { kind: SegmentKind::from_index(index as u8) };
        index += 1;
    }
    sources
};

/// The source of a kind of segments.
pub fn source_of(kind: SegmentKind) -> &'static RegionMapSource {
    // Kinds are made by the region only, so the index is in range.
    SOURCES.get(usize::from(kind.index())).unwrap_or(&SOURCES[0])
}

impl RegionMapSource {
    /// That of contexts on any node, with no huge pages: for statics, such as an arena over it.
    pub const CONTEXTS: Self = Self { kind: SegmentKind::CONTEXT };

    /// That of threads' heaps on any node, with huge pages as the system is set.
    pub const THREADS: Self = Self { kind: SegmentKind::THREAD };

    /// A source whose segments have these settings. `None` when the process has 128 kinds of
    /// segments.
    pub fn new(settings: KindSettings) -> Option<Self> {
        Some(Self { kind: region::register_kind(settings)? })
    }

    /// On which NUMA nodes the pages of all its segments lie, also of what is free in them, beside
    /// where they are wanted.
    ///
    /// # Errors
    /// The system's: `ENOSYS` where it has no NUMA, `EPERM` where a sandbox forbids to ask.
    pub fn residence(&self) -> Result<Residence, SystemError> {
        let mut residence = Residence::wanted(self.placement().policy);
        for segments in region::segments_of(self.kind) {
            residence.count_range(segments.start, segments.bytes)?;
            residence.look_up_backing(segments.start, segments.bytes);
        }
        Ok(residence)
    }

    /// Puts transparent huge pages of 2 MiB in the place of small ones, at once, where half or more
    /// of one is resident in its segments; how many bytes that are. For a heap that has grown to
    /// its size and lives long; it copies what it collapses. From then on all the memory of its
    /// kind asks for huge pages, however little of it is used, if its settings are
    /// [`Transparent`](region::HugePages::Transparent) or [`Grown`](region::HugePages::Grown).
    ///
    /// # Errors
    /// The system's, of the first that it refused: `EINVAL` before Linux 6.1 or without transparent
    /// huge pages, `ENOMEM`, `EAGAIN`. What went before is collapsed.
    pub fn collapse(&self) -> Result<usize, SystemError> {
        let mut collapsed = 0;
        // The kernel collapses nothing where they are not wished for.
        region::ask_for_huge_pages(self.kind);
        for segments in region::segments_of(self.kind) {
            for offset in (0..segments.bytes).step_by(HUGE_PAGE_BYTES) {
                // SAFETY: the offset is below the span's length.
                let start = unsafe { crate::pointers::forward(segments.start, offset) };
                let mut residence = Residence::new();
                residence.count_range(start, HUGE_PAGE_BYTES)?;
                if residence.resident() >= residence.not_resident() {
                    // SAFETY: whole pages of the region; collapsing changes no contents.
                    unsafe { memory::apply_advice(start, HUGE_PAGE_BYTES, Advice::Collapse) }?;
                    collapsed += HUGE_PAGE_BYTES;
                }
            }
        }
        Ok(collapsed)
    }

    /// How many of its segments the kernel refused the NUMA placement, or gave an older one, and
    /// the last reason; `None` where all lie as was asked.
    pub fn refused_placements(&self) -> Option<(u64, SystemError)> {
        region::refused_placements(self.kind)
    }

    /// How often the kernel refused advice on huge pages or core dumps for one of its segments, and
    /// the last reason; `None` where it took all. A kernel without transparent huge
    /// pages refuses (`EINVAL`) also that there shall be none.
    pub fn refused_advice(&self) -> Option<(u64, SystemError)> {
        region::refused_advice(self.kind)
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

    unsafe fn shrink(&self, range: MemoryRange, length: usize) -> Result<MemoryRange, AllocError> {
        let run = run_of(range).ok_or(AllocError)?;
        let chunks = chunks_for(length).ok_or(AllocError)?;
        // SAFETY: the caller's contract.
        unsafe { region::shrink_run(run, chunks) }.map(range_of).ok_or(AllocError)
    }

    fn granule(&self) -> usize {
        CHUNK_BYTES
    }

    fn placement(&self) -> Placement {
        region::settings_of(self.kind).placement
    }
}

// SAFETY: every range is a run of the region, and any thread may give one back.
unsafe impl RegionSource for RegionMapSource {}
