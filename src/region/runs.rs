//! The free runs of one kind of segments: who takes chunks from the region, and who gives them
//! back.
//!
//! Free runs are kept in bins by length, in two sets: **clean** (known to be zero, no page
//! resident) and **dirty** (used before, pages still resident). A dirty run is taken first; it
//! costs no page fault. Runs of one set that touch are merged at once; runs of different sets only
//! when the dirty one has been purged, or cleanness would be lost by the megabyte. Single chunks
//! wait a while by the processor that used them, before they are merged with other dirty runs: see
//! [`recent`](super::recent). Taking and giving back are O(1) but for at most `SEARCH` steps in one
//! bin, merging what waited, once for each chunk, and what a purge takes.
//!
//! ```text
//!   chunk table:  │ edge, run_chunks = 5 │   │   │   │ edge, head_distance = 4 │ taken ...
//!                   first of a free run               last of it
//! ```
//!
//! Decay: every second, or what is set instead, as seen by whoever takes or gives back or has the
//! turn of `heap::decay`, as many dirty chunks are purged as were never needed during that second,
//! the largest runs first. A working set that swings is not purged; what is idle goes back in one
//! to two seconds.
//!
//! Where the kernel charges what is committed against a limit (overcommit 2), pages alone are not
//! all that a free run holds. There segments are not committed ahead, and whole segments of clean
//! runs go back to being a mere reservation: a third set, **reserved**, which is committed anew
//! before the region grows. A segment keeps its kind and its part of the chunk table.
//!
//! A huge page makes 32 chunks resident when one is touched. So when pages are given back, clean
//! chunks beside others go with them, and until the kind grows again huge pages are not wished for:
//! see [`growth`](super::growth).

use super::bins::{BINS, Bins, CLEAN, DIRTY, RESERVED, bin_of};
use super::growth::{Growth, HUGE_PAGE_CHUNKS};
use super::links::entry;
use super::recent::{Processor, Recent, is_recent};
use super::run::Run;
use super::{
    RegionUsage, SegmentKind, at, commit_again, commit_segments, is_commit_charged, kind_of_chunk,
    period_milliseconds,
};
use crate::sys::{self, memory};
use crate::units::{CHUNK_BYTES, CHUNK_SHIFT, SEGMENT_CHUNKS};

/// Between two looks at the clock.
const OPERATIONS_PER_TICK: u32 = 16;

/// Between two checks of every bin, in the `check` build.
#[cfg(heapswitch_check)]
const OPERATIONS_PER_CHECK: u32 = 64;

/// The most segments that are committed at once beyond what is needed: 1 GiB.
const MAX_GROWTH_SEGMENTS: usize = 32;

/// The most dirty runs that the system may not take in one purge: those are passed over, and what
/// is beyond so many waits behind them.
const MOST_REFUSALS: usize = 64;

/// The most clean runs whose ends are given back at once.
const MOST_ENDS: usize = 1024;

/// The first chunk from `first` on whose address is aligned. The region itself starts at a
/// segment's boundary, so beyond that its chunks' numbers say nothing about alignment.
fn aligned_chunk(first: u32, align_chunks: u32) -> u32 {
    let before_region = super::base().addr().get() >> CHUNK_SHIFT;
    let number = before_region + first as usize;
    (number.next_multiple_of(align_chunks as usize) - before_region) as u32
}

/// Whether a run is nothing but whole segments.
#[cfg(any(test, heapswitch_check))]
fn is_whole_segments(first: u32, chunks: u32) -> bool {
    (first as usize).is_multiple_of(SEGMENT_CHUNKS)
        && (chunks as usize).is_multiple_of(SEGMENT_CHUNKS)
}

/// A free run with the clean chunks around it in the same huge pages. When all are given back, none
/// stays resident for what lay beside it.
fn with_clean_around(first: u32, chunks: u32) -> (u32, u32) {
    let (mut start, mut end) = (first, first + chunks);
    let kind = kind_of_chunk(first as usize);
    let is_clean = |chunk: u32| {
        chunk != 0 && kind_of_chunk(chunk as usize) == kind && entry(chunk).edge.get() == CLEAN
    };
    if is_clean(start - 1) {
        let run = 1 + entry(start - 1).head_distance.get();
        start -= run.min(start % HUGE_PAGE_CHUNKS);
    }
    if is_clean(end) {
        end += entry(end).run_chunks.get().min(end.wrapping_neg() % HUGE_PAGE_CHUNKS);
    }
    (start, end - start)
}

