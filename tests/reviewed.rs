//! Sequences that once went wrong.
#![cfg(not(any(heapswitch_pass_through, loom)))]

use std::alloc::Layout;
use std::hint::black_box;
use std::sync::{Barrier, Mutex};

use heapswitch::source::region_map::CONTEXT_SOURCE;
use heapswitch::{
    AllocError, CurrentAllocatorInUse, Heap, HeapError, HeapSwitch, LifetimeHint, MemoryRange,
    MemorySource, RegionSource, SavedContext, flush_foreign_frees, swap_coroutine_local,
    use_allocator,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// The last block ends at a page's end, one behind it is freed, then the last block shrinks: blocks
/// that follow were counted in the wrong page, and closing dropped a page in use.
#[test]
fn a_shrunk_last_block_takes_the_window_along() {
    let heap = Heap::with_hint(LifetimeHint::Short).unwrap();
    let (first, last) = heap
        .run(|| {
            let mut first: Vec<u8> = Vec::with_capacity(4096);
            first.resize(2000, 7);
            drop(black_box(Box::new([1_u8; 104])));
            first.shrink_to_fit();
            let between = black_box(Box::new([2_u8; 104]));
            let last = black_box(Box::new([3_u8; 104]));
            drop(between);
            (first, last)
        })
        .unwrap();
    heap.verify().unwrap();
    assert_eq!(heap.close().blocks, 2);
    assert!(first.iter().all(|&byte| byte == 7) && last.iter().all(|&byte| byte == 3));
}

/// The same, with a block over two pages that is cut from the window thereafter.
#[test]
fn a_block_over_two_pages_after_a_shrunk_one_is_counted_right() {
    let heap = Heap::with_hint(LifetimeHint::Short).unwrap();
    heap.run(|| {
        let mut first: Vec<u8> = Vec::with_capacity(4096);
        first.resize(2000, 7);
        drop(black_box(Box::new([1_u8; 104])));
        first.shrink_to_fit();
        let over: Vec<u8> = black_box(Vec::with_capacity(3000));
        let behind: Vec<u8> = black_box(Vec::with_capacity(104));
        drop((over, behind, first));
    })
    .unwrap();
    heap.verify().unwrap();
    assert_eq!(heap.close().blocks, 0);
}

/// A heap that a suspended context names cannot be swapped into another context: both could run it.
#[test]
fn a_pinned_heap_is_not_swapped_in() {
    let heap = Heap::new().unwrap();
    let (mut first, mut second) = (SavedContext::new(), SavedContext::new());
    let mark = first.resume().unwrap();
    std::mem::forget(heap.enter().unwrap());
    first.suspend(mark);
    let mark = second.resume().unwrap();
    let scope = use_allocator(CurrentAllocatorInUse::ThreadLocal).unwrap();
    let refused = swap_coroutine_local(Some(heap)).unwrap_err();
    assert_eq!(refused.error, HeapError::Running);
    drop(scope);
    second.suspend(mark);
}

/// What this thread freed and did not hand over yet goes with a heap that is discarded.
#[test]
fn a_discarded_heap_takes_its_pending_frees_along() {
    for hint in [LifetimeHint::Short, LifetimeHint::Medium, LifetimeHint::Long] {
        let heap = Heap::with_hint(hint).unwrap();
        let (freed, kept) = heap
            .run(|| (black_box(Box::new([1_u8; 64])), black_box(Box::new([2_u8; 64]))))
            .unwrap();
        drop(freed);
        std::mem::forget(kept);
        // SAFETY: the one block is freed, the other forgotten.
        let report = unsafe { heap.discard_unchecked() };
        assert_eq!(report.blocks, 0);
        assert!(report.returned_bytes >= 1 << 16, "its chunk: {report}");
    }
}

/// Frees a block of another heap when a run comes back.
#[derive(Debug)]
struct Freeing(Mutex<Option<Box<[u8; 64]>>>);

// SAFETY: what is handed out is the region's own source's; what is freed is not of the heap that is
// served.
unsafe impl MemorySource for Freeing {
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        CONTEXT_SOURCE.take(request)
    }

    unsafe fn give_back(&self, range: MemoryRange) {
        drop(self.0.lock().unwrap().take());
        // SAFETY: the caller's contract is the same.
        unsafe { CONTEXT_SOURCE.give_back(range) }
    }

    fn granule(&self) -> usize {
        CONTEXT_SOURCE.granule()
    }
}

// SAFETY: ranges are those of the region's own source.
unsafe impl RegionSource for Freeing {}

/// The last block of a closed heap is handed over, its run goes back, and the source frees a block
/// of a third heap: that waited until the thread flushed again, which may be never.
#[test]
fn what_a_flush_frees_is_flushed() {
    let other = Heap::new().unwrap();
    let of_other = other.run(|| black_box(Box::new([1_u8; 64]))).unwrap();
    let source: &'static Freeing = Box::leak(Box::new(Freeing(Mutex::new(Some(of_other)))));
    let heap = Heap::builder().source(source).build().unwrap();
    let last = heap.run(|| black_box(Box::new([2_u8; 64]))).unwrap();
    // Nothing is allocated here between the frees and the flush, for that would flush too.
    let steps: [Barrier; 3] = [(); 3].map(|()| Barrier::new(2));
    std::thread::scope(|scope| {
        let closer = scope.spawn(|| {
            steps[0].wait();
            let blocks = heap.close().blocks;
            steps[1].wait();
            steps[2].wait();
            (blocks, other.close().blocks)
        });
        drop(last);
        steps[0].wait();
        steps[1].wait();
        flush_foreign_frees();
        assert!(source.0.lock().unwrap().is_none());
        steps[2].wait();
        assert_eq!(closer.join().unwrap(), (1, 0));
    });
}
