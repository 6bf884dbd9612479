//! The holes of one extent.
//!
//! ```text
//!   extent     ████░░░░░░██████████░░████████████████░░░░░░░░░░░░░░░     █ block  ░ hole
//!   edges          │     │         │ │               │              │    a bit each, out of line
//!   lengths        4▒▒▒▒▒4         1 1               7▒▒▒▒▒▒▒▒▒▒▒▒▒▒7    in first and last granule
//! ```
//!
//! A hole is known by where it begins, and a block is cut from there. What is freed learns from
//! the [edges](Edges) whether holes lie beside it, and from their last and first granules how long
//! they are: joining takes no search.
//!
//! What finds a hole is by the fit: best fit has [`Bins`], lists of holes by length, first and next
//! fit have [`Stretches`], the holes by address.

use core::cell::Cell;
use core::ptr::NonNull;

use super::bins::{Bins, Found, MAX_GRANULES};
use super::class::COARSE;
use super::edges::Edges;
use super::granule::{GRANULE, Ground, WORDS_OF_GRANULE, granules_for};
use super::shelves::{Place, shelf_of};
use super::stretches::Stretches;
use super::{Fit, maxima::MAX_VALUE};
use crate::pointers;
use crate::strategy::{Extent, LONG_EXTENT_BYTES};
use crate::units::PAGE_BYTES;

const _: () = assert!(COARSE.class_of(MAX_GRANULES) < MAX_VALUE as usize);

/// What tells where holes are that are long enough. A hole is known by its first word; lengths are
/// in words too.
pub(super) trait Order: Copy {
    /// Notes a hole whose length is written.
    fn put(self, ground: Ground, first: usize, words: usize);

    /// Forgets a hole of so many words.
    fn remove(self, ground: Ground, first: usize, words: usize);

    /// Notes that the hole that began at `from` begins at `first`, and has so many words left.
    fn cut_front(self, ground: Ground, from: usize, first: usize, words: usize);
}

/// How a hole for a request is found.
#[derive(Debug)]
enum Index {
    /// For first and next fit.
    ByAddress(Stretches),
    /// For best fit.
    ByLength(Bins),
}

/// What is kept about an extent, at the start of its metadata. The edges' words and the index'
/// bytes follow.
///
/// # Invariants
/// - No two holes touch, and the edges are where they begin and end.
/// - A hole's last granule has its length, and its first one has it as the length of its front.
/// - The index has every hole.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Holes {
    ground: Ground,
    edges: Edges,
    index: Index,
    /// How many granules in front are the index's.
    kept: usize,
    granules: usize,
    /// From here on no block was cut from a hole much longer than it, or few: a hint.
    touched: Cell<usize>,
    /// Which list of extents this one is in.
    pub(super) place: Place,
}

/// A request in granules.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) granules: usize,
    /// In bytes.
    pub(super) align: usize,
    pub(super) fit: Fit,
}

impl Request {
    const fn words(&self) -> usize {
        self.granules * WORDS_OF_GRANULE
    }
}

/// The granules of an extent that are used: all that holes can tell, or none where the index takes
/// all.
pub(super) const fn usable_granules(extent_bytes: usize, fit: Fit) -> usize {
    let granules = extent_bytes / GRANULE;
    let granules = if granules < MAX_GRANULES { granules } else { MAX_GRANULES };
    if granules > kept_granules(granules, fit) { granules } else { 0 }
}

/// The most words that alignment takes of a hole's front.
const fn surplus_for(align: usize) -> usize {
    (align / GRANULE).saturating_sub(1) * WORDS_OF_GRANULE
}

/// The granules that the index keeps of an extent of so many.
pub(super) const fn kept_granules(granules: usize, fit: Fit) -> usize {
    match fit {
        Fit::First | Fit::Next => 0,
        Fit::Best => Bins::granules_for(granules),
    }
}

/// The metadata bytes for an extent.
pub(super) const fn metadata_bytes(extent_bytes: usize, fit: Fit) -> usize {
    let granules = usable_granules(extent_bytes, fit);
    let index_bytes = match fit {
        Fit::First | Fit::Next => Stretches::bytes_for(granules),
        Fit::Best if granules == 0 => Bins::granules_for(0) * GRANULE,
        Fit::Best => 0,
    };
    size_of::<Holes>() + Edges::bytes_for(granules) + index_bytes
}

