//! Who owns each chunk, and which length its blocks have: all that most frees read.
//!
//! The [chunk table](super::ChunkEntry) says it too, in 128 bytes a chunk. These are 9, and no more
//! is read: so the owners of half a megabyte share a cache line, and the classes of four, and those
//! of the blocks that a program frees in random order stay near the processor. They lie behind the
//! region, the last chunk's first: an address's distance from the region's last byte says whether
//! it lies in the region and which chunk is meant.
//!
//! ```text
//!    region's last byte
//!   ──────────────────▼┌───────┬────────────────────┬─────────────────────┐
//!    ... chunk, chunk  │ guard │ classes, 1 B each  │ owners, 8 B each    │
//!   ───────────────────└───────┴────────────────────┴─────────────────────┘
//!                       64 KiB  16 MiB of addresses
//! ```
//!
//! The guard is never accessible: what writes over the end of the last chunk's last block faults
//! there. The owners start at the same distance in any region, so that it is a constant.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

use super::{BOUNDS, ChunkEntry, ENTRY_BYTES, MAX_REGION_BYTES, MemorySpan, bytes, entry_of};
use crate::pointers;
use crate::sys::{self, SystemError, memory};
use crate::units::{CHUNK_SHIFT, SEGMENT_CHUNKS};

/// Between the region and the tables: a page, also where those are of 64 KiB.
const GUARD_BYTES: usize = 64 << 10;

/// How far behind the last byte each table starts.
const CLASSES_AT: usize = 1 + GUARD_BYTES;
const OWNERS_AT: usize = CLASSES_AT + (MAX_REGION_BYTES >> CHUNK_SHIFT);

/// The bytes of one chunk in each.
const CLASS_BYTES: usize = size_of::<AtomicU8>();
const OWNER_BYTES: usize = size_of::<AtomicPtr<u8>>();

/// Where the tables start, and what of them is a chunk's.
const TABLES: [(usize, usize); 2] = [(CLASSES_AT, CLASS_BYTES), (OWNERS_AT, OWNER_BYTES)];

/// A chunk of a committed segment, counted back from the region's last: owners lie in this order,
/// and entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
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

    /// The class of the chunk's blocks. Whoever holds a block of it may ask.
    #[inline]
    pub fn class(self) -> u8 {
        // Relaxed: the block was handed to this thread by an edge that orders this too.
        self.class_cell().load(Ordering::Relaxed)
    }

    /// Where the class is.
    #[inline]
    pub(crate) fn class_cell(self) -> &'static AtomicU8 {
        // SAFETY: there is such a chunk, so there is a region, and its class is committed; a class
        // is an atomic, valid when zeroed.
        unsafe { pointers::forward(last(), CLASSES_AT + self.0).cast().as_ref() }
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
    unsafe { pointers::element(pointers::forward(last, OWNERS_AT).cast(), place.0) }
}

/// The region's last byte.
///
/// # Safety
/// The region is reserved.
#[inline]
unsafe fn last() -> NonNull<u8> {
    // SAFETY: set when the region was reserved.
    unsafe { NonNull::new_unchecked(BOUNDS.last.load(Ordering::Relaxed)) }
}

/// Says whose a chunk of a committed segment is.
pub(super) fn set(chunk: u32, owner: *mut u8) {
    ChunkPlace::of_number(chunk).set_owner(owner);
}

/// What is reserved behind the last byte of a region that is so long: whole pages, also where those
/// are of 64 KiB.
pub(super) const fn reserved_bytes(region_bytes: usize) -> usize {
    OWNERS_AT - 1 + ((region_bytes >> CHUNK_SHIFT) * OWNER_BYTES).next_multiple_of(64 << 10)
}

/// The pages that hold a row of segments' part of a table.
///
/// # Safety
/// The segments lie in the region.
unsafe fn pages_of(first: usize, count: usize, (at, each): (usize, usize)) -> MemorySpan {
    let chunks = count * SEGMENT_CHUNKS;
    let place = (bytes() >> CHUNK_SHIFT) - first * SEGMENT_CHUNKS - chunks;
    // SAFETY: the table lies behind the region's last byte, from a page's start on.
    unsafe {
        let part = pointers::forward(last(), at + place * each);
        let excess = part.addr().get() % sys::page_bytes();
        let bytes = (excess + chunks * each).next_multiple_of(sys::page_bytes());
        MemorySpan { start: pointers::backward(part, excess), bytes }
    }
}

/// The pages that hold a segment's part of the tables and none of those of segments before it.
///
/// # Safety
/// The segment is committed.
pub(super) unsafe fn new_pages_of(segment: usize) -> impl Iterator<Item = MemorySpan> {
    TABLES.into_iter().map(move |table| {
        // SAFETY: the segment and those before it lie in the region.
        let mut pages = unsafe { pages_of(segment, 1, table) };
        if segment != 0 {
            // SAFETY: as above. Those before it lie behind.
            let before = unsafe { pages_of(segment - 1, 1, table) };
            pages.bytes = pages.bytes.min(pointers::distance(pages.start, before.start));
        }
        pages
    })
}

/// Makes the tables' parts for a row of segments memory, and what shares pages with them. What was
/// that before stays as it is.
///
/// # Errors
/// The system's.
///
/// # Safety
/// The segments lie in the region.
pub(super) unsafe fn commit(first: usize, count: usize) -> Result<(), SystemError> {
    TABLES.into_iter().try_for_each(|table| {
        // SAFETY: the caller's contract; whole pages are reserved.
        unsafe {
            let pages = pages_of(first, count, table);
            memory::commit(pages.start, pages.bytes)
        }
    })
}

#[cfg(all(test, not(heapswitch_pass_through)))]
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
                for class in [distance as u8 + 7, 0] {
                    entry.set_class(class);
                    assert_eq!((place.class(), entry.class()), (class, class), "{distance}");
                }
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

    /// A report counts each page of the tables once.
    #[test]
    fn pages_of_segments_follow_each_other() {
        let run = take_run(SegmentKind::CONTEXT, 1, 1).unwrap();
        for table in 0..2 {
            // SAFETY: so many segments lie in any region, whether or not they are committed.
            let pages = |segment| unsafe { new_pages_of(segment) }.nth(table).unwrap();
            let ends = |span: &MemorySpan| (span.start.addr().get(), span.bytes);
            let (first, first_bytes) = ends(&pages(0));
            assert_ne!(first_bytes, 0);
            let (second, bytes) = ends(&pages(1));
            assert_eq!(second + bytes, first, "table {table}");
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
        let tables = [CLASSES_AT, OWNERS_AT].map(|at| end.wrapping_add(at - 1));
        let others = [first.wrapping_sub(1), end, tables[0], tables[1]];
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
