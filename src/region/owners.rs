//! Who owns each chunk, for frees that know their block's size.
//!
//! The [chunk table](super::ChunkEntry) says it too, in 128 bytes a chunk. These are 8, and no more
//! is read: so the owners of half a megabyte share a cache line, and those of the blocks that a
//! program frees in random order stay near the processor. They lie behind the region, the last
//! chunk's first: an address's distance from the region's last byte says whether it lies in the
//! region and which chunk's owner is meant.
//!
//! Between the region and them a guard is never accessible: what writes over the end of the last
//! chunk's last block faults there.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::{BOUNDS, ChunkEntry, ENTRY_BYTES, MemorySpan, bytes, entry_of};
use crate::pointers;
use crate::sys::{self, SystemError, memory};
use crate::units::{CHUNK_SHIFT, SEGMENT_CHUNKS, round_up};

/// Between the region and the owners: a page, also where those are of 64 KiB.
const GUARD_BYTES: usize = 64 << 10;

const OWNER_BYTES: usize = size_of::<AtomicPtr<u8>>();

/// A segment's part of the owners: a page, where pages are of 4 KiB.
const PART_BYTES: usize = SEGMENT_CHUNKS * OWNER_BYTES;

/// A chunk of a committed segment, counted back from the region's last: owners lie in this order,
/// and entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPlace(usize);

impl ChunkPlace {
    /// The place of the chunk that has this entry.
    #[inline]
    pub fn of(entry: &ChunkEntry) -> Self {
        let table = BOUNDS.table.load(Ordering::Relaxed);
        Self((core::ptr::from_ref(entry).addr() - table.addr()) / ENTRY_BYTES)
    }

    /// The place of the chunk with this number.
    fn of_number(chunk: u32) -> Self {
        Self((bytes() >> CHUNK_SHIFT) - 1 - chunk as usize)
    }

    /// Whose the chunk is; null for nobody's.
    pub fn owner(self) -> *mut u8 {
        // SAFETY: there is such a chunk, so there is a region; owners are atomics, valid when
        // zeroed.
        unsafe { owner_at(last(), self).as_ref().load(Ordering::Relaxed) }
    }

