//! `Slab`: blocks of equal size share an extent; what was freed last is handed out first.
//!
//! ```text
//!   lists[class]   head ─▶ block ─▶ block ─▶ ...        at most `LIST_BYTES` of them, LIFO
//!                    ▲ refill        │ spill
//!                    │               ▼
//!   partial[class] extent ⇄ extent ⇄ ...                extents of the class with free blocks
//!                    │ words: free list, carved, used
//! ```
//!
//! The fast paths are a pop from and a push to the list. A list that grew too long gives its older
//! half back to the extents, neighbours in the list that share an extent in one step; an empty one
//! takes the whole free list of one extent in one step, or a batch of new blocks in order of
//! address. So a block costs a few instructions beside its push and pop, and objects that are used
//! together stay close. An extent's `used` counts blocks that are allocated or in a list.
//!
//! `LISTED` is the form for heaps, where a block's extent is found through the chunk table. Without
//! lists (`Slab<false>`, for use on its own) every block goes to and comes from its extent.

pub mod class;
mod verify;

use core::alloc::Layout;
use core::ptr::NonNull;

use self::class::{CLASSES, block_bytes, class_of};
use super::sourced::SourcedAllocator;
use super::{Extent, Strategy};
use crate::allocator::AllocError;
use crate::pointers;
use crate::units::CHUNK_BYTES;

/// A slab on a memory source, for use through the allocator trait. It refuses what is larger, or
/// aligned to more, than 32 KiB.
pub type SlabAllocator<M> = SourcedAllocator<Slab<false>, M>;

/// The bytes of new blocks that are carved at once, about.
const BATCH_BYTES: usize = 4096;

/// The most new blocks that are carved at once.
const MAX_BATCH: usize = 64;

/// The bytes that a list holds before it spills, about.
const LIST_BYTES: usize = 16 << 10;

/// The most blocks that a list holds before it spills, and the fewest.
const MAX_LIST: usize = 256;
const MIN_LIST: usize = 4;

/// Which word of an extent holds what.
const FREE: usize = 0;
const CARVED: usize = 1;
const NEXT: usize = 2;
const PREVIOUS: usize = 3;
/// Class in the low 8 bits, whether it is on the partial list in bit 8, used above.
const STATE: usize = 4;

const IS_LISTED: usize = 1 << 8;
const USED_SHIFT: u32 = 16;

/// The first word of a free block.
type Link = Option<NonNull<u8>>;

/// A short list of free blocks of one class.
///
/// # Invariants
/// `room` is how many more blocks may be pushed than popped before the list spills. It is at most
/// [`limit_of`] the class less the length, but for a list that took a long free list whole.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct List {
    head: Link,
    room: i32,
}

/// Blocks of equal size share an extent.
#[derive(Debug)]
#[repr(C)]
pub struct Slab<const LISTED: bool> {
    lists: [List; CLASSES],
    partial: [*const Extent; CLASSES],
    /// Extents that no class has yet.
    unassigned: *const Extent,
    /// Extents whose last block was given back by a spill.
    emptied: *const Extent,
}

// SAFETY: the pointers lead to memory that is the strategy's alone.
unsafe impl<const LISTED: bool> Send for Slab<LISTED> {}

/// # Safety
/// `block` is a free block that nobody else reaches.
#[inline]
unsafe fn link_of(block: NonNull<u8>) -> Link {
    // SAFETY: blocks are at least 8 bytes, aligned to 8, and free ones hold a link.
    unsafe { block.cast::<Link>().read() }
}

/// # Safety
/// As [`link_of`].
#[inline]
unsafe fn set_link(block: NonNull<u8>, link: Link) {
    // SAFETY: blocks are at least 8 bytes, aligned to 8.
    unsafe { block.cast::<Link>().write(link) };
}

fn batch_of(class: usize) -> usize {
    (BATCH_BYTES / block_bytes(class).max(1)).clamp(1, MAX_BATCH)
}

fn limit_of(class: usize) -> usize {
    (LIST_BYTES / block_bytes(class).max(1)).clamp(MIN_LIST, MAX_LIST)
}

fn class_of_extent(extent: &Extent) -> usize {
    extent.words[STATE].get() & 0xFF
}

fn used(extent: &Extent) -> usize {
    extent.words[STATE].get() >> USED_SHIFT
}

