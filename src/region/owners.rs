//! Who owns each chunk, for frees that know their block's size.
//!
//! The [chunk table](super::ChunkEntry) says it too, in 128 bytes a chunk. These are 8, and no more
//! is read: so the owners of half a megabyte share a cache line, and those of the blocks that a
//! program frees in random order stay near the processor. They lie behind the region's last byte,
//! the last chunk's first: an address's distance from that byte says whether it lies in the region
//! and which chunk's owner is meant.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::{BOUNDS, ChunkEntry, ENTRY_BYTES, MemorySpan, bytes};
use crate::pointers;
use crate::sys::{self, SystemError, memory};
use crate::units::{CHUNK_SHIFT, SEGMENT_CHUNKS, round_up};

const OWNER_BYTES: usize = size_of::<AtomicPtr<u8>>();

/// A segment's part of the owners: a page, where pages are of 4 KiB.
const PART_BYTES: usize = SEGMENT_CHUNKS * OWNER_BYTES;

/// A chunk of a committed segment, counted back from the region's last: owners lie in this order,
/// and entries.
#[derive(Clone, Copy, Debug)]
pub struct ChunkPlace(usize);

impl ChunkPlace {
    /// The place of the chunk that has this entry.
    #[inline]
    pub fn of(entry: &'static ChunkEntry) -> Self {
        let table = BOUNDS.table.load(Ordering::Relaxed);
        Self((core::ptr::from_ref(entry).addr() - table.addr()) / ENTRY_BYTES)
    }

    /// The chunk's entry in the table.
    #[inline]
    pub fn entry(self) -> &'static ChunkEntry {
        let table = BOUNDS.table.load(Ordering::Relaxed);
        // SAFETY: there is such a chunk, so the table is set, and the entry committed; entries are
        // valid when zeroed, live for ever, and all their fields are atomics or cells.
        unsafe { pointers::element(NonNull::new_unchecked(table), self.0).as_ref() }
    }
}

/// The chunk that an address lies in, if that is in the region, and the heap that owns the chunk;
/// null where none does.
///
/// # Safety
/// If the address lies in the region, its segment is committed.
#[inline]
pub unsafe fn find(address: *const u8) -> Option<(ChunkPlace, *mut u8)> {
    // Relaxed: whoever holds a pointer into the region got it after the region was made, and by an
    // edge that orders its chunk's owner too. Any other address is farther below the last byte, or
    // above it, than any length, whether or not there is a region yet.
    let last = BOUNDS.last.load(Ordering::Relaxed);
    let distance = last.addr().wrapping_sub(address.addr());
    if distance >= BOUNDS.bytes.load(Ordering::Relaxed) {
        return None;
    }
    let place = ChunkPlace(distance >> CHUNK_SHIFT);
    // SAFETY: the address lies in the region, so the last byte is the region's, and its chunk's
    // owner is committed; owners are atomics, valid when zeroed.
    let owner = unsafe { owner_at(NonNull::new_unchecked(last), place).as_ref() };
    Some((place, owner.load(Ordering::Relaxed)))
}

/// # Safety
/// `last` is the region's last byte, and the place one of its chunks'.
#[inline]
unsafe fn owner_at(last: NonNull<u8>, place: ChunkPlace) -> NonNull<AtomicPtr<u8>> {
    // SAFETY: the reservation goes on for as many owners as the region has chunks.
    unsafe { pointers::element(pointers::forward(last, 1).cast(), place.0) }
}

/// The region's last byte.
///
/// # Safety
/// The region is reserved.
unsafe fn last() -> NonNull<u8> {
    // SAFETY: set when the region was reserved.
    unsafe { NonNull::new_unchecked(BOUNDS.last.load(Ordering::Relaxed)) }
}

/// Says whose a chunk of a committed segment is.
pub(super) fn set(chunk: u32, owner: *mut u8) {
    let place = ChunkPlace((bytes() >> CHUNK_SHIFT) - 1 - chunk as usize);
    // Relaxed: whoever gets a pointer to a block gets it through an edge that orders this.
    // SAFETY: there is a chunk, so there is a region; owners are atomics, valid when zeroed.
    unsafe { owner_at(last(), place).as_ref().store(owner, Ordering::Relaxed) };
}

/// The bytes of the owners of a region that is so long.
pub(super) const fn table_bytes(region_bytes: usize) -> usize {
    (region_bytes >> CHUNK_SHIFT) * OWNER_BYTES
}

/// What is reserved for them: whole pages, also where those are of 64 KiB.
pub(super) const fn reserved_bytes(region_bytes: usize) -> usize {
    table_bytes(region_bytes).next_multiple_of(64 << 10)
}

/// Where the owners of a row of segments are, the last chunk's first.
///
/// # Safety
/// The segments lie in the region.
unsafe fn part_of(first: usize, count: usize) -> NonNull<u8> {
    let distance = table_bytes(bytes()) - (first + count) * PART_BYTES;
    // SAFETY: the owners lie behind the region's last byte.
    unsafe { pointers::forward(last(), 1 + distance) }
}

/// The pages that hold a segment's owners: none where those share one with the owners of segments
/// before, whose it is.
///
/// # Safety
/// The segment is committed.
pub(super) unsafe fn pages_of(segment: usize) -> MemorySpan {
    // SAFETY: the segment lies in the region.
    let part = unsafe { part_of(segment, 1) };
    let is_last_of_page = (part.addr().get() + PART_BYTES).is_multiple_of(sys::page_bytes());
    let bytes = if is_last_of_page { PART_BYTES.max(sys::page_bytes()) } else { 0 };
    // SAFETY: the owners start at a page's start, so a page that ends with some starts there or
    // behind it.
    let start = unsafe { pointers::backward(part, bytes.saturating_sub(PART_BYTES)) };
    MemorySpan { start, bytes }
}

/// Makes the owners of a row of segments memory, and what shares a page with them. What was that
/// before stays as it is.
///
/// # Errors
/// The system's.
///
/// # Safety
/// The segments lie in the region.
pub(super) unsafe fn commit(first: usize, count: usize) -> Result<(), SystemError> {
    // SAFETY: the caller's contract; whole pages are reserved, from a page's start on.
    unsafe {
        let part = part_of(first, count);
        let excess = part.addr().get() % sys::page_bytes();
        let length = round_up(excess + count * PART_BYTES, sys::page_bytes());
        memory::commit(pointers::backward(part, excess), length.unwrap_or(count * PART_BYTES))
    }
}
