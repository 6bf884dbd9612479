//! What freed blocks hold while they wait for their heap's runner.
//!
//! ```text
//!   bit 63           45 44        40 39                       3 2     0
//!   │ size in bytes    │ log2 align │ next holder's offset     │ names │   a holder's first word
//!   │ size in bytes    │ log2 align │ the block's own offset   │ 0     │   a name
//! ```
//!
//! A block that waits is a **holder**, or has its **name** in one: in one of the up to seven words
//! behind the holder's first. So of eight blocks one is written by who frees them, and read by the
//! runner, and the other seven stay in the cache where they are: mostly in that of the runner, who
//! made them and gets them again. A block of 64 bytes has room for seven names, one of 8 bytes for
//! none.
//!
//! Offsets in a region of at most 1 TiB take 40 bits. Strategies serve at most 32 KiB and
//! alignments of at most 4 KiB, which the other bits hold with room; larger requests have runs of
//! their own, whose length stands in the chunk table. So does the class of a slab's blocks, which
//! need no layout; but to find that out when they are freed would cost as much as to write it.

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use super::header::HeapHeader;
use crate::pointers;
use crate::region::{self, ChunkEntry, Committed};
use crate::sync::Links;
use crate::sync::foreign_stack::BlockId;
use crate::sys;
use crate::units::{CHUNK_BYTES, MIN_BLOCK_BYTES};

/// The bytes of a block that may be used while it waits, if it is not made a holder of names.
#[cfg(heapswitch_check)]
pub const LINK_BYTES: usize = WORD_BYTES;

const WORD_BYTES: usize = size_of::<u64>();

/// The most names in a holder: what its lowest bits can tell, and together one cache line.
pub const MOST_NAMES: u32 = NAMES_MASK as u32;

const LINK_BITS: u32 = 40;
/// Offsets are multiples of 8, as blocks are, whatever was written to a freed block.
const LINK_MASK: u64 = (1 << LINK_BITS) - MIN_BLOCK_BYTES as u64;
const NAMES_MASK: u64 = MIN_BLOCK_BYTES as u64 - 1;
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

/// Its layout's bits of a block's word, whose alignment is below 2^32.
#[inline]
const fn layout_bits(layout: Layout) -> u64 {
    // Of the size of a run of its own the upper bits are lost: it stands in the chunk table.
    (layout.size() as u64) << SIZE_SHIFT | (layout.align().trailing_zeros() as u64) << LINK_BITS
}

/// How many names a block of this layout has room for.
#[inline]
pub fn room_for_names(layout: Layout) -> u32 {
    // The words behind the first: blocks are multiples of 8 bytes long.
    let words = layout.size().saturating_sub(1) / WORD_BYTES;
    words.min(MOST_NAMES as usize) as u32
}

/// Makes a block a holder of so many names, linked to another holder; which block it is.
///
/// # Safety
/// `block` lies in the region, is at least 8 bytes long, was just freed, and nobody else reaches
/// it; `layout` fits it, and has room for the names.
#[inline]
pub unsafe fn make_holder(
    block: NonNull<u8>,
    layout: Layout,
    next: BlockId,
    names: u32,
) -> BlockId {
    let word = layout_bits(layout) | next | u64::from(names);
    // SAFETY: the block is at least 8 bytes and aligned to 8.
    unsafe { write_word(block, word) };
    pointers::distance(region::base(), block) as u64
}

/// Writes a word of a block that was just freed.
///
/// # Safety
/// It is aligned to 8, lies in the block, and nobody else reaches it.
#[inline]
unsafe fn write_word(word: NonNull<u8>, value: u64) {
    let word = word.cast::<u64>();
    // SAFETY: the caller's contract.
    unsafe {
        if cfg!(heapswitch_tsan) {
            // Where the last handle of an `Arc` is freed, what others did to the atomics in it is
            // ordered before by a fence of the standard library, which the sanitizer does not know.
            AtomicU64::from_ptr(word.as_ptr()).store(value, Ordering::Relaxed);
        } else {
            word.write(value);
        }
    }
}

/// As [`make_holder`], of no names and with no other, of a block of any length and alignment.
///
/// # Safety
/// As there.
#[inline]
pub unsafe fn make_only(block: NonNull<u8>, layout: Layout) -> BlockId {
    // Of the alignment, too, the chunk table tells all that is needed.
    const LARGEST_ALIGN: usize = 1 << ALIGN_MASK;
    let align = layout.align().min(LARGEST_ALIGN);
    // SAFETY: a lower alignment makes no layout invalid; the rest is the caller's contract.
    unsafe {
        let layout = Layout::from_size_align_unchecked(layout.size(), align);
        make_holder(block, layout, 0, 0)
    }
}

/// Writes a block's name into a holder, behind so many others.
///
/// # Safety
/// Both were freed, nobody else reaches them, and `layout`, whose alignment is below 2^32, fits the
/// block; the holder was made for more names than stand before.
#[inline]
pub unsafe fn write_name(holder: BlockId, before: usize, block: NonNull<u8>, layout: Layout) {
    let base = region::base();
    let name = layout_bits(layout) | pointers::distance(base, block) as u64;
    // SAFETY: the holder is as long as its names take.
    unsafe {
        let first = pointers::forward(base, holder as usize);
        let word = pointers::forward(first, (before + 1) * WORD_BYTES);
        sys::poison::unpoison(word, WORD_BYTES);
        write_word(word, name);
        // No link stands in it.
        sys::poison::poison(block, WORD_BYTES);
    }
}

