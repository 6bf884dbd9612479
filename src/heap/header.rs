//! What every heap has, whatever its strategy.

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

use super::account::{AccountHandle, Refusal, signal};
use super::callbacks::Callbacks;
use super::cell::EscapeReport;
use crate::allocator::{MemoryUsage, RegionSource};
use crate::numa::Node;
use crate::region::ChunkEntry;
use crate::region::label::StrategyNumber;
use crate::strategy::sites::log::SiteLog;
use crate::sync::{ForeignStack, Runner};
use crate::sys::lock::RawLock;

/// Which strategy's fast path is tried inline before the call through [`Operations`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FastPath {
    /// None.
    None,
    /// A window under a cursor.
    Bump,
    /// Magazines by size class.
    Slab,
}

/// The heap that allocations are served from inline, if there is one, and by which fast path: a
/// pointer, odd where that is the slab's. One word, for entering and leaving a context are bound by
/// their loads and stores. All zero bytes: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Inline(*mut HeapHeader);

/// What makes a pointer odd.
const SLAB_TAG: usize = 1;
const _: () = assert!(align_of::<HeapHeader>() > SLAB_TAG);

impl Inline {
    /// None: the slow path decides.
    pub const NONE: Self = Self(core::ptr::null_mut());

    /// A heap, by the path that it has.
    pub(super) fn of(heap: NonNull<HeapHeader>, path: FastPath) -> Self {
        match path {
            FastPath::None => Self::NONE,
            FastPath::Bump => Self::of_bump(heap),
            FastPath::Slab => Self::of_slab(heap),
        }
    }

    /// What was read as a pointer.
    ///
    /// # Safety
    /// It was read where an `Inline` is stored.
    #[inline]
    pub unsafe fn of_word(word: *mut HeapHeader) -> Self {
        Self(word)
    }

    /// A heap that has bump's path.
    #[inline]
    pub fn of_bump(heap: NonNull<HeapHeader>) -> Self {
        Self(heap.as_ptr())
    }

    /// A heap that has the slab's path.
    #[inline]
    pub fn of_slab(heap: NonNull<HeapHeader>) -> Self {
        Self(heap.as_ptr().map_addr(|address| address | SLAB_TAG))
    }

    /// Whether it is this heap by the slab's path.
    #[inline]
    pub fn is_slab_of(self, heap: NonNull<HeapHeader>) -> bool {
        // What is odd is subtracted and not added: the sum is not needed twice.
        self.0.addr().wrapping_sub(SLAB_TAG) == heap.addr().get()
    }

    /// The heap, if its path is the slab's: from lists.
    #[inline]
    pub fn slab(self) -> Option<NonNull<HeapHeader>> {
        if self.0.addr() & SLAB_TAG == 0 {
            return None;
        }
        // Subtracted and not masked: it is part of the addresses of fields then.
        let heap = self.0.map_addr(|address| address.wrapping_sub(SLAB_TAG));
        // SAFETY: an odd pointer was made of a heap's.
        Some(unsafe { NonNull::new_unchecked(heap) })
    }

    /// The heap, if its path is bump's: under a cursor.
    #[inline]
    pub fn bump(self) -> Option<NonNull<HeapHeader>> {
        if self.0.addr() & SLAB_TAG == 0 { NonNull::new(self.0) } else { None }
    }
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
/// `recreate` are for the runner; `usage` also for who looks at a heap that nobody runs.
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
    /// Where its blocks were asked for, if that is recorded.
    pub sites: unsafe fn(NonNull<HeapHeader>) -> Option<SiteLog>,
    /// A new heap of the same strategy, settings, source and account. For anyone.
    pub recreate: unsafe fn(NonNull<HeapHeader>) -> Option<NonNull<HeapHeader>>,
}