/// The length from which on every extent has so many bytes as one hole, if there is one.
pub(super) fn extent_bytes(hole_bytes: usize, fit: Fit) -> Option<usize> {
    let mut bytes = hole_bytes;
    loop {
        let granules = granules_for(bytes);
        if granules > MAX_GRANULES {
            return None;
        }
        // What is kept grows by less than a third of what the extent does, but in steps of four
        // granules: an extent of one granule more may have three less to give.
        let kept = match kept_granules(granules, fit) {
            0 => 0,
            kept => kept + 3,
        };
        let needed = hole_bytes.checked_add(kept * GRANULE)?;
        if needed <= bytes {
            return Some(bytes);
        }
        bytes = needed;
    }
}

impl Holes {
    /// The record of an extent that was added.
    ///
    /// # Safety
    /// The extent was added and not removed.
    #[inline]
    pub(super) unsafe fn of(extent: &Extent) -> &Self {
        // SAFETY: `start` wrote the record there.
        unsafe { extent.metadata().cast::<Self>().as_ref() }
    }

    /// Writes the record of an extent that is one hole.
    ///
    /// # Safety
    /// The extent upholds its type's invariants; its metadata is as long as [`metadata_bytes`]
    /// says for the fit.
    pub(super) unsafe fn start(extent: &Extent, fit: Fit) -> &Self {
        let granules = usable_granules(extent.length(), fit);
        let kept = if granules == 0 { 0 } else { kept_granules(granules, fit) };
        // SAFETY: record, words and bytes lie in the metadata, in this order, and each is aligned.
        let holes = unsafe {
            let words = pointers::forward(extent.metadata(), size_of::<Self>());
            let bytes = pointers::forward(words, Edges::bytes_for(granules));
            // Where there is no room for it, what best fit keeps in an extent lies in the metadata.
            let is_apart = granules == 0 && matches!(fit, Fit::Best);
            let ground = Ground::new(if is_apart { bytes } else { extent.start() });
            let index = match fit {
                Fit::First | Fit::Next => Index::ByAddress(Stretches::new(bytes, granules)),
                Fit::Best => Index::ByLength(Bins::new(ground, granules)),
            };
            let edges = Edges::new(words, granules);
            extent.metadata().cast::<Self>().write(Self {
                ground,
                edges,
                index,
                kept,
                granules,
                touched: Cell::new(kept),
                place: Place::new(),
            });
            Self::of(extent)
        };
        if granules != 0 {
            // SAFETY: these granules are the strategy's, and in no hole yet.
            unsafe {
                holes.give_by_any(holes.ground.address(kept * WORDS_OF_GRANULE), granules - kept)
            };
        }
        holes
    }

    /// The granule that a block starts with.
    #[inline]
    pub(super) fn index_of(&self, block: NonNull<u8>) -> usize {
        self.ground.word_at(block) / WORDS_OF_GRANULE
    }

    /// The shelf of the longest hole that the index allows.
    pub(super) fn longest(&self) -> usize {
        let longest = match &self.index {
            Index::ByAddress(stretches) => stretches.longest(),
            Index::ByLength(bins) => bins.longest(self.ground),
        };
        longest.map_or(0, shelf_of)
    }

    #[inline]
    fn length(&self, first: usize) -> usize {
        // SAFETY: callers pass first words of holes.
        unsafe { self.ground.granule(first) }.length.get() as usize
    }

    /// The words that alignment takes of a hole's front.
    #[inline]
    fn front_for(&self, first: usize, align: usize) -> usize {
        if align <= GRANULE {
            return 0;
        }
        // SAFETY: the hole lies in the extent.
        pointers::padding(unsafe { self.ground.address(first) }, align) / size_of::<u32>()
    }

    /// Whether a hole fits as it lies.
    #[inline]
    fn fits(&self, first: usize, request: Request) -> bool {
        // Neither is more than the granules of a layout, so the sum does not overflow.
        self.length(first) >= request.words() + self.front_for(first, request.align)
    }

    /// Takes granules where a look at the bins finds a hole, the nearest ones or all; where they
    /// start.
    #[inline(always)] // measured: with it all is one function that saves no registers
    pub(super) fn take_at_once<const NEAR: bool>(&self, granules: usize) -> Option<NonNull<u8>> {
        let Index::ByLength(bins) = self.index else { return None };
        let words = granules * WORDS_OF_GRANULE;
        let found = if NEAR {
            bins.best_near(self.ground, words)?
        } else {
            bins.best_far(self.ground, words)?
        };
        if !NEAR {
            let end = found.first / WORDS_OF_GRANULE + granules;
            self.touched.set(self.touched.get().max(end));
        }
        Some(self.cut_found(bins, found, words))
    }