/// A holder's first word that is still to be written.
#[derive(Clone, Copy, Debug)]
pub struct Sealed(u64);

/// Leaves a holder so many of the names that it was made for, the first ones: the word that says
/// so. `None` if it was not made for as many: the program has written to it since it was freed.
///
/// # Safety
/// The block is a holder that nobody else reaches.
#[inline]
#[must_use]
pub unsafe fn seal(holder: BlockId, made_for: u32, kept: u32) -> Option<Sealed> {
    // SAFETY: the caller's contract.
    let word = unsafe { address_of(holder).cast::<u64>().read() };
    if word & NAMES_MASK != u64::from(made_for) {
        return None;
    }
    Some(Sealed(word & !NAMES_MASK | u64::from(kept)))
}

impl Sealed {
    /// Writes it, with the link that the holder had.
    ///
    /// # Safety
    /// It is of this holder, which nobody else reaches.
    #[inline]
    pub unsafe fn write(self, holder: BlockId) {
        // SAFETY: the caller's contract.
        unsafe { address_of(holder).cast::<u64>().write(self.0) };
    }
}

// SAFETY: the link is read through `find`, from the same word, which is the one that was sealed;
// nothing else is touched.
unsafe impl Links for Sealed {
    #[inline]
    unsafe fn set_next(&self, block: BlockId, next: BlockId) {
        // SAFETY: by the contract the block is freed memory of the region that the caller alone
        // reaches. One store, and no load of what was just stored.
        unsafe { address_of(block).cast::<u64>().write((self.0 & !LINK_MASK) | next) };
    }
}

/// What a block was freed with, as its word tells.
#[derive(Clone, Copy, Debug)]
pub struct FreedWith(u64);

impl FreedWith {
    /// Its layout; of a run of its own, only a lower bound. `None` if it was overwritten since.
    #[inline]
    pub fn layout(self) -> Option<Layout> {
        let align = 1_usize.checked_shl(((self.0 >> LINK_BITS) & ALIGN_MASK) as u32)?;
        Layout::from_size_align((self.0 >> SIZE_SHIFT) as usize, align).ok()
    }
}

/// A block that was freed by others.
#[derive(Clone, Copy, Debug)]
pub struct ForeignBlock {
    /// Where it is.
    pub address: NonNull<u8>,
    /// The entry of its chunk, and so of its run.
    pub entry: &'static ChunkEntry,
    /// What it was freed with.
    pub word: FreedWith,
}

/// A block that was freed by others, and holds names of more.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// The block itself.
    pub block: ForeignBlock,
    /// How many names it holds.
    names: usize,
}

impl Holder {
    /// The next one in the chain, or 0.
    #[inline]
    pub fn next(&self) -> BlockId {
        self.block.word.0 & LINK_MASK
    }

    /// How many names it holds.
    #[inline]
    pub fn names(&self) -> usize {
        self.names
    }

    /// Calls `visit` with what its names lead to, the block that was freed last first: see
    /// [`find`]. The holder's own block is read until then, and to be freed afterwards.
    ///
    /// # Safety
    /// As [`find`], of each block.
    #[inline]
    pub unsafe fn visit_named(
        &self,
        owner: NonNull<HeapHeader>,
        committed: Committed,
        mut visit: impl FnMut(Option<ForeignBlock>),
    ) {
        let mut place = self.names;
        while place != 0 {
            // SAFETY: `find_holder` saw that the words lie in the holder's chunk.
            unsafe {
                let word = pointers::forward(self.block.address, place * WORD_BYTES);
                visit(find(word.cast::<u64>().read(), owner, committed));
            }
            place -= 1;
        }
    }
}

/// Finds a block by its name. `None` if the name was overwritten, as far as that can be told: it
/// does not lie in a chunk of the owner. Nothing else is read then.
///
/// # Safety
/// The name is of a block that was pushed or is about to be, and is the caller's.
#[inline]
pub unsafe fn find(
    name: u64,
    owner: NonNull<HeapHeader>,
    committed: Committed,
) -> Option<ForeignBlock> {
    let (address, entry) = committed.find((name & LINK_MASK) as usize)?;
    // Relaxed: the block pins its chunk, and whoever pushed it was handed the chunk's owner.
    if entry.owner() != owner.as_ptr().cast() {
        return None;
    }
    Some(ForeignBlock { address, entry, word: FreedWith(name) })
}

/// Finds a holder of a chain. `None` if the link that led to it was overwritten, or its first word,
/// as far as that can be told.
///
/// # Safety
/// As [`find`], of `holder`, which is not 0.
#[inline]
pub unsafe fn find_holder(
    holder: BlockId,
    owner: NonNull<HeapHeader>,
    committed: Committed,
) -> Option<Holder> {
    // SAFETY: the caller's contract; a chunk that has an owner is memory, aligned to 8 at this
    // address, and the block is the caller's.
    let mut block = unsafe { find(holder, owner, committed) }?;
    // SAFETY: as above.
    let word = unsafe { block.address.cast::<u64>().read() };
    block.word = FreedWith(word);
    let names = (word & NAMES_MASK) as usize;
    let end = holder as usize % CHUNK_BYTES + (names + 1) * WORD_BYTES;
    if names != 0 && end > CHUNK_BYTES {
        return None;
    }
    Some(Holder { block, names })
}
