//! The free runs of one kind of segments: who takes chunks from the region, and who gives them
//! back.
//!
//! Free runs are kept in bins by length, in two sets: **clean** (known to be zero, no page
//! resident) and **dirty** (used before, pages still resident). A dirty run is taken first; it
//! costs no page fault. Runs of one set that touch are merged at once; runs of different sets only
//! when the dirty one has been purged, or cleanness would be lost by the megabyte. Taking and
//! giving back are O(1) but for at most `SEARCH` steps in one bin.
//!
//! ```text
//!   chunk table:  │ edge, run_chunks = 5 │   │   │   │ edge, head_distance = 4 │ taken ...
//!                   first of a free run               last of it
//! ```
//!
//! Decay: every second, as seen by whoever takes or gives back, as many dirty chunks are purged as
//! were never needed during that second, the largest runs first. A working set that swings is not
//! purged; what is idle goes back in one to two seconds.

use super::{ChunkEntry, RegionUsage, SegmentKind, at, commit_segments, entry_at, kind_of_chunk};
use crate::sys::{self, memory};
use crate::units::{CHUNK_BYTES, CHUNK_SHIFT, SEGMENT_CHUNKS};

/// How long an idle dirty run keeps its pages, in milliseconds, at least.
const DECAY_MILLISECONDS: u64 = 1000;

/// Between two looks at the clock.
const OPERATIONS_PER_TICK: u32 = 16;

/// Between two checks of every bin, in the `check` build.
#[cfg(heapswitch_check)]
const OPERATIONS_PER_CHECK: u32 = 64;

/// The most segments that are committed at once beyond what is needed: 1 GiB.
const MAX_GROWTH_SEGMENTS: usize = 32;

/// Steps in a bin whose runs differ in length, before a longer bin is taken.
const SEARCH: usize = 8;

/// Bins of one length each; above, four bins for each doubling.
const EXACT_BINS: usize = 16;
const BINS: usize = EXACT_BINS + 20 * 4;

/// Not the end of a free run.
const NOT_FREE: u8 = 0;
const CLEAN: u8 = 1;
const DIRTY: u8 = 2;

/// A run of chunks that was taken from the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    first: u32,
    chunks: u32,
    /// Whether every byte is known to be zero.
    pub is_zeroed: bool,
}

impl Run {
    /// The run that starts at an offset of the region; for a taken run only.
    pub(crate) fn at_offset(offset: usize, chunks: usize, is_zeroed: bool) -> Self {
        Self { first: (offset >> CHUNK_SHIFT) as u32, chunks: chunks as u32, is_zeroed }
    }

    /// The index of its first chunk.
    #[inline]
    pub fn first_chunk(self) -> usize {
        self.first as usize
    }

    /// Its length in chunks, at least 1.
    #[inline]
    pub fn chunks(self) -> usize {
        self.chunks as usize
    }

    /// Its length in bytes.
    #[inline]
    pub fn bytes(self) -> usize {
        self.chunks() << CHUNK_SHIFT
    }

    /// Its distance from the region's base, in bytes.
    #[inline]
    pub fn offset_bytes(self) -> usize {
        self.first_chunk() << CHUNK_SHIFT
    }

    /// Its first byte.
    #[inline]
    pub fn start(self) -> core::ptr::NonNull<u8> {
        // SAFETY: a run lies in the region.
        unsafe { at(self.offset_bytes()) }
    }

    /// The entry of its first chunk.
    #[inline]
    pub fn entry(self) -> &'static ChunkEntry {
        entry(self.first)
    }

    /// The entries of its chunks, in order.
    pub fn entries(self) -> impl Iterator<Item = &'static ChunkEntry> {
        (self.first..self.first + self.chunks).map(entry)
    }
}

/// The entry of a chunk in a committed segment.
#[inline]
fn entry(chunk: u32) -> &'static ChunkEntry {
    // SAFETY: runs and bins hold only chunks of committed segments.
    unsafe { entry_at((chunk as usize) << CHUNK_SHIFT) }
}

const fn bin_of(chunks: u32) -> usize {
    if chunks as usize <= EXACT_BINS {
        return chunks as usize - 1;
    }
    let exponent = chunks.ilog2() as usize;
    let quarter = (chunks >> (exponent - 2)) as usize & 3;
    EXACT_BINS + (exponent - 4) * 4 + quarter
}

