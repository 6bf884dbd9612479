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
use super::foreign::{self, InBlocks};
use super::header::HeapHeader;
use super::lost;
use crate::region::{self, ChunkEntry};
use crate::sync::foreign_stack::BlockId;

/// The most blocks in a chain.
pub const BATCH_BLOCKS: u32 = 32;

/// The longest blocks that wait, in bytes: a thread that sleeps holds back 124 of them at most.
const MOST_BATCHED_BYTES: usize = 4096;

/// Chains a thread keeps, a power of two.
const SLOTS: usize = 4;

#[derive(Debug)]
struct Chain {
    owner: Cell<Option<NonNull<HeapHeader>>>,
    first: Cell<BlockId>,
    last: Cell<BlockId>,
    length: Cell<u32>,
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
            chains: [const {
                Chain {
                    owner: Cell::new(None),
                    first: Cell::new(0),
                    last: Cell::new(0),
                    length: Cell::new(0),
                }
            }; SLOTS],
            pending: Cell::new(0),
            pushes: Cell::new(0),
        }
    }

    /// Whether blocks wait.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.pending.get() != 0
    }

    /// Frees a block of a heap that the caller does not run.
    ///
    /// # Safety
    /// The block is allocated, at `offset` of the region, of the heap `owner` and the run of
    /// `entry`; `layout` fits it.
    pub unsafe fn free(
        &self,
        owner: NonNull<HeapHeader>,
        entry: &'static ChunkEntry,
        block: NonNull<u8>,
        offset: usize,
        layout: Layout,
    ) {
        // SAFETY: the block pins the header.
        if unsafe { owner.as_ref() }.runner.is_closed() {
            check::freed_for_good(block, layout);
            // SAFETY: once the runner is closed, every free may go to the chunk's word.
            unsafe { free_orphan(owner, entry) };
            return;
        }
        if layout.size() > MOST_BATCHED_BYTES {
            // SAFETY: the caller's contract.
            unsafe { free_at_once(owner, block, offset, layout) };
            return;
        }
        let slot = (owner.addr().get() >> 8) % SLOTS;
        let Some(chain) = self.chains.get(slot) else { return };
        if chain.owner.get() != Some(owner) {
            self.push_chain(chain);
            chain.owner.set(Some(owner));
        }
        // SAFETY: the block is freed by this call and the thread's alone until the chain is pushed.
        let id = unsafe { foreign::encode(block, offset, layout, chain.first.get()) };
        if chain.length.get() == 0 {
            chain.last.set(id);
            self.pending.set(self.pending.get() + 1);
        }
        chain.first.set(id);
        chain.length.set(chain.length.get() + 1);
        if chain.length.get() >= BATCH_BLOCKS {
            self.push_chain(chain);
        }
    }

    /// Pushes every chain.
    #[cold]
    pub fn flush(&self) {
        for chain in &self.chains {
            self.push_chain(chain);
        }
    }

    fn push_chain(&self, chain: &Chain) {
        let Some(owner) = chain.owner.take() else { return };
        let (first, last) = (chain.first.replace(0), chain.last.replace(0));
        let length = chain.length.replace(0);
        if length == 0 {
            return;
        }
        self.pending.set(self.pending.get() - 1);
        decay::step_of(&self.pushes);
        // SAFETY: the chain's blocks are freed, this thread's alone, and pin the header.
        unsafe {
            lost::count(owner, length);
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
pub unsafe fn free_at_once(
    owner: NonNull<HeapHeader>,
    block: NonNull<u8>,
    offset: usize,
    layout: Layout,
) {
    // SAFETY: the block is freed by this call; it pins the header.
    unsafe {
        lost::count(owner, 1);
        let id = foreign::encode(block, offset, layout, 0);
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
    let mut next = first;
    let mut left = true;
    while left {
        // SAFETY: the chain is still this thread's.
        let Some(block) = (unsafe { foreign::decode(next) }) else {
            crate::sys::abort_with(&["a block was written to after it was freed"]);
        };
        left = next != last;
        next = block.next;
        if let Some(entry) = region::entry_of(block.address.as_ptr()) {
            check::freed_for_good(block.address, block.layout);
            // SAFETY: the stack is closed, and the block is one of the run's.
            unsafe { free_orphan(owner, entry) };
        }
    }
}
