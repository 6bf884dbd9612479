//! Blocks that somebody else than their heap's runner resizes, where the new size cannot be had:
//! null, and the block stays what and whose it was. The heap runs on another thread, is suspended,
//! was reset, or is closed.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/hints.rs"]
mod hints;

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;
use std::thread;

use heapswitch::{
    Coroutine, Heap, HeapId, HeapSwitch, LifetimeHint, flush_foreign_frees, owner_of,
    thread_heap_id, with_global,
};
use hints::HINTS;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// In each kind of heap one page and less, a chunk and less, and runs of chunks.
const SIZES: [usize; 4] = [24, 5000, 40_000, 200_000];
const ALIGNS: [usize; 2] = [1, 8192];

/// A block and the heap that it must stay in. Sent to who resizes it.
#[derive(Clone, Copy, Debug)]
struct Lent {
    start: NonNull<u8>,
    layout: Layout,
    owner: HeapId,
}

// SAFETY: one thread at a time has it, and any may read, resize and free a block.
unsafe impl Send for Lent {}

impl Lent {
    /// A block of the heap that is current, filled.
    fn new(layout: Layout) -> Self {
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { GLOBAL.alloc(layout) }).unwrap();
        // SAFETY: the block is so long.
        unsafe { start.write_bytes(0x5A, layout.size()) };
        Self { start, layout, owner: owner_of(start.as_ptr()).unwrap() }
    }

    /// The block's bytes are as they were written, as far as `bytes`.
    fn is_whole(start: *mut u8, bytes: usize) -> bool {
        // SAFETY: the block is at least so long, and written when it was made.
        unsafe { std::slice::from_raw_parts(start, bytes) }.iter().all(|&byte| byte == 0x5A)
    }

    /// Asks for more than there is, then for what there is: freed is the block that was moved.
    fn resize(self, what: &str) {
        let Self { start, layout, owner } = self;
        let bytes = layout.size();
        assert_ne!(thread_heap_id(), Some(owner), "{what}: no other's");
        // A bit below the largest: it would overflow where it is rounded up to the alignment.
        let largest = isize::MAX as usize - (layout.align() - 1);
        for wanted in [1 << 45, 1 << 62, largest] {
            // SAFETY: the block is allocated with this layout, and kept where null is returned.
            let moved = unsafe { GLOBAL.realloc(start.as_ptr(), layout, wanted) };
            assert!(moved.is_null(), "{what}: {wanted} bytes were granted");
            assert_eq!(owner_of(start.as_ptr()), Some(owner), "{what}");
            assert!(Self::is_whole(start.as_ptr(), bytes), "{what}: the old block was changed");
        }
        // SAFETY: the block is still allocated; the new one is so long and freed once.
        unsafe {
            let moved = GLOBAL.realloc(start.as_ptr(), layout, 2 * bytes + (64 << 10));
            assert_eq!(owner_of(moved), thread_heap_id(), "{what}: not where it has to go");
            assert!(Self::is_whole(moved, bytes), "{what}: lost when it was moved");
            let moved_layout = Layout::from_size_align(2 * bytes + (64 << 10), layout.align());
            GLOBAL.dealloc(moved, moved_layout.unwrap());
        }
        flush_foreign_frees();
    }

    /// As `resize`, by another thread; by another in a context of its own.
    fn resize_elsewhere(self, is_in_context: bool, what: &str) {
        let resize = move || {
            drop(std::hint::black_box(Box::new(1)));
            if is_in_context {
                Heap::new().unwrap().run(|| self.resize(what)).unwrap();
            } else {
                self.resize(what);
            }
        };
        // What makes the thread is nobody's of those that are looked at.
        with_global(|| thread::scope(|scope| scope.spawn(resize).join().unwrap())).unwrap();
    }
}

/// Calls `case` with each kind of heap that contexts have and each kind of block in it, the heap
/// charged to one that has to hold nothing when all is over.
fn with_each(case: impl Fn(Heap, Layout, bool, &str)) {
    for hint in HINTS {
        for size in SIZES {
            for align in ALIGNS {
                for is_in_context in [false, true] {
                    let what = format!("{hint:?}, {size} bytes at {align}, {is_in_context}");
                    let watch = Heap::with_hint(LifetimeHint::Short).unwrap();
                    let heap = Heap::builder().hint(hint).parent(&watch).build().unwrap();
                    let layout = Layout::from_size_align(size, align).unwrap();
                    case(heap, layout, is_in_context, &what);
                    assert_eq!(watch.account().committed_bytes, 0, "{what}: lost");
                }
            }
        }
    }
}

#[test]
fn of_a_heap_that_runs_on_another_thread() {
    with_each(|heap, layout, is_in_context, what| {
        let block = heap
            .run(|| {
                let block = Lent::new(layout);
                block.resize_elsewhere(is_in_context, what);
                block
            })
            .unwrap();
        assert_eq!(block.owner, heap.id());
        // Entering collects what was freed by others.
        heap.run(|| ()).unwrap();
        heap.verify().unwrap();
        assert_eq!(heap.memory_usage().unwrap().allocated_blocks, 0, "{what}");
        assert_eq!(heap.close().blocks, 0, "{what}");
    });
}

#[test]
fn of_a_suspended_coroutine() {
    with_each(|heap, layout, is_in_context, what| {
        let mut coroutine = Coroutine::<(), Lent, ()>::new(heap, move |yielder, ()| {
            // The body goes on with the second when the first was resized twice.
            yielder.suspend(Lent::new(layout));
            yielder.suspend(Lent::new(layout));
        })
        .unwrap();
        let mut next = || coroutine.resume(()).unwrap().as_yield();
        next().unwrap().resize_elsewhere(is_in_context, what);
        // By its own thread: between two runs a heap has no runner.
        let block = next().unwrap();
        if is_in_context {
            Heap::new().unwrap().run(|| block.resize(what)).unwrap();
        } else {
            block.resize(what);
        }
        assert!(next().is_none());
        coroutine.heap().verify().unwrap();
        assert_eq!(coroutine.heap().memory_usage().unwrap().allocated_blocks, 0, "{what}");
    });
}

#[test]
fn of_a_heap_that_was_reset() {
    with_each(|mut heap, layout, is_in_context, what| {
        let blocks = heap.run(|| [(); 2].map(|()| Lent::new(layout))).unwrap();
        assert_eq!(heap.reset().unwrap().blocks, 2);
        // Its owner is the runner, and the block no longer the strategy's.
        heap.run(|| {
            blocks[0].resize_elsewhere(is_in_context, what);
        })
        .unwrap();
        blocks[1].resize_elsewhere(is_in_context, what);
        heap.verify().unwrap();
        assert_eq!(heap.close().blocks, 0, "{what}");
    });
}

#[test]
fn of_a_closed_heap() {
    with_each(|heap, layout, is_in_context, what| {
        let blocks = heap.run(|| [(); 2].map(|()| Lent::new(layout))).unwrap();
        assert_eq!(heap.close().blocks, 2);
        blocks[0].resize_elsewhere(is_in_context, what);
        if is_in_context {
            Heap::new().unwrap().run(|| blocks[1].resize(what)).unwrap();
        } else {
            blocks[1].resize(what);
        }
    });
}