/// The first chunk from `first` on whose address is aligned. The region itself starts at a
/// segment's boundary, so beyond that its chunks' numbers say nothing about alignment.
fn aligned_chunk(first: u32, align_chunks: u32) -> u32 {
    let before_region = super::base().addr().get() >> CHUNK_SHIFT;
    let number = before_region + first as usize;
    (number.next_multiple_of(align_chunks as usize) - before_region) as u32
}

/// The free runs of one set, by length.
#[derive(Debug)]
struct Bins {
    heads: [u32; BINS],
    occupied: u128,
    chunks: usize,
}

impl Bins {
    const fn new() -> Self {
        Self { heads: [0; BINS], occupied: 0, chunks: 0 }
    }

    fn head(&self, bin: usize) -> u32 {
        self.heads.get(bin).copied().unwrap_or(0)
    }

    fn set_head(&mut self, bin: usize, chunk: u32) {
        if let Some(head) = self.heads.get_mut(bin) {
            *head = chunk;
        }
        if chunk == 0 {
            self.occupied &= !(1 << bin);
        } else {
            self.occupied |= 1 << bin;
        }
    }

    fn insert(&mut self, first: u32, chunks: u32, edge: u8) {
        let (head, last) = (entry(first), entry(first + chunks - 1));
        head.run_chunks.set(chunks);
        last.head_distance.set(chunks - 1);
        head.edge.set(edge);
        last.edge.set(edge);
        let bin = bin_of(chunks);
        let next = self.head(bin);
        head.next.set(next);
        head.previous.set(0);
        if next != 0 {
            entry(next).previous.set(first);
        }
        self.set_head(bin, first);
        self.chunks += chunks as usize;
    }

    fn remove(&mut self, first: u32) -> u32 {
        let head = entry(first);
        let chunks = head.run_chunks.get();
        let (next, previous) = (head.next.get(), head.previous.get());
        if next != 0 {
            entry(next).previous.set(previous);
        }
        if previous != 0 {
            entry(previous).next.set(next);
        } else {
            self.set_head(bin_of(chunks), next);
        }
        head.edge.set(NOT_FREE);
        entry(first + chunks - 1).edge.set(NOT_FREE);
        self.chunks -= chunks as usize;
        chunks
    }

    /// The first chunk of a free run of at least `chunks`.
    fn find(&self, chunks: u32) -> Option<u32> {
        let bin = bin_of(chunks);
        let mut candidate = self.head(bin);
        for _ in 0..SEARCH {
            if candidate == 0 {
                break;
            }
            if entry(candidate).run_chunks.get() >= chunks {
                return Some(candidate);
            }
            candidate = entry(candidate).next.get();
        }
        let longer = self.occupied.checked_shr(bin as u32 + 1)?;
        let bin = bin + 1 + longer.trailing_zeros() as usize;
        Some(self.head(bin)).filter(|&first| longer != 0 && first != 0)
    }

    /// The first chunk of one of the longest runs.
    fn longest(&self) -> Option<u32> {
        let bin = self.occupied.checked_ilog2()? as usize;
        Some(self.head(bin)).filter(|&first| first != 0)
    }
}

/// The free runs of one kind.
#[derive(Debug)]
pub(crate) struct Runs {
    clean: Bins,
    dirty: Bins,
    committed_segments: usize,
    taken_chunks: usize,
    peak_chunks: usize,
    runs_taken: u64,
    runs_returned: u64,
    operations: u32,
    tick_milliseconds: u64,
    /// The fewest dirty chunks since the last tick.
    low_water: usize,
}

impl Runs {
    pub(super) const fn new() -> Self {
        Self {
            clean: Bins::new(),
            dirty: Bins::new(),
            committed_segments: 0,
            taken_chunks: 0,
            peak_chunks: 0,
            runs_taken: 0,
            runs_returned: 0,
            operations: 0,
            tick_milliseconds: 0,
            low_water: 0,
        }
    }