fn change_used(extent: &Extent, change: isize) {
    let state = &extent.words[STATE];
    state.set(state.get().wrapping_add_signed(change << USED_SHIFT));
}

fn free_head(extent: &Extent) -> Link {
    NonNull::new(core::ptr::with_exposed_provenance_mut(extent.words[FREE].get()))
}

fn set_free_head(extent: &Extent, link: Link) {
    extent.words[FREE].set(link.map_or(0, |block| block.as_ptr().expose_provenance()));
}

/// # Safety
/// The word holds a record's address or 0.
unsafe fn record<'a>(extent: &Extent, word: usize) -> Option<&'a Extent> {
    let address = extent.words.get(word).map_or(0, core::cell::Cell::get);
    // SAFETY: records are valid until their extent is removed, which unlinks them.
    unsafe { core::ptr::with_exposed_provenance::<Extent>(address).as_ref() }
}

fn set_record(extent: &Extent, word: usize, to: Option<&Extent>) {
    if let Some(cell) = extent.words.get(word) {
        cell.set(to.map_or(0, |record| core::ptr::from_ref(record).expose_provenance()));
    }
}

/// # Safety
/// The pointer is null or a record of an extent that was not removed.
unsafe fn deref<'a>(pointer: *const Extent) -> Option<&'a Extent> {
    // SAFETY: the caller's contract.
    unsafe { pointer.as_ref() }
}

fn as_pointer(extent: Option<&Extent>) -> *const Extent {
    extent.map_or(core::ptr::null(), core::ptr::from_ref)
}

impl<const LISTED: bool> Slab<LISTED> {
    /// Takes a block from the class's list. The fast path.
    ///
    /// # Safety
    /// `class` is below [`CLASSES`].
    #[inline]
    pub unsafe fn pop(&mut self, class: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller's contract.
        let list = unsafe { self.lists.get_unchecked_mut(class) };
        let block = list.head?;
        // SAFETY: blocks on a list are free and the strategy's alone.
        list.head = unsafe { link_of(block) };
        list.room += 1;
        Some(block)
    }

    /// Puts a block on the class's list. True when the list is too long: then
    /// [`spill`](Self::spill) has to be called. The fast path.
    ///
    /// # Safety
    /// `class` is below [`CLASSES`]; `block` was allocated from it and is freed by this call.
    #[inline]
    #[must_use]
    pub unsafe fn push(&mut self, class: usize, block: NonNull<u8>) -> bool {
        // SAFETY: the caller's contract.
        let list = unsafe { self.lists.get_unchecked_mut(class) };
        // SAFETY: the block is free now.
        unsafe { set_link(block, list.head) };
        list.head = Some(block);
        list.room -= 1;
        list.room < 0
    }

    /// Gives the older half of a list back to the extents. Whether one of them became empty.
    #[cold]
    #[inline(never)]
    pub fn spill(&mut self, class: usize) -> bool {
        self.give_back_beyond(class, limit_of(class) / 2)
    }

    /// Gives all of a list but the `kept` newest blocks back to the extents.
    fn give_back_beyond(&mut self, class: usize, kept: usize) -> bool {
        let Some(list) = self.lists.get_mut(class) else { return false };
        list.room = (limit_of(class) - kept) as i32;
        let mut rest = &mut list.head;
        for _ in 0..kept {
            let Some(block) = *rest else { return false };
            // SAFETY: the block is on the list; its first word is the link.
            rest = unsafe { block.cast::<Link>().as_mut() };
        }
        let mut next = rest.take();
        let mut is_any_empty = false;
        while let Some(first) = next {
            let chunk = first.addr().get() / CHUNK_BYTES;
            let (mut last, mut blocks) = (first, 1);
            loop {
                // SAFETY: the blocks are on the list.
                next = unsafe { link_of(last) };
                match next {
                    Some(block) if block.addr().get() / CHUNK_BYTES == chunk => {
                        last = block;
                        blocks += 1;
                    }
                    _ => break,
                }
            }
            // SAFETY: the blocks are free, on no list any more, and of this extent of the strategy.
            is_any_empty |= unsafe {
                let extent = extent_of_block(first);
                self.give_back(extent, first, last, blocks)
            };
        }
        is_any_empty
    }

