//! The free runs of one extent: found by length through bins, and by who frees a block beside one,
//! through the edges and the lengths at their ends.
//!
//! ```text
//!   Extent::metadata                        the extent
//!   ┌───────────────────┬────────────────┐  ┌───────┬────────────────────────┬───────┬──────────
//!   │ Header: heads ... │ words of Edges │  │ taken │ links, length . length │ taken │ links ..
//!   └───────────────────┴────────────────┘  └───────┴────────────────────────┴───────┴──────────
//!                 └───────────────────────────────────↑───────── a bin's list ─────────↑
//! ```
//!
//! The run that reaches the extent's end, the **tail**, is in no list: blocks are cut from its
//! start when no other run holds them, so it stays whole and a block cut last can grow. From all
//! other runs blocks are cut at the end: as long as the bin stays the same, no link moves. The runs
//! beside a freed block leave their lists, and the whole joins one, without a branch.
//!
//! In the memory of a listed run stand its links, two places of 32 bits, so that they fit the
//! smallest block, and its length at either end: see [`lists`]. A run of 8 bytes has no room for
//! lengths; that it is so short the edges say, and only where blocks are of 8 bytes are they asked.
//! Links out of line would cost 8 bytes a block, a quarter of the memory; searching the bits alone
//! (by ranks of each word's longest run) was tried and took twice the time.

use core::cell::Cell;
use core::hint::select_unpredictable;
use core::ops::Range;
use core::ptr::NonNull;

use super::bins::{self, BINS};
use super::edges::{self, Edges};
use super::lists::{self, Empty, FIRST, NONE};
use crate::pointers;
use crate::strategy::{Extent, LONG_EXTENT_BYTES};
use crate::units::{MIN_BLOCK_BYTES, PAGE_BYTES};

/// log2 of [`UNIT`].
pub(super) const UNIT_SHIFT: u32 = 3;

/// What places in an extent and lengths of runs are counted in, in bytes: that is what a processor
/// multiplies by where it reads memory.
pub(super) const UNIT: usize = 1 << UNIT_SHIFT;
const _: () = assert!(UNIT == MIN_BLOCK_BYTES);

/// log2 of the units of a block of the usual length, for which the shifts are constants where time
/// matters.
const USUAL_STEP: u32 = 2;

/// The most units of an extent that are used, so that a place fits 32 bits beside all that is none.
/// What is beyond in a longer extent is not used.
pub(super) const MAX_UNITS: usize = FIRST as usize - 1;

/// What the strategy keeps about an extent, at the start of its metadata.
///
/// # Invariants
/// - Every free run but the tail is in the list of its length's bin, and nothing else is in any.
/// - `occupied` has the bits of the bins whose list is not empty, and of some whose list became so
///   when a run was joined or taken out of its middle: a search clears those that it meets behind
///   the first. (Rejected: cleared at once. Then the next request waits for what lies beside a
///   freed block, for which no branch asks.)
/// - Every run in a list has its length at both ends, unless it is of 8 bytes.
/// - Bin 0 has no runs.
#[repr(C, align(16))]
#[derive(Debug)]
pub(super) struct Header {
    /// Where block 0 starts: a multiple of the block size.
    pub(super) base: NonNull<u8>,
    /// Those of whole blocks between `base` and the extent's end.
    pub(super) units: usize,
    /// log2 of the units of a block.
    step: u32,
    /// The shelf that the extent is on.
    pub(super) shelf: Cell<usize>,
    /// Where the tail starts; `units` if the last block is taken.
    tail: Cell<usize>,
    /// From here on nothing was ever allocated.
    pub(super) fresh: Cell<usize>,
    /// The neighbours in the list of the shelf.
    pub(super) next: Cell<Option<NonNull<Extent>>>,
    pub(super) previous: Cell<Option<NonNull<Extent>>>,
    /// The words of the edges, behind the header.
    words: usize,
    pub(super) occupied: Cell<u64>,
    pub(super) empty: Empty,
    pub(super) heads: [Cell<u32>; BINS],
}

/// Which places are aligned: those that are `phase` modulo `stride`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alignment {
    /// In units, a power of two.
    pub(super) stride: usize,
    /// In units, less than the stride.
    pub(super) phase: usize,
}

