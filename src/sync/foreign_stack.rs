//! The stack of blocks that others than a heap's runner freed.
//!
//! Anyone pushes, one block or a chain of them, with one compare-and-swap; the runner takes all
//! with one swap. Nothing is ever popped singly, so there is no ABA. The head's final value
//! `CLOSED` tells a pusher that the heap has ended, and that it must count the block off its chunk
//! itself.

use super::{AtomicU64, Ordering};

/// Names a block; 0 and the largest value are none. For a heap: the block's offset in the region,
/// in bytes.
pub type BlockId = u64;

const EMPTY: u64 = 0;
const CLOSED: u64 = u64::MAX;

// Loom must find the models failing with these weakened.
#[inline]
fn push() -> Ordering {
    weakened!("foreign_stack_push", Ordering::Relaxed, Ordering::Release)
}
#[inline]
fn take() -> Ordering {
    weakened!("foreign_stack_take", Ordering::Relaxed, Ordering::Acquire)
}

/// Where links between blocks are stored: in the freed memory itself.
///
/// # Safety
/// `set_next` stores the link where the runner later reads it, and touches nothing else.
pub unsafe trait Links {
    /// Links `block` to `next`.
    ///
    /// # Safety
    /// `block` is freed memory that nobody else reaches.
    unsafe fn set_next(&self, block: BlockId, next: BlockId);
}

/// The stack's head.
#[derive(Debug)]
pub struct ForeignStack {
    head: AtomicU64,
}

impl ForeignStack {
    /// An empty, open stack.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { head: AtomicU64::new(EMPTY) }
    }

    /// An empty, open stack.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { head: AtomicU64::new(EMPTY) }
    }

    /// Whether nothing lies on it. May be outdated as soon as it is known.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed) == EMPTY
    }

    /// Pushes a chain of blocks, linked from `first` to `last`. False if the stack is closed:
    /// nothing was pushed then. After a push that succeeded the caller touches neither blocks nor
    /// heap.
    ///
    /// # Safety
    /// The blocks are freed memory of the stack's heap that nobody else reaches; all links but
    /// `last`'s are set.
    #[inline]
    pub unsafe fn push(&self, first: BlockId, last: BlockId, links: &impl Links) -> bool {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            if head == CLOSED {
                return false;
            }
            // SAFETY: the block is the caller's until the exchange succeeds.
            unsafe { links.set_next(last, head) };
            // Release pairs with the Acquire in `take_all` and `close`: the links, and whatever was
            // written to the blocks before they were freed, are seen before the blocks are reused.
            match self.head.compare_exchange_weak(head, first, push(), Ordering::Relaxed) {
                Ok(_) => return true,
                Err(current) => head = current,
            }
        }
    }

    /// Takes all blocks: the first of the chain, or 0. Called by the runner.
    #[inline]
    pub fn take_all(&self) -> BlockId {
        if self.is_empty() {
            return EMPTY;
        }
        // Acquire pairs with the Release in `push`.
        self.head.swap(EMPTY, take())
    }

    /// Closes the stack for ever and takes what it held. Called once, by the closer.
    pub fn close(&self) -> BlockId {
        // Acquire pairs with the Release in `push`.
        self.head.swap(CLOSED, take())
    }
}

impl Default for ForeignStack {
    fn default() -> Self {
        Self::new()
    }
}
