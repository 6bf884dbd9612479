//! The free runs of one extent: found by length through bins, by address through the edges.
//!
//! ```text
//!   Extent::metadata                                       the extent
//!   ┌──────────────────────────┬───────────────────┐       ┌───────┬────────────┬─────┬───────┬──
//!   │ Header: bins' heads, ... │ cells of the Edges│       │ taken │ Link, free │taken│ Link  │ ...
//!   └──────────────────────────┴───────────────────┘       └───────┴────────────┴─────┴───────┴──
//!                                                                    └── the bin's list ──┘
//! ```
//!
//! The lists' links are the only thing in free memory: 8 bytes at a run's start, two indices of 32
//! bits, so that they fit the smallest block. A run's length is not stored: it is the distance to
//! the next edge. Links out of line would cost 8 bytes a block, a quarter of the memory; searching
//! the bits alone (by ranks of each word's longest run) was tried and took twice the time.

use core::cell::Cell;
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
/// - Every free run is in the list of its length's bin, and nothing else is in any.
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
    /// Where the free run starts that reaches the extent's end; `blocks` if the last is taken. Spares
    /// the search for the end of what is often by far the longest run.
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
        let metadata = extent.metadata();
        // SAFETY: `start` wrote a header there, and zeroed cells stood behind it, as many as
        // `metadata_bytes` asked for. All that changes later is in cells, on one thread.
        unsafe {
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
            runs.push(0, blocks);
        }
        runs
    }

    /// The bin of the longest run, 0 if there is no run.
    #[inline]
    pub(super) fn top_bin(&self) -> usize {
        63 - (self.header.occupied.get() | 1).leading_zeros() as usize
    }

    /// Where the free run ends that starts at `start`.
    #[inline]
    fn end_of(&self, start: usize) -> usize {
        if start >= self.header.tail.get() { self.header.blocks } else { self.edges.after(start) }
    }

    /// Takes `blocks` adjacent free blocks; their first index.
    #[inline]
    pub(super) fn take(&self, blocks: usize) -> Option<usize> {
        let bin = bins::of(blocks);
        let start = self.head(bin);
        if start != NONE as usize {
            let end = self.end_of(start);
            if end - start >= blocks {
                self.pop(bin, start);
                self.split(start, blocks, end);
                return Some(start);
            }
        }
        let above = self.header.occupied.get() & (u64::MAX << bin << 1);
        if above == 0 {
            return self.take_from_bin(blocks);
        }
        let bin = above.trailing_zeros() as usize;
        let start = self.head(bin);
        let end = self.end_of(start);
        self.pop(bin, start);
        self.split(start, blocks, end);
        Some(start)
    }

    /// Takes from the one bin that holds both shorter and longer runs, or from the last.
    #[cold]
    fn take_from_bin(&self, blocks: usize) -> Option<usize> {
        let bin = bins::of(blocks);
        let mut start = self.head(bin);
        while start != NONE as usize {
            let end = self.end_of(start);
            if end - start >= blocks {
                self.unlink(start, end - start);
                self.split(start, blocks, end);
                return Some(start);
            }
            start = self.link(start).next as usize;
        }
        None
    }

    /// As [`take`](Self::take), at an aligned index.
    pub(super) fn take_aligned(&self, blocks: usize, alignment: Alignment) -> Option<usize> {
        // Runs that surely hold it come first, else every run that is long enough is tried.
        let surely = bins::holding(blocks.saturating_add(alignment.stride - 1));
        let first = bins::of(blocks);
        (surely..BINS).chain(first..surely.min(BINS)).find_map(|bin| {
            let mut start = self.head(bin);
            while start != NONE as usize {
                let end = self.end_of(start);
                let index = alignment.first_from(start);
                if index < end && end - index >= blocks {
                    self.unlink(start, end - start);
                    if index > start {
                        let _ = self.edges.flip_both(index, index + blocks);
                        self.put_back(index + blocks, end);
                        self.push(start, index - start);
                    } else {
                        self.split(start, blocks, end);
                    }
                    return Some(index);
                }
                start = self.link(start).next as usize;
            }
            None
        })
    }

    /// Takes the `blocks` from `index` on if all are free; the block before is taken.
    #[inline]
    pub(super) fn take_at(&self, index: usize, blocks: usize) -> bool {
        if !self.edges.has(index) || index >= self.header.blocks {
            return false;
        }
        let end = self.end_of(index);
        if end - index < blocks {
            return false;
        }
        self.unlink(index, end - index);
        self.split(index, blocks, end);
        true
    }

    /// Marks the first `blocks` of a run that is in no list as taken.
    #[inline]
    fn split(&self, start: usize, blocks: usize, end: usize) {
        let _ = self.edges.flip_both(start, start + blocks);
        self.put_back(start + blocks, end);
    }

    /// Puts the rest of a run, from `start` on, back, if there is any.
    #[inline]
    fn put_back(&self, start: usize, end: usize) {
        if end == self.header.blocks {
            // INVARIANT: what is left of the last run is the last run; only from it blocks are taken
            // that never were.
            self.header.tail.set(start);
            self.header.fresh.set(self.header.fresh.get().max(start));
        }
        if start < end {
            self.push(start, end - start);
        }
    }

    /// Frees blocks; the bin of the run that they are in now.
    #[inline]
    pub(super) fn give(&self, index: usize, blocks: usize) -> usize {
        let (mut start, mut end) = (index, index + blocks);
        let (is_start, is_end) = self.edges.flip_both(start, end);
        if !is_start {
            start = self.edges.before(index);
            self.unlink(start, index - start);
        }
        if !is_end {
            let next = end;
            end = self.end_of(next);
            self.unlink(next, end - next);
        }
        if end == self.header.blocks {
            // INVARIANT: this is the last run now.
            self.header.tail.set(start);
        }
        self.push(start, end - start)
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
    fn unlink(&self, start: usize, blocks: usize) {
        let bin = bins::of(blocks);
        if self.head(bin) == start {
            return self.pop(bin, start);
        }
        let link = self.link(start);
        self.set_next(link.previous as usize, link.next);
        if link.next != NONE {
            self.set_previous(link.next as usize, link.previous);
        }
    }

    /// Takes the first run, at `start`, out of a bin's list.
    #[inline]
    fn pop(&self, bin: usize, start: usize) {
        let next = self.link(start).next;
        self.set_head(bin, next);
        if next == NONE {
            // INVARIANT: the list is empty now.
            self.header.occupied.set(self.header.occupied.get() & !(1 << bin));
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
                if !self.edges.is_free(start) || bins::of(self.end_of(start) - start) != bin {
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
        if fault.is_none() && runs != 0 { Some("a free run is in no bin") } else { fault }
    }
}
