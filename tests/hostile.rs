//! Safe code that means harm: what a program may write without `unsafe` must not break the heaps.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/hints.rs"]
mod hints;

use std::alloc::Layout;
use std::hint::black_box;
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use allocator_api2::alloc::Allocator;
use heapswitch::{
    ArenaMemorySource, ArenaSettings, ArenaSizes, Coroutine, Heap, HeapError, HeapSwitch,
    KindSettings, RegionHugePages, RegionMapSource, SavedContext, StackPool, swap_coroutine_local,
};
use hints::HINTS;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

static STACKS: StackPool = StackPool::new(64 << 10, 100);

/// Counts how often it is dropped, and panics the first time.
struct Bomb(&'static AtomicUsize, #[expect(dead_code, reason = "is freed")] String);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
            panic!("first drop");
        }
    }
}

/// What a coroutine captured is dropped once, also where that panics and it was never resumed.
#[test]
fn a_capture_that_panics_when_dropped_is_dropped_once() {
    static DROPS: AtomicUsize = AtomicUsize::new(0);
    let bomb = Bomb(&DROPS, "captured".to_owned());
    let coroutine = Coroutine::<(), (), ()>::with_stack(
        Heap::new().unwrap(),
        STACKS.take().unwrap(),
        move |_, ()| drop(black_box(bomb)),
    );
    let payload = catch_unwind(AssertUnwindSafe(|| drop(coroutine))).unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"first drop"));
    assert_eq!(DROPS.load(Ordering::Relaxed), 1);
}

/// A stack of any size is a stack or an error.
#[test]
fn a_stack_as_large_as_everything_is_an_error() {
    static LARGEST: StackPool = StackPool::new(usize::MAX, 1);
    static LARGE: StackPool = StackPool::new(isize::MAX as usize, 1);
    assert!(LARGEST.take().is_err());
    assert!(LARGE.take().is_err());
}

/// An arena of blocks of so many bytes, in the region, for ever.
fn arena(block_bytes: usize) -> &'static ArenaMemorySource<RegionMapSource> {
    let settings =
        KindSettings { huge_pages: RegionHugePages::System, name: c"arena", is_dumped: true };
    let sizes = ArenaSizes { block_bytes, range_bytes: 4 << 20, maximum_bytes: 1 << 30 };
    let settings = (RegionMapSource::new(settings).unwrap(), ArenaSettings::new(sizes).unwrap());
    Box::leak(Box::new(ArenaMemorySource::new(settings.0, settings.1)))
}

/// Blocks of an arena that are longer than a chunk would be taken for one, and shorter ones never
/// serve.
#[test]
fn a_heap_is_made_on_a_source_of_chunks_only() {
    for hint in HINTS {
        for block_bytes in [32 << 10, 128 << 10, 2 << 20] {
            let builder = Heap::builder().source(arena(block_bytes)).hint(hint);
            assert_eq!(builder.build().unwrap_err(), HeapError::Granule);
        }
        let heap = Heap::builder().source(arena(64 << 10)).hint(hint).build().unwrap();
        let text = || "t".repeat(400);
        let texts: Vec<String> = heap.run(|| (0..5000).map(|_| text()).collect()).unwrap();
        heap.verify().unwrap();
        assert!(heap.contains(texts[0].as_ptr()) && texts.iter().all(|each| *each == text()));
        drop(texts);
        assert_eq!(heap.close().blocks, 0);
    }
}

/// A block that a reset left behind is resized through the same heap: its strategy is gone.
#[test]
fn what_a_reset_left_behind_is_resized_where_it_fits_or_moves() {
    for hint in HINTS {
        for (bytes, grown) in [(64, 72), (64, 4000), (40_000, 50_000), (100_000, 200_000)] {
            let mut heap = Heap::with_hint(hint).unwrap();
            let [old, new] = [bytes, grown].map(|size| Layout::from_size_align(size, 8).unwrap());
            let block = (&heap).allocate(old).unwrap().cast::<u8>();
            // SAFETY: the block is so long.
            unsafe { block.write_bytes(7, bytes) };
            assert_eq!(heap.reset().unwrap().blocks, 1);
            // SAFETY: both blocks are the heap's, and fit the layouts that they are used with.
            unsafe {
                let moved = (&heap).grow(block, old, new).unwrap().cast::<u8>();
                let other = (&heap).allocate(old).unwrap().cast::<u8>();
                assert!((0..bytes).all(|index| moved.add(index).read() == 7));
                heap.verify().unwrap();
                let moved = (&heap).shrink(moved, new, old).unwrap().cast::<u8>();
                assert_eq!(moved.read(), 7);
                (&heap).deallocate(moved, old);
                (&heap).deallocate(other, old);
            }
            heap.verify().unwrap();
            assert_eq!(heap.memory_usage().unwrap().allocated_blocks, 0);
            heap.release_unused().unwrap();
            assert_eq!(heap.memory_usage().unwrap().committed_bytes, 0);
            assert_eq!(heap.account().committed_bytes, 0);
            assert_eq!(heap.close().blocks, 0);
        }
    }
}

/// A heap whose guard was leaked is offered to another thread's slot while its own thread puts it
/// aside: whoever looks at what binds it must be who runs it.
#[test]
fn a_heap_is_swapped_in_while_its_thread_puts_it_aside() {
    let rounds = if cfg!(debug_assertions) { 200 } else { 1000 };
    let (to_there, from_here) = mpsc::channel::<Heap>();
    let there = thread::spawn(move || {
        for heap in from_here {
            match swap_coroutine_local(Some(heap)) {
                Ok(old) => {
                    drop(old);
                    drop(swap_coroutine_local(None));
                }
                Err(refused) => drop(refused.heap),
            }
        }
    });
    for _ in 0..rounds {
        let heap = Heap::new().unwrap();
        let mut context = SavedContext::new();
        let mark = context.resume().unwrap();
        forget(heap.enter().unwrap());
        to_there.send(heap).unwrap();
        context.suspend(mark);
        drop(context);
    }
    drop(to_there);
    there.join().unwrap();
}
