//! The free runs of one extent: found by length through bins, by address through the edges.
//!
//! ```text
//!   Extent::metadata                               the extent
//!   ┌───────────────────┬────────────────────┐     ┌───────┬────────────┬───────┬────────────┬──
//!   │ Header: heads ... │ cells of the Edges │     │ taken │ Link, free │ taken │ Link, free │ ...
//!   └───────────────────┴────────────────────┘     └───────┴────────────┴───────┴────────────┴──
//!                 └───────────────────────────────────────────↑─── a bin's list ───↑
//! ```
//!
//! The run that reaches the extent's end, the **tail**, is in no list: blocks are cut from its
//! start when no other run holds them, so it stays whole and a block cut last can grow. From all
//! other runs blocks are cut at the end, and freed blocks mostly join a run behind its start: as
//! long as its bin stays the same, neither moves a link.
//!
//! The lists' links are the only thing in free memory: 8 bytes at a run's start, two indices of 32
//! bits, so that they fit the smallest block. A run's length is not stored: it is the distance to
//! the next edge; storing it as well was tried and saved 2 % of the instructions. Links out of line
//! would cost 8 bytes a block, a quarter of the memory; searching the bits alone (by ranks of each
//! word's longest run) was tried and took twice the time.

use core::cell::Cell;
use core::ops::Range;
use core::ptr::NonNull;

use super::bins::{self, BINS};
use super::edges::{Edges, Shape};
use crate::pointers;
use crate::strategy::Extent;

/// No index.
const NONE: u32 = u32::MAX;

/// The most blocks an extent is cut into, so that an index fits 32 bits beside `NONE`. What is
/// beyond in a longer extent is not used.
pub(super) const MAX_BLOCKS: usize = NONE as usize - 1;

/// Bytes at the start of a free run that are written.
pub(super) const LINK_BYTES: usize = size_of::<Link>();

/// The neighbours in the list of a bin, at the start of a free run.
///
/// # Invariants
/// `previous` is right but in the first of a list, where it is anything.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    previous: u32,
}

/// What the strategy keeps about an extent, at the start of its metadata.
///
/// # Invariants
/// - Every free run but the tail is in the list of its length's bin, and nothing else is in any.
/// - `occupied` has the bits of the bins whose list is not empty.
#[repr(C, align(16))]
#[derive(Debug)]
pub(super) struct Header {
    /// Where block 0 starts: a multiple of the block size.
    pub(super) base: NonNull<u8>,
    /// Whole blocks between `base` and the extent's end.
    pub(super) blocks: usize,
    block_shift: u32,
    /// The shelf that the extent is on.
    pub(super) shelf: Cell<usize>,
    /// Where the tail starts; `blocks` if the last block is taken.
    tail: Cell<usize>,
    /// The blocks from here on were never allocated.
    pub(super) fresh: Cell<usize>,
    /// The neighbours in the list of the shelf.
    pub(super) next: Cell<Option<NonNull<Extent>>>,
    pub(super) previous: Cell<Option<NonNull<Extent>>>,
    shape: Shape,
    occupied: Cell<u64>,
    heads: [Cell<u32>; BINS],
}

/// Which indices are aligned: those that are `phase` modulo `stride`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alignment {
    /// In blocks, a power of two.
    pub(super) stride: usize,
    /// In blocks, less than the stride.
    pub(super) phase: usize,
}

impl Alignment {
    /// The first aligned index from `index` on.
    const fn first_from(self, index: usize) -> usize {
        index + (self.phase.wrapping_sub(index) & (self.stride - 1))
    }
}

/// The free runs of an extent.
#[derive(Clone, Copy)]
pub(super) struct Runs<'a> {
    pub(super) header: &'a Header,
    pub(super) edges: Edges<'a>,
}

/// The bytes of metadata for `blocks`.
pub(super) const fn metadata_bytes(blocks: usize) -> usize {
    size_of::<Header>() + Shape::of(blocks).cells * size_of::<u64>()
}

