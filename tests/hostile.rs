//! Safe code that means harm: what a program may write without `unsafe` must not break the heaps.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/hints.rs"]
mod hints;

use std::alloc::{Layout, alloc, dealloc, realloc};
use std::borrow::Borrow;
use std::cell::Cell;
use std::future::Future;
use std::hint::black_box;
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;

use allocator_api2::alloc::Allocator;
use heapswitch::sys::fault;
use heapswitch::{
    ArenaMemorySource, ArenaSettings, ArenaSizes, Coroutine, CurrentAllocatorInUse, FutureExt,
    Heap, HeapError, HeapSwitch, KindSettings, RegionHugePages, RegionMapSource, SavedContext,
    StackPool, current, flush_foreign_frees, purge, swap_coroutine_local,
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
    let settings = KindSettings {
        placement: heapswitch::numa::Placement::DEFAULT,
        huge_pages: RegionHugePages::System,
        name: c"arena",
        is_dumped: true,
    };
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

fn boxes(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| vec![number as u8; 1 + number * 37 % 3000]).collect()
}

/// Two threads free what a heap made while its own thread closes it, or ends it by a reset.
#[test]
fn others_free_while_the_owner_closes() {
    let rounds = if cfg!(debug_assertions) { 30 } else { 200 };
    let watch = Heap::new().unwrap();
    for round in 0..rounds {
        let mut heap = Heap::builder().hint(HINTS[round % 3]).parent(&watch).build().unwrap();
        let halves = heap.run(|| [boxes(300), boxes(300)]).unwrap();
        let start = Barrier::new(3);
        let start = &start;
        thread::scope(|scope| {
            for half in halves {
                scope.spawn(move || {
                    start.wait();
                    for (number, each) in half.into_iter().enumerate() {
                        assert!(each.iter().all(|&byte| byte == number as u8));
                    }
                    // The scope does not wait for what the thread does at its very end.
                    flush_foreign_frees();
                });
            }
            start.wait();
            if round % 2 == 0 {
                heap.reset().unwrap();
            }
            heap.close();
        });
        assert_eq!(watch.account().committed_bytes, 0);
    }
}

/// An account lasts until the last of what is charged to it is free, whoever is gone by then.
#[test]
fn orphans_outlive_the_heaps_that_they_are_charged_to() {
    for hint in HINTS {
        let grandparent = Heap::new().unwrap();
        let parent = Heap::builder().charged_to(&grandparent.account_handle()).build().unwrap();
        let above = parent.account_handle();
        let heap = Heap::builder().hint(hint).charged_to(&above).build().unwrap();
        drop(above);
        let text = heap.run(|| "orphan".repeat(10)).unwrap();
        drop(parent);
        assert_eq!(heap.close().blocks, 1);
        assert_eq!(grandparent.account().committed_bytes, 64 << 10);
        drop(grandparent);
        thread::spawn(move || assert_eq!(text, "orphan".repeat(10))).join().unwrap();
    }
}

/// Blocks that are aligned to more than a page, to a chunk, to more, keep that and their contents
/// when they are resized by their owner and by others.
#[test]
fn over_aligned_blocks_are_resized() {
    for align in [16, 4096, 8192, 64 << 10, 256 << 10] {
        let heap = Heap::new().unwrap();
        let check = |block: *mut u8, bytes: usize| {
            assert!(block.addr().is_multiple_of(align));
            // SAFETY: the block is so long, and filled.
            assert!((0..bytes).step_by(97).all(|at| unsafe { block.add(at).read() } == 5));
        };
        let sizes = [100, 5000, 100_000, 300_000, 70_000, 50];
        let resize_all = |mut block: *mut u8, mut bytes: usize| {
            for size in sizes {
                let layout = Layout::from_size_align(bytes, align).unwrap();
                // SAFETY: the block was allocated with that layout.
                block = unsafe { realloc(block, layout, size) };
                check(block, bytes.min(size));
                // SAFETY: the block is so long.
                unsafe { block.write_bytes(5, size) };
                bytes = size;
            }
            block
        };
        let layout = Layout::from_size_align(100, align).unwrap();
        let make = || {
            // SAFETY: the layout is not empty.
            let block = unsafe { alloc(layout) };
            // SAFETY: the block is so long.
            unsafe { block.write_bytes(5, 100) };
            block
        };
        let here = heap.run(|| resize_all(make(), 100)).unwrap();
        let there = resize_all(heap.run(make).unwrap(), 100);
        let last = Layout::from_size_align(50, align).unwrap();
        // SAFETY: both are allocated, with that layout at last.
        [here, there].iter().for_each(|&block| unsafe { dealloc(block, last) });
        assert_eq!(heap.close().blocks, 0);
    }
}

