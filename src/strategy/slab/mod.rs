//! `Slab`: blocks of equal size share an extent; what was freed last is handed out first.
//!
//! ```text
//!   magazine[class]  │ block │ block │ block │   ...   │      the newest on top; pop and push
//!                      ▲ refill: in order of address  │ spill: the older half
//!                      │                              ▼
//!   partials[class]  extent ⇄ extent ⇄ ...                    a bit for each free block
//! ```
//!
//! A magazine is an array of pointers to free blocks. The fast paths are a pop from and a push to
//! it, and touch no block: one that left the processor's caches is not fetched to be freed, nor to
//! be allocated. A full magazine gives its older half back to the extents, an empty one takes the
//! free blocks of a few extents in order of address, or else new ones, so that objects which are
//! made together stay close, however the last ones were freed. An extent's `used` counts blocks
//! that are allocated or in a magazine.
//!
//! This is the form for heaps, where a block's extent is found through the chunk table. For use on
//! its own there is [`PlainSlab`], without magazines.
//!
//! # Costs
//! A pop and a push are six instructions each beside finding the class. Refilling costs about 11 a
//! block, spilling 5 where blocks come back in order of address, 20 in any other, and 45 where each
//! lies in another extent than the one before (the loops as compiled). The magazines take 54 KiB of
//! records, of which the pages of the classes in use are touched; they hold at most 32 KiB of
//! blocks a class, or four blocks.

mod bits;
pub mod class;
mod partial;
mod plain;
mod verify;

use core::alloc::Layout;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use self::class::{CLASSES, block_bytes, class_of};
use self::partial::{Partials, free, used, used_bytes};
pub use self::plain::PlainSlab;
use super::sourced::SourcedAllocator;
use super::{Extent, Strategy};
use crate::allocator::AllocError;
use crate::pointers;
use crate::units::CHUNK_BYTES;

/// A slab on a memory source, for use through the allocator trait. It refuses what is larger, or
/// aligned to more, than 32 KiB.
pub type SlabAllocator<M> = SourcedAllocator<PlainSlab, M>;

/// The bytes of blocks that a magazine holds, about.
const MAGAZINE_BYTES: usize = 32 << 10;

/// The most blocks that a magazine holds, and the fewest.
const MAX_MAGAZINE: usize = 512;
const MIN_MAGAZINE: usize = 4;

/// The blocks that an empty magazine is first filled with; each time twice as many, up to half of
/// what it holds. A thread that lives for a few hundred blocks then moves no thousands.
const FIRST_REFILL: usize = 8;

/// The bytes of new blocks that are carved at once, about.
const CARVED_BYTES: usize = 4096;

/// The most blocks that the magazine of a class holds.
const fn capacity_of(class: usize) -> usize {
    let blocks = MAGAZINE_BYTES / class::computed_bytes(class);
    if blocks > MAX_MAGAZINE {
        MAX_MAGAZINE
    } else if blocks < MIN_MAGAZINE {
        MIN_MAGAZINE
    } else {
        blocks
    }
}

/// Where the magazine of each class starts among the slots; the last is where all end.
static STARTS: [u32; CLASSES + 1] = {
    let mut starts = [0; CLASSES + 1];
    let mut class = 0;
    while class < CLASSES {
        starts[class + 1] = starts[class] + capacity_of(class) as u32;
        class += 1;
    }
    starts
};

/// The tops of empty magazines.
const EMPTY_TOPS: [u32; CLASSES] = {
    let (mut tops, mut class) = ([0; CLASSES], 0);
    while class < CLASSES {
        tops[class] = STARTS[class];
        class += 1;
    }
    tops
};

/// The slots of all magazines.
const SLOTS: usize = {
    let (mut slots, mut class) = (0, 0);
    while class < CLASSES {
        slots += capacity_of(class);
        class += 1;
    }
    slots
};

/// Blocks of equal size share an extent.
///
/// # Invariants
/// - For each class `STARTS[class] <= tops[class] < STARTS[class + 1]`, and equal to the latter
///   only from a `push` that says so to the `spill` that has to follow.
/// - The slots from `STARTS[class]` to `tops[class]` hold blocks of the class that are free, of
///   extents of this slab, each once.
#[repr(C)]
pub struct Slab {
    tops: [u32; CLASSES],
    /// How often a magazine was refilled with less than half of what it holds.
    refills: [u8; CLASSES],
    partials: Partials,
    slots: [MaybeUninit<NonNull<u8>>; SLOTS],
}

// SAFETY: the pointers lead to memory that is the strategy's alone.
unsafe impl Send for Slab {}

impl fmt::Debug for Slab {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Slab").field("tops", &self.tops).finish_non_exhaustive()
    }
}

/// The blocks of a magazine that go first.
#[derive(Clone, Copy, PartialEq)]
enum Which {
    Oldest,
    Newest,
}

#[inline]
fn start_of(class: usize) -> usize {
    STARTS.get(class).map_or(0, |&start| start as usize)
}

#[inline]
fn end_of(class: usize) -> usize {
    STARTS.get(class + 1).map_or(0, |&start| start as usize)
}