/// The ends of a run that lie in huge pages which other chunks may share: each its first chunk and
/// the one after its last.
pub(super) fn shared_ends(first: u32, chunks: u32) -> [(u32, u32); 2] {
    let end = first + chunks;
    let start_of_rest = first.next_multiple_of(HUGE_PAGE_CHUNKS).min(end);
    let end_of_rest = (end / HUGE_PAGE_CHUNKS * HUGE_PAGE_CHUNKS).max(start_of_rest);
    [(first, start_of_rest), (end_of_rest, end)]
}

/// Gives the pages of free chunks back. Whether the system took them.
///
/// # Safety
/// The chunks are free.
unsafe fn drop_pages(first: u32, chunks: u32) -> bool {
    // SAFETY: free chunks are whole pages of the region that nobody uses.
    unsafe {
        let start = at((first as usize) << CHUNK_SHIFT);
        memory::give_back_pages(start, chunks as usize * CHUNK_BYTES).is_ok()
    }
}

/// What was given back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Purged {
    /// Bytes in pages that were perhaps resident.
    pub(super) page_bytes: usize,
    /// Bytes that are not charged any more.
    pub(super) charge_bytes: usize,
}

/// The free runs of one kind.
#[derive(Debug)]
pub(crate) struct Runs {
    clean: Bins,
    dirty: Bins,
    /// Dirty, too, and not merged yet.
    recent: Recent,
    reserved: Bins,
    committed_segments: usize,
    taken_chunks: usize,
    peak_chunks: usize,
    runs_taken: u64,
    runs_returned: u64,
    operations: u32,
    tick_milliseconds: u64,
    /// The fewest dirty chunks since the last tick.
    low_water: usize,
    growth: Growth,
}

impl Runs {
    pub(super) const fn new() -> Self {
        Self {
            clean: Bins::new(),
            dirty: Bins::new(),
            recent: Recent::new(),
            reserved: Bins::new(),
            committed_segments: 0,
            taken_chunks: 0,
            peak_chunks: 0,
            runs_taken: 0,
            runs_returned: 0,
            operations: 0,
            tick_milliseconds: 0,
            low_water: 0,
            growth: Growth::new(),
        }
    }

    pub(super) fn take(
        &mut self,
        kind: SegmentKind,
        chunks: usize,
        align_chunks: usize,
        here: Processor,
    ) -> Option<Run> {
        let wanted = chunks.checked_add(align_chunks - 1)?;
        let wanted = u32::try_from(wanted).ok().filter(|&wanted| wanted < 1 << 24)?;
        if let Some(run) = self.take_free(wanted, chunks as u32, align_chunks as u32, here) {
            self.tick();
            return Some(run);
        }
        // Together with what lies dirty beside it a clean run might do; growing comes first, for it
        // costs no system call for each run.
        if !self.commit_reserved(kind, wanted) && !self.grow_segments(kind, wanted as usize) {
            self.purge(self.dirty_chunks());
        }
        self.take_free(wanted, chunks as u32, align_chunks as u32, here)
    }

    fn bins_of(&mut self, edge: u8) -> &mut Bins {
        match edge {
            CLEAN => &mut self.clean,
            DIRTY => &mut self.dirty,
            _ => &mut self.reserved,
        }
    }

    fn dirty_chunks(&self) -> usize {
        self.dirty.chunks + self.recent.chunks
    }

    /// A dirty run of so many chunks. A single one is this processor's, or as short as can be.
    fn find_dirty(&mut self, wanted: u32, here: Processor) -> Option<u32> {
        if wanted == 1 {
            let short = self.recent.newest_of(here).or_else(|| self.dirty.exactly(1));
            return short.or_else(|| self.recent.any()).or_else(|| self.dirty.find(1));
        }
        let found = self.dirty.find(wanted);
        if found.is_some() || self.recent.chunks == 0 || self.dirty_chunks() < wanted as usize {
            return found;
        }
        self.merge_recent();
        self.dirty.find(wanted)
    }