    /// Says whose the chunk is. Its entry has to say the same.
    pub(crate) fn set_owner(self, owner: *mut u8) {
        // Relaxed: whoever gets a pointer to a block gets it through an edge that orders this.
        // SAFETY: as in `owner`.
        unsafe { owner_at(last(), self).as_ref().store(owner, Ordering::Relaxed) };
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
    if cfg!(heapswitch_check) && entry_of(address).is_none() {
        return Some((place, core::ptr::null_mut())); // Who frees it is told so.
    }
    // SAFETY: the address lies in the region, so the last byte is the region's, and its chunk's
    // owner is committed; owners are atomics, valid when zeroed.
    let owner = unsafe { owner_at(NonNull::new_unchecked(last), place).as_ref() };
    Some((place, owner.load(Ordering::Relaxed)))
}

/// The heap that owns the chunk that an address lies in, for any address at all; none where none
/// does.
pub fn owner_of(address: *const u8) -> Option<NonNull<u8>> {
    // SAFETY: what has an entry lies in a committed segment.
    let found = entry_of(address).and_then(|_| unsafe { find(address) });
    found.and_then(|(_, owner)| NonNull::new(owner))
}

/// # Safety
/// `last` is the region's last byte, and the place one of its chunks'.
#[inline]
unsafe fn owner_at(last: NonNull<u8>, place: ChunkPlace) -> NonNull<AtomicPtr<u8>> {
    // SAFETY: the reservation goes on for as many owners as the region has chunks.
    unsafe { pointers::element(pointers::forward(last, 1 + GUARD_BYTES).cast(), place.0) }
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
    ChunkPlace::of_number(chunk).set_owner(owner);
}

/// The bytes of the owners of a region that is so long.
pub(super) const fn table_bytes(region_bytes: usize) -> usize {
    (region_bytes >> CHUNK_SHIFT) * OWNER_BYTES
}

/// What is reserved for them and the guard: whole pages, also where those are of 64 KiB.
pub(super) const fn reserved_bytes(region_bytes: usize) -> usize {
    GUARD_BYTES + table_bytes(region_bytes).next_multiple_of(64 << 10)
}

/// Where the owners of a row of segments are, the last chunk's first.
///
/// # Safety
/// The segments lie in the region.
unsafe fn part_of(first: usize, count: usize) -> NonNull<u8> {
    let distance = table_bytes(bytes()) - (first + count) * PART_BYTES;
    // SAFETY: the owners lie behind the region and the guard.
    unsafe { pointers::forward(last(), 1 + GUARD_BYTES + distance) }
}

/// The pages that hold a segment's owners: none where those share one with the owners of segments
/// before, whose it is.
///
/// # Safety
/// The segment is committed.
pub(super) unsafe fn pages_of(segment: usize) -> MemorySpan {
    // SAFETY: the segment lies in the region.
    let part = unsafe { part_of(segment, 1) };
    let (page, end) = (sys::page_bytes(), part.addr().get() + PART_BYTES);
    let is_first = segment == 0 || end.is_multiple_of(page);
    // SAFETY: the owners start at a page's start.
    let start = unsafe { pointers::backward(part, part.addr().get() % page) };
    MemorySpan { start, bytes: if is_first { PART_BYTES.max(page) } else { 0 } }
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

#[cfg(test)]
mod tests {
    use super::super::{SegmentKind, base, return_run, take_run};
    use super::*;
    use crate::units::CHUNK_BYTES;

    fn found(address: *const u8) -> Option<(ChunkPlace, *mut u8)> {
        // SAFETY: the tests ask for committed chunks, and what lies outside the region.
        unsafe { find(address) }
    }

    #[test]
    fn every_chunk_of_a_run_has_an_owner_until_it_has_none() {
        let run = take_run(SegmentKind::CONTEXT, 3, 1).unwrap();
        let heap: *mut u8 = core::ptr::without_provenance_mut(0x1000);
        for (owner, from) in [(heap, 0), (core::ptr::null_mut(), 1), (core::ptr::null_mut(), 0)] {
            (from..3).for_each(|distance| run.set_owner(distance, owner));
            for (distance, entry) in run.entries().enumerate() {
                let expected = if distance < from { heap } else { owner };
                let place = ChunkPlace::of(entry);
                assert_eq!((place.owner(), entry.owner()), (expected, expected), "{distance}");
                assert!(core::ptr::eq(place.entry(), entry), "{distance}");
                let first = run.start().as_ptr().wrapping_add(distance * CHUNK_BYTES);
                for address in [first, first.wrapping_add(CHUNK_BYTES - 1)] {
                    assert_eq!(found(address), Some((place, expected)), "{distance}");
                    assert_eq!(owner_of(address), NonNull::new(expected), "{distance}");
                }
            }
        }
        // SAFETY: the run is ours.
        unsafe { return_run(run) };
    }

    #[test]
    fn what_lies_outside_the_region_has_no_place() {
        let run = take_run(SegmentKind::CONTEXT, 1, 1).unwrap();
        let (first, end) = (base().as_ptr(), base().as_ptr().wrapping_add(bytes()));
        let chunks = bytes() >> CHUNK_SHIFT;
        assert_eq!(found(first).map(|(place, _)| place), Some(ChunkPlace(chunks - 1)));
        let numbers = [0, 1, 1 << 62, 1 << 63, usize::MAX].map(core::ptr::without_provenance_mut);
        let others = [first.wrapping_sub(1), end, end.wrapping_add(GUARD_BYTES)];
        for address in numbers.into_iter().chain(others) {
            assert_eq!(found(address), None, "{address:?}");
            assert_eq!(owner_of(address), None, "{address:?}");
        }
        // It is not committed: for any address at all there is an answer.
        assert_eq!(owner_of(end.wrapping_sub(1)), None);
        // SAFETY: the run is ours.
        unsafe { return_run(run) };
    }
}
