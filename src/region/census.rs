//! What of the region is in memory, as the kernel says, page by page: for reports.
//!
//! Costs a system call for each 2 MiB of committed address space, and stops nobody: what is taken,
//! touched or given back meanwhile is seen or not.

use core::ptr::NonNull;

use super::map::{TABLE_BYTES, WrittenEntries, segments};
use super::{SEGMENT_BYTES, at, base, bytes, entry_at, metadata, owners};
use crate::sys::{self, memory};
use crate::units::{CHUNK_BYTES, SEGMENT_CHUNKS};

/// Pages that are asked for at once.
const PAGES: usize = 512;

/// Bytes in memory, by what they are used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Census {
    /// Bytes in chunks that a heap holds, in memory or not.
    pub held_bytes: usize,
    /// Of those, bytes in memory.
    pub held_resident_bytes: usize,
    /// Bytes in memory in chunks that no heap holds.
    pub free_resident_bytes: usize,
    /// Bytes in memory of the chunk table, owners and classes included.
    pub table_resident_bytes: usize,
    /// Bytes in memory of records: headers, accounts, bit maps.
    pub metadata_resident_bytes: usize,
    /// What the kernel says of the region with its tables as a whole (`/proc/self/smaps`). Records
    /// are mapped elsewhere and not in it.
    pub kernel_bytes: usize,
}

impl Census {
    /// By how much the parts of the region and the kernel's figure differ, in bytes.
    pub fn difference_bytes(&self) -> usize {
        let parts = self.held_resident_bytes + self.free_resident_bytes + self.table_resident_bytes;
        parts.abs_diff(self.kernel_bytes)
    }
}

/// Counts. `None` where there is no region, or the kernel tells nothing.
pub fn census() -> Option<Census> {
    if bytes() == 0 {
        return None;
    }
    let mut census = Census::default();
    let mut count = 0;
    for segment in segments() {
        // SAFETY: the segment is committed.
        unsafe { count_segment(&mut census, segment)? };
        count += 1;
    }
    let mut is_told = true;
    metadata::for_each_piece(|start, length| {
        let counted = visit_pages(start, length, |_| census.metadata_resident_bytes += page());
        is_told &= counted.is_some();
    });
    let base = base().addr().get();
    let region = base - count * TABLE_BYTES..base + bytes() + owners::reserved_bytes(bytes());
    census.kernel_bytes = resident_by_smaps(region)?;
    is_told.then_some(census)
}

fn page() -> usize {
    sys::page_bytes()
}

/// Counts a segment and its part of the tables.
///
/// # Safety
/// The segment is committed.
unsafe fn count_segment(census: &mut Census, segment: usize) -> Option<()> {
    let offset = segment * SEGMENT_BYTES;
    // SAFETY: the segment is committed, and lies in the region.
    let (written, start) = unsafe { (WrittenEntries::of(segment)?, at(offset)) };
    // SAFETY: as above.
    let pages = unsafe { owners::new_pages_of(segment) };
    census.table_resident_bytes += written.resident_bytes;
    for pages in pages {
        visit_pages(pages.start, pages.bytes, |_| census.table_resident_bytes += page())?;
    }
    let mut is_held = [false; SEGMENT_CHUNKS];
    for (chunk, place) in is_held.iter_mut().enumerate() {
        if written.may_be_used(chunk) {
            // Relaxed: another thread may take a chunk or give it back at any time.
            // SAFETY: the segment is committed.
            let entry = unsafe { entry_at(offset + chunk * CHUNK_BYTES) };
            *place = !entry.owner().is_null();
        }
        census.held_bytes += if *place { CHUNK_BYTES } else { 0 };
    }
    visit_pages(start, SEGMENT_BYTES, |distance| {
        if is_held.get(distance / CHUNK_BYTES).is_some_and(|&is_held| is_held) {
            census.held_resident_bytes += page();
        } else {
            census.free_resident_bytes += page();
        }
    })
}

/// Calls `visit` with the distance of each page of a range that is in memory.
pub(super) fn visit_pages(
    start: NonNull<u8>,
    length: usize,
    mut visit: impl FnMut(usize),
) -> Option<()> {
    let mut pages = [0_u8; PAGES];
    let mut distance = 0;
    while distance < length {
        // SAFETY: the distance lies in the range.
        let from = unsafe { crate::pointers::forward(start, distance) };
        let bytes = (length - distance).min(PAGES * page());
        memory::resident_pages(from, bytes, &mut pages).ok()?;
        for (index, flags) in pages.iter().take(bytes.div_ceil(page())).enumerate() {
            if flags & 1 != 0 {
                visit(distance + index * page());
            }
        }
        distance += bytes;
    }
    Some(())
}

/// The bytes in memory of the mappings that begin in a range of addresses.
fn resident_by_smaps(range: core::ops::Range<usize>) -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let mut is_ours = false;
    let mut bytes = 0;
    for line in text.lines() {
        if let Some(kilobytes) = line.strip_prefix("Rss:") {
            if is_ours {
                let number = kilobytes.trim().trim_end_matches("kB").trim_end();
                bytes += number.parse::<usize>().ok()? << 10;
            }
        } else if let Some((start, _)) = line.split_once('-')
            && let Ok(start) = usize::from_str_radix(start, 16)
        {
            is_ours = range.contains(&start);
        }
    }
    Some(bytes)
}