    /// Merges the chunks that were given back lately with the dirty runs that they touch.
    fn merge_recent(&mut self) {
        while let Some(chunk) = self.recent.any() {
            self.recent.remove(chunk);
            self.insert_merged(chunk, 1, DIRTY);
        }
    }

    fn insert(&mut self, first: u32, chunks: u32, edge: u8) {
        self.bins_of(edge).insert(first, chunks, edge);
    }

    /// Takes the free run that starts at a chunk out of its set: its length, and its edge.
    fn remove(&mut self, first: u32) -> (u32, u8) {
        let head = entry(first);
        if is_recent(head) {
            self.recent.remove(first);
            return (1, DIRTY);
        }
        let edge = head.edge.get();
        (self.bins_of(edge).remove(first), edge)
    }

    fn take_free(
        &mut self,
        wanted: u32,
        chunks: u32,
        align_chunks: u32,
        here: Processor,
    ) -> Option<Run> {
        let (first, is_zeroed) = match self.find_dirty(wanted, here) {
            Some(first) => (first, false),
            None => (self.clean.find(wanted)?, true),
        };
        let start = aligned_chunk(first, align_chunks);
        if is_zeroed && self.growth.is_awaited() {
            self.growth.note(start + chunks, chunks, chunks);
        }
        let (available, edge) = self.remove(first);
        let (before, after) = (start - first, available - (start - first) - chunks);
        if before != 0 {
            self.insert(first, before, edge);
        }
        if after != 0 {
            self.insert(start + chunks, after, edge);
        }
        self.count_taken(chunks);
        self.runs_taken += 1;
        self.low_water = self.low_water.min(self.dirty_chunks());
        Some(Run { first: start, chunks, is_zeroed })
    }

    /// When its memory asks for huge pages.
    pub(super) fn growth(&mut self) -> &mut Growth {
        &mut self.growth
    }

    /// Withdraws the wish for huge pages when pages were given back: the kernel would make huge
    /// ones of what is left here and there, and so resident again what is free. Clean chunks that
    /// were resident for a taken one beside them go as well.
    fn note_shrinking(&mut self) {
        if !self.growth.withdraw() {
            return;
        }
        let mut left = MOST_ENDS;
        // The longest first.
        for bin in (0..BINS).rev() {
            let mut first = self.clean.head(bin);
            while first != 0 && left != 0 {
                for (start, end) in shared_ends(first, entry(first).run_chunks.get()) {
                    // SAFETY: a clean run is free. A refusal leaves the pages where they are.
                    let _ = start == end || unsafe { drop_pages(start, end - start) };
                }
                first = entry(first).next.get();
                left -= 1;
            }
        }
    }

    fn count_taken(&mut self, chunks: u32) {
        self.taken_chunks += chunks as usize;
        self.peak_chunks = self.peak_chunks.max(self.taken_chunks);
    }

    /// # Safety
    /// The run was taken from these runs and is given back once.
    pub(super) unsafe fn give_back(&mut self, run: Run, here: Processor) {
        self.taken_chunks -= run.chunks();
        self.runs_returned += 1;
        let is_recent = run.chunks == 1 && !run.is_zeroed && self.recent.push(run.first, here);
        if !is_recent {
            self.insert_merged(run.first, run.chunks, if run.is_zeroed { CLEAN } else { DIRTY });
        }
        self.tick();
    }

    /// As [`give_back`](Self::give_back), of the end of a run that stays taken.
    ///
    /// # Safety
    /// The end is part of a run that was taken from these runs, and is given back once.
    pub(super) unsafe fn give_back_end(&mut self, end: Run) {
        self.taken_chunks -= end.chunks();
        self.insert_merged(end.first, end.chunks, DIRTY);
        self.tick();
    }

