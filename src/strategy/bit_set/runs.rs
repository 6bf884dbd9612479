//! The free runs of one extent: found by length through bins, and by who frees a block beside one,
//! through the edges and the lengths at their ends.
//!
//! ```text
//!   Extent::metadata                        the extent
//!   ┌───────────────────┬────────────────┐  ┌───────┬────────────────────────┬───────┬──────────
//!   │ Header: heads ... │ words of Edges │  │ taken │ Link, length .. length │ taken │ Link ...
//!   └───────────────────┴────────────────┘  └───────┴────────────────────────┴───────┴──────────
//!                 └───────────────────────────────────↑───────── a bin's list ─────────↑
//! ```
//!
//! The run that reaches the extent's end, the **tail**, is in no list: blocks are cut from its
//! start when no other run holds them, so it stays whole and a block cut last can grow. From all
//! other runs blocks are cut at the end, and freed blocks mostly join a run behind its start: as
//! long as its bin stays the same, neither moves a link.
//!
//! In the memory of a listed run stand its links, two indices of 32 bits, so that they fit the
//! smallest block, and its length at either end. A run of 8 bytes has no room for lengths; that it
//! is so short the edges say, and only where blocks are of 8 bytes are they asked. Links out of
//! line would cost 8 bytes a block, a quarter of the memory; searching the bits alone (by ranks of
//! each word's longest run) was tried and took twice the time.

use core::cell::Cell;
use core::hint::select_unpredictable;
use core::ops::Range;
use core::ptr::NonNull;

use super::bins::{self, BINS};
use super::edges::{self, Edges};
use crate::pointers;
use crate::strategy::{Extent, LONG_EXTENT_BYTES};
use crate::units::PAGE_BYTES;

/// No index.
const NONE: u32 = u32::MAX;

/// The most blocks an extent is cut into, so that an index fits 32 bits beside `NONE`. What is
/// beyond in a longer extent is not used.
pub(super) const MAX_BLOCKS: usize = NONE as usize - 1;

/// Bytes at the start of a free run that are written, if it is as long.
pub(super) const HEAD_BYTES: usize = size_of::<Link>() + LENGTH_BYTES;

/// Bytes at its end.
pub(super) const TAIL_BYTES: usize = LENGTH_BYTES;

/// A run's length, in blocks.
type Length = u32;

const LENGTH_BYTES: usize = size_of::<Length>();

/// Runs of blocks of `1 << BARE_SHIFT` bytes may have no room for lengths: those of one block.
const BARE_SHIFT: u32 = 3;