impl Alignment {
    /// The first aligned place from `place` on.
    const fn first_from(self, place: usize) -> usize {
        place + (self.phase.wrapping_sub(place) & (self.stride - 1))
    }
}

/// The free runs of an extent.
#[derive(Clone, Copy)]
pub(super) struct Runs<'a> {
    pub(super) header: &'a Header,
    pub(super) edges: Edges<'a>,
    /// The header's, which the compiler would read anew after each write to a run.
    pub(super) base: NonNull<u8>,
    pub(super) step: u32,
}

/// The bytes of metadata for `blocks`.
pub(super) const fn metadata_bytes(blocks: usize) -> usize {
    size_of::<Header>() + edges::words_for(blocks) * size_of::<u64>()
}

impl<'a> Runs<'a> {
    /// The runs of an extent, read from its metadata.
    ///
    /// # Safety
    /// [`start`](Self::start) was called for the extent, which is still the strategy's.
    #[inline]
    pub(super) unsafe fn of(extent: &'a Extent) -> Self {
        // SAFETY: the strategy asks for metadata. `start` wrote a header there, and zeroed words
        // stood behind it, as many as `metadata_bytes` asked for. All that changes later is in
        // cells, on one thread.
        unsafe {
            let metadata = extent.metadata();
            let header = metadata.cast::<Header>().as_ref();
            let words = pointers::forward(metadata, size_of::<Header>()).cast::<Cell<u64>>();
            let words = NonNull::slice_from_raw_parts(words, header.words).as_ref();
            let Header { base, step, .. } = *header;
            Self { header, edges: Edges::new(words), base, step }
        }
    }

    /// Cuts an extent into blocks of `1 << block_shift` bytes, all free.
    ///
    /// # Safety
    /// The extent and its metadata are the strategy's alone, the metadata is zeroed and at least
    /// [`metadata_bytes`] of the extent's length in blocks long, and the length is not zero.
    pub(super) unsafe fn start(extent: &'a Extent, block_shift: u32) -> Self {
        let lost = pointers::padding(extent.start(), 1 << block_shift).min(extent.length());
        let step = block_shift - UNIT_SHIFT;
        let blocks = ((extent.length() - lost) >> block_shift).min(MAX_UNITS >> step);
        let header = Header {
            // SAFETY: at most the extent's length above its start.
            base: unsafe { pointers::forward(extent.start(), lost) },
            units: blocks << step,
            step,
            shelf: Cell::new(0),
            tail: Cell::new(0),
            fresh: Cell::new(0),
            next: Cell::new(None),
            previous: Cell::new(None),
            words: edges::words_for(blocks),
            occupied: Cell::new(0),
            empty: Empty::new(),
            heads: [const { Cell::new(NONE) }; BINS],
        };
        // SAFETY: the caller's contract; the header is at the metadata's start, which is aligned.
        let runs = unsafe {
            extent.metadata().cast::<Header>().write(header);
            Self::of(extent)
        };
        if blocks > 0 {
            runs.flip_both(0, runs.header.units);
        }
        runs
    }

    /// The blocks of the bit set in so many units.
    #[inline]
    pub(super) const fn blocks_in(&self, units: usize) -> usize {
        units >> self.step
    }

    /// The bin for runs of so many units.
    #[inline]
    pub(super) fn bin_of(&self, units: usize) -> usize {
        bins::of(self.blocks_in(units))
    }

    /// Flips the edge at a place; whether there was one.
    #[inline]
    fn flip(&self, place: usize) -> bool {
        // SAFETY: a block starts there, or it is the end of the last.
        unsafe { self.edges.flip(self.blocks_in(place)) }
    }

    /// Flips the edges at both ends of blocks.
    #[inline]
    fn flip_both(&self, first: usize, end: usize) {
        self.flip(first);
        self.flip(end);
    }

    /// Whether there is an edge at a place.
    #[inline]
    pub(super) fn has_edge(&self, place: usize) -> bool {
        self.edges.has(self.blocks_in(place))
    }

    /// The bin of the longest run, 0 if there is no run.
    pub(super) fn top_bin(&self) -> usize {
        let is_listed = |&bin: &usize| self.head(bin) != NONE as usize;
        let listed = (0..BINS).rev().find(is_listed).unwrap_or(0);
        listed.max(self.bin_of(self.header.units - self.header.tail.get()))
    }