impl<'a> Runs<'a> {
    /// The runs of an extent, read from its metadata.
    ///
    /// # Safety
    /// [`start`](Self::start) was called for the extent, which is still the strategy's.
    #[inline]
    pub(super) unsafe fn of(extent: &'a Extent) -> Self {
        // SAFETY: the strategy asks for metadata. `start` wrote a header there, and zeroed cells
        // stood behind it, as many as `metadata_bytes` asked for. All that changes later is in
        // cells, on one thread.
        unsafe {
            let metadata = extent.metadata();
            let header = metadata.cast::<Header>().as_ref();
            let cells = pointers::forward(metadata, size_of::<Header>()).cast::<Cell<u64>>();
            let cells = NonNull::slice_from_raw_parts(cells, header.shape.cells).as_ref();
            Self { header, edges: Edges::new(cells, &header.shape) }
        }
    }

    /// Cuts an extent into blocks of `1 << block_shift` bytes, all free.
    ///
    /// # Safety
    /// The extent and its metadata are the strategy's alone, the metadata is zeroed and at least
    /// [`metadata_bytes`] of the extent's length in blocks long, and the length is not zero.
    pub(super) unsafe fn start(extent: &'a Extent, block_shift: u32) -> Self {
        let lost = pointers::padding(extent.start(), 1 << block_shift).min(extent.length());
        let blocks = ((extent.length() - lost) >> block_shift).min(MAX_BLOCKS);
        let header = Header {
            // SAFETY: at most the extent's length above its start.
            base: unsafe { pointers::forward(extent.start(), lost) },
            blocks,
            block_shift,
            shelf: Cell::new(0),
            tail: Cell::new(0),
            fresh: Cell::new(0),
            next: Cell::new(None),
            previous: Cell::new(None),
            shape: Shape::of(blocks),
            occupied: Cell::new(0),
            heads: [const { Cell::new(NONE) }; BINS],
        };
        // SAFETY: the caller's contract; the header is at the metadata's start, which is aligned.
        let runs = unsafe {
            extent.metadata().cast::<Header>().write(header);
            Self::of(extent)
        };
        if blocks > 0 {
            let _ = runs.edges.flip_both(0, blocks);
        }
        runs
    }

    /// The bin of the longest run, 0 if there is no run.
    pub(super) fn top_bin(&self) -> usize {
        let listed = 63 - (self.header.occupied.get() | 1).leading_zeros() as usize;
        listed.max(bins::of(self.header.blocks - self.header.tail.get()))
    }

    /// Takes `blocks` adjacent free blocks; their first index.
    // Measured: see `BitSet::cut_from`.
    #[inline(always)]
    pub(super) fn take(&self, blocks: usize) -> Option<usize> {
        let bin = bins::of(blocks);
        let start = self.head(bin);
        if start != NONE as usize {
            let end = self.edges.after(start);
            if end - start >= blocks {
                return Some(self.cut_end(start, blocks, end));
            }
        }
        let above = self.header.occupied.get() & (u64::MAX << bin << 1);
        if above != 0 {
            let start = self.head(above.trailing_zeros() as usize);
            return Some(self.cut_end(start, blocks, self.edges.after(start)));
        }
        let tail = self.header.tail.get();
        if self.header.blocks - tail >= blocks {
            self.cut_tail(tail, blocks);
            return Some(tail);
        }
        self.take_from_bin(blocks)
    }

    /// Takes from the one bin that holds both shorter and longer runs.
    #[cold]
    fn take_from_bin(&self, blocks: usize) -> Option<usize> {
        let mut start = self.head(bins::of(blocks));
        while start != NONE as usize {
            let end = self.edges.after(start);
            if end - start >= blocks {
                return Some(self.cut_end(start, blocks, end));
            }
            start = self.link(start).next as usize;
        }
        None
    }

    /// As [`take`](Self::take), at an aligned index.
    #[cold]
    pub(super) fn take_aligned(&self, blocks: usize, alignment: Alignment) -> Option<usize> {
        // Runs that surely hold it come first, then the tail; last all that are long enough.
        let surely = bins::holding(blocks.saturating_add(alignment.stride - 1));
        self.take_aligned_from(surely..BINS, blocks, alignment)
            .or_else(|| self.take_aligned_from_tail(blocks, alignment))
            .or_else(|| {
                self.take_aligned_from(bins::of(blocks)..surely.min(BINS), blocks, alignment)
            })
    }

