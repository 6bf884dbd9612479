//! A run of chunks.

use super::links::entry;
use super::{ChunkEntry, at, owners};
use crate::sync::Ordering;
use crate::units::CHUNK_SHIFT;

/// A run of chunks that was taken from the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub(super) first: u32,
    pub(super) chunks: u32,
    /// Whether every byte is known to be zero.
    pub is_zeroed: bool,
}

impl Run {
    /// The run that starts at an offset of the region; for a taken run only.
    pub(crate) fn at_offset(offset: usize, chunks: usize, is_zeroed: bool) -> Self {
        Self { first: (offset >> CHUNK_SHIFT) as u32, chunks: chunks as u32, is_zeroed }
    }

    /// The index of its first chunk.
    #[inline]
    pub fn first_chunk(self) -> usize {
        self.first as usize
    }

    /// Its length in chunks, at least 1.
    #[inline]
    pub fn chunks(self) -> usize {
        self.chunks as usize
    }

    /// Its length in bytes.
    #[inline]
    pub fn bytes(self) -> usize {
        self.chunks() << CHUNK_SHIFT
    }

    /// Its distance from the region's base, in bytes.
    #[inline]
    pub fn offset_bytes(self) -> usize {
        self.first_chunk() << CHUNK_SHIFT
    }

    /// Its first byte.
    #[inline]
    pub fn start(self) -> core::ptr::NonNull<u8> {
        // SAFETY: a run lies in the region.
        unsafe { at(self.offset_bytes()) }
    }

    /// Its first `chunks` chunks and the rest, where neither is empty; not zeroed.
    pub(super) fn split(self, chunks: usize) -> Option<(Self, Self)> {
        let first_part = u32::try_from(chunks).ok().filter(|&chunks| chunks != 0)?;
        let rest = self.chunks.checked_sub(first_part).filter(|&rest| rest != 0)?;
        let part = |first, chunks| Self { first, chunks, is_zeroed: false };
        Some((part(self.first, first_part), part(self.first + first_part, rest)))
    }

    /// The entry of its first chunk.
    #[inline]
    pub fn entry(self) -> &'static ChunkEntry {
        entry(self.first)
    }

    /// Says of the chunk at a distance from the run's start, in chunks, whose it is; null for
    /// nobody's. For whoever took the run.
    pub fn set_owner(self, distance: usize, owner: *mut u8) {
        debug_assert!(distance < self.chunks());
        let chunk = self.first + distance as u32;
        // Relaxed: whoever gets a pointer to a block gets it through an edge that orders this.
        entry(chunk).owner.store(owner, Ordering::Relaxed);
        owners::set(chunk, owner);
    }

    /// The entries of its chunks, in order.
    pub fn entries(self) -> impl Iterator<Item = &'static ChunkEntry> {
        (self.first..self.first + self.chunks).map(entry)
    }
}
