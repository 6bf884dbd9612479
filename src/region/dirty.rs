//! The dirty free runs of one kind, by the processor that used them last.
//!
//! What a processor wrote last is in its caches: another that takes it waits for each line to come
//! over, and that can cost more than the page faults that dirty runs save. So runs are kept in
//! **shards**, and whoever takes one looks in its own processor's shard first, then in the others',
//! before a clean run is touched: shards change which run is taken, never how much memory is.
//!
//! Runs of one shard that touch are merged at once. Runs of different shards are put together when
//! a longer one is wanted than any shard has: see [`join`](Dirty::join).

use super::bins::{Bins, CLEAN, DIRTY, entry};
use super::{ChunkEntry, kind_of_chunk};
use crate::sys::policy;

/// Processors whose numbers are alike in so many low bits share a shard.
const SHARDS: usize = 64;

/// How many of the longest runs, of all shards together, are looked at for some that can be joined:
/// each look is a line or two of the chunk table, and pages for fresh chunks cost more.
const LOOKS: usize = 128;

/// Whose dirty runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shard(u8);

impl Shard {
    const FIRST: Self = Self(0);

    /// That of a processor.
    pub(super) fn of(processor: usize) -> Self {
        Self((processor % SHARDS) as u8)
    }

    /// That of the processor that this thread runs on now; the first where the system does not
    /// tell.
    pub(super) fn here() -> Self {
        policy::current_processor().map_or(Self::FIRST, Self::of)
    }

    /// That of a dirty run, by its edge.
    pub(super) fn of_edge(edge: u8) -> Self {
        Self::of(usize::from(edge.saturating_sub(DIRTY)))
    }

    /// The edge of its runs.
    pub(super) fn edge(self) -> u8 {
        DIRTY + self.0
    }

    fn index(self) -> usize {
        // The remainder is the number; it spares the test of the array's bound.
        usize::from(self.0) % SHARDS
    }
}

/// Whether a chunk is the first or the last of a dirty run.
pub(super) fn is_dirty(chunk: &ChunkEntry) -> bool {
    chunk.edge.get() >= DIRTY
}

/// Whether a chunk is the first or the last of a free run that is committed.
pub(super) fn is_free(chunk: &ChunkEntry) -> bool {
    chunk.edge.get() == CLEAN || is_dirty(chunk)
}

/// Dirty runs, by shard and length.
#[derive(Debug)]
pub(super) struct Dirty {
    shards: [Bins; SHARDS],
    /// Which of them hold a run.
    occupied: u64,
    /// The chunks of them all.
    pub(super) chunks: usize,
}

impl Dirty {
    pub(super) const fn new() -> Self {
        Self { shards: [const { Bins::new() }; SHARDS], occupied: 0, chunks: 0 }
    }

    fn shard(&mut self, shard: Shard) -> &mut Bins {
        &mut self.shards[shard.index()]
    }

    pub(super) fn insert(&mut self, first: u32, chunks: u32, shard: Shard) {
        self.shard(shard).insert(first, chunks, shard.edge());
        self.occupied |= 1 << shard.index();
        self.chunks += chunks as usize;
    }

    /// Takes out the run that starts at a chunk: its length, and whose it was.
    pub(super) fn remove(&mut self, first: u32) -> (u32, Shard) {
        let shard = Shard::of_edge(entry(first).edge.get());
        let bins = self.shard(shard);
        let chunks = bins.remove(first);
        if bins.chunks == 0 {
            self.occupied &= !(1 << shard.index());
        }
        self.chunks -= chunks as usize;
        (chunks, shard)
    }

    /// The shards that hold a run, from one on.
    fn from(&self, shard: Shard) -> impl Iterator<Item = &Bins> {
        let start = shard.index();
        let mut left = self.occupied.rotate_right(start as u32);
        core::iter::from_fn(move || {
            let distance = left.trailing_zeros() as usize;
            // Zero has 64 of them, and there ends the search.
            left &= left.wrapping_sub(1);
            (distance < SHARDS).then(|| &self.shards[(start + distance) % SHARDS])
        })
    }

    /// The first chunk of a run of at least `chunks`: of this shard, or of the next that has one;
    /// or else of one that is [joined](Self::join).
    pub(super) fn find(&mut self, chunks: u32, here: Shard) -> Option<u32> {
        if self.chunks < chunks as usize {
            return None;
        }
        let found = self.from(here).find_map(|bins| bins.find(chunks));
        found.or_else(|| self.join(chunks, here))
    }

    /// The first chunk of a run of at least `chunks`, put together of runs of several shards that
    /// touch. Looks at a few of each shard's longest.
    #[cold]
    fn join(&mut self, chunks: u32, here: Shard) -> Option<u32> {
        if self.occupied.is_power_of_two() {
            return None; // Runs of one shard do not touch.
        }
        let looks = LOOKS / self.occupied.count_ones().max(1) as usize;
        let longer = |bins: &Bins| {
            let spans = bins.longest_first(looks).map(|run| span_around(run, chunks));
            spans.into_iter().find(|&(_, found)| found >= chunks)
        };
        let (first, found) = self.from(here).find_map(longer)?;
        let mut part = first;
        while part < first + found {
            part += self.remove(part).0;
        }
        self.insert(first, found, here);
        Some(first)
    }

    /// The first chunk of one of the longest runs of any shard.
    pub(super) fn longest(&self) -> Option<u32> {
        let longest = self.from(Shard::FIRST).filter_map(Bins::longest);
        longest.max_by_key(|&first| entry(first).run_chunks.get())
    }

    /// The sets that it is made of, each with its edge.
    #[cfg(any(test, heapswitch_check))]
    pub(super) fn sets(&self) -> impl Iterator<Item = (&Bins, u8)> {
        self.shards.iter().zip(DIRTY..)
    }

    /// Whether its counts are those of its shards.
    #[cfg(any(test, heapswitch_check))]
    pub(super) fn is_counted(&self) -> bool {
        let chunks: usize = self.shards.iter().map(|shard| shard.chunks).sum();
        let is_noted =
            |(shard, bins): (usize, &Bins)| (self.occupied >> shard & 1 == 1) == (bins.chunks != 0);
        chunks == self.chunks && self.shards.iter().enumerate().all(is_noted)
    }
}

/// The dirty run that starts at a chunk with those that touch it, of whichever shard, until there
/// are `chunks`: the first chunk and how many.
fn span_around(first: u32, chunks: u32) -> (u32, u32) {
    let kind = kind_of_chunk(first as usize);
    let touches =
        |chunk: u32| chunk != 0 && kind_of_chunk(chunk as usize) == kind && is_dirty(entry(chunk));
    let (mut first, mut found) = (first, entry(first).run_chunks.get());
    while found < chunks && touches(first + found) {
        found += entry(first + found).run_chunks.get();
    }
    while found < chunks && touches(first - 1) {
        let length = 1 + entry(first - 1).head_distance.get();
        first -= length;
        found += length;
    }
    (first, found)
}

const _: () = assert!(SHARDS == u64::BITS as usize && DIRTY as usize + SHARDS <= 1 << u8::BITS);
