//! How a heap cuts its memory up: one strategy a file or folder.
//!
//! A strategy is a data structure over **extents**, ranges that somebody gives it and takes away
//! again. It knows no source, no thread, no budget and no switching. Two owners run strategies: the
//! [`SourcedAllocator`](sourced::SourcedAllocator) for use through the allocator trait alone, and
//! the heap.
//!
//! ```text
//!   owner                                  strategy
//!   allocate(layout)  ──────────────────▶  cut a block from the extents it has
//!        ◀── None ───────────────────────  nothing fits
//!   take a range of extent_bytes(layout)
//!   add_extent(range) ──────────────────▶  now surely fits
//!   allocate(layout)  ──────────────────▶  block
//!   ...
//!   deallocate(block)
//!   the last block of an extent is freed
//!   remove_extent     ──────────────────▶  forgets every trace of it
//!   give the range back
//! ```

pub mod bit_set;
pub mod buddy;
pub mod bump;
pub mod context;
pub mod free_list;
pub mod locked;
pub mod memory_map;
#[cfg(test)]
mod model;
mod quick;
mod red_black;
#[cfg(not(loom))]
pub mod sites;
pub mod slab;
pub mod sourced;
pub mod stripes;
pub mod trees;

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;

use crate::allocator::AllocError;
use crate::pointers;

/// From this length on an extent of a [`BitSet`](bit_set::BitSet) or a
/// [`FreeList`](free_list::FreeList) has so much that nobody may have touched yet that what others
/// have free is looked for first. Measured on the traces of the example `choose`, which hold less:
/// looking in shorter ones, too, took 3 to 12 % more time, for 0 to 13 % less memory.
const LONG_EXTENT_BYTES: usize = 1 << 20;

/// One range that a strategy cuts up, and what the strategy keeps about it.
///
/// # Invariants
/// - The record's address does not change, and the record is valid, from `add_extent` to
///   `remove_extent`, so a strategy may link records with each other.
/// - `start` is aligned to [`Strategy::EXTENT_ALIGN`] and `length` is a multiple of 4096 inside a
///   heap (of 16 in a `SourcedAllocator`).
/// - `metadata` points to [`Strategy::metadata_bytes`] bytes, zeroed when the extent is added,
///   aligned to 16, outside `start..start + length`; if that is zero bytes, the strategy may keep
///   something else in its place.
#[repr(C)]
#[derive(Debug)]
pub struct Extent {
    start: NonNull<u8>,
    /// In bit 0 whether every byte was zero.
    length_and_state: usize,
    /// For the strategy; zero when the extent is added.
    pub words: [Cell<usize>; 7],
    metadata: Cell<*mut u8>,
}

const IS_ZEROED: usize = 1;

impl Extent {
    /// A record of `start..start + length`.
    ///
    /// # Safety
    /// The record upholds the type's invariants, and a strategy's functions, the safe ones too, get
    /// it between its `add_extent` and its `remove_extent` there, and at no other time.
    #[inline]
    pub const unsafe fn new(
        start: NonNull<u8>,
        length: usize,
        metadata: NonNull<u8>,
        is_zeroed: bool,
    ) -> Self {
        Self {
            start,
            length_and_state: length | if is_zeroed { IS_ZEROED } else { 0 },
            words: [const { Cell::new(0) }; 7],
            metadata: Cell::new(metadata.as_ptr()),
        }
    }

    /// The first byte.
    #[inline]
    pub const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The length in bytes.
    #[inline]
    pub const fn length(&self) -> usize {
        self.length_and_state & !IS_ZEROED
    }

    /// The strategy's own memory about this extent.
    ///
    /// # Safety
    /// The strategy asks for some: one that does not may keep something else in its place.
    #[inline]
    pub unsafe fn metadata(&self) -> NonNull<u8> {
        // SAFETY: by the caller's contract nobody changed it, and the record was made with one.
        unsafe { NonNull::new_unchecked(self.metadata.get()) }
    }

