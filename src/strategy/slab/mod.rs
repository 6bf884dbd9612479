//! `Slab`: blocks of equal size share an extent; what was freed last is handed out first.
//!
//! ```text
//!   magazine[class]  │ block │ block │ block │   ...   │      the newest on top; pop and push
//!                      ▲ refill: in order of address  │ spill: the older half
//!                      │                              ▼
//!   partials[class]  extent ⇄ extent ⇄ ...                    a bit for each free block
//! ```
//!
//! The magazines are the [`Front`], the runner's alone; the extents are the [`Back`], which others
//! may put in order while the runner sleeps, under the heap's lock.
//!
//! A magazine is an array of pointers to free blocks. The fast paths are a pop from and a push to
//! it, and touch no block: one that left the processor's caches is not fetched to be freed, nor to
//! be allocated. A full magazine gives its older half back to the extents, an empty one takes the
//! free blocks of a few extents in order of address, or else new ones, so that objects which are
//! made together stay close, however the last ones were freed. One whose blocks turn back again and
//! again gets wide: it holds what a request, say, makes and drops, until more than that moves one
//! way. An extent's `used` counts blocks
//! that are allocated or in a magazine.
//!
//! This is the form for heaps, where a block's extent is found through the chunk table. For use on
//! its own there is [`PlainSlab`], without magazines.
//!
//! # Costs
//! A pop and a push are six instructions each beside finding the class. Refilling costs about 5 a
//! block where the free blocks of 64 neighbours are one row, and 11 else; spilling 4 where blocks
//! come back in order of address, 20 in any other, and 45 where each lies in another extent than
//! the one before (the loops as compiled). The magazines take 118 KiB of records, of which the
//! pages of the classes in use are touched; they hold at most 32 KiB of blocks a class, or four
//! blocks, and a wide one 64 KiB. Each block pins its chunk, so where a class has more than
//! twice the extents that its blocks need, and three, its magazine gets shorter as they get fewer.

mod back;
mod bits;
pub mod class;
mod front;
mod partial;
mod plain;
mod verify;

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

pub use self::back::Back;
use self::class::{CLASSES, block_bytes, class_of};
pub use self::front::Front;
use self::front::{Move, Which};
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

/// The bytes of new blocks that are carved at once, about.
const CARVED_BYTES: usize = 4096;

/// Blocks of equal size share an extent.
///
/// The back stands first, so that a pointer to the whole is one to the back.
#[repr(C)]
pub struct Slab {
    back: Back,
    front: Front,
}

// SAFETY: the pointers lead to memory that is the strategy's alone.
unsafe impl Send for Slab {}

impl fmt::Debug for Slab {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Slab").field("back", &self.back).finish_non_exhaustive()
    }
}

const _: () = assert!(core::mem::offset_of!(Slab, back) == 0);

/// The front of a slab whose back others may be using.
///
/// # Safety
/// The pointer leads to a slab that the caller runs, and no other reference to its front is in use.
#[inline]
pub unsafe fn front_of<'a>(slab: *mut Slab) -> &'a mut Front {
    // SAFETY: the caller's contract; a reference to the field alone.
    unsafe { &mut (*slab).front }
}

impl Slab {
    /// Gives the older half of a magazine back to the extents. Whether one of them became empty.
    #[cold]
    #[inline(never)]
    pub fn spill(&mut self, class: usize) -> bool {
        self.spill_half(class, Which::Oldest)
    }

    /// As [`spill`](Self::spill), of the newer half, which saves moving the other: where none of
    /// them was in use here lately.
    #[cold]
    #[inline(never)]
    fn spill_collected(&mut self, class: usize) -> bool {
        self.spill_half(class, Which::Newest)
    }

    fn spill_half(&mut self, class: usize, which: Which) -> bool {
        let length = self.back.magazine_length(class).min(self.front.longest(class));
        let kept = self.front.kept(class, length);
        let blocks = self.front.magazine(class).len().saturating_sub(kept);
        self.front.note(class, Move::Spill, blocks);
        let is_any_empty = self.give_back(class, blocks, which);
        self.front.set_length(class, length);
        is_any_empty
    }

    /// Gives blocks of a magazine back to the extents, so many or all.
    fn give_back(&mut self, class: usize, blocks: usize, which: Which) -> bool {
        let magazine = self.front.magazine(class);
        let given_back = blocks.min(magazine.len());
        let first = if which == Which::Oldest { 0 } else { magazine.len() - given_back };
        let mut rest = magazine.get(first..first + given_back).unwrap_or(&[]);
        let mut is_any_empty = false;
        let reciprocal = bits::reciprocal_of(class);
        while let Some((&block, others)) = rest.split_first() {
            // SAFETY: the block is free and of this slab.
            let extent = unsafe { extent_of_block(block) };
            self.back.check_owner(extent, class);
            // Neighbours in the magazine that share an extent are counted in one step.
            if others.first().is_some_and(|&next| bits::are_of_one_extent(block, next)) {
                let count = bits::put_back_all(extent, rest, class);
                is_any_empty |= self.back.partials.count_back(extent, count);
                rest = rest.get(count..).unwrap_or(&[]);
            } else {
                bits::put_back(extent, block, reciprocal);
                is_any_empty |= self.back.partials.count_back(extent, 1);
                rest = others;
            }
        }
        self.back.count_in(class, given_back);
        self.front.drop_blocks(class, given_back, which);
        is_any_empty
    }

