//! When a kind's memory asks for huge pages.
//!
//! ```text
//!   │ first 16 MiB │ sparse  │ filled since │ sparse  │ last    │ not small any more ...
//!     refuses        refuses   asks           refuses   refuses ▲ asks
//!                                                               small_end
//! ```
//!
//! A huge page makes 2 MiB resident for the first byte that is touched, and the kernel makes new
//! ones of whatever is left in 2 MiB. So under [`HugePages::Grown`] memory is looked at in pieces
//! of 16 MiB. While less than half is resident of the last that was taken, the kind is small: its
//! memory refuses huge pages, also where the system says `always`. From then on all that follows
//! asks for them. A piece that was left sparse is looked at again now and then, and asks when it is
//! nearly full: it can become larger by little.
//!
//! The wish is withdrawn when pages were given back, until the kind grows again.
//!
//! A look costs eight system calls, some microseconds each; in a turn of the decay four pieces are
//! looked at, after each round over all of them half as often, and at each new segment a few.

use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

use super::census::visit_pages;
use super::kinds::refuse_advice;
use super::{
    HugePages, MAX_REGION_BYTES, SegmentKind, at, is_commit_charged, kind_of_chunk, segments_of,
    settings_of,
};
use crate::pointers;
use crate::sys;
use crate::sys::memory::{self, Advice};
use crate::units::{CHUNK_BYTES, HUGE_PAGE_BYTES, SEGMENT_CHUNKS};

/// What is looked at at once. As much of a kind's memory always refuses: a huge page makes up to
/// 2 MiB resident for a chunk of 64 KiB, and that is to be little beside the rest.
const PIECE_CHUNKS: u32 = SEGMENT_CHUNKS as u32 / 2;
const PIECE_BYTES: usize = PIECE_CHUNKS as usize * CHUNK_BYTES;
const PIECES: usize = MAX_REGION_BYTES / PIECE_BYTES;

/// The chunks of a transparent huge page.
pub(super) const HUGE_PAGE_CHUNKS: u32 = (HUGE_PAGE_BYTES / CHUNK_BYTES) as u32;

/// How many chunks make growth of it: 4 MiB that were clean, or that a run grew by.
const GROWTH_CHUNKS: usize = 64;

/// Of the last piece so much makes a kind a large one.
const HALF_FULL: usize = PIECE_BYTES / 2;

/// Of a piece that was sparse so much makes it ask: it becomes larger by a seventh at most.
const NEARLY_FULL: usize = PIECE_BYTES / 8 * 7;

/// Looks in a turn of the decay.
const LOOKS_A_TURN: u32 = 4;

/// The most looks at a new segment, of which each costs a hundredth of the segment's page faults.
const MOST_LOOKS: u32 = 16;

/// The most pieces that are passed over for those.
const MOST_PASSED: u32 = 4096;

/// The most pieces that ask among others that do not: each may cost two of the process's mappings,
/// of which it has 65,530.
const MOST_FILLED: u32 = 8192;

/// Between two turns with looks, in milliseconds: at first, and how often that doubles at most.
const FIRST_WAIT: u64 = 1000;
const MOST_DOUBLINGS: u32 = 6;

/// Of the pieces below their kind's `small_end`, which ask all the same. Under the kind's lock,
/// but for the pieces of other kinds: so all is relaxed.
static FILLED: [AtomicBool; PIECES] = [const { AtomicBool::new(false) }; PIECES];

fn filled(piece: u32) -> Option<&'static AtomicBool> {
    FILLED.get(piece as usize)
}

/// How far one kind has grown.
///
/// Pieces are numbered from the region's start.
#[derive(Debug)]
pub(super) struct Growth {
    /// Whose memory it is; `None` before there is any.
    kind: Option<SegmentKind>,
    /// The piece behind the last that refuses as long as it is not filled. All 0 for kinds that are
    /// not [`HugePages::Grown`], whose memory is of one mind.
    small_end: u32,
    /// The kind's first piece.
    first: u32,
    /// Whether what is behind refuses too, yet.
    is_small: bool,
    /// Whether what asks does not ask for now.
    is_withdrawn: bool,
    /// How many chunks the kind grew by since.
    chunks_since: usize,
    /// How many ask that were left sparse.
    filled_pieces: u32,
    /// The next piece to be looked at again.
    next_look: u32,
    /// When that was done last, in milliseconds, and how often the wait until the next time has
    /// doubled.
    looked_milliseconds: u64,
    doublings: u32,
}

impl Growth {
    /// All zero bytes: there is one for each kind that may be.
    pub(super) const fn new() -> Self {
        Self {
            kind: None,
            small_end: 0,
            first: 0,
            is_small: false,
            is_withdrawn: false,
            chunks_since: 0,
            filled_pieces: 0,
            next_look: 0,
            looked_milliseconds: 0,
            doublings: 0,
        }
    }

