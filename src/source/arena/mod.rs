//! Blocks of one size, cut from the ranges of another source.
//!
//! Taking and giving back are O(1), from any thread, without a lock: one exchange on the free
//! blocks' [stack](index_stack). Only when that is empty, or much of it is idle, the arena's lock
//! is taken, to fetch a range from the inner source or to give ranges back.
//!
//! ```text
//!   inner source    ┌───────── range ─────────┐   ┌───────── range ─────────┐
//!   arena           │ block │ block │ block │ │   │ block │ block │ block │ │
//!   out of line     stack of free blocks' numbers; table from a range's start to its slot
//! ```
//!
//! # When ranges go back
//! [`release_unused`](ArenaMemorySource::release_unused) gives back every range without a taken
//! block. Giving a block back does the same by itself, but keeps one idle range, when the free
//! blocks exceed one range plus half again what the last release left free (two ranges at first,
//! and after each growth): so a user that goes to and fro at a boundary maps nothing, and each
//! release, which looks at every free block, is paid for by a third as many blocks given back.
//!
//! # Why no lock
//! Measured on two noisy cores with one, two and four threads, three runs each: a pair of take and
//! give back took 18 to 47 ns, beside 24 to 90 ns for a `Vec` of free blocks behind a lock, which
//! need not even find a block's number. The stack was ahead in eight of nine.
//!
//! # What it is not for
//! Requests above the block size are refused. A block is never split, and its range goes back only
//! as a whole: one block that lives long keeps a range.

pub mod index_stack;
mod settings;
mod table;
#[cfg(all(test, not(loom), not(heapswitch_pass_through)))]
mod tests;

use core::alloc::Layout;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

pub use settings::{ArenaSettings, ArenaSettingsError, ArenaSizes};

use crate::allocator::{AllocError, MemoryRange, MemorySource, RegionSource};
use crate::numa::{Placement, Residence};
use crate::sys::SystemError;
use crate::sys::fork::{ForkEntry, Rank};
use crate::sys::lock::Lock;
use index_stack::{Chain, IndexStack, Popped};
use table::Table;

/// In a slot's count: the range goes back.
const IS_RELEASED: usize = 1 << 62;
/// In a slot's count: the range is idle and kept.
const IS_KEPT: usize = 1 << 63;

/// Fixed-size blocks from an inner source's ranges; see the [module](self).
///
/// The inner source is only used under the arena's lock, so it need not be `Sync`.
///
/// ```
/// use heapswitch::allocator::MemorySource;
/// use heapswitch::source::{ArenaMemorySource, ArenaSettings, MemoryMapSource};
///
/// # if heapswitch::sys::IS_PASS_THROUGH { return; }
/// let arena = ArenaMemorySource::new(MemoryMapSource::new(), ArenaSettings::DEFAULT);
/// let block = arena.take(core::alloc::Layout::new::<[u8; 1000]>()).unwrap();
/// assert_eq!(block.length, 64 << 10);
/// // SAFETY: taken above, and not used any more.
/// unsafe { arena.give_back(block) };
/// assert_eq!(arena.release_unused(), 1 << 20);
/// ```
#[derive(Debug)]
pub struct ArenaMemorySource<S: MemorySource> {
    free: CachePadded<IndexStack>,
    settings: ArenaSettings,
    /// Null until the first range. INVARIANT: once set, it is a table of `settings`, and changes
    /// and goes only with the arena.
    table: AtomicPtr<u8>,
    /// Free blocks above this start a release.
    release_above: AtomicUsize,
    held_ranges: AtomicUsize,
    source: Lock<S>,
    fork: ForkEntry,
}