impl Slab {
    /// Takes a block from the class's magazine. The fast path.
    ///
    /// # Safety
    /// `class` is below [`CLASSES`].
    #[inline]
    pub unsafe fn pop(&mut self, class: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller's contract; by the invariant a magazine that is not empty has its
        // newest block below its top.
        unsafe {
            let top = self.tops.get_unchecked_mut(class);
            if *top == *STARTS.get_unchecked(class) {
                return None;
            }
            *top -= 1;
            Some(self.slots.get_unchecked(*top as usize).assume_init())
        }
    }

    /// Puts a block into the class's magazine. True when that is full: then
    /// [`spill`](Self::spill) has to be called. The fast path.
    ///
    /// # Safety
    /// `class` is below [`CLASSES`]; `block` was allocated from it and is freed by this call.
    #[inline]
    #[must_use]
    pub unsafe fn push(&mut self, class: usize, block: NonNull<u8>) -> bool {
        // SAFETY: the caller's contract; by the invariant the top is below the magazine's end.
        unsafe {
            let top = self.tops.get_unchecked_mut(class);
            self.slots.get_unchecked_mut(*top as usize).write(block);
            *top += 1;
            *top == *STARTS.get_unchecked(class + 1)
        }
    }

    /// Gives the older half of a magazine back to the extents. Whether one of them became empty.
    #[cold]
    #[inline(never)]
    pub fn spill(&mut self, class: usize) -> bool {
        let blocks = (end_of(class) - start_of(class)).div_ceil(2);
        self.give_back(class, blocks, Which::Oldest)
    }

    /// As [`spill`](Self::spill), of the newer half, which saves moving the other: where none of
    /// them was in use here lately.
    #[cold]
    #[inline(never)]
    fn spill_collected(&mut self, class: usize) -> bool {
        let blocks = (end_of(class) - start_of(class)).div_ceil(2);
        self.give_back(class, blocks, Which::Newest)
    }

    /// The blocks in the class's magazine, the oldest first.
    fn magazine(&self, class: usize) -> &[NonNull<u8>] {
        let top = self.tops.get(class).map_or(0, |&top| top as usize);
        let slots = self.slots.get(start_of(class)..top).unwrap_or(&[]);
        // SAFETY: by the invariant these slots are initialized; the types have the same layout.
        unsafe { &*(core::ptr::from_ref(slots) as *const [NonNull<u8>]) }
    }

    /// Gives blocks of a magazine back to the extents, so many or all.
    fn give_back(&mut self, class: usize, blocks: usize, which: Which) -> bool {
        let Some(top) = self.tops.get_mut(class) else { return false };
        let (start, top_slot) = (start_of(class), *top as usize);
        let Some(slots) = self.slots.get_mut(start..top_slot) else { return false };
        // SAFETY: by the invariant these slots are initialized; the types have the same layout.
        let magazine = unsafe { &*(core::ptr::from_ref(slots) as *const [NonNull<u8>]) };
        let given_back = blocks.min(magazine.len());
        let mut rest = match which {
            Which::Oldest => &magazine[..given_back],
            Which::Newest => &magazine[magazine.len() - given_back..],
        };
        let mut is_any_empty = false;
        while let Some(&block) = rest.first() {
            // SAFETY: the block is free and of this slab.
            let extent = unsafe { extent_of_block(block) };
            // Neighbours in the magazine that share an extent are counted in one step.
            let count = match rest.get(1) {
                Some(&next) if bits::are_of_one_extent(block, next) => {
                    bits::put_back_all(extent, rest, class)
                }
                _ => {
                    bits::put_back(extent, block, class);
                    1
                }
            };
            is_any_empty |= self.partials.count_back(extent, count);
            rest = rest.get(count..).unwrap_or(&[]);
        }
        if which == Which::Oldest && given_back != slots.len() {
            slots.copy_within(given_back.., 0);
        }
        *top -= given_back as u32;
        is_any_empty
    }

    /// Fills a magazine that is empty to a half, or less at first, from the extents' free blocks or
    /// else with new ones, and takes one.
    #[cold]
    #[inline(never)]
    pub fn refill(&mut self, class: usize) -> Option<NonNull<u8>> {
        let (start, capacity) = (start_of(class), end_of(class) - start_of(class));
        let refills = self.refills.get_mut(class)?;
        let wanted = (FIRST_REFILL << *refills).min(capacity.div_ceil(2));
        *refills += u8::from(wanted < capacity.div_ceil(2));
        let slots = self.slots.get_mut(start..start + wanted)?;
        let mut unfilled = slots.len();
        let mut next = self.partials.first(class);
        while let Some(extent) = next.filter(|_| unfilled != 0) {
            next = Partials::next(extent);
            if let Some(rest) = slots.get_mut(..unfilled) {
                unfilled -= bits::take(extent, class, rest);
            }
            if free(extent) == 0 && !bits::has_uncarved(extent, class) {
                self.partials.unlist(extent);
            }
        }
        if unfilled == slots.len() {
            // No extent has a free block; those still listed have new ones.
            let extent = match self.partials.first(class) {
                Some(extent) => extent,
                None => {
                    let extent = self.partials.assign(class)?;
                    mark_chunk(extent, class);
                    extent
                }
            };
            let most = (CARVED_BYTES / block_bytes(class).max(1)).clamp(1, slots.len());
            unfilled -= bits::carve(extent, class, slots.get_mut(slots.len() - most..)?);
            if !bits::has_uncarved(extent, class) {
                self.partials.unlist(extent);
            }
        }
        if unfilled != 0 {
            slots.copy_within(unfilled.., 0);
        }
        let blocks = slots.len() - unfilled;
        *self.tops.get_mut(class)? = (start + blocks) as u32;
        // SAFETY: the class exists, for it has slots.
        unsafe { self.pop(class) }
    }

