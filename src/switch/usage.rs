//! What this thread's allocators and the process hold.

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::configuration::GLOBAL_COUNTERS;
use super::in_use::CurrentAllocatorInUse;
use super::state::state;
use crate::allocator::MemoryUsage;
use crate::heap::{self, HeapHeader};
use crate::region;

fn usage_of_heap(heap: Option<NonNull<HeapHeader>>) -> MemoryUsage {
    match heap {
        // SAFETY: heaps that the state names are run by this thread.
        Some(heap) => unsafe { (heap.as_ref().operations.usage)(heap) },
        None => MemoryUsage::default(),
    }
}

/// What one of this thread's allocators holds: its coroutine-local heap, its own, or the process's
/// global allocator.
pub fn usage_of(allocator: CurrentAllocatorInUse) -> MemoryUsage {
    let state = state();
    match allocator {
        CurrentAllocatorInUse::CoroutineLocal => usage_of_heap(state.contexts.top().heap),
        CurrentAllocatorInUse::ThreadLocal => usage_of_heap(state.thread_heap.get()),
        CurrentAllocatorInUse::Global => {
            let counted = |counter: &core::sync::atomic::AtomicU64| {
                usize::try_from(counter.load(Ordering::Relaxed)).unwrap_or(0)
            };
            MemoryUsage {
                allocated_bytes: counted(&GLOBAL_COUNTERS.live_bytes),
                allocated_blocks: counted(&GLOBAL_COUNTERS.live_blocks),
                ..MemoryUsage::default()
            }
        }
    }
}

/// Figures of the whole process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessUsage {
    /// The region.
    pub region: region::RegionUsage,
    /// Bytes in records: headers, bit maps, accounts.
    pub metadata_bytes: usize,
    /// Bytes that the global allocator served since the start.
    pub global_bytes: u64,
    /// Blocks that the global allocator served because the heap in use had no memory.
    pub overflow_blocks: u64,
    /// Heaps dropped while they ran on another thread.
    pub leaked_heaps: u64,
    /// Blocks that were freed to heaps which other threads ran when this process was forked: those
    /// threads are the parent's alone, so nobody collects them.
    pub lost_blocks: u64,
    /// Heaps of ended threads that wait for a new thread.
    pub abandoned_heaps: usize,
    /// Times that a thread was found, on a slow path, on another NUMA node than its home: the
    /// scheduler moved it. Once for each stay away.
    pub moved_threads: u64,
    /// Threads that allocated, or freed what others had allocated, since the start.
    pub threads_started: u64,
    /// Heaps that were made for threads; new threads take over those of ended ones.
    pub thread_heaps: usize,
    /// Allocations in threads' heaps that no list of free blocks could serve.
    pub slow_allocations: u64,
    /// Blocks in threads' heaps that other threads freed, as far as they were collected.
    pub foreign_frees: u64,
}

/// What the process holds.
pub fn process_usage() -> ProcessUsage {
    let census = heap::census::take();
    ProcessUsage {
        region: region::usage(),
        metadata_bytes: region::metadata_bytes_held(),
        global_bytes: GLOBAL_COUNTERS.total_bytes.load(Ordering::Relaxed),
        overflow_blocks: GLOBAL_COUNTERS.overflow_blocks.load(Ordering::Relaxed),
        leaked_heaps: GLOBAL_COUNTERS.leaked_heaps.load(Ordering::Relaxed),
        lost_blocks: heap::lost::lost_blocks(),
        abandoned_heaps: heap::abandoned::abandoned_heaps(),
        moved_threads: GLOBAL_COUNTERS.moved_threads.load(Ordering::Relaxed),
        threads_started: super::life::threads_started(),
        thread_heaps: census.heaps,
        slow_allocations: census.slow_allocations,
        foreign_frees: census.foreign_frees,
    }
}

/// Hands over at once what this thread freed in heaps of others. Otherwise that happens on slow
/// paths, when a scope is left, and when the thread ends.
pub fn flush_foreign_frees() {
    state().batches.flush();
}

/// Gives all memory of the process that no heap needs back to the kernel, whoever sleeps: what
/// [`collect`] gives back, and all that lay free already. The bytes of the chunks that went to the
/// kernel: what was touched of them was in memory.
///
/// What sleeping threads hold in magazines and batches stays: ARCHITECTURE.md says how much that is
/// at most. Contexts' heaps are not entered.
pub fn purge() -> usize {
    collect();
    region::purge()
}

/// Takes what other threads freed in this thread's own heap and in all other threads', running or
/// ended, and gives what is empty there back, for any thread and context to use next; the bytes.
/// What lies between blocks goes to the kernel.
///
/// Heaps of threads whose strategy is not the slab are entered where they are this thread's own or
/// their thread has ended.
pub fn collect() -> usize {
    let state = state();
    let before = region::usage().taken_bytes;
    state.batches.flush();
    if let Some(heap) = state.thread_heap.get() {
        // SAFETY: the thread runs its own heap.
        unsafe { (heap.as_ref().operations.release_unused)(heap, 0) };
    }
    if let Ok(token) = super::handle::token() {
        heap::abandoned::release_unused(token);
    }
    heap::decay::collect_everywhere();
    before.saturating_sub(region::usage().taken_bytes)
}