    /// Whether a piece asks for huge pages, of a kind that does.
    fn is_asking(&self, piece: u32) -> bool {
        if piece >= self.small_end {
            return !self.is_small;
        }
        filled(piece).is_some_and(|filled| filled.load(Ordering::Relaxed))
    }

    /// Stretches of pieces that are of one mind, and whether they ask.
    fn stretches(&self, pieces: Range<u32>) -> impl Iterator<Item = (Range<u32>, bool)> {
        let mut next = pieces.start;
        core::iter::from_fn(move || {
            let start = next;
            let is_asking = (start < pieces.end).then(|| self.is_asking(start))?;
            let is_other = |piece: &u32| self.is_asking(*piece) != is_asking;
            next = (start..pieces.end).find(is_other).unwrap_or(pieces.end);
            Some((start..next, is_asking))
        })
    }

    /// Tells the kernel of new memory, committed segments of the kind. Where it refuses, the memory
    /// serves without.
    pub(super) fn prepare(&mut self, kind: SegmentKind, first: u32, chunks: u32) {
        let is_first = self.kind.replace(kind).is_none();
        self.doublings = 0;
        let pieces = first / PIECE_CHUNKS..(first + chunks) / PIECE_CHUNKS;
        let tell = |pieces, advice| {
            if let Err(error) = apply(pieces, advice) {
                refuse_advice(kind, error);
            }
        };
        match settings_of(kind).huge_pages {
            HugePages::System => {}
            HugePages::Never => tell(pieces, Advice::NoHugePages),
            HugePages::Transparent => tell(pieces, Advice::HugePages),
            HugePages::Grown => {
                if is_first {
                    (self.first, self.small_end) = (pieces.start, pieces.start + 1);
                    // Where commitments are charged, nobody asks when it has grown.
                    self.is_small = !is_commit_charged();
                }
                for (stretch, is_asking) in self.stretches(pieces) {
                    let advice = if is_asking { Advice::HugePages } else { Advice::NoHugePages };
                    tell(stretch, advice);
                }
                self.look_again((chunks / PIECE_CHUNKS).min(MOST_LOOKS));
            }
        }
        // The new memory asks, and the rest with it.
        self.ask();
    }

    /// Whether there is memory that does not ask, and shall when the kind grows.
    #[inline]
    pub(super) fn is_awaited(&self) -> bool {
        self.is_small || self.is_withdrawn
    }

    /// Notes that clean chunks were taken, the last of which lie before `end`, of a run that is so
    /// long; perhaps asks for huge pages.
    #[cold]
    pub(super) fn note(&mut self, end: u32, chunks: u32, run_chunks: u32) {
        self.chunks_since += chunks as usize;
        if self.chunks_since < GROWTH_CHUNKS {
            return;
        }
        if self.is_small && self.has_grown_by(end, run_chunks) {
            // What is behind did not ask before.
            (self.is_small, self.is_withdrawn) = (false, true);
        }
        self.ask();
    }

    /// Whether more than the first memory is used, and that well. If it is sparse, more of the
    /// memory is the first.
    fn has_grown_by(&mut self, end: u32, run_chunks: u32) -> bool {
        if end <= self.small_end * PIECE_CHUNKS {
            return false;
        }
        if run_chunks >= HUGE_PAGE_CHUNKS || self.is_well_used() {
            return true;
        }
        // Behind a gap, which is other kinds' memory, what is looked at begins anew.
        self.small_end = (end - 1) / PIECE_CHUNKS + 1;
        self.doublings = 0;
        false
    }

    /// Whether the last piece is half full, or the one in the middle nearly: what is taken now may
    /// be filled later. What cannot be asked is taken for filled. Of the first, which fills in any
    /// process, the middle is not.
    fn is_well_used(&self) -> bool {
        let last = self.small_end - 1;
        if resident_bytes(last).is_none_or(|bytes| bytes >= HALF_FULL) {
            return true;
        }
        // The middle may be other kinds' memory: the next below it that is not.
        let middle = self.first + (last - self.first) / 2;
        let own = (self.first + 1..=middle).rev().find(|&piece| self.is_own(piece));
        own.is_some_and(is_nearly_full)
    }

    fn is_own(&self, piece: u32) -> bool {
        kind_of_chunk((piece * PIECE_CHUNKS) as usize) == self.kind
    }

    /// Lets all the memory of a kind ask that does by its settings, the first too.
    pub(super) fn call_grown(&mut self) {
        if self.small_end > self.first {
            (self.small_end, self.is_small, self.is_withdrawn) = (self.first, false, true);
        }
        self.ask();
    }

