//! `PlainSlab`: a slab for use on its own. Every block comes from and goes to its extent, whose
//! free blocks are linked through themselves.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::class::{CLASSES, block_bytes, class_of};
use super::partial::{
    HEAD, MOST_BLOCKS, Partials, carved, class_of_extent, count_carved, count_taken, free, used,
    used_bytes,
};
use crate::allocator::AllocError;
use crate::pointers;
use crate::strategy::{Extent, Strategy};
use crate::sys::abort_with;
use crate::units::CHUNK_BYTES;

/// Blocks of equal size share an extent.
#[derive(Debug)]
pub struct PlainSlab {
    partials: Partials,
}

// SAFETY: the pointers lead to memory that is the strategy's alone.
unsafe impl Send for PlainSlab {}

// All blocks of a range are counted, but where a source gives more than it was asked for.
const _: () = assert!(PlainSlab::MOST_RANGE_BYTES / block_bytes(0) <= MOST_BLOCKS);

/// The first word of a free block.
type Link = Option<NonNull<u8>>;

fn free_head(extent: &Extent) -> Link {
    NonNull::new(core::ptr::with_exposed_provenance_mut(extent.words[HEAD].get()))
}

fn set_free_head(extent: &Extent, link: Link) {
    extent.words[HEAD].set(link.map_or(0, |block| block.as_ptr().expose_provenance()));
}

fn has_uncarved(extent: &Extent, class: usize) -> bool {
    let carved = carved(extent);
    (carved + 1) * block_bytes(class) <= extent.length() && carved < MOST_BLOCKS
}

fn distance(extent: &Extent, block: NonNull<u8>) -> usize {
    pointers::distance(extent.start(), block)
}

impl PlainSlab {
    fn take(&mut self, class: usize) -> Option<NonNull<u8>> {
        let extent = match self.partials.first(class) {
            Some(extent) => extent,
            None => self.partials.assign(class)?,
        };
        let block = match free_head(extent) {
            Some(block) => {
                // SAFETY: a free block holds a link in its first word.
                let link = unsafe { block.cast::<Link>().read() };
                let carved_bytes = carved(extent) * block_bytes(class);
                if link.is_some_and(|next| distance(extent, next) >= carved_bytes) {
                    broken("a block was written to after it was freed");
                }
                set_free_head(extent, link);
                count_taken(extent, 1);
                block
            }
            None if has_uncarved(extent, class) => {
                let offset = carved(extent) * block_bytes(class);
                count_carved(extent, 1);
                // SAFETY: the block lies in the extent, as just asked.
                unsafe { pointers::forward(extent.start(), offset) }
            }
            None => {
                // Too short for the class from the start.
                self.partials.unlist(extent);
                return None;
            }
        };
        if free_head(extent).is_none() && !has_uncarved(extent, class) {
            self.partials.unlist(extent);
        }
        Some(block)
    }
}

#[cold]
fn broken(what: &str) -> ! {
    abort_with(&["slab: ", what])
}

fn verify_extent(extent: &Extent) {
    let bytes = block_bytes(class_of_extent(extent));
    let (mut length, mut next) = (0, free_head(extent));
    while let Some(block) = next {
        let offset = distance(extent, block);
        if offset >= carved(extent) * bytes || !offset.is_multiple_of(bytes) {
            broken("a list of free blocks leads astray: one was written to after it was freed");
        }
        length += 1;
        if length > free(extent) {
            broken("a list of free blocks goes round: one was freed twice");
        }
        // SAFETY: the block lies where blocks of the extent do.
        next = unsafe { block.cast::<Link>().read() };
    }
    if length != free(extent) {
        broken("an extent's count of free blocks is corrupted");
    }
}

// SAFETY: blocks are carved from one extent at multiples of their length, each once, and are then
// either the program's or on their extent's list. Lengths are those of the classes, which map to
// themselves. Only free blocks and `words` are written.
unsafe impl Strategy for PlainSlab {
    type Settings = ();

    const NAME: &'static str = "slab";
    const COUNTS_BLOCKS: bool = true;
    const KEEPS_SPARES: bool = true;
    const EXTENT_ALIGN: usize = CHUNK_BYTES;
    const EXTENT_DIVISOR: usize = 64;
    const MOST_RANGE_BYTES: usize = 16 << 30;

    const DEFAULT: Self = Self { partials: Partials::new() };

    fn new((): ()) -> Self {
        Self::DEFAULT
    }

    fn extent_bytes(&self, layout: Layout) -> Option<usize> {
        class_of(layout).map(block_bytes)
    }

    #[inline]
    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        class_of(layout).map(block_bytes).ok_or(AllocError)
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let class = class_of(layout)?;
        Some(pointers::block(self.take(class)?, block_bytes(class)))
    }

    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { self.free(extent, block, layout) };
    }

    unsafe fn free(&mut self, extent: &Extent, block: NonNull<u8>, _: Layout) -> bool {
        // SAFETY: blocks are at least 8 bytes, aligned to 8; this one, of the extent, is free now.
        let block = unsafe {
            let block = extent.own(block);
            block.cast::<Link>().write(free_head(extent));
            block
        };
        set_free_head(extent, Some(block));
        self.partials.count_back(extent, 1)
    }

    fn next_emptied(&mut self) -> Option<NonNull<u8>> {
        self.partials.next_emptied().map(Extent::start)
    }

    fn kept_extents(&mut self) -> u32 {
        self.partials.kept() as u32
    }

    fn live_blocks(&mut self, extent: &Extent) -> u32 {
        used(extent) as u32
    }

    fn used_bytes(&self, extent: &Extent) -> usize {
        used_bytes(extent)
    }

    unsafe fn add_extent(&mut self, extent: &Extent) {
        self.partials.take_in(extent);
    }

    unsafe fn remove_extent(&mut self, extent: &Extent) {
        self.partials.remove(extent);
    }

    fn verify(&self) {
        for class in 0..CLASSES {
            self.partials.verify(class, &mut verify_extent, broken);
        }
    }
}
