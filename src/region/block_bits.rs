//! Where blocks start that are allocated, in the `check` build: one bit for each 8 bytes of a
//! chunk.
//!
//! Set and cleared by whoever allocates and frees, whichever thread that is, so a second free is
//! noticed when it is made and not when its heap's runner hears of it.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::units::{CHUNK_BYTES, MIN_BLOCK_BYTES};

const WORDS: usize = CHUNK_BYTES / MIN_BLOCK_BYTES / 64;

/// The bits of one chunk. All zero bytes are valid: no block.
///
/// All operations are relaxed: a block goes from thread to thread by edges that order these too.
#[derive(Debug)]
#[repr(transparent)]
pub struct BlockBits([AtomicU64; WORDS]);

impl BlockBits {
    /// The word and the bit of the block at `offset` of the chunk.
    fn bit(&self, offset: usize) -> Option<(&AtomicU64, u64)> {
        let index = (offset % CHUNK_BYTES) / MIN_BLOCK_BYTES;
        let word = self.0.get(index / 64).filter(|_| offset.is_multiple_of(MIN_BLOCK_BYTES))?;
        Some((word, 1 << (index % 64)))
    }

    /// Notes a block at `offset`. Whether there was none.
    pub fn set(&self, offset: usize) -> bool {
        self.bit(offset).is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }

    /// Notes that the block at `offset` is free. Whether it was allocated.
    pub fn clear(&self, offset: usize) -> bool {
        self.bit(offset)
            .is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::Relaxed) & bit != 0)
    }

    /// Whether a block starts at `offset`.
    pub fn is_set(&self, offset: usize) -> bool {
        self.bit(offset).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Notes that every block is free.
    pub fn clear_all(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// How many blocks are allocated.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
    }
}
