//! Foreign frees in batches: one atomic operation for up to [`MOST_BATCH_BLOCKS`] blocks.
//!
//! Each thread keeps a few chains of blocks that it freed in heaps of others, by owner. A chain is
//! pushed when it is long enough, when its place is needed for another owner, when the thread takes
//! a slow path, leaves a context, or ends. Until then its blocks count as allocated, so they pin
//! their heap: at most `SLOTS * MOST_BATCH_BLOCKS` blocks a thread. Blocks of unbatched heaps
//! join none: each is pushed by itself.

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;

use super::cell::free_orphan;
use super::check;
use super::decay;
use super::foreign::{self, ForeignBlock, InBlocks};
use super::header::HeapHeader;
use super::lost;
use crate::region::{self, ChunkEntry};
use crate::sync::foreign_stack::BlockId;

/// The most blocks in a chain.
pub const MOST_BATCH_BLOCKS: u32 = 32;

/// With so many blocks a chain gets no other holder; as many may still join as the last one has
/// room for names.
const BATCH_BLOCKS: i32 = (MOST_BATCH_BLOCKS - foreign::MOST_NAMES) as i32;

/// The longest blocks that wait, in bytes: a thread that sleeps holds back 128 of them at most.
const MOST_BATCHED_BYTES: usize = 4096;

/// Whether a block may be longer than what waits: one with a large alignment is a run of its own.
#[inline]
const fn is_long(layout: Layout) -> bool {
    layout.size() | (layout.align() - 1) > MOST_BATCHED_BYTES
}

/// Chains a thread keeps, a power of two.
const SLOTS: usize = 4;

const _: () = assert!(SLOTS.is_power_of_two() && SLOTS > 1);

/// Blocks that wait for one owner.
///
/// # Invariants
/// - There is an owner if and only if there is a block; the last holder's link is 0.
/// - `first` was made to hold `places` names and has `names` of them; every other holder has all
///   that it was made for.
/// - `room` is how many blocks of `BATCH_BLOCKS` are left when `first` has all its names, or less
///   than 0 by how many it has room for beyond that.
#[derive(Debug)]
#[repr(C)]
struct Chain {
    owner: Cell<Option<NonNull<HeapHeader>>>,
    first: Cell<BlockId>,
    last: Cell<BlockId>,
    room: Cell<i32>,
    names: Cell<u16>,
    places: Cell<u16>,
}

impl Chain {
    const fn new() -> Self {
        Self {
            owner: Cell::new(None),
            first: Cell::new(0),
            last: Cell::new(0),
            room: Cell::new(0),
            names: Cell::new(0),
            places: Cell::new(0),
        }
    }

    /// Adds a block to those that wait; false if they are as many as may wait.
    ///
    /// # Safety
    /// There are some. The block, which is not long, is freed by this call and the thread's alone
    /// until the chain is pushed; `layout` fits it.
    #[inline]
    unsafe fn try_add(&self, block: NonNull<u8>, layout: Layout) -> bool {
        let names = self.names.get();
        // SAFETY: the caller's contract; the first holder has room for one more name.
        unsafe {
            if names == self.places.get() {
                return self.try_hold(block, layout);
            }
            foreign::write_name(self.first.get(), usize::from(names), block, layout);
        }
        self.names.set(names + 1);
        true
    }

    /// As [`try_add`](Self::try_add): makes the block the first holder.
    ///
    /// # Safety
    /// As there.
    #[inline]
    unsafe fn try_hold(&self, block: NonNull<u8>, layout: Layout) -> bool {
        if self.room.get() <= 0 {
            return false;
        }
        // SAFETY: the caller's contract.
        unsafe { self.hold(block, layout, self.first.get(), self.room.get()) };
        true
    }

    /// Makes a block the first holder, linked to `next`, where there is so much room.
    ///
    /// # Safety
    /// As [`try_add`](Self::try_add).
    #[inline]
    unsafe fn hold(&self, block: NonNull<u8>, layout: Layout, next: BlockId, room: i32) {
        let places = foreign::room_for_names(layout);
        // SAFETY: the caller's contract.
        self.first.set(unsafe { foreign::make_holder(block, layout, next, places) });
        self.names.set(0);
        self.places.set(places as u16);
        self.room.set(room - 1 - places as i32);
    }

    /// Lets a first block wait.
    ///
    /// # Safety
    /// As [`try_add`](Self::try_add), of a heap's block where no block waits.
    #[inline]
    unsafe fn open(&self, owner: NonNull<HeapHeader>, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { self.hold(block, layout, 0, BATCH_BLOCKS) };
        self.owner.set(Some(owner));
        self.last.set(self.first.get());
    }

