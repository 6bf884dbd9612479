//! The sources that the macro is told, with the allocator really installed: contexts' and threads'
//! chunks come from them and go back to them.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/child.rs"]
mod child;

use std::alloc::Layout;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use heapswitch::allocator::{AllocError, MemoryRange, MemorySource, RegionSource};
use heapswitch::sys::SystemError;
use heapswitch::{
    ArenaMemorySource, ArenaSettings, Heap, LifetimeHint, RegionMapSource, flush_foreign_frees,
    owner_of, process_usage, thread_heap_id,
};

/// The most that all threads' heaps together have in chunks.
const MAXIMUM_BYTES: usize = 16 << 20;

heapswitch::global_thread_and_coroutine_switchable_allocator! {
    coroutine_source = CONTEXTS,
    thread_source = arena(range_bytes = 2 MiB, maximum_bytes = 16 MiB),
}

/// An arena of the program's own, that tells what becomes of it.
#[derive(Debug)]
struct Watched {
    arena: ArenaMemorySource<RegionMapSource>,
    taken_bytes: AtomicUsize,
    is_protected: AtomicBool,
}

static CONTEXTS: Watched = Watched {
    arena: ArenaMemorySource::new(RegionMapSource::CONTEXTS, ArenaSettings::DEFAULT),
    taken_bytes: AtomicUsize::new(0),
    is_protected: AtomicBool::new(false),
};

// SAFETY: every method is the arena's, but for what is counted beside it.
unsafe impl MemorySource for Watched {
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        assert!(self.is_protected.load(Ordering::Relaxed));
        let range = self.arena.take(request)?;
        self.taken_bytes.fetch_add(range.length, Ordering::Relaxed);
        Ok(range)
    }

    unsafe fn give_back(&self, range: MemoryRange) {
        self.taken_bytes.fetch_sub(range.length, Ordering::Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { self.arena.give_back(range) };
    }

    fn granule(&self) -> usize {
        self.arena.granule()
    }

    fn protect_fork(&'static self) -> Result<(), SystemError> {
        self.is_protected.store(true, Ordering::Relaxed);
        self.arena.protect_fork()
    }
}

// SAFETY: ranges are the arena's.
unsafe impl RegionSource for Watched {}

fn taken_bytes() -> usize {
    CONTEXTS.taken_bytes.load(Ordering::Relaxed)
}

/// One after the other: they tell apart what each takes.
#[test]
fn chunks_come_from_the_sources_that_were_named() {
    contexts_take_from_the_programs_own();
    what_the_arena_has_not_is_the_global_allocators();
    threads_take_from_their_arena_up_to_its_bound();
    a_child_of_a_fork_goes_on_with_both();
}

fn contexts_take_from_the_programs_own() {
    assert_eq!((taken_bytes(), CONTEXTS.arena.held_bytes()), (0, 0));
    for hint in [None, Some(LifetimeHint::Medium), Some(LifetimeHint::Long)] {
        let heap = match hint {
            None => Heap::new().unwrap(),
            Some(hint) => Heap::with_hint(hint).unwrap(),
        };
        let texts = heap.run(|| (0..1000).map(|n| "t".repeat(n)).collect::<Vec<_>>()).unwrap();
        let held = heap.memory_usage().unwrap().committed_bytes;
        assert!(held > 500_000 && taken_bytes() == held, "{held} of {}", taken_bytes());
        assert!(heap.contains(texts[999].as_ptr()));
        assert_eq!(heap.close().kept_bytes, taken_bytes());
        drop(texts);
        flush_foreign_frees();
        assert_eq!(taken_bytes(), 0);
    }
    CONTEXTS.arena.release_unused();
    assert_eq!(CONTEXTS.arena.held_bytes(), 0);
}

/// It has chunks and nothing longer.
fn what_the_arena_has_not_is_the_global_allocators() {
    let before = process_usage().overflow_blocks;
    let heap = Heap::new().unwrap();
    let large = heap.run(|| vec![1_u8; 100_000]).unwrap();
    assert!(!heap.contains(large.as_ptr()) && owner_of(large.as_ptr()).is_none());
    assert_eq!(process_usage().overflow_blocks, before + 1);
}

fn threads_take_from_their_arena_up_to_its_bound() {
    thread::spawn(|| {
        drop(std::hint::black_box(Box::new(1_u8))); // Now the thread has a heap.
        let own = thread_heap_id();
        let is_own = |block: *const u8| own.is_some() && owner_of(block) == own;
        let region_before = process_usage().region.taken_bytes;
        let before = process_usage().overflow_blocks;
        let blocks: Vec<Box<[u8; 1000]>> =
            (0..2 * MAXIMUM_BYTES / 1000).map(|n| Box::new([n as u8; 1000])).collect();
        let served = blocks.iter().filter(|block| is_own(block.as_ptr())).count() * 1000;
        assert!(served > MAXIMUM_BYTES / 4 * 3 && served <= MAXIMUM_BYTES, "{served}");
        assert!(process_usage().overflow_blocks > before);
        // The arena takes from the region, and the runs of longer blocks are the region's.
        assert!(process_usage().region.taken_bytes <= region_before + 2 * MAXIMUM_BYTES);
        let mut large = vec![1_u8; 3 << 20];
        assert!(is_own(large.as_ptr()));
        large.resize(8 << 20, 2);
        assert!(is_own(large.as_ptr()) && large[3 << 20] == 2);
        let start = large.as_ptr();
        large.truncate(1 << 20);
        large.shrink_to_fit();
        assert!(large.as_ptr() == start, "a block moved to shrink");
        // One chunk, and not the arena's: that aligns to no more than that.
        let aligned = Layout::from_size_align(1000, 256 << 10).unwrap();
        // SAFETY: the layout is not empty; the block is freed with it.
        unsafe {
            let block = std::alloc::alloc_zeroed(aligned);
            assert!(is_own(block) && block.addr().is_multiple_of(256 << 10));
            std::alloc::dealloc(block, aligned);
        }
        assert!(blocks.iter().enumerate().all(|(n, block)| **block == [n as u8; 1000]));
        drop((large, blocks));
        // What was freed serves again.
        let again: Vec<Box<[u8; 1000]>> = (0..8000).map(|_| Box::new([1; 1000])).collect();
        assert!(again.iter().all(|block| is_own(block.as_ptr())));
    })
    .join()
    .unwrap();
}

/// While other threads hold the arenas' locks now and then.
fn a_child_of_a_fork_goes_on_with_both() {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let heap = Heap::new().unwrap();
                    drop(heap.run(|| vec![vec![1_u8; 1000]; 3000]).unwrap());
                    heap.close();
                    CONTEXTS.arena.release_unused();
                    drop(vec![vec![1_u8; 1000]; 3000]);
                }
            });
        }
        for _ in 0..40 {
            child::in_child(|| {
                let heap = Heap::new().unwrap();
                let kept = heap.run(|| vec![vec![1_u8; 1000]; 2000]).unwrap();
                let outside = vec![vec![2_u8; 1000]; 2000];
                CONTEXTS.arena.release_unused();
                kept.len() == outside.len() && heap.contains(kept[1999].as_ptr())
            });
        }
        is_over.store(true, Ordering::Relaxed);
    });
}