    /// Fills a magazine that is empty to a half, or less at first, from the extents' free blocks or
    /// else with new ones, and takes one.
    #[cold]
    #[inline(never)]
    pub fn refill(&mut self, class: usize) -> Option<NonNull<u8>> {
        // One that was made short may be longer again.
        self.front.set_length(class, 2 * self.front.length(class));
        let slots = self.front.unfilled(class)?;
        let mut unfilled = slots.len();
        let mut next = self.back.partials.first(class);
        while let Some(extent) = next.filter(|_| unfilled != 0) {
            next = Partials::next(extent);
            if let Some(rest) = slots.get_mut(..unfilled) {
                unfilled -= bits::take(extent, class, rest);
            }
            if free(extent) == 0 && !bits::has_uncarved(extent, class) {
                self.back.partials.unlist(extent);
            }
        }
        if unfilled == slots.len() {
            // No extent has a free block; those still listed have new ones.
            let extent = match self.back.partials.first(class) {
                Some(extent) => extent,
                None => {
                    let extent = self.back.assign(class)?;
                    mark_chunk(extent, class);
                    extent
                }
            };
            let most = (CARVED_BYTES / block_bytes(class).max(1)).clamp(1, slots.len());
            unfilled -= bits::carve(extent, class, slots.get_mut(slots.len() - most..)?);
            if !bits::has_uncarved(extent, class) {
                self.back.partials.unlist(extent);
            }
        }
        let blocks = slots.len() - unfilled;
        self.back.count_out(class, blocks);
        self.front.note(class, Move::Refill, blocks);
        // SAFETY: so many slots were filled, and the class exists, for it has slots.
        unsafe {
            self.front.fill(class, blocks);
            self.front.pop(class)
        }
    }

    /// Gives every magazine back to the extents. Whether extents became empty.
    fn flush(&mut self) -> bool {
        // Asked once for each extent: the second time there is nothing left.
        if self.front.is_empty() {
            return false;
        }
        self.front.start_small();
        (0..CLASSES).fold(false, |is_any_empty, class| {
            let is_filled = !self.front.magazine(class).is_empty();
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
    // SAFETY: the block lies in a chunk of the region that is an extent of the caller's heap.
    unsafe { super::extent_of(crate::region::entry_of_block(block)) }
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

    const HAS_FRONT: bool = true;

    const DEFAULT: Self = Self { back: Back::DEFAULT, front: Front::NEW };

    fn new((): ()) -> Self {
        Self::DEFAULT
    }

    unsafe fn write_new(place: *mut Self, (): ()) {
        // SAFETY: the caller's contract; the fields are parts of the place.
        unsafe {
            (&raw mut (*place).back).write(Back::DEFAULT);
            Front::write_empty(&raw mut (*place).front);
        }
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
        let block = match unsafe { self.front.pop(class) } {
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
        unsafe { self.front.push(class, block) && self.spill(class) }
    }

    unsafe fn pop_front(this: *mut Self, layout: Layout) -> Option<NonNull<[u8]>> {
        if class::is_small(layout) {
            return None; // Where there was one, the inline path had it.
        }
        let class = class_of(layout)?;
        // SAFETY: the caller's contract; `class_of` gives classes only.
        let block = unsafe { front_of(this).pop(class) }?;
        Some(pointers::block(block, block_bytes(class)))
    }

    #[inline]
    unsafe fn free_of_class(&mut self, class: u8, block: NonNull<u8>) -> Option<bool> {
        let class = usize::from(class).wrapping_sub(1);
        if class >= CLASSES {
            return None;
        }
        // SAFETY: the caller's contract.
        Some(unsafe { self.front.push(class, block) } && self.spill_collected(class))
    }

    fn next_emptied(&mut self) -> Option<NonNull<u8>> {
        self.back.next_emptied()
    }

    fn kept_extents(&mut self) -> u32 {
        self.back.kept_extents()
    }

    fn live_blocks(&mut self, extent: &Extent) -> u32 {
        self.flush();
        used(extent) as u32
    }

    fn used_bytes(&self, extent: &Extent) -> usize {
        used_bytes(extent)
    }

    unsafe fn add_extent(&mut self, extent: &Extent) {
        // SAFETY: the caller's contract.
        unsafe { self.back.add_extent(extent) };
    }

    unsafe fn remove_extent(&mut self, extent: &Extent) {
        // SAFETY: the caller's contract.
        unsafe { self.back.remove_extent(extent) };
    }

    fn visit_idle(&self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        self.back.visit_idle(extent, visit);
    }

    fn visit_unallocated(&mut self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        self.back.visit_unallocated(extent, visit);
    }

    fn verify(&self) {
        self.verify_magazines();
        self.back.verify();
    }
}