    /// The words, and the place of the metadata's address, as sixteen counts.
    ///
    /// # Safety
    /// The strategy asks for no metadata, and clears the counts when it is given the extent.
    #[inline]
    pub(super) unsafe fn counts(&self) -> &[Cell<u32>; 16] {
        #[repr(C)]
        struct Counts {
            start_and_length: [usize; 2],
            counts: [Cell<u32>; 16],
        }
        const { assert!(size_of::<Counts>() == size_of::<Extent>()) }
        // SAFETY: cells of numbers, and of a pointer that nobody reads, may be viewed as smaller
        // ones; the other view has them at the same place.
        let counts = unsafe { &*core::ptr::from_ref(self).cast::<Counts>() };
        &counts.counts
    }

    /// Whether every byte was zero when the extent was added.
    #[inline]
    pub fn is_zeroed(&self) -> bool {
        self.length_and_state & IS_ZEROED != 0
    }

    /// Whether `block` starts in the extent.
    #[inline]
    pub fn contains(&self, block: NonNull<u8>) -> bool {
        pointers::distance(self.start, block) < self.length()
    }

    /// A block of the extent by the extent's own pointer. That with which the block came back may
    /// reach no more bytes than its user asked for, and was that user's: who gets the block next,
    /// or gets more of it, must have another.
    ///
    /// # Safety
    /// `block` starts in the extent.
    #[inline]
    pub(super) unsafe fn own(&self, block: NonNull<u8>) -> NonNull<u8> {
        // SAFETY: the caller's contract.
        unsafe { pointers::forward(self.start, pointers::distance(self.start, block)) }
    }
}

/// The record of the extent that starts at a chunk, inside a heap: it lies in the chunk's entry.
///
/// # Safety
/// The chunk is an extent of a heap that the caller runs.
#[cfg(not(loom))]
#[inline]
pub unsafe fn extent_of(entry: &crate::region::ChunkEntry) -> &Extent {
    // SAFETY: the heap wrote the record when it added the extent.
    unsafe { &*entry.record.get().cast::<Extent>() }
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Extent>() <= size_of::<crate::region::RecordSpace>());

/// What [`Strategy::free_at_once`] leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreedAtOnce {
    /// Nothing.
    Done,
    /// The extent has no block any more: to be [settled](Strategy::settle), if its owner did not
    /// keep it as such before.
    Emptied,
    /// The extent is to be settled.
    ToSettle,
}

/// A way to cut extents up into blocks.
///
/// # Safety
/// - A block that `allocate` returned lies in one extent that was added and not removed, overlaps
///   no other block that is currently allocated, is aligned as asked and exactly
///   [`block_length`](Self::block_length) of its layout long, at least `layout.size()`.
/// - `block_length` depends on nothing but the layout and the constructor's settings; it does not
///   fall as the size grows, and `block_length` of (any size from the requested one to the returned
///   length, same alignment) is the same length: a block may be freed with any of those.
/// - The strategy writes nowhere but in free parts of its extents, their `words` and their
///   `metadata`.
/// - After an `add_extent` of a range of at least `extent_bytes(layout)`, `allocate(layout)`
///   succeeds.
/// - Nothing unwinds, and nothing allocates.
pub unsafe trait Strategy: Sized {
    /// What can be chosen when it is made.
    type Settings: Copy + Default;

    /// Its name in reports and aborts: that of the macro.
    const NAME: &'static str;

    /// Whether it counts the blocks of each extent itself, because it can do that for less than its
    /// owner; [`free`](Self::free) and [`live_blocks`](Self::live_blocks) then mean something.
    const COUNTS_BLOCKS: bool = false;

    /// Whether it counts blocks and bytes outside a heap, for its owner there, which else does so
    /// itself. It then also [tells](Self::TELLS_EMPTY) which extents are empty.
    const COUNTS_ON_SOURCES: bool = false;

    /// Whether its owner should keep a few extents that became empty, because they come and go
    /// often.
    const KEEPS_SPARES: bool = false;

