//! What the sanitizers and memcheck have to report with the allocator installed. The ignored tests
//! are wrong on purpose: `.ci/break-detectors` runs each and wants the report.

#[cfg(heapswitch_asan)]
mod child;

use std::hint::black_box;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

use heapswitch::{Heap, HeapSwitch};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// Reads a block of a context after its free. AddressSanitizer must report it.
#[test]
#[ignore = "wrong on purpose"]
fn seeded_use_after_free() {
    let heap = Heap::new().unwrap();
    heap.run(|| {
        let block = Box::into_raw(Box::new(black_box(7_u64)));
        // SAFETY: the block is the box's; the read after its free is the seeded mistake.
        let read = unsafe {
            drop(Box::from_raw(block));
            black_box(block).read_volatile()
        };
        black_box(read);
    })
    .unwrap();
}

/// Asks what nobody wrote. Memcheck must report it, with the allocator there.
#[test]
#[ignore = "wrong on purpose"]
fn seeded_uninitialized() {
    let mut numbers = MaybeUninit::<[u64; 8]>::uninit();
    // SAFETY: none: the read is the seeded mistake.
    let read = unsafe { black_box(numbers.as_mut_ptr()).cast::<u64>().read_volatile() };
    let text = if read == 7 { "seven" } else { "another" };
    black_box(text.repeat(10));
}

/// Two threads change a block of a context without an order. ThreadSanitizer must report it.
#[test]
#[ignore = "wrong on purpose"]
fn seeded_race() {
    let heap = Heap::new().unwrap();
    let mut block = heap.run(|| Box::new(0_u64)).unwrap();
    let address = (&raw mut *block).expose_provenance();
    // Both threads live at once: one that ends hands its heap, and an order, to the next.
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let change = move || {
        drop(black_box(vec![0_u8; 100]));
        STARTED.fetch_add(1, Ordering::Relaxed);
        while STARTED.load(Ordering::Relaxed) < 2 {
            std::thread::yield_now();
        }
        let shared = std::ptr::with_exposed_provenance_mut::<u64>(address);
        for _ in 0..1000 {
            // SAFETY: the block outlives both threads; the race is the seeded mistake.
            unsafe { shared.write_volatile(shared.read_volatile() + 1) };
        }
    };
    let threads = [std::thread::spawn(change), std::thread::spawn(change)];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    black_box(block);
}

/// Two coroutines do, each of which ran on another thread before.
#[test]
#[ignore = "wrong on purpose"]
fn seeded_race_of_coroutines() {
    let mut block = Box::new(0_u64);
    let address = (&raw mut *block).expose_provenance();
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let make = || {
        let body = move |yielder: &heapswitch::Yielder<'_, (), ()>, ()| {
            yielder.suspend(());
            STARTED.fetch_add(1, Ordering::Relaxed);
            while STARTED.load(Ordering::Relaxed) < 2 {
                std::thread::yield_now();
            }
            let shared = std::ptr::with_exposed_provenance_mut::<u64>(address);
            for _ in 0..1000 {
                // SAFETY: the block outlives both threads; the race is the seeded mistake.
                unsafe { shared.write_volatile(shared.read_volatile() + 1) };
            }
        };
        let mut coroutine = heapswitch::Coroutine::new(Heap::new().unwrap(), body).unwrap();
        coroutine.resume(()).unwrap();
        // SAFETY: it holds nothing but a number, and uses no thread-local variable.
        unsafe { coroutine.assume_send() }
    };
    let threads = [(); 2].map(|()| {
        let mut coroutine = make();
        std::thread::spawn(move || coroutine.resume(()).unwrap())
    });
    for thread in threads {
        thread.join().unwrap().as_return().unwrap();
    }
    black_box(block);
}

