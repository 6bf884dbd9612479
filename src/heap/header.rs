//! What every heap has, whatever its strategy.

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::AtomicUsize;

use crossbeam_utils::CachePadded;

use super::account::AccountHandle;
use super::cell::EscapeReport;
use crate::allocator::{MemoryUsage, RegionSource};
use crate::numa::Node;
use crate::region::ChunkEntry;
use crate::sync::{ForeignStack, Runner};

/// Which strategy's fast path is tried inline before the call through [`Operations`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FastPath {
    /// None.
    None,
    /// A window under a cursor.
    Bump,
    /// Lists by size class.
    Slab,
}

/// Makes a block fit the second layout where it stands.
pub type Resize = unsafe fn(
    NonNull<HeapHeader>,
    &'static ChunkEntry,
    NonNull<u8>,
    Layout,
    Layout,
) -> Option<usize>;

/// Allocates; the flag asks for zeroed memory.
pub type Allocate = unsafe fn(NonNull<HeapHeader>, Layout, bool) -> Option<NonNull<[u8]>>;

/// A heap's operations, compiled for its strategy. All functions but `block_length` and
/// `recreate` are for the runner.
#[derive(Debug)]
pub struct Operations {
    /// The strategy's name.
    pub name: &'static str,
    /// The header and strategy's length, in bytes.
    pub cell_bytes: usize,
    /// Allocates; the flag asks for zeroed memory.
    pub allocate: Allocate,
    /// Frees a block of the heap.
    pub free: unsafe fn(NonNull<HeapHeader>, &'static ChunkEntry, NonNull<u8>, Layout),
    /// Makes a block fit the second layout where it stands; its new length.
    pub resize: Resize,
    /// The length of blocks that serve a layout. For anyone.
    pub block_length: unsafe fn(NonNull<HeapHeader>, Layout) -> Option<usize>,
    /// Takes what others freed.
    pub collect: unsafe fn(NonNull<HeapHeader>),
    /// Gives back the runs without blocks but for so many; the bytes.
    pub release_unused: unsafe fn(NonNull<HeapHeader>, u32) -> usize,
    /// Makes the heap as good as new, if no block is allocated, and keeps at most one run; the
    /// bytes that went back. `Err` with those if a block is allocated.
    pub reset: unsafe fn(NonNull<HeapHeader>) -> Result<usize, usize>,
    /// Frees every block at once, also those in use.
    pub forget_blocks: unsafe fn(NonNull<HeapHeader>),
    /// Ends the heap.
    pub close: unsafe fn(NonNull<HeapHeader>) -> EscapeReport,
    /// What it holds.
    pub usage: unsafe fn(NonNull<HeapHeader>) -> MemoryUsage,
    /// Checks every structure; aborts where one is broken.
    pub verify: unsafe fn(NonNull<HeapHeader>),
    /// A new heap of the same strategy, settings, source and account. For anyone.
    pub recreate: unsafe fn(NonNull<HeapHeader>) -> Option<NonNull<HeapHeader>>,
}

/// The first part of every heap, in metadata memory.
///
/// # Invariants
/// - The cells belong to the runner.
/// - `remaining` is only meaningful after the close: orphaned runs, pins, and one for the closer
///   until it is done. Who makes it zero frees the header.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct HeapHeader {
    /// Who runs it. Read by every free.
    pub runner: Runner,
    /// Which fast path it has. Read by every allocation and free.
    pub fast_path: FastPath,
    /// How many contexts that wait for their coroutine's resumption name it. While there are any,
    /// it is bound to their thread, which alone changes this.
    pub pins: Cell<u32>,
    /// What it can do.
    pub operations: &'static Operations,
    /// Where its chunks come from.
    pub source: &'static dyn RegionSource,
    /// The head of the list of its runs: a chunk's index, or 0.
    pub first_run: Cell<u32>,
    /// The first of the runs without blocks that are kept to be used next: a chunk's index, or 0.
    pub first_spare: Cell<u32>,
    /// How many those are.
    pub spares: Cell<u32>,
    /// Bytes in its runs.
    pub held_bytes: Cell<usize>,
    /// The most that was.
    pub peak_bytes: Cell<usize>,
    /// Blocks handed out, less blocks freed, in bytes, where the heap counts them.
    pub allocated_bytes: Cell<usize>,
    /// Blocks that others freed, on a line of its own: others write it.
    pub foreign: CachePadded<ForeignStack>,
    /// Orphaned runs.
    pub remaining: AtomicUsize,
    /// Where its runs are charged.
    pub account: AccountHandle,
    /// The NUMA node of a thread's heap, where there are several.
    pub home: Cell<Option<Node>>,
    /// The next in a list of heaps that nobody runs: of ended threads, or of a pool.
    pub next_in_list: Cell<Option<NonNull<HeapHeader>>>,
    /// Counts that anyone may read.
    pub census: super::census::Entry,
    /// Slow paths since every structure was checked last.
    #[cfg(heapswitch_check)]
    pub unverified_steps: Cell<usize>,
    /// Blocks that were freed and that nobody gets yet.
    #[cfg(heapswitch_asan)]
    pub quarantine: super::quarantine::Quarantine,
}

impl HeapHeader {
    /// Ends the run; if the heap is pinned, the next is this thread's too. Called by the runner.
    #[inline]
    pub fn leave(&self) {
        if self.pins.get() == 0 {
            self.runner.leave();
        } else {
            self.runner.leave_bound();
        }
    }
}

impl Operations {
    /// Whether these are the operations of the same strategy. Compared by content, for a constant
    /// may have several addresses.
    pub fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.cell_bytes == other.cell_bytes
    }
}