    /// Asks for huge pages again, if the wish was withdrawn.
    pub(super) fn ask(&mut self) {
        if self.is_withdrawn {
            self.chunks_since = 0;
            // Where commitments are charged, memory is advised when it is made ready.
            self.is_withdrawn = !is_commit_charged() && !self.advise(Advice::HugePages);
        }
    }

    /// Withdraws the wish. Whether there was one.
    pub(super) fn withdraw(&mut self) -> bool {
        // There segments can be a mere reservation, which is advised when it is memory again.
        if self.is_withdrawn || is_commit_charged() || !self.advise(Advice::NoHugePages) {
            return false;
        }
        (self.is_withdrawn, self.chunks_since) = (true, 0);
        true
    }

    /// Advises all that asks. Whether the kind's settings let it, and there is any, and the kernel
    /// took it. A refusal is not counted: it was when the memory was prepared.
    fn advise(&self, advice: Advice) -> bool {
        let Some(kind) = self.kind else { return false };
        if !matches!(settings_of(kind).huge_pages, HugePages::Transparent | HugePages::Grown) {
            return false;
        }
        let start_of_region = super::base();
        // Whether any was advised: what could be withdrawn is to be asked for again.
        segments_of(kind).fold(false, |is_advised, span| {
            let start = pointers::distance(start_of_region, span.start) / PIECE_BYTES;
            let pieces = start as u32..(start + span.bytes / PIECE_BYTES) as u32;
            let asking = self.stretches(pieces).filter(|(_, is_asking)| *is_asking);
            asking.fold(is_advised, |is_advised, (stretch, _)| {
                apply(stretch, advice).is_ok() | is_advised
            })
        })
    }

    /// Looks again at some of the pieces that were left sparse, if that is due.
    pub(super) fn look_sometimes(&mut self, now: u64) {
        if now.saturating_sub(self.looked_milliseconds) < self.wait_milliseconds() {
            return;
        }
        self.looked_milliseconds = now;
        self.look_again(LOOKS_A_TURN);
    }

    /// Looks again at so many of them: those that are nearly full ask from now on.
    fn look_again(&mut self, looks: u32) {
        // What is withdrawn would ask before the kind grows. Where commitments are charged, nothing
        // was left.
        if self.is_withdrawn || is_commit_charged() {
            return;
        }
        let (mut left, mut passed) = (looks, 0);
        while left != 0 && passed != MOST_PASSED {
            // The first never asks.
            let piece = self.next_look.max(self.first + 1);
            if piece >= self.small_end {
                // Round again, half as often.
                self.next_look = 0;
                self.doublings = (self.doublings + 1).min(MOST_DOUBLINGS);
                return;
            }
            self.next_look = piece + 1;
            passed += 1;
            if !self.is_asking(piece) && self.is_own(piece) {
                left -= 1;
                self.look_at(piece);
            }
        }
    }

    /// Whether the piece of a chunk asks.
    #[cfg(test)]
    pub(super) fn is_asking_at(&self, chunk: usize) -> bool {
        self.is_asking(chunk as u32 / PIECE_CHUNKS)
    }

    /// The chunk behind what refuses as long as it is not filled.
    #[cfg(test)]
    pub(super) fn small_end(&self) -> usize {
        (self.small_end * PIECE_CHUNKS) as usize
    }

    pub(super) fn wait_milliseconds(&self) -> u64 {
        FIRST_WAIT << self.doublings
    }

    fn look_at(&mut self, piece: u32) {
        if self.filled_pieces < MOST_FILLED
            && is_nearly_full(piece)
            && apply(piece..piece + 1, Advice::HugePages).is_ok()
            && let Some(filled) = filled(piece)
        {
            filled.store(true, Ordering::Relaxed);
            self.filled_pieces += 1;
            // Others may be as well.
            self.doublings = 0;
        }
    }
}

/// Advises pieces.
fn apply(pieces: Range<u32>, advice: Advice) -> Result<(), sys::SystemError> {
    let bytes = (pieces.end - pieces.start) as usize * PIECE_BYTES;
    // SAFETY: pieces are parts of committed segments, and the advice changes no byte.
    unsafe { memory::apply_advice(start_of(pieces.start), bytes, advice) }
}

fn start_of(piece: u32) -> NonNull<u8> {
    // SAFETY: pieces lie in the region.
    unsafe { at(piece as usize * PIECE_BYTES) }
}

fn is_nearly_full(piece: u32) -> bool {
    resident_bytes(piece).is_some_and(|bytes| bytes >= NEARLY_FULL)
}

/// How much of a piece is resident; `None` where the kernel does not tell.
fn resident_bytes(piece: u32) -> Option<usize> {
    let mut pages = 0;
    visit_pages(start_of(piece), PIECE_BYTES, |_| pages += 1)?;
    Some(pages * sys::page_bytes())
}