    /// Whether it keeps free blocks in a front that only its heap's runner touches, beside a part
    /// that others may use while they hold the heap's lock:
    /// [`pop_front`](Self::pop_front) then means something.
    const HAS_FRONT: bool = false;

    /// Whether its owner should collect what others freed before it asks for a block out of line:
    /// where it is asked so seldom that this costs little.
    const COLLECTS_FIRST: bool = false;

    /// Whether its owner, outside a heap, should keep the blocks that were freed last for the next
    /// requests of the same layout: where it costs much more to tell the strategy.
    const PARKS_LAST: bool = false;

    /// Whether, inside a heap, each block is a run of chunks of its own, so that no request reaches
    /// the strategy; outside a heap [`DIRECT_BYTES`](Self::DIRECT_BYTES) says that.
    const HAS_NO_EXTENTS: bool = false;

    /// Whether it knows, for less than its owner, when an extent has lost its last block. Then
    /// [`free`](Self::free) says so of the block's extent, [`is_empty`](Self::is_empty) of any, and
    /// its owner, outside a heap, neither looks for a new block's extent nor counts the blocks.
    const TELLS_EMPTY: bool = false;

    /// Whether it keeps some short blocks for the next request of their length. Its owner outside a
    /// heap then asks for those in line, and for all else out of line, in one function:
    /// [`may_wait`](Self::may_wait) and the functions behind it then mean something. Only for
    /// strategies that tell what is empty.
    const HAS_WAITING: bool = false;

    /// The alignment that an extent's start must have, a power of two of at most
    /// [`CHUNK_BYTES`](crate::units::CHUNK_BYTES).
    const EXTENT_ALIGN: usize = 16;

    /// Outside a heap a new extent is at least so large a part of what is held: 2 means half. More
    /// where extents serve different sizes, so that one that serves few costs little.
    const EXTENT_DIVISOR: usize = 2;

    /// Outside a heap no range is longer, however much is held, but where a request needs it: more
    /// could not be used.
    const MOST_RANGE_BYTES: usize = usize::MAX;

    /// A strategy without extents and with the default settings: a constant, so that a static can
    /// hold one.
    const DEFAULT: Self;
    /// Outside a heap, requests of more bytes get a range of their own from the memory source, and
    /// the strategy never sees them; it only says their [length](Self::block_length). Inside a heap
    /// that is so above 32 KiB whatever this says, and of a strategy that
    /// [has no extents](Self::HAS_NO_EXTENTS) always.
    const DIRECT_BYTES: usize = usize::MAX;

    /// A strategy without extents.
    fn new(settings: Self::Settings) -> Self;

    /// Writes what [`new`](Self::new) gives to a place. A large strategy writes itself what has a
    /// value, so that the pages of the rest stay untouched.
    ///
    /// # Safety
    /// The place is valid for writes and aligned, and nobody else uses it.
    unsafe fn write_new(place: *mut Self, settings: Self::Settings) {
        // SAFETY: the caller's contract.
        unsafe { place.write(Self::new(settings)) };
    }

    /// The bytes of metadata, out of line, that an extent of `extent_bytes` needs.
    fn metadata_bytes(&self, extent_bytes: usize) -> usize {
        let _ = extent_bytes;
        0
    }

    /// The length of an extent that surely serves `layout` when it is added; `None` on overflow or
    /// for a layout that is never served. The owner may give more. Not called for size zero.
    fn extent_bytes(&self, layout: Layout) -> Option<usize>;

    /// The length of every block that serves `layout`, see the trait's contract. Not called for
    /// size zero: owners answer that without the strategy.
    ///
    /// # Errors
    /// The layout is never served.
    fn block_length(&self, layout: Layout) -> Result<usize, AllocError>;

    /// What [`block_length`](Self::block_length) gives for a layout that fits a block of this
    /// strategy: for strategies that can tell it without asking whether they serve it.
    #[inline]
    fn length_of_block(&self, layout: Layout) -> usize {
        self.block_length(layout).unwrap_or(layout.size())
    }

