//! Blocks of which only the address is known: their length, and their free, for C's callers.
//!
//! A free in C tells no size. Chunks have classes beside their owners, so it costs one more load
//! than a free with a layout. Blocks of any class go straight to and from the thread's lists; with
//! a layout only the small ones do.
//!
//! Only blocks of the slab and runs of their own are found so: other strategies mix lengths in a
//! chunk.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::cell::{Guard, front_of, is_direct, retire_emptied, strategy_of};
use super::check;
use super::decay;
use super::header::HeapHeader;
use crate::region::class;
use crate::region::class::WHOLE_RUN;
use crate::region::owners::ChunkPlace;
use crate::strategy::slab::Slab;
use crate::strategy::slab::class::{
    CLASSES, MAX_BLOCK_BYTES, block_bytes, class_of, computed_class,
};
use crate::units::CHUNK_SHIFT;

const _: () = assert!(CLASSES < WHOLE_RUN as usize);

/// The alignment of blocks that are asked for by a size alone, in bytes.
pub const ALIGN_BYTES: usize = 16;

/// The largest size that is looked up in the table, in bytes.
pub const TABLE_BYTES: usize = 1024;

/// The class by size in steps of [`ALIGN_BYTES`], rounded up. A size of zero gets a block too.
static TABLE: [u8; TABLE_BYTES / ALIGN_BYTES + 1] = {
    let mut table = [computed_class(ALIGN_BYTES) as u8; TABLE_BYTES / ALIGN_BYTES + 1];
    let mut index = 1;
    while index < table.len() {
        table[index] = computed_class(index * ALIGN_BYTES) as u8;
        index += 1;
    }
    table
};

/// Allocates a block of at least so many bytes, aligned to [`ALIGN_BYTES`], from the lists of a
/// slab heap; `None` where those have none, or beyond [`TABLE_BYTES`].
///
/// # Safety
/// The caller runs the heap, whose fast path is that of the slab.
#[inline]
pub unsafe fn try_allocate_bytes(header: NonNull<HeapHeader>, bytes: usize) -> Option<NonNull<u8>> {
    if bytes > TABLE_BYTES {
        return None;
    }
    let class = usize::from(TABLE[bytes.div_ceil(ALIGN_BYTES)]);
    // SAFETY: the caller runs the heap; the fast path tells the strategy; the table has classes.
    let block = unsafe { front_of(header).pop(class) }?;
    check::handed_out(block);
    Some(block)
}

/// The class of a chunk's blocks as the table has it, less one; [`CLASSES`] or more where it is no
/// class of the slab.
#[inline]
pub(super) fn slab_class_of(place: ChunkPlace) -> usize {
    usize::from(place.class()).wrapping_sub(1)
}

/// The length in bytes of the block that starts in a chunk; `None` where none can.
///
/// # Safety
/// The block is allocated, or the place is that of a chunk in which none is.
#[inline]
pub unsafe fn length_of(place: ChunkPlace) -> Option<usize> {
    if place.class() == WHOLE_RUN {
        return Some((place.entry().run_chunks.get() as usize) << CHUNK_SHIFT);
    }
    let class = slab_class_of(place);
    (class < CLASSES).then(|| block_bytes(class))
}

/// Allocates a block of any class from the lists of a slab heap.
///
/// # Safety
/// The caller runs the heap, whose fast path is that of the slab.
#[inline]
pub unsafe fn try_allocate(header: NonNull<HeapHeader>, layout: Layout) -> Option<NonNull<u8>> {
    if is_direct(layout) {
        return None; // By its alignment: its size has a class.
    }
    let class = class_of(layout)?;
    // SAFETY: the caller runs the heap; the fast path tells the strategy; the class is one.
    let block = unsafe { front_of(header).pop(class) }?;
    check::handed_out(block);
    Some(block)
}

/// Allocates a block of more than [`TABLE_BYTES`] from the lists of a slab heap; `None` also where
/// the alignment is beyond [`ALIGN_BYTES`].
///
/// # Safety
/// The caller runs the heap, whose fast path is that of the slab.
#[inline]
pub unsafe fn try_allocate_medium(
    header: NonNull<HeapHeader>,
    layout: Layout,
) -> Option<NonNull<u8>> {
    if layout.align() > ALIGN_BYTES || !(TABLE_BYTES + 1..=MAX_BLOCK_BYTES).contains(&layout.size())
    {
        return None;
    }
    // SAFETY: the caller runs the heap; the fast path tells the strategy; the size has a class.
    let block = unsafe { front_of(header).pop(computed_class(layout.size())) }?;
    check::handed_out(block);
    Some(block)
}

/// Frees a block to the lists of a slab heap; false, and nothing is done, for a run of its own, and
/// where the chunk has no class.
///
/// # Safety
/// The chunk has no class, or: the caller runs the heap, whose fast path is that of the slab; the
/// block is allocated, of this heap, and starts in the chunk.
#[inline]
#[must_use]
pub unsafe fn try_free(header: *mut HeapHeader, place: ChunkPlace, block: NonNull<u8>) -> bool {
    let class = slab_class_of(place);
    if class >= CLASSES {
        return false;
    }
    // SAFETY: the caller's contract; the blocks of the chunk are of that class.
    unsafe {
        let header = NonNull::new_unchecked(header);
        #[cfg(heapswitch_check)]
        {
            let length = block_bytes(class);
            check::freed(block, Layout::from_size_align_unchecked(length, 1));
        }
        if front_of(header).push(class, block) {
            spill(header, class);
        }
    }
    true
}

/// By C's convention, by which nothing unwinds: C's `free` may jump here and needs no frame.
///
/// # Safety
/// As [`try_free`].
#[cold]
#[inline(never)]
unsafe extern "C" fn spill(header: NonNull<HeapHeader>, class: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        {
            let _guard = Guard::of::<Slab>(header);
            if strategy_of::<Slab>(header).spill(class) {
                retire_emptied::<Slab>(header);
            }
        }
        decay::step(header.as_ref());
    }
}

/// What the process's heaps hold of one length of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthUsage {
    /// The blocks' length in bytes; `None` for blocks that have runs of their own.
    pub block_bytes: Option<usize>,
    /// Runs that were taken for it since the process's start: one chunk each, or one block each.
    pub given_runs: u64,
    /// Those that are held now.
    pub held_runs: u64,
}

/// What the process's slab heaps hold, by length, the shortest first, runs of their own last.
pub fn usage_by_length() -> impl Iterator<Item = LengthUsage> {
    (0..=CLASSES).map(|index| {
        let is_run = index == CLASSES;
        let usage = class::class_usage(if is_run { WHOLE_RUN } else { index as u8 + 1 });
        LengthUsage {
            block_bytes: (!is_run).then(|| block_bytes(index)),
            given_runs: usage.given_runs,
            held_runs: usage.held_runs,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_class_of_each_size_at_its_alignment() {
        for bytes in 0..=TABLE_BYTES {
            let layout = Layout::from_size_align(bytes.max(1), ALIGN_BYTES).unwrap();
            let class = usize::from(TABLE[bytes.div_ceil(ALIGN_BYTES)]);
            assert_eq!(Some(class), class_of(layout));
            assert!(block_bytes(class).is_multiple_of(ALIGN_BYTES));
        }
    }
}