    fn take_aligned_from(
        &self,
        mut bins: Range<usize>,
        blocks: usize,
        alignment: Alignment,
    ) -> Option<usize> {
        bins.find_map(|bin| {
            let mut start = self.head(bin);
            while start != NONE as usize {
                let end = self.edges.after(start);
                let index = alignment.first_from(start);
                if index < end && end - index >= blocks {
                    let _ = self.edges.flip_both(index, index + blocks);
                    self.shorten(start, end - start, index - start);
                    if index + blocks < end {
                        self.push(index + blocks, end - (index + blocks));
                    }
                    return Some(index);
                }
                start = self.link(start).next as usize;
            }
            None
        })
    }

    fn take_aligned_from_tail(&self, blocks: usize, alignment: Alignment) -> Option<usize> {
        let tail = self.header.tail.get();
        let index = alignment.first_from(tail);
        if index > self.header.blocks || self.header.blocks - index < blocks {
            return None;
        }
        self.cut_tail(index, blocks);
        if index > tail {
            self.push(tail, index - tail);
        }
        Some(index)
    }

    /// Takes the `blocks` from `index` on if all are free; the block before is taken.
    #[inline]
    pub(super) fn take_at(&self, index: usize, blocks: usize) -> bool {
        if index == self.header.tail.get() {
            let fits = self.header.blocks - index >= blocks;
            if fits {
                self.cut_tail(index, blocks);
            }
            return fits;
        }
        if !self.edges.has(index) {
            return false;
        }
        let end = self.edges.after(index);
        if end - index < blocks {
            return false;
        }
        let _ = self.edges.flip_both(index, index + blocks);
        self.unlink(index, bins::of(end - index));
        if index + blocks < end {
            self.push(index + blocks, end - (index + blocks));
        }
        true
    }

    /// Marks the last `blocks` of a listed run as taken; where they start.
    #[inline]
    fn cut_end(&self, start: usize, blocks: usize, end: usize) -> usize {
        let index = end - blocks;
        let _ = self.edges.flip_both(index, end);
        self.shorten(start, end - start, index - start);
        index
    }

    /// Marks blocks of the tail as taken, and lets it start behind them.
    #[inline]
    fn cut_tail(&self, index: usize, blocks: usize) {
        let end = index + blocks;
        let _ = self.edges.flip_both(index, end);
        // INVARIANT: the tail starts behind what was cut; only from it blocks are cut that never
        // were.
        self.header.tail.set(end);
        self.header.fresh.set(self.header.fresh.get().max(end));
    }

    /// Lists a run as one of `now` blocks that is listed as one of `before`; 0 for not at all.
    #[inline]
    fn shorten(&self, start: usize, before: usize, now: usize) {
        let (before, bin) = (bins::of(before), bins::of(now));
        if before != bin {
            self.unlink(start, before);
            if now != 0 {
                self.push(start, now);
            }
        }
    }

    /// Frees blocks; the bin of the run that they are in now.
    // Measured: see `BitSet::cut_from`.
    #[inline(always)]
    pub(super) fn give(&self, index: usize, blocks: usize) -> usize {
        let end = index + blocks;
        let (is_start, is_end) = self.edges.flip_both(index, end);
        if end == self.header.tail.get() {
            return self.give_to_tail(index, is_start);
        }
        let mut run_end = end;
        if !is_end {
            run_end = self.edges.after(end);
            self.unlink(end, bins::of(run_end - end));
        }
        if is_start {
            return self.push(index, run_end - index);
        }
        let start = self.edges.before(index);
        let (before, bin) = (bins::of(index - start), bins::of(run_end - start));
        if before != bin {
            self.unlink(start, before);
            self.push(start, run_end - start);
        }
        bin
    }

    /// Lets the tail start at `index`, or where the run before starts; the tail's bin.
    #[inline(never)]
    fn give_to_tail(&self, index: usize, is_start: bool) -> usize {
        let mut start = index;
        if !is_start {
            start = self.edges.before(index);
            self.unlink(start, bins::of(index - start));
        }
        // INVARIANT: the tail starts there now, and is in no list.
        self.header.tail.set(start);
        bins::of(self.header.blocks - start)
    }