    /// The same with the usual length of blocks as a constant, if they have it.
    #[inline]
    fn usual(self) -> Option<Self> {
        (self.step == USUAL_STEP).then_some(Self { step: USUAL_STEP, ..self })
    }

    /// Takes so many adjacent free blocks of a run in a list, or else of the tail where that
    /// touches no new memory of a long extent; where they start. None where blocks are not of the
    /// usual length.
    #[inline(always)] // measured: a twentieth of the instructions to 10,000 B
    pub(super) fn take_at_once(self, blocks: usize) -> Option<usize> {
        let runs = self.usual()?;
        runs.take_touched::<false>(blocks << runs.step)
    }

    /// The same, whatever length they have; without `ANY` that is more than 8 bytes.
    #[inline(always)] // measured: see `take_at_once`
    pub(super) fn take_touched<const ANY: bool>(&self, units: usize) -> Option<usize> {
        let start = self.take_listed::<ANY>(units);
        if start.is_some() || self.would_touch_new(units) {
            return start;
        }
        self.take_from_tail(units)
    }

    /// Takes adjacent free blocks; where they start. `None` also where only
    /// [`take_from_bin`](Self::take_from_bin) finds some.
    pub(super) fn take(&self, units: usize) -> Option<usize> {
        self.take_listed::<true>(units).or_else(|| self.take_from_tail(units))
    }

    /// The same, of runs in lists. With `ANY` runs may have no room for their lengths.
    #[inline(always)] // measured: see `take_at_once`
    fn take_listed<const ANY: bool>(&self, units: usize) -> Option<usize> {
        let fits = u64::MAX << self.bin_of(units);
        loop {
            let fitting = self.header.occupied.get() & fits;
            // Bin 0 where there is none.
            let bin = fitting.trailing_zeros() as usize % BINS;
            let others = fitting & fitting.wrapping_sub(1);
            let other = others.trailing_zeros() as usize % BINS;
            // The first run may be too short in the request's own bin, and missing in any. Whether
            // it is, nobody can foresee.
            let start = self.head(bin);
            let is_short = self.length_of_first::<ANY>(start) < units;
            let bin = select_unpredictable(is_short, other, bin);
            let start = select_unpredictable(is_short, self.head(other), start);
            if start != NONE as usize {
                return Some(self.cut_end::<ANY>(bin, start, units));
            }
            if bin == 0 {
                return None;
            }
            self.header.occupied.set(self.header.occupied.get() & !(1 << bin));
        }
    }

    /// Whether what is cut from the tail of a long extent lies in 4 KiB of it in which nothing lay
    /// before.
    #[inline]
    pub(super) fn would_touch_new(&self, units: usize) -> bool {
        const LEAST: usize = LONG_EXTENT_BYTES / UNIT;
        let page_of = |place: usize| place / (PAGE_BYTES / UNIT);
        let (end, fresh) = (self.header.tail.get() + units, self.header.fresh.get());
        end > fresh
            && end <= self.header.units
            && self.header.units >= LEAST
            && page_of(end - 1) != page_of(fresh.wrapping_sub(1))
    }

    #[inline]
    fn take_from_tail(&self, units: usize) -> Option<usize> {
        let tail = self.header.tail.get();
        let fits = self.header.units - tail >= units;
        if fits {
            self.cut_tail(tail, units);
        }
        fits.then_some(tail)
    }

    /// Takes from the one bin that holds both shorter and longer runs, which [`take`](Self::take)
    /// looked at the first of. O(runs in the bin).
    pub(super) fn take_from_bin(&self, units: usize) -> Option<usize> {
        let mut start = self.head(self.bin_of(units));
        while start != NONE as usize {
            let length = self.length(start);
            if length >= units {
                let first = start + length - units;
                self.flip_both(first, start + length);
                self.shorten(start, length, length - units);
                return Some(first);
            }
            start = self.next(start);
        }
        None
    }

    /// As [`take`](Self::take), at an aligned place.
    #[cold]
    pub(super) fn take_aligned(&self, units: usize, alignment: Alignment) -> Option<usize> {
        // Runs that surely hold it come first, then the tail; last all that are long enough.
        let most = units.saturating_add(alignment.stride - (1 << self.step));
        let surely = bins::holding(self.blocks_in(most));
        self.take_aligned_from(surely..BINS, units, alignment)
            .or_else(|| self.take_aligned_from_tail(units, alignment))
            .or_else(|| {
                self.take_aligned_from(self.bin_of(units)..surely.min(BINS), units, alignment)
            })
    }

