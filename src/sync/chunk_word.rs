//! The count of blocks that outlived their heap, in one chunk.
//!
//! While a heap lives, its runner counts in plain memory. At the close the two counts meet: the
//! closer adds the runner's count together with the bit MERGED, and every free that found the heap
//! closed has subtracted one already or will. The sum may be negative until merged. Whoever makes
//! it *merged and zero*, the closer included, was the last, and it alone gives the chunk back.

use super::{AtomicI64, Ordering};

/// Bit 0: the closer has added the runner's count. The count stands above it.
const MERGED: i64 = 1;
const ONE: i64 = 2;

// Loom must find the models failing with these weakened.
#[inline]
fn release() -> Ordering {
    weakened!("chunk_word_release", Ordering::Relaxed, Ordering::AcqRel)
}

/// The count of a run's surviving blocks, and whether the closer has merged.
#[derive(Debug)]
#[repr(transparent)]
pub struct ChunkWord {
    word: AtomicI64,
}

impl ChunkWord {
    /// Nothing counted.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { word: AtomicI64::new(0) }
    }

    /// Nothing counted.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { word: AtomicI64::new(0) }
    }

    /// Counts `blocks` off. True if the caller freed the last one: it gives the run back. Any other
    /// caller touches nothing of chunk, entry or heap afterwards.
    #[inline]
    pub fn release(&self, blocks: u32) -> bool {
        let change = i64::from(blocks) * ONE;
        // AcqRel: each free happens before the give-back by the last one.
        self.word.fetch_sub(change, release()) - change == MERGED
    }

    /// Adds the runner's count; once, by the closer. True if nothing survives.
    #[inline]
    pub fn merge(&self, blocks: u32) -> bool {
        let change = i64::from(blocks) * ONE + MERGED;
        // AcqRel: as in `release`.
        self.word.fetch_add(change, release()) + change == MERGED
    }

    /// Makes the word as new. Called by whoever has the run alone.
    pub fn reset(&self) {
        // Relaxed: the run is handed on through a lock.
        self.word.store(0, Ordering::Relaxed);
    }
}

impl Default for ChunkWord {
    fn default() -> Self {
        Self::new()
    }
}
