//! Bins of free runs by length, linked through the chunk table's entries.
//!
//! Inserting and removing are O(1); finding one long enough takes at most `SEARCH` steps in the one
//! bin whose runs may be too short.

use super::links::{entry, link_before, unlink};

/// Steps in a bin whose runs differ in length, before a longer bin is taken.
const SEARCH: usize = 8;

/// Bins of one length each; above, four bins for each doubling.
const EXACT_BINS: usize = 16;
pub(super) const BINS: usize = EXACT_BINS + 20 * 4;

/// Not the end of a free run.
pub(super) const NOT_FREE: u8 = 0;
pub(super) const CLEAN: u8 = 1;
pub(super) const DIRTY: u8 = 2;
/// Not committed: whole segments whose memory and commit charge were given back.
pub(super) const RESERVED: u8 = 3;
/// A dirty chunk that the first processor gave back lately; from here on the other processors'.
pub(super) const RECENT: u8 = 4;

pub(super) const fn bin_of(chunks: u32) -> usize {
    if chunks as usize <= EXACT_BINS {
        return chunks as usize - 1;
    }
    let exponent = chunks.ilog2() as usize;
    let quarter = (chunks >> (exponent - 2)) as usize & 3;
    EXACT_BINS + (exponent - 4) * 4 + quarter
}

/// The free runs of one set, by length.
#[derive(Debug)]
pub(super) struct Bins {
    pub(super) heads: [u32; BINS],
    pub(super) occupied: u128,
    pub(super) chunks: usize,
}

impl Bins {
    pub(super) const fn new() -> Self {
        Self { heads: [0; BINS], occupied: 0, chunks: 0 }
    }

    pub(super) fn head(&self, bin: usize) -> u32 {
        self.heads.get(bin).copied().unwrap_or(0)
    }

    fn set_head(&mut self, bin: usize, chunk: u32) {
        if let Some(head) = self.heads.get_mut(bin) {
            *head = chunk;
        }
        if chunk == 0 {
            self.occupied &= !(1 << bin);
        } else {
            self.occupied |= 1 << bin;
        }
    }

    pub(super) fn insert(&mut self, first: u32, chunks: u32, edge: u8) {
        let (head, last) = (entry(first), entry(first + chunks - 1));
        head.run_chunks.set(chunks);
        last.head_distance.set(chunks - 1);
        head.edge.set(edge);
        last.edge.set(edge);
        let bin = bin_of(chunks);
        link_before(self.head(bin), first);
        self.set_head(bin, first);
        self.chunks += chunks as usize;
    }

    pub(super) fn remove(&mut self, first: u32) -> u32 {
        let head = entry(first);
        let chunks = head.run_chunks.get();
        if let Some(next) = unlink(head) {
            self.set_head(bin_of(chunks), next);
        }
        head.edge.set(NOT_FREE);
        entry(first + chunks - 1).edge.set(NOT_FREE);
        self.chunks -= chunks as usize;
        chunks
    }

    /// The first chunk of a free run of at least `chunks`.
    pub(super) fn find(&self, chunks: u32) -> Option<u32> {
        let bin = bin_of(chunks);
        let mut candidate = self.head(bin);
        for _ in 0..SEARCH {
            if candidate == 0 {
                break;
            }
            if entry(candidate).run_chunks.get() >= chunks {
                return Some(candidate);
            }
            candidate = entry(candidate).next.get();
        }
        let longer = self.occupied.checked_shr(bin as u32 + 1)?;
        let bin = bin + 1 + longer.trailing_zeros() as usize;
        Some(self.head(bin)).filter(|&first| longer != 0 && first != 0)
    }

    /// The first chunk of a run of just so many chunks, at most [`EXACT_BINS`].
    pub(super) fn exactly(&self, chunks: u32) -> Option<u32> {
        Some(self.head(bin_of(chunks))).filter(|&first| first != 0)
    }

    /// The first chunk of one of the longest runs.
    pub(super) fn longest(&self) -> Option<u32> {
        let bin = self.occupied.checked_ilog2()? as usize;
        Some(self.head(bin)).filter(|&first| first != 0)
    }
}
