//! What lies in a free block.
//!
//! ```text
//!   ┌──────┬──────────┬────────┬────────┬ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┬ ─ ─ ─ ┬────────┐
//!   │ next │ previous │ extent │ length │ children, parent, colour  │       │ length │
//!   └──────┴──────────┴────────┴────────┴ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┴ ─ ─ ─ ┴────────┘
//!   0      8          16       24       32   only where sorted      64      end - 8
//! ```
//!
//! Whoever frees the block behind reads the last word, whoever frees the block before reads the
//! first length. In a block of one granule the two lengths are one word. Bit 0 of the first length
//! is [`SORTED`]: the block is in a tree, which only blocks of 1 KiB and more ever are.

use core::hint::select_unpredictable;
use core::mem::offset_of;
use core::ptr::{self, NonNull};

use super::size_class::{BINS, GRANULE};
use crate::pointers::{backward, forward};
use crate::strategy::red_black::{Links, Node};
use crate::strategy::{Extent, Strategy};

/// The flag in the length of a block that is in a tree.
const SORTED: usize = 1;

/// The bytes at the start of a free block that the strategy needs, but for blocks of one granule.
pub(super) const HEAD_BYTES: usize = size_of::<FreeBlock>();

/// The bytes at its end.
pub(super) const TAIL_BYTES: usize = size_of::<usize>();

/// The head of a free block, see the [module](self). `tree` exists only in a block that is sorted.
#[repr(C)]
#[derive(Debug)]
pub(super) struct FreeBlock {
    /// The next in the list, or null.
    pub(super) next: *mut FreeBlock,
    /// The previous in the list. In the first of a bin's list, what [`first_of_bin`] gives.
    pub(super) previous: *mut FreeBlock,
    /// The extent that the block lies in.
    pub(super) extent: NonNull<Extent>,
    /// The length in bytes, with the flag [`SORTED`].
    length: usize,
    tree: Links<FreeBlock>,
}

const _: () = assert!(offset_of!(FreeBlock, tree) == GRANULE);
const _: () = assert!(HEAD_BYTES == 64 && offset_of!(FreeBlock, next) == 0);

// SAFETY: the links are a field, and a block's length changes only while it is in no tree.
unsafe impl Node for FreeBlock {
    type Key = usize;

    const OWNER: &'static str = super::MultipleBinarySearchTree::NAME;

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

/// The length of a free block.
///
/// # Safety
/// `block` is a free block.
#[inline]
pub(super) unsafe fn length(block: NonNull<FreeBlock>) -> usize {
    // SAFETY: the field exists in every free block.
    unsafe { (*block.as_ptr()).length & !SORTED }
}

/// The length of a free block, with the flag [`SORTED`]: of a block that is in no tree, its length.
/// Compared with lengths it is as good as that, for lengths are multiples of the granule.
///
/// # Safety
/// `block` is a free block.
#[inline]
pub(super) unsafe fn flagged_length(block: NonNull<FreeBlock>) -> usize {
    // SAFETY: the field exists in every free block.
    unsafe { (*block.as_ptr()).length }
}

/// Whether a free block is in a tree.
///
/// # Safety
/// `block` is a free block.
#[inline]
pub(super) unsafe fn is_sorted(block: NonNull<FreeBlock>) -> bool {
    // SAFETY: the field exists in every free block.
    unsafe { (*block.as_ptr()).length & SORTED != 0 }
}

/// Notes that a block is in a tree.
///
/// # Safety
/// `block` is a free block of at least 1 KiB.
pub(super) unsafe fn mark_sorted(block: NonNull<FreeBlock>) {
    // SAFETY: the field exists in every free block.
    unsafe { (*block.as_ptr()).length |= SORTED }
}

/// Writes the two lengths and the extent of a free block; not sorted.
///
/// # Safety
/// `block` is valid for writes of `length` bytes, which are free, and lies in
/// `extent`.
#[inline]
pub(super) unsafe fn write_ends(block: NonNull<FreeBlock>, length: usize, extent: NonNull<Extent>) {
    // SAFETY: both words lie in the block by the contract; they are one and the same word in a
    // block of one granule.
    unsafe {
        (*block.as_ptr()).extent = extent;
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
    // SAFETY: the last word of a free block is its length.
    unsafe {
        let length = backward(end, TAIL_BYTES).cast::<usize>().read();
        (backward(end, length).cast(), length)
    }
}

/// The same, or where no block ends at `end` that address, and no length.
///
/// # Safety
/// As there, where `is_free`.
#[inline]
pub(super) unsafe fn before_if(is_free: bool, end: NonNull<u8>) -> (NonNull<FreeBlock>, usize) {
    // SAFETY: as in `before`, and the empty block has a length too.
    unsafe {
        let nowhere = &raw mut (*nothing().as_ptr()).length;
        let word = end.as_ptr().wrapping_sub(TAIL_BYTES).cast();
        let length = *select_unpredictable(is_free, word, nowhere);
        (backward(end, length).cast(), length)
    }
}

/// What is joined where no block is free: an empty block, of which nothing but links and length
/// exists.
///
/// Its links are those of the only block in the list of bin 0, which never holds any. So whoever
/// takes it out of that list changes nothing but the sink. Nobody can write to it.
#[repr(align(32))]
struct Nothing([usize; 4]);

static NOTHING: Nothing = Nothing([0; 4]);

const _: () = assert!(offset_of!(FreeBlock, tree) <= size_of::<Nothing>());

#[inline]
fn nothing() -> NonNull<FreeBlock> {
    NonNull::from(&NOTHING.0).cast()
}

/// The block if it is free, otherwise the empty one, which may be taken out of its bin but not
/// written to.
#[inline]
pub(super) fn or_nothing(is_free: bool, block: NonNull<FreeBlock>) -> NonNull<FreeBlock> {
    select_unpredictable(is_free, block, nothing())
}

/// The block, or where that is null the empty one.
#[inline]
pub(super) fn any_or_nothing(block: *mut FreeBlock) -> NonNull<FreeBlock> {
    NonNull::new(block).unwrap_or(nothing())
}

/// The previous link of the first block in the list of `bin`: no address, but the bin. So a block
/// is taken out of a list without knowing its length.
#[inline]
pub(super) fn first_of_bin(bin: usize) -> *mut FreeBlock {
    ptr::without_provenance_mut(bin)
}

/// The bin, where `previous` is what [`first_of_bin`] gave.
#[inline]
pub(super) fn bin_if_first(previous: *mut FreeBlock) -> Option<usize> {
    (previous.addr() < BINS).then_some(previous.addr())
}