/// The neighbours in the list of a bin, at the start of a free run.
///
/// # Invariants
/// Both are indices of blocks, or `next` is `NONE`. `previous` is right but in the first of a list.
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
/// - Every run in a list has its length at both ends, unless it is of 8 bytes.
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
    /// The words of the edges, behind the header.
    words: usize,
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
    /// The header's, which the compiler would read anew after each write to a run.
    base: NonNull<u8>,
    block_shift: u32,
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
            let Header { base, block_shift, .. } = *header;
            Self { header, edges: Edges::new(words), base, block_shift }
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
            words: edges::words_for(blocks),
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

    /// Takes `blocks` adjacent free blocks; their first index. `None` also where only
    /// [`take_from_bin`](Self::take_from_bin) finds some.
    #[inline(always)] // measured: see `BitSet::cut_from`
    pub(super) fn take(&self, blocks: usize) -> Option<usize> {
        let own = bins::of(blocks);
        let mut fitting = self.header.occupied.get() >> own;
        let mut bin = own + fitting.trailing_zeros() as usize;
        if fitting != 0 {
            let mut start = self.head(bin);
            let mut length = self.length(start);
            if length < blocks {
                // Only in the request's own bin: all in the bins above are long enough.
                fitting &= fitting - 1;
                bin = own + fitting.trailing_zeros() as usize;
                if fitting == 0 {
                    return self.take_from_tail(blocks);
                }
                start = self.head(bin);
                length = self.length(start);
            }
            return Some(self.cut_end(bin, start, length, blocks));
        }
        self.take_from_tail(blocks)
    }

    /// Whether [`take`](Self::take) would cut the blocks from the tail of a long extent, and they
    /// lie in 4 KiB of it in which none lay before.
    #[inline]
    pub(super) fn would_touch_new(&self, blocks: usize) -> bool {
        let page_of = |block: usize| (block << self.header.block_shift) / PAGE_BYTES;
        let (end, fresh) = (self.header.tail.get() + blocks, self.header.fresh.get());
        let own = bins::of(blocks);
        // Either no bin has a run, or only their own.
        let fitting = self.header.occupied.get() >> own;
        fitting <= 1
            && end > fresh
            && end <= self.header.blocks
            && self.header.blocks << self.header.block_shift >= LONG_EXTENT_BYTES
            && page_of(end - 1) != page_of(fresh.wrapping_sub(1))
            && (fitting == 0 || self.length(self.head(own)) < blocks)
    }

    #[inline]
    fn take_from_tail(&self, blocks: usize) -> Option<usize> {
        let tail = self.header.tail.get();
        let fits = self.header.blocks - tail >= blocks;
        if fits {
            self.cut_tail(tail, blocks);
        }
        fits.then_some(tail)
    }

    /// Takes from the one bin that holds both shorter and longer runs, which [`take`](Self::take)
    /// looked at the first of. O(runs in the bin).
    pub(super) fn take_from_bin(&self, blocks: usize) -> Option<usize> {
        let mut start = self.head(bins::of(blocks));
        while start != NONE as usize {
            let length = self.length(start);
            if length >= blocks {
                let index = start + length - blocks;
                let _ = self.edges.flip_both(index, start + length);
                self.shorten(start, length, length - blocks);
                return Some(index);
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
                let end = start + self.length(start);
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
        let end = index + self.length(index);
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

    /// Marks the last `blocks` of the first run in a bin as taken; where they start.
    #[inline(always)] // measured: see `BitSet::cut_from`
    fn cut_end(&self, bin: usize, start: usize, length: usize, blocks: usize) -> usize {
        let rest = length - blocks;
        let index = start + rest;
        let _ = self.edges.flip_both(index, start + length);
        if bins::of(rest) == bin {
            self.write_length(start, rest);
            return index;
        }
        let next = self.link(start).next;
        self.set_head(bin, next);
        self.clear_if(bin, next == NONE);
        if rest != 0 {
            self.push(start, rest);
        }
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
    fn shorten(&self, start: usize, before: usize, now: usize) {
        self.unlink(start, bins::of(before));
        if now != 0 {
            self.push(start, now);
        }
    }

    /// Frees blocks; the bin of the run that they are in now.
    #[inline(always)] // measured: see `BitSet::cut_from`
    pub(super) fn give(&self, index: usize, blocks: usize) -> usize {
        let end = index + blocks;
        let (is_start, is_end) = self.edges.flip_both(index, end);
        if end == self.header.tail.get() {
            return self.give_to_tail(index, is_start);
        }
        let (mut start, mut length) = (index, blocks);
        if !is_end {
            let behind = self.length(end);
            self.unlink(end, bins::of(behind));
            length += behind;
        }
        if !is_start {
            let ahead = self.length_before(index);
            start -= ahead;
            length += ahead;
            let bin = bins::of(ahead);
            if bins::of(length) == bin {
                self.write_length(start, length);
                return bin;
            }
            self.unlink(start, bin);
        }
        self.push(start, length)
    }

    /// Lets the tail start at `index`, or where the run before starts; the tail's bin.
    #[inline]
    fn give_to_tail(&self, index: usize, is_start: bool) -> usize {
        let mut start = index;
        if !is_start {
            start -= self.length_before(index);
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
        self.write_length(start, blocks);
        self.set_link(start, Link { next, previous: start as u32 });
        // Where there is no next, what is written again is what was just written.
        self.set_previous(self.or_self(next, start), start as u32);
        // INVARIANT: the run is in the list, and its bin is occupied.
        self.set_head(bin, start as u32);
        self.header.occupied.set(self.header.occupied.get() | 1 << bin);
        bin
    }

    /// Takes a run out of its bin's list. Whether it is the first, or the last, nobody can foresee,
    /// so it is done without a branch.
    #[inline]
    fn unlink(&self, start: usize, bin: usize) {
        let head = &self.header.heads[bin % BINS];
        let link = self.link(start);
        let is_first = head.get() as usize == start;
        let before = self.link_at(link.previous as usize).cast();
        let slot: NonNull<u32> = select_unpredictable(is_first, NonNull::from(head).cast(), before);
        // SAFETY: the bin's head, or the link of the run before, which begins with its next.
        unsafe { slot.write(link.next) };
        // Where there is no next, the run's own link is written, which is none any more.
        self.set_previous(self.or_self(link.next, start), link.previous);
        // INVARIANT: where it was both the first and the last, the list is empty now.
        self.clear_if(bin, is_first & (link.next == NONE));
    }

    /// The index, or the run itself where there is none.
    #[inline]
    fn or_self(&self, index: u32, start: usize) -> usize {
        select_unpredictable(index == NONE, start, index as usize)
    }

    /// Notes that a bin has become empty.
    #[inline]
    fn clear_if(&self, bin: usize, is_empty: bool) {
        let occupied = &self.header.occupied;
        occupied.set(occupied.get() & !(u64::from(is_empty) << bin));
    }

    /// The length of a listed run, in blocks.
    #[inline]
    fn length(&self, start: usize) -> usize {
        if self.block_shift == BARE_SHIFT && self.edges.has(start + 1) {
            return 1;
        }
        // SAFETY: a listed run starts there, and is longer than 8 bytes.
        unsafe { self.length_at(start).read() as usize }
    }

    /// The length of the listed run that ends before `end`, in blocks.
    #[inline]
    fn length_before(&self, end: usize) -> usize {
        if self.block_shift == BARE_SHIFT && self.edges.has(end - 1) {
            return 1;
        }
        // SAFETY: a listed run ends there, and is longer than 8 bytes.
        unsafe { self.last_length_at(end).read() as usize }
    }

    /// Writes the length of a run to both its ends, if there is room.
    #[inline]
    fn write_length(&self, start: usize, blocks: usize) {
        if blocks << self.block_shift > size_of::<Link>() {
            // SAFETY: the run is free, and as long.
            unsafe {
                self.length_at(start).write(blocks as Length);
                self.last_length_at(start + blocks).write(blocks as Length);
            }
        }
    }

    /// Where a run has its length first.
    ///
    /// # Safety
    /// A run of more than 8 bytes starts there.
    #[inline]
    unsafe fn length_at(&self, start: usize) -> NonNull<Length> {
        // SAFETY: by the contract that lies in the run.
        unsafe { pointers::forward(self.link_at(start).cast(), size_of::<Link>()).cast() }
    }

    /// Where it has it last.
    ///
    /// # Safety
    /// A run of more than 8 bytes ends there.
    #[inline]
    unsafe fn last_length_at(&self, end: usize) -> NonNull<Length> {
        let offset = (end << self.block_shift) - LENGTH_BYTES;
        // SAFETY: by the contract that lies in the run.
        unsafe { pointers::forward(self.base, offset).cast() }
    }

    #[inline]
    fn head(&self, bin: usize) -> usize {
        self.header.heads[bin % BINS].get() as usize
    }

    #[inline]
    fn set_head(&self, bin: usize, start: u32) {
        self.header.heads[bin % BINS].set(start);
    }

    #[inline]
    fn link_at(&self, start: usize) -> NonNull<Link> {
        // SAFETY: runs start at indices below the extent's count of blocks, so within the extent.
        unsafe { pointers::forward(self.base, start << self.block_shift) }.cast()
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
            let end = start + blocks;
            if end == self.header.blocks {
                tail = start;
            } else if self.length(start) != blocks || self.length_before(end) != blocks {
                fault = Some("a run's lengths differ from the edges");
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
                if !self.edges.is_free(start) || bins::of(self.length(start)) != bin {
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