    fn take_aligned_from(
        &self,
        mut bins: Range<usize>,
        units: usize,
        alignment: Alignment,
    ) -> Option<usize> {
        bins.find_map(|bin| {
            let mut start = self.head(bin);
            while start != NONE as usize {
                let end = start + self.length(start);
                let first = alignment.first_from(start);
                if first < end && end - first >= units {
                    self.flip_both(first, first + units);
                    self.shorten(start, end - start, first - start);
                    if first + units < end {
                        self.push(first + units, end - (first + units));
                    }
                    return Some(first);
                }
                start = self.next(start);
            }
            None
        })
    }

    fn take_aligned_from_tail(&self, units: usize, alignment: Alignment) -> Option<usize> {
        let tail = self.header.tail.get();
        let first = alignment.first_from(tail);
        if first > self.header.units || self.header.units - first < units {
            return None;
        }
        self.cut_tail(first, units);
        if first > tail {
            self.push(tail, first - tail);
        }
        Some(first)
    }

    /// Takes what starts at `first` if all of it is free; the block before is taken.
    #[inline]
    pub(super) fn take_at(&self, first: usize, units: usize) -> bool {
        if first == self.header.tail.get() {
            let fits = self.header.units - first >= units;
            if fits {
                self.cut_tail(first, units);
            }
            return fits;
        }
        if !self.has_edge(first) {
            return false;
        }
        let length = self.length(first);
        if length < units {
            return false;
        }
        self.flip_both(first, first + units);
        self.unlink(first);
        if length > units {
            self.push(first + units, length - units);
        }
        true
    }

    /// Marks the end of the first run in a bin as taken; where that starts.
    #[inline(always)] // measured: see `take_at_once`
    fn cut_end<const ANY: bool>(&self, bin: usize, start: usize, units: usize) -> usize {
        let length = if ANY { self.length(start) } else { self.length_of_first::<false>(start) };
        let rest = length - units;
        let first = start + rest;
        self.flip_both(first, start + length);
        if rest != 0 {
            self.write_length::<ANY>(start, rest);
            if self.bin_of(rest) == bin {
                return first;
            }
        }
        self.pop(bin, start);
        if rest != 0 {
            self.put(start, rest);
        }
        first
    }

    /// Marks blocks of the tail as taken, and lets it start behind them.
    #[inline]
    fn cut_tail(&self, first: usize, units: usize) {
        let end = first + units;
        self.flip_both(first, end);
        // INVARIANT: the tail starts behind what was cut; only from it blocks are cut that never
        // were.
        self.header.tail.set(end);
        self.header.fresh.set(self.header.fresh.get().max(end));
    }

    /// Lists a run as one of `now` units that is listed as one of `before`; 0 for not at all.
    fn shorten(&self, start: usize, before: usize, now: usize) {
        debug_assert!(now < before);
        self.unlink(start);
        if now != 0 {
            self.push(start, now);
        }
    }

    /// Frees blocks; the bin of the run that they are in now. `None`, and nothing is done, where
    /// blocks are not of the usual length, and as [`give_apart`](Self::give_apart).
    #[inline(always)] // measured: see `take_at_once`
    pub(super) fn give_at_once<const ANYWHERE: bool>(
        self,
        first: usize,
        blocks: usize,
    ) -> Option<usize> {
        let runs = self.usual()?;
        runs.give_apart::<ANYWHERE>(first, blocks << runs.step)
    }