    /// Takes granules, in best fit, of a hole near by that has them wherever it begins.
    #[inline]
    pub(super) fn take_aligned(&self, granules: usize, align: usize) -> Option<NonNull<u8>> {
        let Index::ByLength(bins) = self.index else { return None };
        let words = granules * WORDS_OF_GRANULE;
        let found = bins.best_near(self.ground, words + surplus_for(align))?;
        let front = self.front_for(found.first, align);
        Some(match front {
            0 => self.cut_found(bins, found, words),
            _ => self.cut(bins, found.first, front, words),
        })
    }

    /// Takes granules, in best fit, of a hole that is longer, where [`take_at_once`] found none
    /// near: unless they lie in 4 KiB of a long extent from which, as far as is known, none were
    /// cut.
    ///
    /// [`take_at_once`]: Self::take_at_once
    #[inline(always)] // measured: as `take_at_once`
    pub(super) fn take_touched(&self, granules: usize) -> Option<NonNull<u8>> {
        let Index::ByLength(bins) = self.index else { return None };
        let words = granules * WORDS_OF_GRANULE;
        let found = bins.best_far(self.ground, words)?;
        let page_of = |granule: usize| granule * GRANULE / PAGE_BYTES;
        let (end, touched) = (found.first / WORDS_OF_GRANULE + granules, self.touched.get());
        if end > touched {
            if self.granules >= LONG_EXTENT_BYTES / GRANULE
                && page_of(end - 1) != page_of(touched.wrapping_sub(1))
            {
                return None;
            }
            self.touched.set(end);
        }
        Some(self.cut_found(bins, found, words))
    }

    /// Takes granules, in best fit, of a hole of a class above theirs, or of the first of their
    /// own: `None` if there is no such.
    #[inline(always)] // measured: as `take_at_once`
    pub(super) fn take_surely(&self, granules: usize) -> Option<NonNull<u8>> {
        self.take_at_once::<true>(granules).or_else(|| self.take_at_once::<false>(granules))
    }

    /// Takes words of granules from the front of a hole that the bins found; where they start.
    #[inline(always)] // measured: as `take_at_once`
    fn cut_found(&self, bins: Bins, found: Found, words: usize) -> NonNull<u8> {
        let (ground, edges) = (self.ground, self.edges);
        let (first, end) = (found.first, found.first + words);
        // SAFETY: all words lie in the hole, so they are the strategy's, and end in the extent.
        unsafe {
            let rest = ground.granule(first).length.get() as usize - words;
            // INVARIANT: what is taken will be in no hole, and holes begin or end beside it.
            edges.toggle(first / WORDS_OF_GRANULE);
            edges.toggle(end / WORDS_OF_GRANULE);
            if rest == 0 {
                bins.pop(ground, found);
            } else {
                ground.write_length(end, rest);
                bins.replace(ground, found, end, rest);
            }
            ground.address(first)
        }
    }

    /// Takes granules for a request; where they start.
    pub(super) fn take(&self, request: Request) -> Option<NonNull<u8>> {
        let fits = |first| self.fits(first, request);
        let front_for = |first| self.front_for(first, request.align);
        match &self.index {
            Index::ByLength(bins) => {
                // Best among those that fit wherever they begin; else one that fits as it lies.
                let surely = request.words() + surplus_for(request.align);
                let near = bins.best_near(self.ground, surely);
                let sure = near.or_else(|| bins.best_far(self.ground, surely));
                let first = sure.map(|found| found.first);
                let first =
                    first.or_else(|| bins.first_that(self.ground, request.words(), fits))?;
                Some(self.cut(*bins, first, front_for(first), request.words()))
            }
            Index::ByAddress(stretches) => {
                let goes_on = request.fit == Fit::Next;
                let first = stretches.first_that(self.ground, request.granules, goes_on, fits)?;
                Some(self.cut(stretches, first, front_for(first), request.words()))
            }
        }
    }

