//! Checks of the slab's magazines and extents.

use core::ptr::NonNull;

use super::class::{CLASSES, block_bytes};
use super::front::{capacity, start_of};
use super::partial::{carved, class_of_extent};
use super::{Back, Slab, bits, extent_of_block};
use crate::pointers;
use crate::sys::abort_with;

#[cold]
fn broken(what: &str) -> ! {
    abort_with(&["slab: ", what])
}

impl Slab {
    pub(super) fn verify_magazines(&self) {
        for class in 0..CLASSES {
            let (top, limit) = (self.front.top(class), self.front.limit(class));
            if top < start_of(class) || top > limit || self.front.length(class) > capacity(class) {
                broken("a magazine's count is corrupted");
            }
            for &block in self.front.magazine(class) {
                if !is_free_block(block, class) {
                    broken("a magazine holds what is no free block of its class");
                }
            }
        }
    }
}

impl Back {
    pub(super) fn verify_extents(&self) {
        for class in 0..CLASSES {
            self.partials.verify(
                class,
                &mut |extent| {
                    if !bits::are_right(extent) {
                        broken("an extent's bits of free blocks are corrupted");
                    }
                },
                broken,
            );
        }
    }
}

/// Whether a block of the class lies there, in an extent of some heap, and is not marked as free.
fn is_free_block(block: NonNull<u8>, class: usize) -> bool {
    #[cfg(not(loom))]
    if crate::region::entry_of(block.as_ptr()).is_none_or(|entry| entry.run_chunks.get() != 1) {
        return false;
    }
    // SAFETY: the chunk is taken; a slab's magazines hold only blocks of its own extents.
    let extent = unsafe { extent_of_block(block) };
    let offset = pointers::distance(extent.start(), block);
    let index = bits::index_at(offset, class);
    class_of_extent(extent) == class
        && offset.is_multiple_of(block_bytes(class))
        && index < carved(extent)
        && !bits::is_free(extent, index)
}