    /// How many blocks wait.
    fn blocks(&self) -> u32 {
        let unused = i32::from(self.places.get() - self.names.get());
        (BATCH_BLOCKS - self.room.get() - unused).unsigned_abs()
    }

    /// Pushes the blocks.
    ///
    /// # Safety
    /// There are some, of this owner, and none wait afterwards.
    #[inline]
    unsafe fn push(&self, owner: NonNull<HeapHeader>) {
        let (first, last) = (self.first.get(), self.last.get());
        let (places, names) = (self.places.get(), self.names.get());
        // SAFETY: the holder is this thread's, and so are the chain's blocks; they are freed, and
        // pin the header.
        unsafe {
            let Some(sealed) = foreign::seal(first, u32::from(places), u32::from(names)) else {
                corrupted()
            };
            if first != last {
                sealed.write(first);
                push(owner, first, last);
            } else if !owner.as_ref().foreign.push(first, last, &sealed) {
                // The word may not have been written.
                sealed.write(first);
                count_off_all(owner, first, last);
            }
        }
    }
}

/// A thread's chains. All zero bytes are a valid, empty value.
///
/// # Invariants
/// - A bit of `pending` is set if and only if its chain has blocks.
#[derive(Debug)]
#[repr(C)]
pub struct Batches {
    chains: [Chain; SLOTS],
    /// A bit for each chain.
    pending: Cell<u32>,
    /// For the decay's clock.
    pushes: Apart<Cell<u32>>,
}

/// Not beside the field before it: both are stored by themselves, and where the compiler loads the
/// two at once, the load waits until the stores have left the processor.
#[derive(Debug)]
#[repr(align(8))]
struct Apart<T>(T);

impl Batches {
    /// No chains.
    pub const fn new() -> Self {
        Self {
            chains: [const { Chain::new() }; SLOTS],
            pending: Cell::new(0),
            pushes: Apart(Cell::new(0)),
        }
    }

    /// Whether blocks wait.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.pending.get() != 0
    }

    /// A bit for each chain of blocks that waits.
    #[inline]
    pub fn pending(&self) -> u32 {
        self.pending.get()
    }

    /// Where blocks of an owner wait, and nowhere else.
    #[inline]
    fn slot_of(owner: NonNull<HeapHeader>) -> usize {
        // Headers lie at multiples of their length, so the bits that tell them apart are in the
        // middle; the product has something of all of them at its top.
        let mixed = (owner.addr().get() as u32).wrapping_mul(0x9E37_79B1);
        (mixed >> (u32::BITS - SLOTS.ilog2())) as usize
    }

    /// Frees a block of an open heap that the caller does not run, if others of that heap wait
    /// already: the fast path. False if none do, or as many as may, or it is too long: nothing has
    /// happened then.
    ///
    /// # Safety
    /// The block is allocated, of the heap `owner`; `layout` fits it.
    #[inline]
    #[must_use]
    pub unsafe fn try_join(
        &self,
        owner: NonNull<HeapHeader>,
        block: NonNull<u8>,
        layout: Layout,
    ) -> bool {
        let chain = &self.chains[Self::slot_of(owner)];
        if chain.owner.get() != Some(owner) || is_long(layout) {
            return false;
        }
        // SAFETY: the caller's contract; the owner's chain has blocks.
        unsafe { chain.try_add(block, layout) }
    }

    /// As [`try_join`](Self::try_join), if no block waits where those of that heap would. False for
    /// a heap that is closed.
    ///
    /// # Safety
    /// As there.
    #[inline]
    #[must_use]
    pub unsafe fn try_open(
        &self,
        owner: NonNull<HeapHeader>,
        block: NonNull<u8>,
        layout: Layout,
    ) -> bool {
        let slot = Self::slot_of(owner);
        let chain = &self.chains[slot];
        // SAFETY: the block pins the header.
        let is_closed = unsafe { owner.as_ref() }.runner.is_closed();
        if chain.owner.get().is_some() || is_closed || is_long(layout) {
            return false;
        }
        // SAFETY: the caller's contract; no block waits there.
        unsafe { chain.open(owner, block, layout) };
        self.pending.set(self.pending.get() | 1 << slot);
        true
    }

    /// Frees a block of a heap that the caller does not run, where [`try_join`](Self::try_join) and
    /// [`try_open`](Self::try_open) do not.
    ///
    /// # Safety
    /// The block is allocated, of the heap `owner` and the run of `entry`; `layout` fits it.
    pub unsafe fn free(
        &self,
        owner: NonNull<HeapHeader>,
        entry: &'static ChunkEntry,
        block: NonNull<u8>,
        layout: Layout,
    ) {
        // SAFETY: the block pins the header.
        if unsafe { owner.as_ref() }.runner.is_closed() {
            check::freed_for_good(block, layout);
            // SAFETY: once the runner is closed, every free may go to the chunk's word.
            unsafe { free_orphan(owner, entry) };
            return;
        }
        // What waits there is of another owner, or as much as may wait.
        let slot = Self::slot_of(owner);
        let chain = &self.chains[slot];
        if !is_long(layout) && chain.owner.get().is_some() {
            self.push_chain(slot, chain);
        }
        // SAFETY: the caller's contract. The heap may have been closed meanwhile.
        unsafe {
            if !self.try_open(owner, block, layout) {
                free_at_once(owner, block, layout);
            }
        }
    }

    /// Pushes every chain.
    #[inline]
    pub fn flush(&self) {
        if self.is_pending() {
            self.flush_all();
        }
    }

    #[inline(never)]
    fn flush_all(&self) {
        // Read anew each time: where a heap was closed, its runs go back to the program's source,
        // and what that frees in other heaps waits here.
        while let pending @ 1.. = self.pending.get() {
            let slot = pending.trailing_zeros() as usize;
            let Some(chain) = self.chains.get(slot) else { return };
            self.push_chain(slot, chain);
        }
    }

    #[inline(always)] // measured: a flush of one block takes a seventh less
    fn push_chain(&self, slot: usize, chain: &Chain) {
        self.pending.set(self.pending.get() & !(1 << slot));
        let Some(owner) = chain.owner.take() else { return };
        decay::step_of(&self.pushes.0);
        // SAFETY: the chain's blocks are freed, this thread's alone, and pin the header.
        unsafe {
            lost::count(owner, || chain.blocks());
            chain.push(owner);
        }
    }
}