impl<S: MemorySource> ArenaMemorySource<S> {
    /// An arena over `source`, without a range yet.
    #[cfg(not(loom))]
    pub const fn new(source: S, settings: ArenaSettings) -> Self {
        Self {
            free: CachePadded::new(IndexStack::new()),
            settings,
            table: AtomicPtr::new(ptr::null_mut()),
            release_above: AtomicUsize::new(2 * settings.range_blocks()),
            held_ranges: AtomicUsize::new(0),
            source: Lock::new(source),
            fork: ForkEntry::new(),
        }
    }

    /// An arena over `source`, without a range yet.
    #[cfg(loom)]
    pub fn new(source: S, settings: ArenaSettings) -> Self {
        Self {
            free: CachePadded::new(IndexStack::new()),
            settings,
            table: AtomicPtr::new(ptr::null_mut()),
            release_above: AtomicUsize::new(2 * settings.range_blocks()),
            held_ranges: AtomicUsize::new(0),
            source: Lock::new(source),
            fork: ForkEntry::new(),
        }
    }

    /// Its settings.
    pub const fn settings(&self) -> &ArenaSettings {
        &self.settings
    }

    /// How many bytes it holds of the inner source, in blocks that are taken or free.
    pub fn held_bytes(&self) -> usize {
        self.held_ranges.load(Ordering::Relaxed) << self.settings.range_shift()
    }

    /// Gives every range without a taken block back to the inner source; how many bytes that were.
    pub fn release_unused(&self) -> usize {
        let source = self.source.lock();
        self.release(&source, 0) << self.settings.range_shift()
    }

    /// Checks that its ranges are found and as many as are held, and that each free block is one of
    /// theirs, free once; aborts if not. Under the arena's lock; who takes a block meanwhile waits.
    pub fn verify(&self) {
        let _source = self.source.lock();
        let held = self.held_ranges.load(Ordering::Relaxed);
        let is_table_sound = self.table().map_or(held == 0, |table| table.is_sound(held));
        let broken = if is_table_sound { self.broken_blocks() } else { Some("its ranges") };
        if let Some(broken) = broken {
            crate::sys::abort_with(&["an arena is corrupted: ", broken]);
        }
    }