    /// Puts a run into its bin's list; the bin.
    #[inline]
    fn push(&self, start: usize, blocks: usize) -> usize {
        let bin = bins::of(blocks);
        let next = self.head(bin) as u32;
        self.set_link(start, Link { next, previous: NONE });
        if next != NONE {
            self.set_previous(next as usize, start as u32);
        }
        // INVARIANT: the run is in the list, and its bin is occupied.
        self.set_head(bin, start as u32);
        self.header.occupied.set(self.header.occupied.get() | 1 << bin);
        bin
    }

    /// Takes a run out of its bin's list.
    #[inline]
    fn unlink(&self, start: usize, bin: usize) {
        let link = self.link(start);
        if self.head(bin) == start {
            self.set_head(bin, link.next);
            if link.next == NONE {
                // INVARIANT: the list is empty now.
                self.header.occupied.set(self.header.occupied.get() & !(1 << bin));
            }
            return;
        }
        self.set_next(link.previous as usize, link.next);
        if link.next != NONE {
            self.set_previous(link.next as usize, link.previous);
        }
    }

    #[inline]
    fn head(&self, bin: usize) -> usize {
        self.header.heads.get(bin).map_or(NONE, Cell::get) as usize
    }

    #[inline]
    fn set_head(&self, bin: usize, start: u32) {
        if let Some(head) = self.header.heads.get(bin) {
            head.set(start);
        }
    }

    #[inline]
    fn link_at(&self, start: usize) -> NonNull<Link> {
        // SAFETY: runs start at indices below the extent's count of blocks, so within the extent.
        unsafe { pointers::forward(self.header.base, start << self.header.block_shift) }.cast()
    }

    #[inline]
    fn link(&self, start: usize) -> Link {
        // SAFETY: a free run starts there: its first 8 bytes are the strategy's, were written by
        // `push`, and are aligned because blocks are powers of two of at least 8.
        unsafe { self.link_at(start).read() }
    }

    #[inline]
    fn set_link(&self, start: usize, link: Link) {
        // SAFETY: as in `link`, but that this is the first write.
        unsafe { self.link_at(start).write(link) }
    }

    #[inline]
    fn set_next(&self, start: usize, next: u32) {
        // SAFETY: as in `link`.
        unsafe { (*self.link_at(start).as_ptr()).next = next }
    }

    #[inline]
    fn set_previous(&self, start: usize, previous: u32) {
        // SAFETY: as in `link`.
        unsafe { (*self.link_at(start).as_ptr()).previous = previous }
    }

    /// What is wrong with the runs, if anything is.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let mut fault = self.edges.fault(self.header.blocks);
        let mut runs = 0usize;
        let mut tail = self.header.blocks;
        self.edges.visit_runs(self.header.blocks, |start, blocks| {
            runs += 1;
            if start + blocks == self.header.blocks {
                tail = start;
            }
        });
        if tail != self.header.tail.get() {
            return Some("the run at the end starts elsewhere");
        }
        for bin in 0..BINS {
            let mut start = self.head(bin);
            if (start == NONE as usize) == (self.header.occupied.get() >> bin & 1 != 0) {
                fault = Some("a bin's occupied bit disagrees with its list");
            }
            let mut previous = None;
            while start != NONE as usize && fault.is_none() {
                if start >= self.header.blocks || !self.edges.has(start) || runs == 0 {
                    return Some("a bin lists something other than free runs");
                }
                if !self.edges.is_free(start) || bins::of(self.edges.after(start) - start) != bin {
                    fault = Some("a run is in another bin than its length's");
                }
                let link = self.link(start);
                if previous.is_some_and(|previous| previous != link.previous as usize) {
                    fault = Some("a bin's list reads differently backwards");
                }
                runs -= 1;
                previous = Some(start);
                start = link.next as usize;
            }
        }
        let listed = runs == usize::from(tail < self.header.blocks);
        if fault.is_none() && !listed { Some("a free run is in no bin") } else { fault }
    }
}
