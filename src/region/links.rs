//! Lists of runs, linked in both directions through the entries of the runs' first chunks.
//!
//! Links are chunks' numbers; chunk 0 is never handed out, so 0 is the end. Who has a list keeps
//! its first chunk.

use super::{ChunkEntry, entry_at};
use crate::units::CHUNK_SHIFT;

/// The entry of a chunk in a committed segment.
#[inline]
pub fn entry(chunk: u32) -> &'static ChunkEntry {
    // SAFETY: free runs, and those that heaps hold, are chunks of committed segments; no other
    // chunk's number is kept.
    unsafe { entry_at((chunk as usize) << CHUNK_SHIFT) }
}

/// Links a chunk before the first of a list, which the caller makes it.
#[inline]
pub fn link_before(first: u32, chunk: u32) {
    let head = entry(chunk);
    head.next.set(first);
    head.previous.set(0);
    if first != 0 {
        entry(first).previous.set(chunk);
    }
}

/// Takes a chunk out of its list; that one's first chunk from now on, if it was this.
#[inline]
#[must_use]
pub fn unlink(head: &ChunkEntry) -> Option<u32> {
    let (next, previous) = (head.next.get(), head.previous.get());
    if next != 0 {
        entry(next).previous.set(previous);
    }
    if previous == 0 {
        return Some(next);
    }
    entry(previous).next.set(next);
    None
}
