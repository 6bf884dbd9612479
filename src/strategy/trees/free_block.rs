//! What lies in a free block.
//!
//! ```text
//!   32 bytes or more                                    512 bytes or more, where sorted
//!   ┌──────┬──────────┬────────┬────────┬ ─ ─ ┬──────┐  ┌ ─ ─ ┬───────────────────────────┬ ─ ─
//!   │ next │ previous │ record │ length │     │length│    ... │ children  parent  colour │
//!   └──────┴──────────┴────────┴────────┴ ─ ─ ┴──────┘  └ ─ ─ ┴───────────────────────────┴ ─ ─
//!   0      8          16       24             end - 8         32                         64
//!
//!   16 bytes: a "single"            32 bytes: both lengths are one word
//!   ┌──────┬──────────────┐         ┌──────┬──────────┬────────┬────────┐
//!   │ next │ previous | 1 │         │ next │ previous │ record │ length │
//!   └──────┴──────────────┘         └──────┴──────────┴────────┴────────┘
//! ```
//!
//! Whoever frees the block behind a free block reads its last word: a length is even, a single's
//! previous link carries the tag [`SINGLE`]. Whoever frees the block before it reads its second word
//! for the same tag, then the length. Bit 0 of the first length is [`SORTED`]: the block is in a tree.
//!
//! A single has no room for its extent, so singles are listed by extent, everything else by size.

use core::ptr::{self, NonNull};

use super::record::Record;
use super::red_black::{Links, Node};
use super::size_class::{BINS, GRANULE};
use crate::pointers::{backward, forward};

/// The tag on the previous link of a free block of one granule.
const SINGLE: usize = 1;

/// The flag in the length of a block that is in a tree.
const SORTED: usize = 1;

/// The bytes at the start of a free block of at least 512 bytes that the strategy needs.
pub(super) const HEAD_BYTES: usize = size_of::<FreeBlock>();

/// The bytes at its end.
pub(super) const TAIL_BYTES: usize = size_of::<usize>();

/// The head of a free block, see the [module](self). Only the first two fields exist in a single,
/// and `tree` only in a block that is sorted.
#[repr(C)]
#[derive(Debug)]
pub(super) struct FreeBlock {
    /// The next in the list, or null.
    pub(super) next: *mut FreeBlock,
    /// The previous in the list. In the first of a bin's list, [`first_of_bin`]; in the first of a
    /// list of singles, null; in every single with the tag.
    pub(super) previous: *mut FreeBlock,
    /// The record of the extent that the block lies in.
    pub(super) record: NonNull<Record>,
    /// The length in bytes, with the flag [`SORTED`].
    length: usize,
    tree: Links<FreeBlock>,
}

const _: () = assert!(HEAD_BYTES == 64 && core::mem::offset_of!(FreeBlock, next) == 0);

// SAFETY: the links are a field, and a block's length changes only while it is in no tree.
unsafe impl Node for FreeBlock {
    type Key = usize;

    #[inline]
    unsafe fn links(node: NonNull<Self>) -> NonNull<Links<Self>> {
        // SAFETY: the node is valid; a field of it is not at address zero.
        unsafe { NonNull::new_unchecked(&raw mut (*node.as_ptr()).tree) }
    }

    #[inline]
    unsafe fn key(node: NonNull<Self>) -> usize {
        // SAFETY: the node is valid.
        unsafe { length(node) }
    }
}

/// The length of a free block of at least two granules.
///
/// # Safety
/// `block` is such a block.
#[inline]
pub(super) unsafe fn length(block: NonNull<FreeBlock>) -> usize {
    // SAFETY: the field exists in such a block.
    unsafe { (*block.as_ptr()).length & !SORTED }
}

/// Whether a free block of at least two granules is in a tree.
///
/// # Safety
/// `block` is such a block.
#[inline]
pub(super) unsafe fn is_sorted(block: NonNull<FreeBlock>) -> bool {
    // SAFETY: the field exists in such a block.
    unsafe { (*block.as_ptr()).length & SORTED != 0 }
}

/// Notes that a block is in a tree.
///
/// # Safety
/// `block` is a free block of at least 512 bytes.
pub(super) unsafe fn mark_sorted(block: NonNull<FreeBlock>) {
    // SAFETY: the field exists in such a block.
    unsafe { (*block.as_ptr()).length |= SORTED }
}

/// Writes the two lengths and the record of a free block of at least two granules; not sorted.
///
/// # Safety
/// `block` is valid for writes of `length` bytes, which are free, and lies in the extent of `record`.
#[inline]
pub(super) unsafe fn write_ends(block: NonNull<FreeBlock>, length: usize, record: NonNull<Record>) {
    // SAFETY: both words lie in the block by the contract; they are one and the same word in a block
    // of 32 bytes.
    unsafe {
        (*block.as_ptr()).record = record;
        (*block.as_ptr()).length = length;
        forward(block.cast(), length - TAIL_BYTES).cast::<usize>().write(length);
    }
}

/// The free block that ends at `end`, and its length.
///
/// # Safety
/// A free block ends there, and `end` has the provenance of its extent.
#[inline]
pub(super) unsafe fn before(end: NonNull<u8>) -> (NonNull<FreeBlock>, usize) {
    // SAFETY: a free block's last word is its length, or the tagged link of a single.
    unsafe {
        let word = backward(end, TAIL_BYTES).cast::<*mut FreeBlock>().read().addr();
        let length = if word & SINGLE != 0 { GRANULE } else { word };
        (backward(end, length).cast(), length)
    }
}

/// The length of the free block at `block`.
///
/// # Safety
/// A free block of any length starts there.
#[inline]
pub(super) unsafe fn length_of_any(block: NonNull<FreeBlock>) -> usize {
    // SAFETY: every free block has the second word, and those that lack the tag have the fourth.
    unsafe {
        let is_single = (*block.as_ptr()).previous.addr() & SINGLE != 0;
        if is_single { GRANULE } else { length(block) }
    }
}

/// Adds the tag of a single to a previous link.
#[inline]
pub(super) fn tag_single(previous: *mut FreeBlock) -> *mut FreeBlock {
    previous.map_addr(|address| address | SINGLE)
}

/// Takes it off.
#[inline]
pub(super) fn untag_single(previous: *mut FreeBlock) -> *mut FreeBlock {
    previous.map_addr(|address| address & !SINGLE)
}

/// The first word of a free block is its next link: where to write that, given the block, or, given
/// the head of a list, the head.
#[inline]
pub(super) fn next_of(block: *mut FreeBlock) -> *mut *mut FreeBlock {
    block.cast()
}

/// The previous link of the first block in the list of `bin`: no address, but where the head is in
/// the array of heads. So a block is taken out of a list without knowing its length.
#[inline]
pub(super) fn first_of_bin(bin: usize) -> *mut FreeBlock {
    ptr::without_provenance_mut(bin * size_of::<*mut FreeBlock>())
}

/// The bin, where `previous` is what [`first_of_bin`] gave.
#[inline]
pub(super) fn bin_if_first(previous: *mut FreeBlock) -> Option<usize> {
    let bin = previous.addr() / size_of::<*mut FreeBlock>();
    (bin < BINS).then_some(bin)
}