    /// What is broken of the free blocks. Under the lock. Where something is, they stay taken.
    fn broken_blocks(&self) -> Option<&'static str> {
        let table = self.table()?;
        let most = self.held_ranges.load(Ordering::Relaxed) << self.settings.range_blocks_shift();
        let chain = self.free.take_all();
        let (depth, mut walk, mut blocks) = (chain.depth(&table), chain.clone(), 0);
        while let Some(free) = walk.next(&table) {
            blocks += 1;
            if blocks > most {
                return Some("more blocks are free than it holds, or one twice");
            }
            if !table.is_entered(free.index) {
                return Some("a block is free of a range that it does not hold");
            }
        }
        if blocks != depth {
            return Some("its free blocks are miscounted");
        }
        // Turned round twice, so that blocks are taken in the order in which they would have been.
        let turned = IndexStack::new();
        let push_all = |mut chain: Chain, stack: &IndexStack| {
            while let Some(free) = chain.next(&table) {
                stack.push(&table, free);
            }
        };
        push_all(chain, &turned);
        push_all(turned.take_all(), &self.free);
        None
    }

    /// On which NUMA nodes the pages of all its ranges lie, those of free blocks too, beside where
    /// the inner source wants them. Under the arena's lock.
    ///
    /// # Errors
    /// The system's: `ENOSYS` where it has no NUMA, `EPERM` where a sandbox forbids to ask.
    pub fn residence(&self) -> Result<Residence, SystemError> {
        let source = self.source.lock();
        let mut residence = Residence::wanted(source.placement().policy);
        let ranges = self.table().into_iter().flat_map(|table| table.ranges());
        for range in ranges {
            residence.count_range(range.start, range.length)?;
            residence.look_up_backing(range.start, range.length);
        }
        Ok(residence)
    }

    /// Takes the arena's lock around every `fork` from now on, so that a child never finds it held
    /// by a thread that it does not have. An inner source that has a lock is registered after this.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn protect_fork(&'static self) -> Result<(), SystemError> {
        self.fork.register(self.source.raw(), Rank::Source)
    }

    /// Whether a taken range of chunks is a block of this arena.
    #[cfg(not(loom))]
    pub(crate) fn is_block(&self, start: NonNull<u8>) -> bool {
        self.table().is_some_and(|table| table.number(start).is_some())
    }

    /// The tables; `None` before the first range.
    #[inline]
    fn table(&self) -> Option<Table<'_>> {
        // Acquire pairs with the Release in `table_or_map`.
        let memory = NonNull::new(self.table.load(Ordering::Acquire))?;
        // SAFETY: the field's invariant.
        Some(unsafe { Table::at(memory, &self.settings) })
    }

    /// The tables. Under the lock.
    fn table_or_map(&self) -> Result<Table<'_>, AllocError> {
        if let Some(table) = self.table() {
            return Ok(table);
        }
        let table = Table::map(&self.settings).map_err(|_| AllocError)?;
        // Release pairs with the Acquire in `table`.
        self.table.store(table.memory().as_ptr(), Ordering::Release);
        Ok(table)
    }

    #[inline]
    fn pop(&self) -> Option<MemoryRange> {
        let table = self.table()?;
        let Popped { index, flag } = self.free.pop(&table)?;
        let start = table.block(index)?;
        Some(MemoryRange { start, length: self.settings.block_bytes(), is_zeroed: flag })
    }

    /// Takes a block where none seemed to be free.
    #[cold]
    fn take_from_new_range(&self) -> Result<MemoryRange, AllocError> {
        let source = self.source.lock();
        // Another thread may have been here, or have given a block back.
        if let Some(block) = self.pop() {
            return Ok(block);
        }
        let range = self.add_range(&source)?;
        let length = self.settings.block_bytes();
        Ok(MemoryRange { start: range.start, length, is_zeroed: range.is_zeroed })
    }

    /// Takes a range from the inner source and pushes every block of it but the first, which is the
    /// caller's.
    fn add_range(&self, source: &S) -> Result<MemoryRange, AllocError> {
        let held = self.held_ranges.load(Ordering::Relaxed);
        let is_full = held >= self.settings.maximum_ranges();
        if is_full || source.granule() > self.settings.block_bytes() {
            return Err(AllocError);
        }
        let table = self.table_or_map()?;
        let bytes = self.settings.range_bytes();
        let request = Layout::from_size_align(bytes, bytes).map_err(|_| AllocError)?;
        let range = source.take(request)?;
        let Some(slot) = table.insert(range) else {
            // SAFETY: taken above.
            unsafe { source.give_back(range) };
            return Err(AllocError);
        };
        self.held_ranges.store(held + 1, Ordering::Relaxed);
        self.release_above.store(2 * self.settings.range_blocks(), Ordering::Relaxed);
        let first = slot << self.settings.range_blocks_shift();
        // Downwards, so that blocks are taken upwards.
        for block in (1..self.settings.range_blocks()).rev() {
            let popped = Popped { index: (first + block) as u32, flag: range.is_zeroed };
            self.free.push(&table, popped);
        }
        Ok(range)
    }

    /// Releases all idle ranges but one, unless the lock is held: its holder is busy with the same.
    #[cold]
    fn release_some(&self) {
        if let Some(source) = self.source.try_lock() {
            self.release(&source, 1);
        }
    }

    /// Gives idle ranges back, all but `kept`; how many. Under the lock.
    ///
    /// The free blocks are taken from the stack as a whole, so for a moment none is free: whoever
    /// takes one then waits for the lock, and looks again.
    fn release(&self, source: &S, kept: usize) -> usize {
        let Some(table) = self.table() else { return 0 };
        #[cfg(heapswitch_check)]
        if let Some(broken) = self.broken_blocks() {
            crate::sys::abort_with(&["an arena is corrupted: ", broken]);
        }
        let blocks = self.settings.range_blocks();
        let chain = self.free.take_all();
        let mut walk = chain.clone();
        while let Some(free) = walk.next(&table) {
            let count = table.count(table.slot(free.index));
            // Relaxed here and below: scratch under the lock.
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        let (mut left_idle, mut left_free, mut released) = (0, 0, 0);
        let mut walk = chain;
        while let Some(free) = walk.next(&table) {
            let slot = table.slot(free.index);
            let mut count = table.count(slot).load(Ordering::Relaxed);
            if count == blocks {
                // The first block of an idle range decides for all.
                let is_kept = left_idle < kept;
                left_idle += usize::from(is_kept);
                count |= if is_kept { IS_KEPT } else { IS_RELEASED };
            }
            let is_released = count & IS_RELEASED != 0;
            count -= 1;
            let is_last = count & !(IS_RELEASED | IS_KEPT) == 0;
            table.count(slot).store(if is_last { 0 } else { count }, Ordering::Relaxed);
            if !is_released {
                self.free.push(&table, free);
                left_free += 1;
            } else if is_last && let Some(range) = table.remove(slot) {
                // SAFETY: the range was taken from this source and entered. Each of its blocks was
                // free, and their numbers were in the chain, which is ours: nobody can take one.
                unsafe { source.give_back(range) };
                released += 1;
            }
        }
        self.held_ranges.fetch_sub(released, Ordering::Relaxed);
        self.release_above.store(left_free + left_free / 2 + blocks, Ordering::Relaxed);
        released
    }
}