    /// Puts a chain of blocks on their extent's free list. Whether the extent became empty and was
    /// set aside.
    ///
    /// # Safety
    /// The blocks are free, linked from `first` to `last`, on no list, and of the extent.
    unsafe fn give_back(
        &mut self,
        extent: &Extent,
        first: NonNull<u8>,
        last: NonNull<u8>,
        blocks: usize,
    ) -> bool {
        // SAFETY: the block is free.
        unsafe { set_link(last, free_head(extent)) };
        set_free_head(extent, Some(first));
        change_used(extent, -(blocks as isize));
        if extent.words[STATE].get() & IS_LISTED == 0 {
            self.list_partial(extent);
        }
        if used(extent) != 0 || self.is_only_partial(extent) {
            return false;
        }
        self.unlist_partial(extent);
        set_record(extent, NEXT, record_at(self.emptied));
        self.emptied = extent;
        true
    }

    fn is_only_partial(&self, extent: &Extent) -> bool {
        extent.words[NEXT].get() == 0 && extent.words[PREVIOUS].get() == 0
    }

    fn list_partial(&mut self, extent: &Extent) {
        let Some(head) = self.partial.get_mut(class_of_extent(extent)) else { return };
        let first = record_at(*head);
        set_record(extent, NEXT, first);
        set_record(extent, PREVIOUS, None);
        if let Some(first) = first {
            set_record(first, PREVIOUS, Some(extent));
        }
        *head = extent;
        extent.words[STATE].set(extent.words[STATE].get() | IS_LISTED);
    }

    fn unlist_partial(&mut self, extent: &Extent) {
        if extent.words[STATE].get() & IS_LISTED == 0 {
            return;
        }
        // SAFETY: the links of a listed extent are records of listed extents.
        let (next, previous) = unsafe { (record(extent, NEXT), record(extent, PREVIOUS)) };
        if let Some(next) = next {
            set_record(next, PREVIOUS, previous);
        }
        match previous {
            Some(previous) => set_record(previous, NEXT, next),
            None => {
                if let Some(head) = self.partial.get_mut(class_of_extent(extent)) {
                    *head = as_pointer(next);
                }
            }
        }
        extent.words[STATE].set(extent.words[STATE].get() & !IS_LISTED);
        extent.words[NEXT].set(0);
        extent.words[PREVIOUS].set(0);
    }

    /// An extent of the class with a free block, if there is one or an unassigned extent.
    fn partial_extent(&mut self, class: usize) -> Option<&'static Extent> {
        if let Some(extent) = record_at(*self.partial.get(class)?) {
            return Some(extent);
        }
        let extent = record_at(self.unassigned)?;
        // SAFETY: unassigned extents are linked by NEXT.
        self.unassigned = as_pointer(unsafe { record(extent, NEXT) });
        extent.words[NEXT].set(0);
        extent.words[STATE].set(class);
        if LISTED {
            mark_chunk(extent, class);
        }
        self.list_partial(extent);
        Some(extent)
    }

    /// Takes blocks from an extent of the class: one is the result, the others fill the list.
    /// Called when the list is empty.
    #[cold]
    #[inline(never)]
    pub fn refill(&mut self, class: usize) -> Option<NonNull<u8>> {
        let extent = self.partial_extent(class)?;
        let (chain, blocks) = match free_head(extent) {
            Some(chain) if LISTED => {
                set_free_head(extent, None);
                (chain, extent.words[CARVED].get() / block_bytes(class) - used(extent))
            }
            Some(block) => {
                // SAFETY: the block is on the extent's free list.
                set_free_head(extent, unsafe { link_of(block) });
                (block, 1)
            }
            None => carve(extent, class, if LISTED { batch_of(class) } else { 1 })?,
        };
        change_used(extent, blocks as isize);
        if free_head(extent).is_none() && !has_uncarved(extent, class) {
            self.unlist_partial(extent);
        }
        if LISTED && let Some(list) = self.lists.get_mut(class) {
            // SAFETY: the chain's blocks are free; its last link is none.
            list.head = unsafe { link_of(chain) };
            // A list that took more than its limit may still be pushed to for a while.
            let limit = limit_of(class);
            list.room = limit.saturating_sub(blocks - 1).max(limit / 2) as i32;
        }
        Some(chain)
    }

    /// Gives every list back to the extents. Whether extents became empty.
    fn flush(&mut self) -> bool {
        (0..CLASSES)
            .fold(false, |is_any_empty, class| self.give_back_beyond(class, 0) | is_any_empty)
    }
}