    pub(super) fn take(
        &mut self,
        kind: SegmentKind,
        chunks: usize,
        align_chunks: usize,
    ) -> Option<Run> {
        let wanted = chunks.checked_add(align_chunks - 1)?;
        let wanted = u32::try_from(wanted).ok().filter(|&wanted| wanted < 1 << 24)?;
        if let Some(run) = self.take_free(wanted, chunks as u32, align_chunks as u32) {
            self.tick();
            return Some(run);
        }
        // Together with what lies dirty beside it a clean run might do; growing comes first, for it
        // costs no system call for each run.
        if !self.grow_segments(kind, wanted as usize) {
            self.purge_all();
        }
        self.take_free(wanted, chunks as u32, align_chunks as u32)
    }

    fn take_free(&mut self, wanted: u32, chunks: u32, align_chunks: u32) -> Option<Run> {
        let (first, is_zeroed) = match self.dirty.find(wanted) {
            Some(first) => (first, false),
            None => (self.clean.find(wanted)?, true),
        };
        let (bins, edge) =
            if is_zeroed { (&mut self.clean, CLEAN) } else { (&mut self.dirty, DIRTY) };
        let available = bins.remove(first);
        let start = aligned_chunk(first, align_chunks);
        let (before, after) = (start - first, available - (start - first) - chunks);
        if before != 0 {
            bins.insert(first, before, edge);
        }
        if after != 0 {
            bins.insert(start + chunks, after, edge);
        }
        self.count_taken(chunks);
        self.runs_taken += 1;
        self.low_water = self.low_water.min(self.dirty.chunks);
        Some(Run { first: start, chunks, is_zeroed })
    }

    fn count_taken(&mut self, chunks: u32) {
        self.taken_chunks += chunks as usize;
        self.peak_chunks = self.peak_chunks.max(self.taken_chunks);
    }

    /// # Safety
    /// The run was taken from these runs and is given back once.
    pub(super) unsafe fn give_back(&mut self, run: Run) {
        self.taken_chunks -= run.chunks();
        self.runs_returned += 1;
        self.insert_merged(run.first, run.chunks, run.is_zeroed);
        self.tick();
    }

    /// Inserts a free run, merged with the free runs of its set that touch it.
    fn insert_merged(&mut self, first: u32, chunks: u32, is_zeroed: bool) {
        let (bins, edge) =
            if is_zeroed { (&mut self.clean, CLEAN) } else { (&mut self.dirty, DIRTY) };
        let kind = kind_of_chunk(first as usize);
        let (mut first, mut chunks) = (first, chunks);
        let touches = |chunk: u32| {
            chunk != 0 && kind_of_chunk(chunk as usize) == kind && entry(chunk).edge.get() == edge
        };
        if touches(first + chunks) {
            chunks += bins.remove(first + chunks);
        }
        if touches(first - 1) {
            first -= 1 + entry(first - 1).head_distance.get();
            chunks += bins.remove(first);
        }
        bins.insert(first, chunks, edge);
    }

    /// # Safety
    /// The run was taken from these runs and not given back.
    pub(super) unsafe fn grow(&mut self, run: Run, chunks: usize) -> Option<Run> {
        let extra = u32::try_from(chunks).ok()?.checked_sub(run.chunks)?;
        let end = run.first + run.chunks;
        let kind = kind_of_chunk(run.first_chunk());
        // What follows may be several free runs of alternate sets.
        let mut found = 0;
        while found < extra {
            let next = end + found;
            let is_free =
                kind_of_chunk(next as usize) == kind && entry(next).edge.get() != NOT_FREE;
            if !is_free {
                return None;
            }
            found += entry(next).run_chunks.get();
        }
        let mut taken = 0;
        while taken < extra {
            let next = end + taken;
            let edge = entry(next).edge.get();
            let bins = if edge == CLEAN { &mut self.clean } else { &mut self.dirty };
            let available = bins.remove(next);
            let used = available.min(extra - taken);
            if used < available {
                bins.insert(next + used, available - used, edge);
            }
            taken += used;
        }
        self.count_taken(extra);
        self.low_water = self.low_water.min(self.dirty.chunks);
        Some(Run { first: run.first, chunks: run.chunks + extra, is_zeroed: false })
    }