/// Memory whose pages the kernel did not take back is not known to be zero.
#[test]
fn zeroed_memory_is_zero_also_where_giving_back_fails() {
    for hint in HINTS {
        for bytes in [3000, 30_000, 400_000] {
            let fill = || {
                let heap = Heap::with_hint(hint).unwrap();
                let dirty: Vec<Vec<u8>> = heap.run(|| vec![vec![0xFF; bytes]; 4]).unwrap();
                // One survivor: the others' pages are dropped at the close, or were to be.
                let mut dirty = dirty.into_iter();
                let survivor = dirty.next();
                drop(dirty);
                drop(heap);
                survivor
            };
            fault::fail_from(fault::Call::Advise, 0);
            let survivor = fill();
            purge();
            let heap = Heap::with_hint(hint).unwrap();
            let zeroed = heap.run(|| [(); 8].map(|()| vec![0_u8; bytes])).unwrap();
            fault::clear(fault::Call::Advise);
            assert!(zeroed.iter().flatten().all(|&byte| byte == 0));
            assert!(survivor.unwrap().iter().all(|&byte| byte == 0xFF));
        }
    }
}

/// Borrows another heap each time that it is asked.
struct Fickle([Heap; 2], Cell<usize>);

impl Borrow<Heap> for Fickle {
    fn borrow(&self) -> &Heap {
        self.1.set(self.1.get() + 1);
        &self.0[self.1.get() % 2]
    }
}

/// A wrapper whose heap changes from one question to the next enters and leaves the same one.
#[test]
fn a_future_in_a_heap_that_changes() {
    let text = |number: usize| format!("{number}").repeat(100);
    let fickle = Fickle([Heap::new().unwrap(), Heap::new().unwrap()], Cell::new(0));
    let mut polls = 0;
    let mut held = Vec::new();
    let future = std::future::poll_fn(move |_| {
        polls += 1;
        held.push(text(polls));
        if polls < 9 { Poll::Pending } else { Poll::Ready(held.clone()) }
    });
    let mut future = Box::pin(future.in_heap(fickle));
    let mut context = Context::from_waker(Waker::noop());
    let ready = loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(ready) => break ready.unwrap(),
            Poll::Pending => assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal),
        }
    };
    drop(future);
    assert!(ready.iter().enumerate().all(|(index, each)| *each == text(index + 1)));
}

/// A coroutine that will not end when it is dropped: it catches its unwinding and suspends again,
/// in scopes whose guards it forgets.
#[test]
fn a_coroutine_that_resists_its_end() {
    let inner: &'static Heap = Box::leak(Box::new(Heap::new().unwrap()));
    let mut coroutine = Coroutine::<(), String, ()>::with_stack(
        Heap::new().unwrap(),
        STACKS.take().unwrap(),
        move |yielder, ()| {
            for round in 0..20 {
                let resisted = catch_unwind(AssertUnwindSafe(|| {
                    let scope = inner.enter();
                    yielder.suspend(format!("round {round}"));
                    forget(scope);
                }));
                black_box(resisted.is_err());
            }
        },
    );
    for _ in 0..5 {
        assert!(coroutine.resume(()).unwrap().as_yield().is_some());
    }
    drop(coroutine);
    assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
    assert!(inner.run(|| inner.contains((&raw const *Box::new(1_u8)).cast())).unwrap());
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
