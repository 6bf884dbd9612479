//! Single chunks that were given back lately, by the processor that used them last.
//!
//! What a processor wrote last is in its caches: another that takes it waits for each line to come
//! over, and that can cost more than the page faults that dirty chunks save. So whoever gives a
//! chunk back puts it on its processor's list, and whoever takes one looks there first. The lists
//! are bounded, of single chunks, and dirty runs like all others but for where they are found: they
//! are merged with what they touch when a longer run is wanted than there is, and before anything
//! is purged. So they make little more memory resident than if all were merged at once: only where
//! a longer run is cut before those on the lists were merged to a fitting one.

use super::ChunkEntry;
use super::bins::{NOT_FREE, RECENT};
use super::links::{entry, link_before, unlink};
use crate::sys::policy;

/// Processors whose numbers are alike in so many low bits share a list.
const LISTS: usize = 64;

/// The most chunks on a list: 16 MiB, about what is a processor's share of the last cache.
const MOST_CHUNKS: u32 = 256;

/// Whose chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Processor(u8);

impl Processor {
    /// That of a number.
    pub(super) fn of(number: usize) -> Self {
        Self((number % LISTS) as u8)
    }

    /// The one that this thread runs on now; the first where the system does not tell, and where it
    /// does not matter, as no list has runs of so many chunks.
    pub(super) fn for_run_of(chunks: usize) -> Self {
        let number = if chunks == 1 { policy::current_processor() } else { None };
        Self::of(number.unwrap_or(0))
    }

    fn index(self) -> usize {
        // The remainder is the number; it spares the test of the array's bound.
        usize::from(self.0) % LISTS
    }
}

/// Whether a chunk is on a list.
pub(super) fn is_recent(chunk: &ChunkEntry) -> bool {
    chunk.edge.get() >= RECENT
}

/// A list, the newest first, linked in both directions.
#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    chunks: u32,
}

/// The lists of all processors.
///
/// # Invariants
/// - A chunk on list `n` is a run of one with the edge `RECENT + n`.
#[derive(Debug)]
pub(super) struct Recent {
    lists: [List; LISTS],
    /// Which of them hold a chunk.
    occupied: u64,
    /// The chunks of them all.
    pub(super) chunks: usize,
}

impl Recent {
    pub(super) const fn new() -> Self {
        Self { lists: [List { head: 0, chunks: 0 }; LISTS], occupied: 0, chunks: 0 }
    }

    /// Puts a chunk on its processor's list. False, and nothing is done, where that is full.
    pub(super) fn push(&mut self, chunk: u32, of: Processor) -> bool {
        let list = &mut self.lists[of.index()];
        if list.chunks == MOST_CHUNKS {
            return false;
        }
        let head = entry(chunk);
        head.run_chunks.set(1);
        head.head_distance.set(0);
        head.edge.set(RECENT + of.0);
        link_before(list.head, chunk);
        *list = List { head: chunk, chunks: list.chunks + 1 };
        self.occupied |= 1 << of.index();
        self.chunks += 1;
        true
    }

    /// Takes a chunk off its list.
    pub(super) fn remove(&mut self, chunk: u32) {
        let head = entry(chunk);
        let of = Processor::of(usize::from(head.edge.get().saturating_sub(RECENT)));
        let list = &mut self.lists[of.index()];
        if let Some(next) = unlink(head) {
            list.head = next;
        }
        list.chunks -= 1;
        if list.head == 0 {
            self.occupied &= !(1 << of.index());
        }
        self.chunks -= 1;
        head.edge.set(NOT_FREE);
    }

    /// The chunk that a processor gave back last.
    pub(super) fn newest_of(&self, processor: Processor) -> Option<u32> {
        Some(self.lists[processor.index()].head).filter(|&head| head != 0)
    }

    /// One that some processor gave back last.
    pub(super) fn any(&self) -> Option<u32> {
        let list = self.lists.get(self.occupied.trailing_zeros() as usize)?;
        Some(list.head)
    }

    /// Whether the lists are linked, and counted, as they should be.
    #[cfg(any(test, heapswitch_check))]
    pub(super) fn is_consistent(&self) -> bool {
        let mut all = 0;
        for (index, list) in self.lists.iter().enumerate() {
            let (mut previous, mut next, mut chunks) = (0, list.head, 0);
            while next != 0 {
                let head = entry(next);
                let is_linked = usize::from(head.edge.get()) == usize::from(RECENT) + index
                    && (head.run_chunks.get(), head.head_distance.get()) == (1, 0)
                    && head.previous.get() == previous;
                if !is_linked {
                    return false;
                }
                (previous, next, chunks) = (next, head.next.get(), chunks + 1);
            }
            if chunks != list.chunks || (self.occupied >> index & 1 == 1) != (chunks != 0) {
                return false;
            }
            all += chunks as usize;
        }
        all == self.chunks
    }
}

const _: () = assert!(LISTS == u64::BITS as usize && RECENT as usize + LISTS <= 1 << u8::BITS);