/// The first part of every heap, in metadata memory.
///
/// # Invariants
/// - The cells belong to the runner, or to who looks at a heap that nobody runs; of a heap with a
///   front, to whoever holds `guard`.
/// - `remaining` is only meaningful after the close: orphaned runs, pins, and one for the closer
///   until it is done. Who makes it zero frees the header.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct HeapHeader {
    /// Who runs it. Read by every free.
    pub runner: Runner,
    /// Which fast path it has. Read by every allocation and free.
    pub fast_path: FastPath,
    /// Whether each foreign free is handed over at once. Set before the heap is known to anyone.
    pub is_unbatched: bool,
    /// What leaving has to look after: 0, or bits of [`attention`].
    /// Written by the runner; atomic, as others may close a heap that ends with its parent.
    pub(super) attention: AtomicU32,
    /// What serves inline while the heap is a context's and in use.
    pub inline: Inline,
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
    /// Blocks that are runs of their own.
    pub direct_blocks: Cell<u32>,
    /// Taken by whoever uses more of a strategy with a front than that front: see
    /// [`cell::guard`](super::cell).
    pub guard: RawLock,
    /// Times that the runner took the lock. Under the lock.
    pub guarded_steps: Cell<u32>,
    /// What that was when another thread last looked after the heap. Under the lock.
    pub seen_steps: Cell<u32>,
    /// Whether the heap was put in order since the runner took the lock last. Under the lock.
    pub is_tidy: Cell<bool>,
    /// Slow paths, for the decay's clock.
    pub slow_steps: Cell<u32>,
    /// Blocks that others freed, on a line of its own: others write it.
    pub foreign: CachePadded<ForeignStack>,
    /// Orphaned runs.
    pub remaining: AtomicUsize,
    /// Where its runs are charged.
    pub account: AccountHandle,
    /// The NUMA node of a thread's heap, where there are several.
    pub home: Cell<Option<Node>>,
    /// Why its last allocation failed.
    pub refusal: Cell<Refusal>,
    /// Whether limits may be overdrawn: what is unused was given back.
    pub may_overdraw: Cell<bool>,
    /// Slow paths since the runner counted its blocks for the account.
    pub uncounted_steps: Cell<u32>,
    /// What its chunks' labels say of its strategy.
    pub strategy_number: StrategyNumber,
    /// What is called when its contents end.
    pub callbacks: Callbacks,
    /// The next in a list of heaps that nobody runs: of ended threads, or of a pool.
    pub next_in_list: Cell<Option<NonNull<HeapHeader>>>,
    /// The next in a thread's list of heaps that it is to close: it runs them, or claimed them.
    pub next_due: Cell<Option<NonNull<HeapHeader>>>,
    /// Counts that anyone may read.
    pub census: super::census::Entry,
    /// Slow paths since every structure was checked last.
    #[cfg(heapswitch_check)]
    pub unverified_steps: Cell<usize>,
    /// Blocks that were freed and that nobody gets yet.
    #[cfg(heapswitch_asan)]
    pub quarantine: super::quarantine::Quarantine,
}

/// What `HeapHeader::attention` counts and tells.
pub mod attention {
    /// One context that waits for its coroutine's resumption and names the heap. While there are
    /// any, it is bound to their thread, which alone changes the count. Of a heap that its parent
    /// closed, also its handle.
    pub const PIN: u32 = 1;
    /// A limit was passed: there is something to do where the heap is left.
    pub const NOTED: u32 = 1 << 30;
    /// It ends with its parent, so others may claim it.
    pub const SHARED: u32 = 1 << 31;

    /// The same with a pin more; `None` if there are as many as can be counted beside those bits,
    /// of which the handle's at its close is one.
    pub const fn with_pin(attention: u32) -> Option<u32> {
        let pins = attention & !(NOTED | SHARED);
        if pins + 1 >= NOTED - 1 { None } else { Some(attention + PIN) }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn pins_never_become_other_bits() {
            for others in [0, NOTED, SHARED, NOTED | SHARED] {
                assert_eq!(with_pin(others), Some(others | 1));
                assert_eq!(with_pin(others | (NOTED - 3)), Some(others | (NOTED - 2)));
                assert_eq!(with_pin(others | (NOTED - 2)), None);
                assert_eq!(with_pin(others | (NOTED - 1)), None);
            }
        }
    }
}

impl HeapHeader {
    /// What leaving has to look after: 0, or bits of [`attention`].
    #[inline]
    pub fn attention(&self) -> u32 {
        self.attention.load(Ordering::Relaxed)
    }

    /// Replaces it. Called by the runner.
    pub fn set_attention(&self, attention: u32) {
        self.attention.store(attention, Ordering::Relaxed);
    }

    /// The contexts that wait and name it.
    pub fn pins(&self) -> u32 {
        self.attention() & !(attention::NOTED | attention::SHARED)
    }

    /// Whether its parent has ended: it is closed, or whoever enters it next closes it. For
    /// anyone.
    pub fn is_ended_with_parent(&self) -> bool {
        self.runner.is_closed() || self.account.signals() & signal::CLOSE != 0
    }

    /// Whether it ends with its parent.
    pub fn is_shared(&self) -> bool {
        self.attention() & attention::SHARED != 0
    }

    /// Sets a bit of [`attention`]. Called by the runner.
    pub fn attend(&self, bit: u32) {
        self.set_attention(self.attention() | bit);
    }

    /// Clears a bit of [`attention`]; whether it was set. Called by the runner.
    pub fn attended(&self, bit: u32) -> bool {
        let before = self.attention();
        self.set_attention(before & !bit);
        before & bit != 0
    }

    /// Ends the run; if the heap is pinned, the next is this thread's too. Called by the runner.
    #[inline]
    pub fn leave(&self) {
        if self.attention() == 0 {
            self.runner.leave();
        } else {
            self.leave_with_care();
        }
    }

    #[cold]
    fn leave_with_care(&self) {
        if self.pins() != 0 {
            self.runner.leave_bound();
        } else if self.is_shared() {
            self.runner.leave_shared();
        } else {
            self.runner.leave();
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
