//! Checks of the slab's lists and extents.

use core::ptr::NonNull;

use super::class::{CLASSES, block_bytes};
use super::{
    CARVED, IS_LISTED, Link, NEXT, PREVIOUS, STATE, Slab, class_of_extent, extent_of_block,
    free_head, limit_of, link_of, record, record_at, used,
};
use crate::pointers;
use crate::strategy::Extent;
use crate::sys::abort_with;

/// More blocks than an extent of a heap holds: a chain that is longer goes round.
const MOST_BLOCKS: usize = crate::units::CHUNK_BYTES / crate::units::MIN_BLOCK_BYTES;

#[cold]
fn broken(what: &str) -> ! {
    abort_with(&["slab: ", what])
}

/// Whether a block of the class may lie at `block`, in the part of the extent that was handed out.
fn is_block_of(extent: &Extent, block: NonNull<u8>, class: usize) -> bool {
    let offset = pointers::distance(extent.start(), block);
    class_of_extent(extent) == class
        && offset < extent.words[CARVED].get()
        && offset.is_multiple_of(block_bytes(class))
}

/// The length of a chain of free blocks, each of which `is_valid`.
fn chain_length(head: Link, most: usize, is_valid: impl Fn(NonNull<u8>) -> bool) -> usize {
    let mut length = 0;
    let mut next = head;
    while let Some(block) = next {
        if !is_valid(block) {
            broken("a list of free blocks leads astray: one was written to after it was freed");
        }
        length += 1;
        if length > most {
            broken("a list of free blocks goes round: one was freed twice");
        }
        // SAFETY: the block lies in an extent where blocks do.
        next = unsafe { link_of(block) };
    }
    length
}

impl<const LISTED: bool> Slab<LISTED> {
    pub(super) fn verify_lists(&self) {
        for class in 0..CLASSES {
            let Some(list) = self.lists.get(class) else { return };
            // A list that took an extent's free blocks whole is longer than its limit.
            let limit = limit_of(class);
            let most = limit + MOST_BLOCKS;
            let length = chain_length(list.head, most, |block| is_listed_block(block, class));
            let sum = length as i64 + i64::from(list.room);
            if LISTED && !(limit as i64..=most as i64).contains(&sum) {
                broken("a list's room disagrees with its length");
            }
            self.verify_partial(class);
        }
    }

    fn verify_partial(&self, class: usize) {
        let mut previous: Option<&Extent> = None;
        let mut next = self.partial.get(class).and_then(|&head| record_at(head));
        while let Some(extent) = next {
            // SAFETY: the links of a listed extent are records of listed extents.
            let (after, before) = unsafe { (record(extent, NEXT), record(extent, PREVIOUS)) };
            let is_linked = extent.words[STATE].get() & IS_LISTED != 0
                && before.map(core::ptr::from_ref) == previous.map(core::ptr::from_ref);
            if !is_linked || class_of_extent(extent) != class {
                broken("the list of extents with free blocks is corrupted");
            }
            verify_extent(extent, class);
            previous = next;
            next = after;
        }
    }
}

/// Whether a block of the class lies there, in an extent of some heap.
fn is_listed_block(block: NonNull<u8>, class: usize) -> bool {
    #[cfg(not(loom))]
    if crate::region::entry_of(block.as_ptr()).is_none_or(|entry| entry.run_chunks.get() != 1) {
        return false;
    }
    // SAFETY: the chunk is taken; a slab's lists hold only blocks of its own extents.
    is_block_of(unsafe { extent_of_block(block) }, block, class)
}

/// Every block that was carved is in use, in a list, or free in its extent.
fn verify_extent(extent: &Extent, class: usize) {
    let carved = extent.words[CARVED].get().checked_div(block_bytes(class)).unwrap_or(0);
    let most = MOST_BLOCKS.max(carved);
    let free = chain_length(free_head(extent), most, |block| is_block_of(extent, block, class));
    if free + used(extent) != carved {
        broken("an extent's count of blocks in use is corrupted");
    }
}