    /// Inserts a free run, merged with the free runs of its set that touch it.
    fn insert_merged(&mut self, first: u32, chunks: u32, edge: u8) {
        let bins = self.bins_of(edge);
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
            let is_of_kind = kind_of_chunk(next as usize) == kind;
            let is_free = is_of_kind
                && (matches!(entry(next).edge.get(), CLEAN | DIRTY) || is_recent(entry(next)));
            if !is_free {
                return None;
            }
            found += entry(next).run_chunks.get();
        }
        if extra != 0 && self.growth.is_awaited() {
            self.growth.note(end + extra, extra, chunks as u32);
        }
        let mut taken = 0;
        while taken < extra {
            let next = end + taken;
            let (available, edge) = self.remove(next);
            let used = available.min(extra - taken);
            if used < available {
                self.insert(next + used, available - used, edge);
            }
            taken += used;
        }
        self.count_taken(extra);
        self.low_water = self.low_water.min(self.dirty_chunks());
        Some(Run { first: run.first, chunks: run.chunks + extra, is_zeroed: false })
    }

    /// Commits more segments, as much again as there are where the system lets it.
    fn grow_segments(&mut self, kind: SegmentKind, chunks: usize) -> bool {
        // Chunk 0 of the region is never handed out, so one more chunk may be needed.
        let needed = (chunks + 1).div_ceil(SEGMENT_CHUNKS);
        let ahead =
            if is_commit_charged() { 0 } else { self.committed_segments.min(MAX_GROWTH_SEGMENTS) };
        let wanted = needed.max(ahead);
        let (count, first) = match commit_segments(kind, wanted) {
            Some(first) => (wanted, first),
            None => match commit_segments(kind, needed) {
                Some(first) => (needed, first),
                None => return false,
            },
        };
        self.committed_segments += count;
        self.growth.prepare(kind, first as u32, (count * SEGMENT_CHUNKS) as u32);
        let skipped = u32::from(first == 0);
        let chunks = (count * SEGMENT_CHUNKS) as u32 - skipped;
        self.insert_merged(first as u32 + skipped, chunks, CLEAN);
        true
    }

    /// Commits as many reserved segments as `chunks` need. Whether there were as many in a row, and
    /// the system let it.
    fn commit_reserved(&mut self, kind: SegmentKind, chunks: u32) -> bool {
        let Some(first) = self.reserved.find(chunks) else { return false };
        let available = self.reserved.remove(first);
        let wanted = chunks.next_multiple_of(SEGMENT_CHUNKS as u32);
        // SAFETY: reserved runs are whole segments of this kind that nobody uses.
        if !unsafe { commit_again(kind, first as usize, wanted as usize) } {
            self.reserved.insert(first, available, RESERVED);
            return false;
        }
        if wanted < available {
            self.reserved.insert(first + wanted, available - wanted, RESERVED);
        }
        self.committed_segments += wanted as usize / SEGMENT_CHUNKS;
        self.growth.prepare(kind, first, wanted);
        self.insert_merged(first, wanted, CLEAN);
        true
    }

    /// Makes whole segments of clean runs a mere reservation again; the bytes.
    fn release_segments(&mut self) -> usize {
        let mut released = 0;
        // What is left of a run is shorter than a segment, so it goes to a bin below.
        for bin in (bin_of(SEGMENT_CHUNKS as u32)..BINS).rev() {
            let mut candidate = self.clean.head(bin);
            while candidate != 0 {
                let next = entry(candidate).next.get();
                released += self.release_segments_of(candidate);
                candidate = next;
            }
        }
        self.committed_segments -= released / SEGMENT_CHUNKS;
        released * CHUNK_BYTES
    }

    /// As [`release_segments`](Self::release_segments), of one clean run; the chunks.
    fn release_segments_of(&mut self, first: u32) -> usize {
        let segment = SEGMENT_CHUNKS as u32;
        let end = first + entry(first).run_chunks.get();
        let (start, stop) = (first.next_multiple_of(segment), end / segment * segment);
        if start >= stop {
            return 0;
        }
        let (offset, chunks) = ((start as usize) << CHUNK_SHIFT, (stop - start) as usize);
        // SAFETY: a free run is whole pages of the region that nobody uses.
        if unsafe { memory::decommit(at(offset), chunks * CHUNK_BYTES) }.is_err() {
            return 0;
        }
        self.clean.remove(first);
        if first < start {
            self.clean.insert(first, start - first, CLEAN);
        }
        if stop < end {
            self.clean.insert(stop, end - stop, CLEAN);
        }
        self.insert_merged(start, stop - start, RESERVED);
        chunks
    }

    #[inline]
    fn tick(&mut self) {
        self.operations = self.operations.wrapping_add(1);
        #[cfg(heapswitch_check)]
        if self.operations.is_multiple_of(OPERATIONS_PER_CHECK) {
            self.verify();
        }
        if self.operations.is_multiple_of(OPERATIONS_PER_TICK) && self.dirty_chunks() != 0 {
            self.decay(sys::coarse_milliseconds());
        }
    }

    #[cold]
    pub(super) fn decay(&mut self, now: u64) {
        // Whoever has the turn of all kinds read the clock before, others may have since.
        if now.saturating_sub(self.tick_milliseconds) < period_milliseconds() {
            return;
        }
        self.tick_milliseconds = now;
        let idle = self.low_water;
        self.purge(idle);
        if is_commit_charged() {
            self.release_segments();
        }
        self.low_water = self.dirty_chunks();
        self.growth.look_sometimes(now);
    }

    /// Gives the pages of at least `chunks` dirty chunks back, the longest runs first; the bytes.
    fn purge(&mut self, chunks: usize) -> usize {
        if chunks == 0 {
            return 0;
        }
        self.merge_recent();
        let mut purged = 0;
        let mut refused = [(0, 0); MOST_REFUSALS];
        let mut places = refused.iter_mut();
        while purged < chunks {
            let Some(first) = self.dirty.longest() else { break };
            let run = self.dirty.remove(first);
            // A part of a long run may do.
            let part = (run as usize).min(chunks - purged) as u32;
            let (start, chunks_around) = with_clean_around(first, part);
            // SAFETY: a dirty run is free, and so are clean ones.
            let is_given_back = unsafe { drop_pages(start, chunks_around) };
            if !is_given_back {
                // The program locked it, say: the others are not to wait for that.
                let Some(place) = places.next() else {
                    self.insert_merged(first, run, DIRTY);
                    break;
                };
                *place = (first, run);
                continue;
            }
            if part < run {
                self.dirty.insert(first + part, run - part, DIRTY);
            }
            self.insert_merged(first, part, CLEAN);
            purged += part as usize;
        }
        for (first, run) in refused.into_iter().filter(|&(first, _)| first != 0) {
            self.insert_merged(first, run, DIRTY);
        }
        if purged != 0 {
            self.note_shrinking();
        }
        purged * CHUNK_BYTES
    }

    /// Gives back all that no run needs: pages, and where it is charged their commitment.
    pub(super) fn purge_all(&mut self) -> Purged {
        let page_bytes = self.purge(self.dirty_chunks());
        let charge_bytes = if is_commit_charged() { self.release_segments() } else { 0 };
        Purged { page_bytes, charge_bytes }
    }

    pub(super) fn add_to(&self, usage: &mut RegionUsage) {
        let segments = self.committed_segments * SEGMENT_CHUNKS;
        usage.committed_bytes += segments * CHUNK_BYTES;
        usage.taken_bytes += self.taken_chunks * CHUNK_BYTES;
        usage.peak_bytes += self.peak_chunks * CHUNK_BYTES;
        usage.dirty_bytes += self.dirty_chunks() * CHUNK_BYTES;
        usage.runs_taken += self.runs_taken;
        usage.runs_returned += self.runs_returned;
    }

    /// Checks every bin against the chunk table.
    #[cfg(any(test, heapswitch_check))]
    pub(super) fn verify(&self) {
        if !self.recent.is_consistent() {
            sys::abort_with(&["the lists of free chunks are corrupted"]);
        }
        let sets = [(&self.clean, CLEAN), (&self.dirty, DIRTY), (&self.reserved, RESERVED)];
        for (bins, edge) in sets {
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
                        && last.head_distance.get() == length - 1
                        && (edge != RESERVED || is_whole_segments(first, length));
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