/// Another thread frees what a heap made, and hands it over; nothing else orders the two, so the
/// heap's stack of such blocks does.
fn blocks_come_back() {
    static STEP: AtomicUsize = AtomicUsize::new(0);
    let wait_for = |step| {
        while STEP.load(Ordering::Relaxed) != step {
            std::thread::yield_now();
        }
    };
    let heap = Heap::with_hint(heapswitch::LifetimeHint::Medium).unwrap();
    let blocks: Vec<_> = heap.run(|| (0..40_usize).map(|n| Box::new([n; 8])).collect()).unwrap();
    let other = std::thread::spawn(move || {
        let blocks = black_box(blocks);
        blocks.into_iter().for_each(drop);
        heapswitch::flush_foreign_frees();
        STEP.store(1, Ordering::Relaxed);
        // Not ended: that would be an order.
        wait_for(2);
    });
    wait_for(1);
    heap.run(|| drop(black_box(vec![0_u8; 100]))).unwrap();
    assert_eq!(heap.memory_usage().unwrap().allocated_blocks, 0);
    STEP.store(2, Ordering::Relaxed);
    other.join().unwrap();
}

#[test]
fn blocks_come_back_without_a_race() {
    blocks_come_back();
}

/// The allocator's own step without its order. ThreadSanitizer must report it.
#[test]
#[ignore = "wrong on purpose"]
#[cfg(heapswitch_weaken)]
fn seeded_race_of_the_stack() {
    heapswitch::sync::weaken("foreign_stack_push");
    blocks_come_back();
}

/// Each way for a block to be freed, in each kind of heap: a read of its first or last byte is
/// reported.
#[cfg(heapswitch_asan)]
mod use_after_free {
    use heapswitch::__private::strategy;
    use heapswitch::LifetimeHint;

    use super::*;

    fn heaps() -> [(&'static str, Heap); 4] {
        let hinted = |hint| Heap::with_hint(hint).unwrap();
        [
            ("bump", hinted(LifetimeHint::Short)),
            ("bits", hinted(LifetimeHint::Medium)),
            ("trees", hinted(LifetimeHint::Long)),
            ("slab", Heap::builder().build_kind::<strategy::Slab>(()).unwrap()),
        ]
    }

    const LENGTH: usize = 100;

    fn text() -> Vec<u8> {
        black_box(vec![7; LENGTH])
    }

    /// Reads what `free` freed: the byte at `index`.
    fn is_reported(test: &str, index: usize, free: impl Fn(Heap, Vec<u8>)) {
        for (name, heap) in heaps() {
            let test = format!("use_after_free::{test}");
            let case = format!("{name}-{index}");
            child::fails_with(&test, &case, "use-after-poison", || {
                let block = heap.run(text).unwrap();
                let byte = block.as_ptr().wrapping_add(index);
                free(heap, block);
                // SAFETY: none: the process has to stop here.
                black_box(unsafe { black_box(byte).read_volatile() });
            });
        }
    }

    #[test]
    fn by_the_runner() {
        for index in [0, LENGTH - 1] {
            is_reported("by_the_runner", index, |heap, block| {
                heap.run(|| drop(block)).unwrap();
                std::mem::forget(heap);
            });
        }
    }

    #[test]
    fn by_another_thread() {
        // The first 8 bytes are the link to the next such block.
        for index in [8, LENGTH - 1] {
            is_reported("by_another_thread", index, |heap, block| {
                std::thread::spawn(|| drop(block)).join().unwrap();
                std::mem::forget(heap);
            });
        }
    }

    #[test]
    fn by_another_thread_and_collected() {
        for index in [0, LENGTH - 1] {
            is_reported("by_another_thread_and_collected", index, |heap, block| {
                std::thread::spawn(|| drop(block)).join().unwrap();
                heap.release_unused().unwrap();
                std::mem::forget(heap);
            });
        }
    }

    #[test]
    fn in_a_closed_heap() {
        for index in [0, LENGTH - 1] {
            is_reported("in_a_closed_heap", index, |heap, block| {
                let survivor = heap.run(text).unwrap();
                heap.close();
                drop(block);
                std::mem::forget(survivor);
            });
        }
    }

    #[test]
    fn with_the_heap() {
        for index in [0, LENGTH - 1] {
            is_reported("with_the_heap", index, |heap, block| {
                heap.run(|| drop(block)).unwrap();
                heap.close();
            });
        }
    }
}
