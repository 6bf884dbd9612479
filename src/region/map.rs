//! Every chunk of the committed segments, one after the other: for pictures of the region.
//!
//! Costs a system call for each 2 MiB of committed address space, allocates nothing and stops
//! nobody: what is taken, touched or given back meanwhile is seen or not.

use core::sync::atomic::Ordering;

use super::census::visit_pages;
use super::label::Labelled;
use super::{ENTRY_BYTES, SEGMENT_BYTES, SEGMENTS, UNCOMMITTED, at, base, bytes, entry_at};
use crate::sys;
use crate::units::{CHUNK_BYTES, SEGMENT_CHUNKS};

/// A segment's part of the chunk table.
pub(super) const TABLE_BYTES: usize = SEGMENT_CHUNKS * ENTRY_BYTES;

/// One chunk.
#[derive(Clone, Copy, Debug)]
pub struct ChunkView {
    /// What its label says; `None` where no heap holds it.
    pub held: Option<Labelled>,
    /// Bytes of it that are in memory.
    pub resident_bytes: usize,
}

/// The committed segments, each by its number.
pub(super) fn segments() -> impl Iterator<Item = usize> {
    // Acquire pairs with the Release in `commit_segments`: the table is then accessible. Segments
    // are committed in order.
    let is_committed = |segment: &usize| {
        SEGMENTS.get(*segment).is_some_and(|kind| kind.load(Ordering::Acquire) != UNCOMMITTED)
    };
    (0..if bytes() == 0 { 0 } else { SEGMENTS.len() }).take_while(is_committed)
}

/// Which of a segment's chunks were ever used: the others' entries are zero, and lie on pages of
/// the table that are not in memory. Those are not read: that would map a page of zeros, which the
/// kernel counts in one figure and not in the other.
pub(super) struct WrittenEntries {
    is_written: [bool; TABLE_PAGES],
    pub(super) resident_bytes: usize,
}

const TABLE_PAGES: usize = TABLE_BYTES.div_ceil(crate::units::PAGE_BYTES);

impl WrittenEntries {
    /// `None` where the kernel tells nothing.
    ///
    /// # Safety
    /// The segment is committed.
    pub(super) unsafe fn of(segment: usize) -> Option<Self> {
        // SAFETY: the segment's part of the table lies below the base.
        let table = unsafe { crate::pointers::backward(base(), (segment + 1) * TABLE_BYTES) };
        let mut written = Self { is_written: [false; TABLE_PAGES], resident_bytes: 0 };
        visit_pages(table, TABLE_BYTES, |distance| {
            written.resident_bytes += sys::page_bytes();
            if let Some(place) = written.is_written.get_mut(distance / sys::page_bytes()) {
                *place = true;
            }
        })?;
        Some(written)
    }

    /// Whether a chunk of the segment may have been used, by its number in it.
    pub(super) fn may_be_used(&self, chunk: usize) -> bool {
        // Entries lie one after the other downwards.
        let distance = (SEGMENT_CHUNKS - 1 - chunk) * ENTRY_BYTES;
        self.is_written.get(distance / sys::page_bytes()).is_some_and(|&is_written| is_written)
    }
}

/// Calls `visit` with each chunk of the committed segments, in order of address. False where the
/// kernel does not tell what is in memory; then not all were visited.
pub fn for_each_chunk(mut visit: impl FnMut(ChunkView)) -> bool {
    // SAFETY: the segments are committed.
    segments().all(|segment| unsafe { visit_segment(segment, &mut visit) }.is_some())
}

/// # Safety
/// The segment is committed.
unsafe fn visit_segment(segment: usize, visit: &mut impl FnMut(ChunkView)) -> Option<()> {
    let offset = segment * SEGMENT_BYTES;
    // SAFETY: the segment is committed, and lies in the region.
    let (written, start) = unsafe { (WrittenEntries::of(segment)?, at(offset)) };
    let mut resident = [0_u32; SEGMENT_CHUNKS];
    visit_pages(start, SEGMENT_BYTES, |distance| {
        if let Some(bytes) = resident.get_mut(distance / CHUNK_BYTES) {
            *bytes += sys::page_bytes() as u32;
        }
    })?;
    for (chunk, &bytes) in resident.iter().enumerate() {
        let held = written.may_be_used(chunk).then(|| {
            // SAFETY: the segment is committed.
            let entry = unsafe { entry_at(offset + chunk * CHUNK_BYTES) };
            // Relaxed: another thread may take a chunk or give it back at any time.
            let is_held = !entry.owner().is_null();
            is_held.then(|| entry.label.get())
        });
        visit(ChunkView { held: held.flatten(), resident_bytes: bytes as usize });
    }
    Some(())
}