    /// Commits more segments, as much again as there are where the system lets it.
    fn grow_segments(&mut self, kind: SegmentKind, chunks: usize) -> bool {
        // Chunk 0 of the region is never handed out, so one more chunk may be needed.
        let needed = (chunks + 1).div_ceil(SEGMENT_CHUNKS);
        let wanted = needed.max(self.committed_segments.min(MAX_GROWTH_SEGMENTS));
        let (count, first) = match commit_segments(kind, wanted) {
            Some(first) => (wanted, first),
            None => match commit_segments(kind, needed) {
                Some(first) => (needed, first),
                None => return false,
            },
        };
        self.committed_segments += count;
        let skipped = u32::from(first == 0);
        let chunks = (count * SEGMENT_CHUNKS) as u32 - skipped;
        self.insert_merged(first as u32 + skipped, chunks, true);
        true
    }

    #[inline]
    fn tick(&mut self) {
        self.operations = self.operations.wrapping_add(1);
        #[cfg(heapswitch_check)]
        if self.operations.is_multiple_of(OPERATIONS_PER_CHECK) {
            self.verify();
        }
        if self.operations.is_multiple_of(OPERATIONS_PER_TICK) && self.dirty.chunks != 0 {
            self.decay();
        }
    }

    #[cold]
    fn decay(&mut self) {
        let now = sys::coarse_milliseconds();
        if now.wrapping_sub(self.tick_milliseconds) < DECAY_MILLISECONDS {
            return;
        }
        self.tick_milliseconds = now;
        let idle = self.low_water;
        self.purge(idle);
        self.low_water = self.dirty.chunks;
    }

    /// Gives the pages of at least `chunks` dirty chunks back, the longest runs first; the bytes.
    fn purge(&mut self, chunks: usize) -> usize {
        let mut purged = 0;
        while purged < chunks {
            let Some(first) = self.dirty.longest() else { break };
            let run = self.dirty.remove(first) as usize;
            // A part of a long run may do.
            let part = run.min(chunks - purged) as u32;
            if part < run as u32 {
                self.dirty.insert(first + part, run as u32 - part, DIRTY);
            }
            // SAFETY: a free run is whole pages of the region that nobody uses.
            let given_back = unsafe {
                memory::give_back_pages(
                    at((first as usize) << CHUNK_SHIFT),
                    part as usize * CHUNK_BYTES,
                )
            };
            if given_back.is_err() {
                self.insert_merged(first, part, false);
                break;
            }
            self.insert_merged(first, part, true);
            purged += part as usize;
        }
        purged * CHUNK_BYTES
    }

    pub(super) fn purge_all(&mut self) -> usize {
        self.purge(self.dirty.chunks)
    }

    pub(super) fn add_to(&self, usage: &mut RegionUsage) {
        let segments = self.committed_segments * SEGMENT_CHUNKS;
        usage.committed_bytes += segments * CHUNK_BYTES;
        usage.taken_bytes += self.taken_chunks * CHUNK_BYTES;
        usage.peak_bytes += self.peak_chunks * CHUNK_BYTES;
        usage.dirty_bytes += self.dirty.chunks * CHUNK_BYTES;
        usage.runs_taken += self.runs_taken;
        usage.runs_returned += self.runs_returned;
    }

    /// Checks every bin against the chunk table.
    #[cfg(any(test, heapswitch_check))]
    pub(super) fn verify(&self) {
        for (bins, edge) in [(&self.clean, CLEAN), (&self.dirty, DIRTY)] {
            let mut chunks = 0;
            for (bin, &head) in bins.heads.iter().enumerate() {
                let mut previous = 0;
                let mut first = head;
                while first != 0 {
                    let length = entry(first).run_chunks.get();
                    let last = entry(first + length - 1);
                    let is_consistent = bin_of(length) == bin
                        && entry(first).previous.get() == previous
                        && entry(first).edge.get() == edge
                        && last.edge.get() == edge
                        && last.head_distance.get() == length - 1;
                    if !is_consistent {
                        sys::abort_with(&["the bins of free runs are corrupted"]);
                    }
                    chunks += length as usize;
                    previous = first;
                    first = entry(first).next.get();
                }
                if (bins.occupied >> bin & 1 == 1) != (head != 0) {
                    sys::abort_with(&["the map of bins of free runs is corrupted"]);
                }
            }
            if chunks != bins.chunks {
                sys::abort_with(&["the count of free chunks is corrupted"]);
            }
        }
    }
}