    /// Takes words of granules from a hole, behind those of its front that alignment takes; where
    /// they start.
    fn cut(&self, order: impl Order, hole: usize, front: usize, words: usize) -> NonNull<u8> {
        let (ground, edges) = (self.ground, self.edges);
        // SAFETY: all words lie in the hole, so they are the strategy's, and end in the extent.
        unsafe {
            let length = ground.granule(hole).length.get() as usize;
            let (first, end) = (hole + front, hole + front + words);
            let rest = length - front - words;
            // INVARIANT: what is taken will be in no hole, and holes begin or end beside it.
            edges.toggle(first / WORDS_OF_GRANULE);
            edges.toggle(end / WORDS_OF_GRANULE);
            if rest == 0 {
                order.remove(ground, hole, length);
            } else {
                ground.write_length(end, rest);
                order.cut_front(ground, hole, end, rest);
            }
            if front != 0 {
                ground.write_length(hole, front);
                order.put(ground, hole, front);
            }
            ground.address(first)
        }
    }

    /// Puts granules back, and joins what touches them; the words of the hole that they are in
    /// now. `None`, and nothing is done, where the fit is not best fit.
    ///
    /// # Safety
    /// They lie in the extent, in no hole, and are not used any more.
    #[inline(always)] // measured: as `take_at_once`
    pub(super) unsafe fn give(&self, start: NonNull<u8>, granules: usize) -> Option<usize> {
        let Index::ByLength(bins) = self.index else { return None };
        // SAFETY: the caller's contract.
        Some(unsafe { self.join_in::<true>(bins, start, granules) })
    }

    /// As [`give`](Self::give), of granules right behind a block.
    ///
    /// # Safety
    /// As there.
    #[inline(always)] // measured: as `take_at_once`
    pub(super) unsafe fn give_tail(&self, start: NonNull<u8>, granules: usize) -> Option<usize> {
        let Index::ByLength(bins) = self.index else { return None };
        // SAFETY: the caller's contract.
        Some(unsafe { self.join_in::<false>(bins, start, granules) })
    }