    /// Frees blocks; the bin of the run that they are in now. `None`, and nothing is done, between
    /// another run and the tail, and where a run may have no room for its length.
    ///
    /// Whether anything on either side is free nobody can foresee, so no branch asks. What the
    /// edges will say is not waited for to fetch what lies at both ends.
    ///
    /// Without `ANYWHERE` nothing before them is free.
    #[inline(always)] // measured: see `take_at_once`
    fn give_apart<const ANYWHERE: bool>(&self, first: usize, units: usize) -> Option<usize> {
        let end = first + units;
        if end == self.header.tail.get() {
            return self.lower_tail(first, end);
        }
        if self.is_bare() {
            return None;
        }
        if ANYWHERE {
            pointers::prefetch(self.base, (first * UNIT).wrapping_sub(UNIT));
        }
        pointers::prefetch(self.base, end * UNIT);
        // SAFETY: where an edge was, beside what is taken, a run is, and listed; all are longer
        // than 8 bytes.
        unsafe {
            let is_before = self.flip(first);
            let ahead = if ANYWHERE { self.take_before(is_before, first) } else { 0 };
            let is_behind = self.flip(end);
            let behind = self.take_behind(is_behind, end);
            let (start, length) = (first - ahead, ahead + units + behind);
            self.write_both_lengths(start, length);
            Some(self.put(start, length))
        }
    }

    /// Frees what the tail starts behind, if no run ends before it; the tail's bin.
    #[inline]
    fn lower_tail(&self, first: usize, end: usize) -> Option<usize> {
        if self.has_edge(first) {
            return None;
        }
        self.flip_both(first, end);
        // INVARIANT: the tail starts there now.
        self.header.tail.set(first);
        Some(self.bin_of(self.header.units - first))
    }

    /// Frees blocks; the bin of the run that they are in now.
    pub(super) fn give(self, first: usize, blocks: usize) -> usize {
        let units = blocks << self.step;
        let bin = self.give_apart::<true>(first, units);
        bin.unwrap_or_else(|| self.give_anywhere(first, units))
    }

    fn give_anywhere(&self, first: usize, units: usize) -> usize {
        let end = first + units;
        let (has_before, has_behind) = (self.has_edge(first), self.has_edge(end));
        self.flip_both(first, end);
        let ahead = if has_before { self.length_before(first) } else { 0 };
        let start = first - ahead;
        if has_before {
            self.unlink(start);
        }
        if end == self.header.tail.get() {
            // INVARIANT: the tail starts there now, and is in no list.
            self.header.tail.set(start);
            return self.bin_of(self.header.units - start);
        }
        let behind = if has_behind { self.length(end) } else { 0 };
        if has_behind {
            self.unlink(end);
        }
        self.push(start, ahead + units + behind)
    }

    /// Calls `visit` with each run, where it starts and its length.
    pub(super) fn visit(&self, mut visit: impl FnMut(usize, usize)) {
        self.edges.visit_runs(self.blocks_in(self.header.units), |first, blocks| {
            visit(first << self.step, blocks << self.step);
        });
    }

    /// What is wrong with the runs, if anything is.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let Header { units, .. } = *self.header;
        let mut fault = self.edges.fault(self.blocks_in(units));
        let (mut runs, mut tail) = (0_usize, units);
        self.visit(|start, length| {
            runs += 1;
            let end = start + length;
            if end == units {
                tail = start;
            } else if self.length(start) != length || self.length_before(end) != length {
                fault = Some("a run's lengths differ from the edges");
            }
        });
        if tail != self.header.tail.get() {
            return Some("the run at the end starts elsewhere");
        }
        if !self.header.empty.is_sound() {
            return Some("the empty run is not empty");
        }
        if self.header.occupied.get() & 1 != 0 {
            return Some("the bin of no length is occupied");
        }
        for bin in 0..BINS {
            let mut start = self.head(bin);
            if start != NONE as usize && (bin == 0 || self.header.occupied.get() >> bin & 1 == 0) {
                fault = Some("a bin's occupied bit disagrees with its list");
            }
            let mut previous = lists::first_of(bin) as usize;
            while start != NONE as usize && fault.is_none() {
                let block = self.blocks_in(start);
                if start >= units || block << self.step != start || runs == 0 {
                    return Some("a bin lists something other than free runs");
                }
                if !self.has_edge(start) {
                    return Some("a bin lists something other than free runs");
                }
                if !self.edges.is_free(block) || self.bin_of(self.length(start)) != bin {
                    fault = Some("a run is in another bin than its length's");
                }
                if previous != self.previous(start) {
                    fault = Some("a bin's list reads differently backwards");
                }
                runs -= 1;
                previous = start;
                start = self.next(start);
            }
        }
        let listed = runs == usize::from(tail < units);
        if fault.is_none() && !listed { Some("a free run is in no bin") } else { fault }
    }
}