    /// Gives every magazine back to the extents. Whether extents became empty.
    fn flush(&mut self) -> bool {
        // Asked once for each extent: the second time there is nothing left.
        if self.tops == EMPTY_TOPS {
            return false;
        }
        self.refills = [0; CLASSES];
        (0..CLASSES).fold(false, |is_any_empty, class| {
            let is_filled = self.tops.get(class) != EMPTY_TOPS.get(class);
            (is_filled && self.give_back(class, usize::MAX, Which::Oldest)) | is_any_empty
        })
    }
}

/// Notes the class in the chunk table, for frees that tell no size.
#[cfg(not(loom))]
fn mark_chunk(extent: &Extent, class: usize) {
    if let Some(entry) = crate::region::entry_of(extent.start().as_ptr()) {
        entry.set_class(class as u8 + 1);
    }
}

/// Loom's models have no region.
#[cfg(loom)]
fn mark_chunk(_: &Extent, _: usize) {}

/// The extent that a block of a heap lies in.
///
/// # Safety
/// The block is of a heap that the caller runs.
#[cfg(not(loom))]
#[inline]
unsafe fn extent_of_block<'a>(block: NonNull<u8>) -> &'a Extent {
    let offset = pointers::distance(crate::region::base(), block);
    // SAFETY: the block lies in a chunk of the region that is an extent of the caller's heap.
    unsafe { super::extent_of(crate::region::entry_at(offset)) }
}

/// # Safety
/// Never called: loom's models have no region.
#[cfg(loom)]
unsafe fn extent_of_block<'a>(_: NonNull<u8>) -> &'a Extent {
    std::process::abort()
}

// SAFETY: blocks are carved from one extent at multiples of their length, each once, and are then
// exactly one of: the program's, in a magazine, marked as free in their extent. Lengths are those
// of the classes, which map to themselves. Only `words`, metadata and the strategy's own memory are
// written.
unsafe impl Strategy for Slab {
    type Settings = ();

    const NAME: &'static str = "slab";
    const COUNTS_BLOCKS: bool = true;
    const KEEPS_SPARES: bool = true;
    const COLLECTS_FIRST: bool = true;
    const EXTENT_ALIGN: usize = CHUNK_BYTES;

    const DEFAULT: Self = Self {
        tops: EMPTY_TOPS,
        refills: [0; CLASSES],
        partials: Partials::new(),
        slots: [const { MaybeUninit::uninit() }; SLOTS],
    };

    fn new((): ()) -> Self {
        Self::DEFAULT
    }

    fn metadata_bytes(&self, _: usize) -> usize {
        bits::BITS_BYTES
    }

    fn extent_bytes(&self, layout: Layout) -> Option<usize> {
        class_of(layout).map(block_bytes)
    }

    #[inline]
    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        class_of(layout).map(block_bytes).ok_or(AllocError)
    }

    fn length_with((): (), layout: Layout) -> Result<usize, AllocError> {
        class_of(layout).map(block_bytes).ok_or(AllocError)
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let class = class_of(layout)?;
        // SAFETY: `class_of` gives classes only.
        let block = match unsafe { self.pop(class) } {
            Some(block) => block,
            None => self.refill(class)?,
        };
        Some(pointers::block(block, block_bytes(class)))
    }

    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { self.free(extent, block, layout) };
    }

    unsafe fn free(&mut self, _: &Extent, block: NonNull<u8>, layout: Layout) -> bool {
        let Some(class) = class_of(layout) else { return false };
        // SAFETY: the caller's contract.
        unsafe { self.push(class, block) && self.spill(class) }
    }

    #[inline]
    unsafe fn free_of_class(&mut self, class: u8, block: NonNull<u8>) -> Option<bool> {
        let class = usize::from(class).wrapping_sub(1);
        if class >= CLASSES {
            return None;
        }
        // SAFETY: the caller's contract.
        Some(unsafe { self.push(class, block) } && self.spill_collected(class))
    }

    fn next_emptied(&mut self) -> Option<NonNull<u8>> {
        self.partials.next_emptied().map(Extent::start)
    }

    fn live_blocks(&mut self, extent: &Extent) -> u32 {
        self.flush();
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
        self.verify_magazines();
    }
}