    /// What [`block_length`](Self::block_length) of a strategy with these settings gives; for
    /// whoever may not touch the strategy because another thread runs it.
    ///
    /// # Errors
    /// The layout is never served.
    fn length_with(settings: Self::Settings, layout: Layout) -> Result<usize, AllocError> {
        Self::new(settings).block_length(layout)
    }

    /// Cuts a block; `None` if no extent has room.
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<[u8]>>;

    /// Whether a block of that layout may wait: short enough, whatever the alignment.
    #[inline]
    fn may_wait(&self, layout: Layout) -> bool {
        let _ = layout;
        true
    }

    /// Takes a block that waits; none for a layout of size zero.
    #[inline]
    fn take_waiting(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let _ = layout;
        None
    }

    /// Cuts a block where that takes few steps, and looks at none that waits: in line, before
    /// [`allocate`](Self::allocate) is called out of line.
    #[inline]
    fn allocate_at_once(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let _ = layout;
        None
    }

    /// Cuts a block whose bytes are all zero. Override it where memory is known to be zero.
    fn allocate_zeroed(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let block = self.allocate(layout)?;
        // SAFETY: the block was just allocated and is valid for writes of its length.
        unsafe { block.cast::<u8>().write_bytes(0, block.len()) };
        Some(block)
    }

    /// Cuts a block from its front alone, where it [has one](Self::HAS_FRONT).
    ///
    /// # Safety
    /// The pointer leads to a strategy whose heap the caller runs; no reference to its front is in
    /// use.
    #[inline]
    unsafe fn pop_front(this: *mut Self, layout: Layout) -> Option<NonNull<[u8]>> {
        let _ = (this, layout);
        None
    }

