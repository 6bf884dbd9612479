//! Foreign frees in batches: one atomic operation for up to [`BATCH_BLOCKS`] blocks.
//!
//! Each thread keeps a few chains of blocks that it freed in heaps of others, by owner. A chain is
//! pushed when it is long enough, when its place is needed for another owner, when the thread takes
//! a slow path, leaves a context, or ends. Until then its blocks count as allocated, so they pin
//! their heap: at most `SLOTS * BATCH_BLOCKS` blocks a thread.

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
pub const BATCH_BLOCKS: u32 = 32;

/// The longest blocks that wait, in bytes: a thread that sleeps holds back 124 of them at most.
const MOST_BATCHED_BYTES: usize = 4096;

/// Whether a block may be longer than what waits: one with a large alignment is a run of its own.
#[inline]
const fn is_long(layout: Layout) -> bool {
    layout.size() | layout.align() > MOST_BATCHED_BYTES
}

/// Chains a thread keeps, a power of two.
const SLOTS: usize = 4;

const _: () = assert!(SLOTS.is_power_of_two() && SLOTS > 1);

/// Blocks that wait for one owner.
///
/// # Invariants
/// - There is an owner if and only if there is a block; the last holder's link is 0.
/// - `room` is how many blocks may still join, at least one.
/// - `first` was made to hold `places` names and has `names` of them, at places from 1 on; every
///   other holder has all that it was made for.
#[derive(Debug)]
#[repr(C)]
struct Chain {
    owner: Cell<Option<NonNull<HeapHeader>>>,
    first: Cell<BlockId>,
    last: Cell<BlockId>,
    room: Cell<u32>,
    names: Cell<u16>,
    places: Cell<u16>,
}

impl Chain {
    const EMPTY: Self = Self {
        owner: Cell::new(None),
        first: Cell::new(0),
        last: Cell::new(0),
        room: Cell::new(0),
        names: Cell::new(0),
        places: Cell::new(0),
    };

    /// Makes a block the first holder.
    ///
    /// # Safety
    /// As [`add`](Self::add).
    #[inline]
    unsafe fn hold(&self, block: NonNull<u8>, layout: Layout) {
        let places = foreign::room_for_names(layout);
        // SAFETY: the caller's contract.
        let holder = unsafe { foreign::make_holder(block, layout, self.first.get(), places) };
        self.first.set(holder);
        self.names.set(0);
        self.places.set(places as u16);
    }

    /// Adds a block to those that wait.
    ///
    /// # Safety
    /// There are some. The block is freed by this call and the thread's alone until the chain is
    /// pushed; `layout` fits it.
    #[inline]
    unsafe fn add(&self, block: NonNull<u8>, layout: Layout) {
        let names = self.names.get();
        // SAFETY: the caller's contract; the first holder has room for one more name.
        unsafe {
            if names == self.places.get() {
                self.hold(block, layout);
            } else {
                self.names.set(names + 1);
                foreign::write_name(self.first.get(), u32::from(names) + 1, block, layout);
            }
        }
    }

    /// The blocks, from the first holder to the last, ready to be pushed.
    ///
    /// # Safety
    /// There are some, and they are pushed next: the chain has none then.
    unsafe fn take(&self) -> (BlockId, BlockId) {
        let (first, unused) = (self.first.get(), self.places.get() - self.names.get());
        // SAFETY: the holder is this thread's, and was made for so many names more.
        unsafe { foreign::give_up_names(first, u32::from(unused)) };
        (first, self.last.get())
    }
}

/// A thread's chains. All zero bytes are a valid, empty value.
#[derive(Debug)]
#[repr(C)]
pub struct Batches {
    chains: [Chain; SLOTS],
    pending: Cell<u32>,
    /// For the decay's clock.
    pushes: Cell<u32>,
}

impl Batches {
    /// No chains.
    pub const fn new() -> Self {
        Self {
            chains: [const { Chain::EMPTY }; SLOTS],
            pending: Cell::new(0),
            pushes: Cell::new(0),
        }
    }

    /// Whether blocks wait.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.pending() != 0
    }

    /// How many chains of blocks wait.
    #[inline]
    pub fn pending(&self) -> u32 {
        self.pending.get()
    }

    /// The only chain where blocks of an owner wait.
    #[inline]
    fn chain_of(&self, owner: NonNull<HeapHeader>) -> &Chain {
        // Headers lie at multiples of their length, so the bits that tell them apart are in the
        // middle; the product has something of all of them at its top.
        let mixed = (owner.addr().get() as u32).wrapping_mul(0x9E37_79B1);
        &self.chains[(mixed >> (u32::BITS - SLOTS.ilog2())) as usize]
    }

    /// Frees a block of an open heap that the caller does not run, if others of that heap wait
    /// already: the fast path. False if none do, or it is too long: nothing has happened then.
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
        let chain = self.chain_of(owner);
        if chain.owner.get() != Some(owner) || is_long(layout) {
            return false;
        }
        // SAFETY: the caller's contract; the owner's chain has blocks.
        unsafe { chain.add(block, layout) };
        let room = chain.room.get() - 1;
        chain.room.set(room);
        if room == 0 {
            self.push_chain(chain);
        }
        true
    }

    /// Frees a block of a heap that the caller does not run.
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
        if is_long(layout) {
            // SAFETY: the caller's contract.
            unsafe { free_at_once(owner, block, layout) };
            return;
        }
        // SAFETY: the caller's contract.
        if unsafe { self.try_join(owner, block, layout) } {
            return;
        }
        let chain = self.chain_of(owner);
        self.push_chain(chain);
        chain.owner.set(Some(owner));
        chain.first.set(0);
        // SAFETY: the block is freed by this call and the thread's alone until the chain is pushed.
        unsafe { chain.hold(block, layout) };
        chain.last.set(chain.first.get());
        chain.room.set(BATCH_BLOCKS - 1);
        self.pending.set(self.pending.get() + 1);
    }

    /// Pushes every chain.
    #[cold]
    pub fn flush(&self) {
        for chain in &self.chains {
            self.push_chain(chain);
        }
    }

    #[cold]
    #[inline(never)]
    fn push_chain(&self, chain: &Chain) {
        let Some(owner) = chain.owner.take() else { return };
        self.pending.set(self.pending.get() - 1);
        decay::step_of(&self.pushes);
        // SAFETY: the chain's blocks are freed, this thread's alone, and pin the header.
        unsafe {
            lost::count(owner, BATCH_BLOCKS - chain.room.get());
            let (first, last) = chain.take();
            push(owner, first, last);
        }
    }
}

impl Default for Batches {
    fn default() -> Self {
        Self::new()
    }
}

/// Frees one block of a heap that the caller does not run, at once.
///
/// # Safety
/// As [`Batches::free`].
pub unsafe fn free_at_once(owner: NonNull<HeapHeader>, block: NonNull<u8>, layout: Layout) {
    // SAFETY: the block is freed by this call; it pins the header.
    unsafe {
        lost::count(owner, 1);
        let id = foreign::make_holder(block, layout, 0, 0);
        push(owner, id, id);
    }
}

/// # Safety
/// The chain's blocks are freed blocks of the heap that nobody else reaches.
unsafe fn push(owner: NonNull<HeapHeader>, first: BlockId, last: BlockId) {
    // SAFETY: the caller's contract; the blocks pin the header until they are pushed.
    if unsafe { owner.as_ref().foreign.push(first, last, &InBlocks) } {
        return;
    }
    // The heap was closed: each block is counted off its run. The last one may free the header.
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
    if let Some(layout) = block.layout() {
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