    /// As [`give`](Self::give), for all fits.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn give_by_any(&self, start: NonNull<u8>, granules: usize) -> usize {
        // SAFETY: the caller's contract.
        unsafe {
            match &self.index {
                Index::ByLength(bins) => self.join(*bins, start, granules),
                Index::ByAddress(stretches) => self.join(stretches, start, granules),
            }
        }
    }

    /// # Safety
    /// As [`give`](Self::give); without `ANYWHERE` a block lies before them.
    #[inline(always)] // measured: as `take_at_once`
    unsafe fn join_in<const ANYWHERE: bool>(
        &self,
        bins: Bins,
        block: NonNull<u8>,
        granules: usize,
    ) -> usize {
        let (ground, edges) = (self.ground, self.edges);
        let mut start = ground.word_at(block);
        let mut end = start + granules * WORDS_OF_GRANULE;
        let first = start / WORDS_OF_GRANULE;
        // Without a branch the processor does not guess what lies there: it would wait for the
        // edges first.
        if ANYWHERE {
            pointers::prefetch(block, 0_usize.wrapping_sub(GRANULE));
        }
        pointers::prefetch(block, granules * GRANULE);
        // SAFETY: where an edge is, beside what is in no hole, a hole is; its granules are the
        // strategy's.
        unsafe {
            let is_before = edges.toggle(first);
            if ANYWHERE {
                start -= bins.take_before(ground, is_before, start);
            }
            let is_behind = edges.toggle(first + granules);
            end += bins.take_behind(ground, is_behind, end);
            let length = end - start;
            ground.write_length(start, length);
            bins.put(ground, start, length);
            length
        }
    }

    /// # Safety
    /// As [`give`](Self::give).
    #[inline(always)] // measured: as `take_at_once`
    unsafe fn join(&self, order: impl Order, block: NonNull<u8>, granules: usize) -> usize {
        let (ground, edges) = (self.ground, self.edges);
        let mut start = ground.word_at(block);
        let mut end = start + granules * WORDS_OF_GRANULE;
        // SAFETY: where an edge is, beside what is in no hole, a hole is; its granules are the
        // strategy's.
        unsafe {
            if edges.toggle(start / WORDS_OF_GRANULE) {
                let length = ground.granule(start - WORDS_OF_GRANULE).back.get() as usize;
                start -= length;
                order.remove(ground, start, length);
            }
            if edges.toggle(end / WORDS_OF_GRANULE) {
                let length = ground.granule(end).length.get() as usize;
                order.remove(ground, end, length);
                end += length;
            }
            let length = end - start;
            ground.write_length(start, length);
            order.put(ground, start, length);
            length
        }
    }

    /// Takes `granules` that begin at `first`, right behind a block, if they are free. Whether they
    /// were.
    ///
    /// # Safety
    /// A block ends there.
    pub(super) unsafe fn take_at(&self, first: usize, granules: usize) -> bool {
        if first == self.granules || !self.edges.is_set(first) {
            return false;
        }
        let (first, words) = (first * WORDS_OF_GRANULE, granules * WORDS_OF_GRANULE);
        // The granule before is a block's, so where the edge is a hole begins.
        if self.length(first) < words {
            return false;
        }
        match &self.index {
            Index::ByLength(bins) => self.cut(*bins, first, 0, words),
            Index::ByAddress(stretches) => self.cut(stretches, first, 0, words),
        };
        true
    }

    /// Calls `visit` with each hole, in order of address.
    pub(super) fn visit(&self, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        let mut from = 0;
        // Found out of line: what is visited may be lost.
        while let Some((start, end)) = self.edges.next_hole(from) {
            // SAFETY: the hole lies in the extent.
            let first = unsafe { self.ground.address(start * WORDS_OF_GRANULE) };
            visit(pointers::block(first, (end - start) * GRANULE));
            from = end + 1;
        }
    }

    /// Calls `visit` with the whole pages of holes, but the first and the last granules.
    pub(super) fn visit_pages(&self, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        self.visit(&mut |hole| {
            // SAFETY: a hole has a granule.
            let second = unsafe { pointers::forward(hole.cast(), GRANULE) };
            let skipped = GRANULE + pointers::padding(second, PAGE_BYTES);
            let pages = (hole.len() - GRANULE).saturating_sub(skipped) & !(PAGE_BYTES - 1);
            if pages != 0 {
                // SAFETY: the skipped bytes lie in the hole, which is longer.
                visit(pointers::block(unsafe { pointers::forward(hole.cast(), skipped) }, pages));
            }
        });
    }

    /// Whether `granules` from `first` on touch no hole, so that they may be allocated. Takes a
    /// look at every word of the edges.
    pub(super) fn is_taken(&self, first: usize, granules: usize) -> bool {
        self.edges.are_used(first, first + granules)
    }

    /// Whether the extent is one hole.
    pub(super) fn is_empty(&self) -> bool {
        let free = self.granules - self.kept;
        self.granules == 0
            || self.edges.is_set(self.kept)
                && self.length(self.kept * WORDS_OF_GRANULE) == free * WORDS_OF_GRANULE
    }

    /// Where the granules begin that blocks may have.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept * GRANULE
    }

    /// The granules that are in no hole, without what the index keeps. O(granules / 64).
    pub(super) fn taken_granules(&self) -> usize {
        let (mut from, mut taken) = (0, self.granules - self.kept);
        while let Some((start, end)) = self.edges.next_hole(from) {
            (from, taken) = (end + 1, taken - (end - start));
        }
        taken
    }

    /// What is wrong, if anything is.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let (mut from, mut holes) = (0, 0);
        while let Some((start, end)) = self.edges.next_hole(from) {
            // SAFETY: a hole lies there.
            let [last, first] = [end - 1, start]
                .map(|granule| unsafe { self.ground.granule(granule * WORDS_OF_GRANULE) });
            let (length, words) = (end - start, (end - start) * WORDS_OF_GRANULE);
            if last.back.get() as usize != words || first.length.get() as usize != words {
                return Some("a hole's length is wrong: freed memory was written to");
            }
            if let Index::ByAddress(stretches) = &self.index {
                let fault = stretches.fault(end - 1, length);
                if fault.is_some() {
                    return fault;
                }
            }
            (from, holes) = (end + 1, holes + 1);
        }
        if self.edges.next_from(from).is_some() {
            return Some("a hole has no end");
        }
        match &self.index {
            Index::ByAddress(stretches) => (stretches.count(self.granules) != holes)
                .then_some("a hole's end is noted where none is"),
            Index::ByLength(bins) => bins.fault(self.ground, holes, |first| {
                let granule = first / WORDS_OF_GRANULE;
                if first % WORDS_OF_GRANULE != 0
                    || granule >= self.granules
                    || !self.edges.is_set(granule)
                {
                    return None;
                }
                // Only where a list was written over, and leads to where a hole ends, is the
                // granule a block's.
                let words = self.length(first);
                let end = first.checked_add(words)? / WORDS_OF_GRANULE;
                (self.edges.next_hole(granule) == Some((granule, end))).then_some(words)
            }),
        }
    }
}