// SAFETY: a block is a part of a range of the inner source that no other block overlaps. Its number
// is in the stack or owned by its taker, and the range goes back when all its numbers are in the
// stack. The tables are out of line, so moving the arena moves nothing. Nothing allocates or
// unwinds.
unsafe impl<S: MemorySource> MemorySource for ArenaMemorySource<S> {
    #[inline]
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        let block_bytes = self.settings.block_bytes();
        if request.size() > block_bytes || request.align() > block_bytes {
            return Err(AllocError);
        }
        match self.pop() {
            Some(block) => Ok(block),
            None => self.take_from_new_range(),
        }
    }

    #[inline]
    unsafe fn give_back(&self, range: MemoryRange) {
        let table = self.table();
        let number = table.and_then(|table| table.number(range.start));
        let (Some(table), Some(index)) = (table, number) else { foreign_block() };
        // Its contents are unknown now.
        let free = self.free.push(&table, Popped { index, flag: false });
        // Relaxed: a threshold, it orders nothing.
        if free > self.release_above.load(Ordering::Relaxed) {
            self.release_some();
        }
    }

    fn granule(&self) -> usize {
        self.settings.block_bytes()
    }

    fn placement(&self) -> Placement {
        self.source.lock().placement()
    }

    fn protect_fork(&'static self) -> Result<(), SystemError> {
        ArenaMemorySource::protect_fork(self)
    }
}

// SAFETY: ranges of a `RegionSource` are whole chunks of the region, and multiples of its granule,
// which is at least a chunk. Blocks are at least that granule, a power of two, and aligned to their
// size. The stack and the lock let any thread give one back.
unsafe impl<S: RegionSource + Send> RegionSource for ArenaMemorySource<S> {}

impl<S: MemorySource> Drop for ArenaMemorySource<S> {
    /// Gives idle ranges back. A range with a taken block stays taken from the inner source: its
    /// user may still write to it.
    fn drop(&mut self) {
        self.release_unused();
        if let Some(table) = self.table() {
            // SAFETY: the arena is borrowed alone, and `table` is its last use.
            unsafe { table.unmap() };
        }
    }
}

#[cold]
#[inline(never)]
fn foreign_block() -> ! {
    crate::sys::abort_with(&["a block was given back to an arena that it is not from"])
}
