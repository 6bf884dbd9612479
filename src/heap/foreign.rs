//! What a freed block holds while it waits for its heap's runner.
//!
//! ```text
//!   bit 63           45 44        40 39                 3 2   0
//!   │ size in bytes    │ log2 align │ next block's offset │ 0 │     the block's first 8 bytes
//! ```
//!
//! Offsets in a region of at most 1 TiB take 40 bits. Strategies serve at most 32 KiB and
//! alignments of at most 4 KiB, which the other bits hold with room; larger requests have runs of
//! their own, whose length stands in the chunk table. So does the class of a slab's blocks, which
//! need no layout; but to find that out when they are freed would cost as much as to write it.

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::header::HeapHeader;
use crate::pointers;
use crate::region::{self, ChunkEntry, Committed};
use crate::sync::Links;
use crate::sync::foreign_stack::BlockId;
use crate::units::MIN_BLOCK_BYTES;

/// The bytes that are used of a block while it waits.
#[cfg(heapswitch_check)]
pub const LINK_BYTES: usize = size_of::<u64>();

const LINK_BITS: u32 = 40;
/// Links are aligned as blocks are, whatever was written to a freed block.
const LINK_MASK: u64 = (1 << LINK_BITS) - MIN_BLOCK_BYTES as u64;
const ALIGN_BITS: u32 = 5;
const ALIGN_MASK: u64 = (1 << ALIGN_BITS) - 1;
const SIZE_SHIFT: u32 = LINK_BITS + ALIGN_BITS;

const _: () = assert!(region::MAX_REGION_BYTES <= 1 << LINK_BITS);

/// The links of foreign stacks and batches: in the freed blocks.
#[derive(Clone, Copy, Debug)]
pub struct InBlocks;

// SAFETY: the link is read through `find`, from the same word; nothing else is touched.
unsafe impl Links for InBlocks {
    #[inline]
    unsafe fn set_next(&self, block: BlockId, next: BlockId) {
        // SAFETY: by the contract the block is freed memory of the region that the caller alone
        // reaches.
        unsafe {
            let word = address_of(block).cast::<u64>();
            word.write((word.read() & !LINK_MASK) | next);
        }
    }
}

/// # Safety
/// `block` names a block of the region.
#[inline]
unsafe fn address_of(block: BlockId) -> NonNull<u8> {
    // SAFETY: the caller's contract.
    unsafe { region::at(block as usize) }
}

/// Writes the block's layout and a link into it; its name.
///
/// # Safety
/// `block` lies in the region, is at least 8 bytes long, was just freed, and nobody else reaches
/// it; `layout` fits it.
#[inline]
pub unsafe fn encode(block: NonNull<u8>, layout: Layout, next: BlockId) -> BlockId {
    // Of the size of a run of its own the upper bits are lost: it stands in the chunk table.
    let align = u64::from(layout.align().trailing_zeros()) & ALIGN_MASK;
    let word = (layout.size() as u64) << SIZE_SHIFT | align << LINK_BITS | next;
    // SAFETY: the block is at least 8 bytes and aligned to 8.
    unsafe { block.cast::<u64>().write(word) };
    pointers::distance(region::base(), block) as u64
}

/// A block that was freed by others.
#[derive(Clone, Copy, Debug)]
pub struct ForeignBlock {
    /// Where it is.
    pub address: NonNull<u8>,
    /// The entry of its chunk, and so of its run.
    pub entry: &'static ChunkEntry,
    word: u64,
}

impl ForeignBlock {
    /// What it was freed with; of a run of its own, only a lower bound. `None` if it was
    /// overwritten since.
    #[inline]
    pub fn layout(&self) -> Option<Layout> {
        let align = 1_usize.checked_shl(((self.word >> LINK_BITS) & ALIGN_MASK) as u32)?;
        Layout::from_size_align((self.word >> SIZE_SHIFT) as usize, align).ok()
    }

    /// The next one in the chain, or 0.
    #[inline]
    pub fn next(&self) -> BlockId {
        self.word & LINK_MASK
    }
}

/// Finds a block of a chain. `None` if the link that led to it was overwritten, as far as that can
/// be told: it does not lie in a chunk of the owner. Nothing else is read then.
///
/// # Safety
/// `block` is not 0, was pushed or is about to be, and is the caller's.
#[inline]
pub unsafe fn find(
    block: BlockId,
    owner: NonNull<HeapHeader>,
    committed: Committed,
) -> Option<ForeignBlock> {
    let (address, entry) = committed.find(block as usize)?;
    // Relaxed: the block pins its chunk, and whoever pushed it was handed the chunk's owner.
    if entry.owner.load(Ordering::Relaxed) != owner.as_ptr().cast() {
        return None;
    }
    // SAFETY: a chunk that has an owner is memory, aligned to 8 at this address; the block is the
    // caller's.
    Some(ForeignBlock { address, entry, word: unsafe { address.cast::<u64>().read() } })
}