/// The record behind a pointer that the strategy keeps.
fn record_at(pointer: *const Extent) -> Option<&'static Extent> {
    // SAFETY: the strategy keeps records only from `add_extent` to `remove_extent`.
    unsafe { deref(pointer) }
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

fn has_uncarved(extent: &Extent, class: usize) -> bool {
    extent.words[CARVED].get() + block_bytes(class) <= extent.length()
}

/// Up to `most` blocks of an extent that were never handed out, linked: extents are carved lazily,
/// in order of address, so that pages are touched only when they are needed.
fn carve(extent: &Extent, class: usize, most: usize) -> Option<(NonNull<u8>, usize)> {
    let bytes = block_bytes(class);
    let carved = extent.words[CARVED].get();
    let blocks = ((extent.length() - carved) / bytes).min(most);
    if blocks == 0 {
        return None;
    }
    extent.words[CARVED].set(carved + blocks * bytes);
    // SAFETY: the blocks lie in the extent, as just computed, and belong to nobody yet.
    unsafe {
        let first = pointers::forward(extent.start(), carved);
        let mut block = first;
        for _ in 1..blocks {
            let next = pointers::forward(block, bytes);
            set_link(block, Some(next));
            block = next;
        }
        set_link(block, None);
        Some((first, blocks))
    }
}

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
// on exactly one of: the program's side, a list, its extent's free list. Lengths are those of the
// classes, which map to themselves. Only free blocks and `words` are written.
unsafe impl<const LISTED: bool> Strategy for Slab<LISTED> {
    type Settings = ();

    const NAME: &'static str = "slab";
    const COUNTS_BLOCKS: bool = true;
    const KEEPS_SPARES: bool = true;
    const EXTENT_ALIGN: usize = CHUNK_BYTES;
    const EXTENT_DIVISOR: usize = 64;

    fn new((): ()) -> Self {
        let mut lists = [List { head: None, room: 0 }; CLASSES];
        for (class, list) in lists.iter_mut().enumerate() {
            list.room = limit_of(class) as i32;
        }
        Self {
            lists,
            partial: [core::ptr::null(); CLASSES],
            unassigned: core::ptr::null(),
            emptied: core::ptr::null(),
        }
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

    unsafe fn free(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) -> bool {
        if !LISTED {
            // SAFETY: the caller's contract.
            return unsafe { self.give_back(extent, block, block, 1) };
        }
        let Some(class) = class_of(layout) else { return false };
        // SAFETY: the caller's contract.
        unsafe { self.push(class, block) && self.spill(class) }
    }

    unsafe fn free_collected(&mut self, extent: &Extent, block: NonNull<u8>, _: Layout) -> bool {
        // SAFETY: the caller's contract.
        unsafe { self.give_back(extent, block, block, 1) }
    }

    fn next_emptied(&mut self) -> Option<NonNull<u8>> {
        let extent = record_at(self.emptied)?;
        // SAFETY: emptied extents are linked by NEXT.
        self.emptied = as_pointer(unsafe { record(extent, NEXT) });
        extent.words[NEXT].set(0);
        Some(extent.start())
    }

    fn live_blocks(&mut self, extent: &Extent) -> u32 {
        if LISTED {
            self.flush();
        }
        used(extent) as u32
    }

    fn used_bytes(&self, extent: &Extent) -> usize {
        used(extent) * block_bytes(class_of_extent(extent))
    }

    unsafe fn add_extent(&mut self, extent: &Extent) {
        set_record(extent, NEXT, record_at(self.unassigned));
        self.unassigned = extent;
    }

    unsafe fn remove_extent(&mut self, extent: &Extent) {
        self.unlist_partial(extent);
        for list in [&mut self.unassigned, &mut self.emptied] {
            let mut previous: Option<&Extent> = None;
            let mut next = record_at(*list);
            while let Some(current) = next {
                // SAFETY: both lists are linked by NEXT.
                next = unsafe { record(current, NEXT) };
                if core::ptr::eq(current, extent) {
                    match previous {
                        Some(previous) => set_record(previous, NEXT, next),
                        None => *list = as_pointer(next),
                    }
                    break;
                }
                previous = Some(current);
            }
        }
        for word in &extent.words {
            word.set(0);
        }
    }

    fn verify(&self) {
        self.verify_lists();
    }
}