    /// Frees a block.
    ///
    /// # Safety
    /// `block` is currently allocated, starts in `extent`, and `layout` fits it.
    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout);

    /// Frees a block, where it [counts them](Self::COUNTS_BLOCKS). Whether extents became empty:
    /// the owner then takes those by [`next_emptied`](Self::next_emptied) and `remove_extent` which
    /// the strategy does not [keep](Self::kept_extents).
    ///
    /// Where it [tells](Self::TELLS_EMPTY) instead: whether no block of the extent is left.
    ///
    /// # Safety
    /// As [`deallocate`](Self::deallocate).
    #[inline]
    unsafe fn free(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) -> bool {
        // SAFETY: the caller's contract.
        unsafe { self.deallocate(extent, block, layout) };
        false
    }

    /// As [`free`](Self::free), in line, of a block that may not wait, without calls; what is to be
    /// done then. `None`, and nothing is done, where it takes more.
    ///
    /// # Safety
    /// As there.
    #[inline]
    unsafe fn free_at_once(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        layout: Layout,
    ) -> Option<FreedAtOnce> {
        let _ = (extent, block, layout);
        None
    }

    /// Does what [`free_at_once`](Self::free_at_once) left to be done for an extent. Whether that
    /// has no block any more.
    ///
    /// # Safety
    /// The extent was added and not removed.
    unsafe fn settle(&mut self, extent: &Extent) -> bool {
        let _ = extent;
        false
    }

    /// Whether no block of an extent is allocated, where it [tells](Self::TELLS_EMPTY).
    fn is_empty(&self, extent: &Extent) -> bool {
        let _ = extent;
        false
    }

    /// As [`free`](Self::free), of a block of which only the class is known, as the chunk table
    /// has it. `None`, and nothing is done, where the strategy gave no class of that number.
    ///
    /// # Safety
    /// `block` is currently allocated, and starts in a chunk of that class that is an extent, or a
    /// run of its own.
    #[inline]
    unsafe fn free_of_class(&mut self, class: u8, block: NonNull<u8>) -> Option<bool> {
        let _ = (class, block);
        None
    }

    /// The start of an extent that a `free` found empty, each once, until it is `None`.
    fn next_emptied(&mut self) -> Option<NonNull<u8>> {
        None
    }

    /// How many extents without blocks the strategy keeps, a few, to cut new blocks from.
    fn kept_extents(&mut self) -> u32 {
        0
    }

    /// The blocks of an extent that are currently allocated, where it
    /// [counts them](Self::COUNTS_BLOCKS). What it caches is first put back.
    fn live_blocks(&mut self, extent: &Extent) -> u32 {
        let _ = extent;
        0
    }

    /// The bytes of an extent that are in blocks, where it [counts them](Self::COUNTS_BLOCKS).
    fn used_bytes(&self, extent: &Extent) -> usize {
        extent.length()
    }

    /// The blocks that are allocated in all extents, and their bytes, where it
    /// [counts them outside a heap](Self::COUNTS_ON_SOURCES). O(extents).
    fn used(&self) -> (usize, usize) {
        (0, 0)
    }

    /// Makes a block fit `new` where it stands, larger; gives its new length,
    /// `block_length(new)`. `None` leaves it unchanged. The owner has checked that the address is
    /// aligned to `new.align()`, and takes the case of equal lengths itself.
    ///
    /// # Safety
    /// As [`deallocate`](Self::deallocate) with `old`; `new.size() >= old.size()`.
    unsafe fn grow_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        let _ = (extent, block, old, new);
        None
    }

    /// Makes a block fit `new` where it stands, smaller; gives its new length. As
    /// [`grow_in_place`](Self::grow_in_place) otherwise.
    ///
    /// # Safety
    /// As [`deallocate`](Self::deallocate) with `old`; `0 < new.size() <= old.size()`.
    unsafe fn shrink_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        let _ = (extent, block, old, new);
        None
    }

    /// Takes a new extent in.
    ///
    /// # Safety
    /// The extent upholds its type's invariants until it is removed; its memory is the strategy's
    /// alone, valid for reads and writes.
    unsafe fn add_extent(&mut self, extent: &Extent);

    /// Forgets every trace of an extent in which no block is allocated.
    ///
    /// # Safety
    /// The extent was added and not removed since, and no block in it is currently allocated.
    unsafe fn remove_extent(&mut self, extent: &Extent);

    /// Starts over in an extent, the only one it has, if no block is allocated there and that is
    /// cheaper than to remove and add it. Whether it did; otherwise nothing changes.
    fn rewind(&mut self, extent: &Extent) -> bool {
        let _ = extent;
        false
    }

    /// The extent's last block was freed, and the extent is kept. For strategies that do not count
    /// blocks themselves, and where the owner does.
    ///
    /// # Safety
    /// As [`remove_extent`](Self::remove_extent).
    unsafe fn became_empty(&mut self, extent: &Extent) {
        let _ = extent;
    }

    /// Calls `visit` with ranges of the extent that hold no block and nothing the strategy needs,
    /// so that their pages may be dropped (they then read as zero or as before).
    fn visit_idle(&self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        let _ = (extent, visit);
    }

    /// As [`visit_idle`](Self::visit_idle), for a strategy whose heap is closed: nothing is
    /// allocated or freed here any more, so what it keeps in free blocks may be dropped as well.
    /// Otherwise a lone survivor would keep the pages where the free memory around it begins and
    /// ends. Called for one extent after the other; the ranges need not be whole pages.
    fn visit_unallocated(&mut self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        self.visit_idle(extent, visit);
    }

    /// Where it notes who asked for its blocks, if it does: its owner then tells of each block,
    /// those that have a range of their own too, when it is allocated, resized or freed. A constant
    /// for all strategies but [`WithSites`](sites::WithSites): asking costs nothing.
    #[cfg(not(loom))]
    #[inline]
    fn sites(&mut self) -> Option<&mut sites::SiteNotes> {
        None
    }

    /// Checks every equation of the data structure; aborts with the strategy's name where one
    /// fails.
    fn verify(&self) {}
}
