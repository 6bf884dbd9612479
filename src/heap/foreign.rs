//! What a freed block holds while it waits for its heap's runner.
//!
//! ```text
//!   bit 63           42 41        37 36                     0
//!   │ size in bytes    │ log2 align │ next block's offset / 8 │     the block's first 8 bytes
//! ```
//!
//! Offsets in a region of at most 1 TiB, divided by 8, take 37 bits. Strategies serve at most 32
//! KiB and alignments of at most 4 KiB, which the other bits hold with room; larger requests have
//! runs of their own, whose length stands in the chunk table.

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::region;
use crate::sync::Links;
use crate::sync::foreign_stack::BlockId;
use crate::units::MIN_BLOCK_BYTES;

/// The bytes that are used of a block while it waits.
#[cfg(heapswitch_check)]
pub const LINK_BYTES: usize = size_of::<u64>();

const LINK_BITS: u32 = 37;
const LINK_MASK: u64 = (1 << LINK_BITS) - 1;
const ALIGN_BITS: u32 = 5;
const ALIGN_MASK: u64 = (1 << ALIGN_BITS) - 1;
const SIZE_SHIFT: u32 = LINK_BITS + ALIGN_BITS;
const SIZE_MAX: u64 = (1 << (64 - SIZE_SHIFT)) - 1;

const _: () = assert!((region::MAX_REGION_BYTES / MIN_BLOCK_BYTES) as u64 - 1 <= LINK_MASK);

/// The links of foreign stacks and batches: in the freed blocks.
#[derive(Clone, Copy, Debug)]
pub struct InBlocks;

// SAFETY: the link is read by `decode`, from the same word; nothing else is touched.
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
    unsafe { region::at(block as usize * MIN_BLOCK_BYTES) }
}

/// Writes the block's layout and a link into it; its name.
///
/// # Safety
/// `block` lies at `offset` of the region, is at least 8 bytes long, was just freed, and nobody
/// else reaches it; `layout` fits it.
#[inline]
pub unsafe fn encode(block: NonNull<u8>, offset: usize, layout: Layout, next: BlockId) -> BlockId {
    let size = (layout.size() as u64).min(SIZE_MAX);
    let align = u64::from(layout.align().trailing_zeros()) & ALIGN_MASK;
    let word = size << SIZE_SHIFT | align << LINK_BITS | next;
    // SAFETY: the block is at least 8 bytes and aligned to 8.
    unsafe { block.cast::<u64>().write(word) };
    (offset / MIN_BLOCK_BYTES) as u64
}

/// A block that was freed by others.
#[derive(Clone, Copy, Debug)]
pub struct ForeignBlock {
    /// Where it is.
    pub address: NonNull<u8>,
    /// What it was freed with; of a run of its own, only a lower bound.
    pub layout: Layout,
    /// The next one in the chain, or 0.
    pub next: BlockId,
}

/// Reads what `encode` wrote; `None` if the block was overwritten since.
///
/// # Safety
/// `block` is not 0, was pushed, and the caller took it off.
#[inline]
pub unsafe fn decode(block: BlockId) -> Option<ForeignBlock> {
    let offset = block as usize * MIN_BLOCK_BYTES;
    if offset >= region::bytes() {
        return None;
    }
    // SAFETY: the offset was just checked, and the block is the caller's.
    let (address, word) = unsafe {
        let address = address_of(block);
        (address, address.cast::<u64>().read())
    };
    let align = 1_usize.checked_shl(((word >> LINK_BITS) & ALIGN_MASK) as u32)?;
    let layout = Layout::from_size_align((word >> SIZE_SHIFT) as usize, align).ok()?;
    Some(ForeignBlock { address, layout, next: word & LINK_MASK })
}