impl Default for Batches {
    fn default() -> Self {
        Self::new()
    }
}

/// Frees one block of a heap that the caller does not run, at once. Apart, for it saves registers
/// which a block that waits does not need.
///
/// # Safety
/// As [`Batches::free`].
#[inline(never)]
pub unsafe fn free_at_once(owner: NonNull<HeapHeader>, block: NonNull<u8>, layout: Layout) {
    // SAFETY: the block is freed by this call; it pins the header.
    unsafe {
        lost::count(owner, || 1);
        let id = foreign::make_only(block, layout);
        push(owner, id, id);
    }
}

/// # Safety
/// The chain's blocks are freed blocks of the heap that nobody else reaches.
#[inline]
unsafe fn push(owner: NonNull<HeapHeader>, first: BlockId, last: BlockId) {
    // SAFETY: the caller's contract; the blocks pin the header until they are pushed.
    unsafe {
        if !owner.as_ref().foreign.push(first, last, &InBlocks) {
            count_off_all(owner, first, last);
        }
    }
}

/// Frees the blocks of a chain, when the heap was closed.
///
/// # Safety
/// As [`push`], and the heap's stack is closed.
#[cold]
#[inline(never)]
unsafe fn count_off_all(owner: NonNull<HeapHeader>, first: BlockId, last: BlockId) {
    // Each block is counted off its run. The last one may free the header.
    let (mut next, committed) = (first, region::committed());
    let mut left = true;
    while left {
        // SAFETY: the chain is still this thread's; a holder is counted off when it was read.
        unsafe {
            let holder = foreign::find_holder(next, owner, committed);
            let holder = holder.unwrap_or_else(|| corrupted());
            left = next != last;
            next = holder.next();
            holder.visit_named(owner, committed, |block| {
                count_off(owner, block.unwrap_or_else(|| corrupted()));
            });
            count_off(owner, holder.block);
        }
    }
}

/// # Safety
/// The heap's stack is closed, and the block is one of the heap's that is freed by this call.
unsafe fn count_off(owner: NonNull<HeapHeader>, block: ForeignBlock) {
    if let Some(layout) = block.word.layout() {
        check::freed_for_good(block.address, layout);
    }
    // SAFETY: the caller's contract.
    unsafe { free_orphan(owner, block.entry) };
}

#[cold]
#[inline(never)]
fn corrupted() -> ! {
    crate::sys::abort_with(&["a block was written to after it was freed"])
}
