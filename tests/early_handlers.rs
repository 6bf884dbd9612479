//! Handlers of `fork` that were registered before heapswitch's own, by a constructor that the
//! loader runs: they run while every lock of the process is held, and may do whatever a program
//! does, in a process whose other threads want those locks.
//! Not under ThreadSanitizer, which cannot follow a fork of a process with threads.
#![cfg(not(any(heapswitch_pass_through, heapswitch_tsan, loom)))]

#[path = "support/child.rs"]
mod child;

use std::alloc::{GlobalAlloc, Layout};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use child::in_child;
use heapswitch::{
    Heap, Locked, MemoryMapSource, MultipleBinarySearchTreeAllocator, collect, flush_foreign_frees,
    process_usage, purge,
};

static LOCKED: Locked<MultipleBinarySearchTreeAllocator<MemoryMapSource>> =
    Locked::new(MultipleBinarySearchTreeAllocator::new(MemoryMapSource::new()));

/// The global allocator: what serves a thread within its fork.
struct Protected;

// SAFETY: a static allocator that is one forwards.
unsafe impl GlobalAlloc for Protected {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe { LOCKED.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { LOCKED.dealloc(block, layout) }
    }
}

heapswitch::global_thread_and_coroutine_switchable_allocator! {
    global = Protected,
}

const FORKS: usize = if cfg!(debug_assertions) { 40 } else { 200 };
/// Before, and after in the parent; a child's calls are not seen here.
const CALLS: usize = 2 * FORKS;

/// What handlers take from, one a call: survivors of closed heaps, each the last block of its run,
/// and heaps.
static SURVIVORS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static HEAPS: Mutex<Vec<Heap>> = Mutex::new(Vec::new());
static IS_ON: AtomicBool = AtomicBool::new(false);
static CALLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn handler() {
    if !IS_ON.load(Ordering::Relaxed) {
        return;
    }
    let blocks: Vec<String> = (0..200).map(|length| "b".repeat(length * 10)).collect();
    let long = vec![1_u8; 200_000];
    assert!(blocks.iter().enumerate().all(|(number, text)| text.len() == number * 10));
    drop((blocks, long));
    drop(SURVIVORS.lock().unwrap().pop().unwrap());
    flush_foreign_frees();
    drop(HEAPS.lock().unwrap().pop().unwrap());
    // The thread is in nobody's heap meanwhile, and enters none.
    if let Ok(heap) = Heap::new() {
        assert!(heap.run(|| drop("in it".repeat(100))).is_err());
        drop(heap);
    }
    assert!(process_usage().region.reserved_bytes > 0);
    collect();
    purge();
    if CALLED.fetch_add(1, Ordering::Relaxed).is_multiple_of(4) {
        fork_within();
    }
}

/// As one that starts a helper: what that fork takes the one that is going on has already.
fn fork_within() {
    IS_ON.store(false, Ordering::Relaxed);
    in_child(|| {
        let blocks: Vec<String> = (0..100).map(|length| "b".repeat(length)).collect();
        collect();
        blocks.len() == 100
    });
    IS_ON.store(true, Ordering::Relaxed);
    assert!(Heap::new().is_err() || Heap::new().unwrap().enter().is_err());
}

extern "C" fn constructor() {
    // SAFETY: the handler is a function that lives as long as the process.
    let error = unsafe { libc::pthread_atfork(Some(call), Some(call), Some(call)) };
    assert_eq!(error, 0);
}

/// As the system wants it.
unsafe extern "C" fn call() {
    handler();
}

#[used]
// SAFETY: the section holds pointers to functions that the loader calls in turn.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

/// Comes to every lock that a fork takes, again and again.
fn want_locks(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let heap = Heap::new().unwrap();
        let survivor = heap.run(|| vec![1_u8; 100_000]).unwrap();
        drop(heap);
        drop((survivor, vec![1_u8; 300_000]));
        drop(heapswitch::with_global(|| vec![1_u8; 1000]).unwrap());
        assert!(process_usage().region.reserved_bytes > 0);
        purge();
    }
}

#[test]
fn handlers_that_came_first_may_do_what_a_program_does() {
    LOCKED.protect_fork().unwrap();
    // A child takes one of each, too; its parent does not see that.
    for _ in 0..CALLS + 1 {
        let heap = Heap::new().unwrap();
        let survivor = heap.run(|| "survivor".repeat(10)).unwrap();
        drop(heap);
        SURVIVORS.lock().unwrap().push(survivor);
        let heap = Heap::new().unwrap();
        heap.run(|| std::mem::forget("left".repeat(10))).unwrap();
        HEAPS.lock().unwrap().push(heap);
    }
    // SAFETY: ends a process that hangs.
    unsafe { libc::alarm(200) };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| want_locks(&stop));
        }
        IS_ON.store(true, Ordering::Relaxed);
        for fork in 0..FORKS {
            let inside = Heap::new().unwrap();
            let scope = inside.enter().unwrap();
            let text = "of a context".repeat(fork);
            in_child(|| {
                let is_there = inside.contains(text.as_ptr()) || fork == 0;
                drop(scope);
                let heap = Heap::new().unwrap();
                let made = heap.run(|| vec![2_u8; 50_000]).unwrap();
                drop(heap);
                purge();
                is_there && made[49_999] == 2 && CALLED.load(Ordering::Relaxed) == 2 * fork + 2
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
    IS_ON.store(false, Ordering::Relaxed);
    assert_eq!(CALLED.load(Ordering::Relaxed), CALLS);
    // SAFETY: the process does not hang.
    unsafe { libc::alarm(0) };
}
