//! Threads that end: what they allocate and free while they are torn down, and who takes their
//! heaps over. One process, so these run one after the other.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/memory.rs"]
mod memory;

use std::alloc::{Layout, alloc, dealloc, realloc};
use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread;

use heapswitch::CurrentAllocatorInUse::{self, Global, ThreadLocal};
use heapswitch::{
    Heap, HeapError, HeapSwitch, current, flush_foreign_frees, process_usage, purge,
    swap_coroutine_local, use_allocator, with_global,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// The figures asserted on are the process's.
static ALONE: Mutex<()> = Mutex::new(());

const SCALE: usize = if cfg!(debug_assertions) { 1 } else { 10 };

fn alone() -> impl Drop {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Allocates when it is dropped, frees what it held, and notes what was in use.
struct Late {
    held: Vec<String>,
    heap: Option<Heap>,
}

static IN_USE_LATE: Mutex<Vec<CurrentAllocatorInUse>> = Mutex::new(Vec::new());

impl Drop for Late {
    fn drop(&mut self) {
        let more: Vec<String> = self.held.iter().map(|text| text.repeat(3)).collect();
        assert!(more.iter().zip(&self.held).all(|(long, text)| long.len() == 3 * text.len()));
        self.held = more;
        if let Some(heap) = &self.heap {
            heap.run(|| self.held.push("in the heap, late".repeat(10))).unwrap();
        }
        IN_USE_LATE.lock().unwrap().push(current());
    }
}

thread_local! {
    static FIRST: RefCell<Option<Late>> = const { RefCell::new(None) };
    static SECOND: RefCell<Option<Late>> = const { RefCell::new(None) };
}

#[test]
fn thread_locals_allocate_and_free_while_they_are_dropped() {
    let _alone = alone();
    for _ in 0..100 {
        thread::spawn(|| {
            let late = || Late {
                held: (0..100).map(|number| "x".repeat(number * 10)).collect(),
                heap: Heap::new().ok(),
            };
            FIRST.set(Some(late()));
            let heap = Heap::new().unwrap();
            heap.run(|| SECOND.set(Some(late()))).unwrap();
        })
        .join()
        .unwrap();
    }
    assert!(IN_USE_LATE.lock().unwrap().drain(..).all(|in_use| in_use == ThreadLocal));
}

static ROUNDS: AtomicUsize = AtomicUsize::new(0);
/// Of those, such that ran after our tear-down and found the thread's state ended.
static ENDED_ROUNDS: AtomicUsize = AtomicUsize::new(0);
static KEYS: Mutex<[libc::pthread_key_t; 2]> = Mutex::new([0; 2]);

/// Runs before or after our own tear-down, and again in every round: allocates, frees blocks of
/// ended and of running heaps, uses every entry point.
unsafe extern "C" fn late_destructor(value: *mut c_void) {
    // SAFETY: the value is a leaked box that the last round or the thread left.
    let late = unsafe { Box::from_raw(value.cast::<(usize, Vec<String>, Heap)>()) };
    let (round, held, heap) = *late;
    let longer: Vec<String> = held.iter().map(|text| format!("{text} {round}")).collect();
    drop(held);
    assert!(longer.iter().all(|text| text.len() > 2));
    match heap.enter() {
        Ok(scope) => {
            let inside = std::hint::black_box(vec![1_u8; 100]);
            assert!(heap.contains(inside.as_ptr()));
            drop(scope);
        }
        Err(error) => {
            assert_eq!((error, current()), (HeapError::ThreadEnded, Global));
            assert_eq!(use_allocator(ThreadLocal).unwrap_err(), HeapError::ThreadEnded);
            assert_eq!(with_global(|| ()).unwrap_err(), HeapError::ThreadEnded);
            assert_eq!(heap.verify().unwrap_err(), HeapError::ThreadEnded);
            let refused = swap_coroutine_local(None).unwrap_err();
            assert_eq!(refused.error, HeapError::ThreadEnded);
            let _ = (purge(), process_usage());
            flush_foreign_frees();
            ENDED_ROUNDS.fetch_add(1, Ordering::Relaxed);
        }
    }
    drop(heap);
    let heap = Heap::new().unwrap();
    let mut moved = Vec::with_capacity(10);
    moved.extend(longer);
    moved.shrink_to_fit();
    moved.reserve(1000);
    if round < 3 {
        let again = Box::into_raw(Box::new((round + 1, moved, heap)));
        // SAFETY: the key exists; the value is taken up by the next round.
        unsafe { libc::pthread_setspecific(KEYS.lock().unwrap()[0], again.cast()) };
    }
    ROUNDS.fetch_add(1, Ordering::Relaxed);
}

#[test]
#[cfg_attr(heapswitch_tsan, ignore = "the sanitizer's own state of the thread is gone by then")]
fn destructors_of_the_system_run_before_and_after_our_tear_down() {
    let _alone = alone();
    let mut key = 0;
    // SAFETY: `key` is valid for writes.
    assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(late_destructor)) }, 0);
    KEYS.lock().unwrap()[0] = key;
    let threads = 50;
    for _ in 0..threads {
        thread::spawn(move || {
            let heap = Heap::new().unwrap();
            let held = heap.run(|| (0..50).map(|number| "y".repeat(number + 3)).collect()).unwrap();
            let value: Box<(usize, Vec<String>, Heap)> = Box::new((0, held, heap));
            // SAFETY: the key exists; the destructor takes the value up.
            unsafe { libc::pthread_setspecific(key, Box::into_raw(value).cast()) };
        })
        .join()
        .unwrap();
    }
    assert!(ROUNDS.load(Ordering::Relaxed) >= threads * 2);
    assert!(ENDED_ROUNDS.load(Ordering::Relaxed) >= threads, "none found its state in use");
    // SAFETY: the key was made above and no thread has a value for it.
    unsafe { libc::pthread_key_delete(key) };
}

#[test]
fn a_guard_in_a_thread_local_is_dropped_before_the_tear_down() {
    let _alone = alone();
    thread_local! {
        static GUARD: RefCell<Option<heapswitch::Scope<'static>>> = const { RefCell::new(None) };
    }
    let heap: &'static Mutex<Heap> = Box::leak(Box::new(Mutex::new(Heap::new().unwrap())));
    thread::spawn(move || {
        let locked: &'static _ = Box::leak(Box::new(heap.lock().unwrap()));
        GUARD.set(Some(locked.enter().unwrap()));
    })
    .join()
    .unwrap();
    assert!(heap.try_lock().is_err(), "the lock was leaked, and with it the handle");
}

/// A block of any length with a pattern of its own in all its bytes.
struct Filled {
    start: std::ptr::NonNull<u8>,
    layout: Layout,
    seed: u8,
}

// SAFETY: the block is its holder's alone.
unsafe impl Send for Filled {}

impl Filled {
    fn new(size: usize, align: usize, seed: u8) -> Self {
        let layout = Layout::from_size_align(size, align).unwrap();
        // SAFETY: the layout is not empty.
        let start = std::ptr::NonNull::new(unsafe { alloc(layout) }).unwrap();
        assert!(start.addr().get().is_multiple_of(align));
        let mut block = Self { start, layout, seed };
        block.fill();
        block
    }

    fn at(&self, index: usize) -> u8 {
        self.seed.wrapping_add((index * 7) as u8)
    }

    fn fill(&mut self) {
        for index in 0..self.layout.size() {
            // SAFETY: the index is below the block's length.
            unsafe { self.start.add(index).write(self.at(index)) };
        }
    }

    fn check(&self, length: usize) {
        // SAFETY: the block is as long, and was written by `fill`.
        let bytes = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), length) };
        let is_whole = |(index, byte): (usize, &u8)| *byte == self.at(index);
        assert!(bytes.iter().enumerate().all(is_whole), "{:?}", self.layout);
    }

    /// Where the block is moved or not, what was in it is there.
    fn resize(&mut self, size: usize) {
        // SAFETY: the block is allocated with this layout, and the size not zero.
        let moved = unsafe { realloc(self.start.as_ptr(), self.layout, size) };
        let kept = self.layout.size().min(size);
        self.start = std::ptr::NonNull::new(moved).unwrap();
        self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        self.check(kept);
        self.fill();
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.check(self.layout.size());
        // SAFETY: the block is allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Locks without the wait of `lock`, in which ThreadSanitizer does not see the order with the owner
/// before: that part of the standard library is not instrumented.
fn own<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::WouldBlock) => thread::yield_now(),
            Err(TryLockError::Poisoned(_)) => panic!("another thread has failed"),
        }
    }
}

/// Threads put blocks into slots that they share, and take, resize and free what others put there;
/// some end while what they made lives on. Every byte is as it was written.
#[test]
fn contents_stay_whole_whichever_thread_frees_them() {
    let _alone = alone();
    const SLOTS: usize = 512;
    let slots: Vec<Mutex<Option<Filled>>> = (0..SLOTS).map(|_| Mutex::new(None)).collect();
    let work = |number: usize, steps: usize| {
        let mut seed = number as u64 + 1;
        let mut below = |limit: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % limit
        };
        for step in 0..steps {
            let most = [60, 60, 500, 500, 5000, 5000, 40_000, 200_000][below(8)];
            let size = 1 + below(most);
            let slot = &slots[below(SLOTS)];
            let taken = own(slot).take();
            let next = match taken {
                Some(mut block) if below(3) == 0 => {
                    block.resize(size);
                    block
                }
                _ => Filled::new(size, 1 << below(8), (number + step) as u8),
            };
            let previous = own(slot).replace(next);
            drop(previous);
        }
    };
    let slow = if cfg!(any(debug_assertions, heapswitch_asan, heapswitch_tsan)) { 8 } else { 1 };
    for round in 0..8 {
        thread::scope(|scope| {
            let work = &work;
            let threads =
                (0..4).map(|n| scope.spawn(move || work(4 * round + n, 2000 * SCALE / slow)));
            threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
    drop(slots);
}

#[test]
fn short_threads_inherit_heaps_and_memory_does_not_grow() {
    let _alone = alone();
    let threads = 2000 * SCALE;
    let run = |count: usize| {
        let (sender, receiver) = mpsc::channel::<Vec<Box<[u8]>>>();
        for number in 0..count {
            let sender = sender.clone();
            thread::spawn(move || {
                let kept = (0..50).map(|size| vec![1; size * 40 + number % 7].into()).collect();
                drop(vec![0_u8; 100_000]);
                sender.send(kept).unwrap();
            })
            .join()
            .unwrap();
            // What is kept is freed by another thread than the one that made it, after its end.
            drop(receiver.recv().unwrap());
        }
    };
    run(threads / 10);
    let (before, usage) = (memory::resident_bytes(), process_usage());
    run(threads);
    let (after, now) = (memory::resident_bytes(), process_usage());
    println!("{threads} threads: {before} bytes before, {after} after; {now:?}");
    // The sanitizers keep what is freed, and stacks.
    let is_sanitized = cfg!(any(heapswitch_asan, heapswitch_tsan));
    assert!(is_sanitized || after < before + (2 << 20), "{before} {after}");
    assert!(now.abandoned_heaps <= usage.abandoned_heaps + 1);
    assert!(now.region.taken_bytes <= usage.region.taken_bytes + (1 << 20));
}

#[test]
fn what_ended_threads_left_comes_back_when_it_was_freed() {
    let _alone = alone();
    purge();
    let before = process_usage().region.taken_bytes;
    let kept: Vec<Vec<Vec<u8>>> = (0..16)
        .map(|_| thread::spawn(|| (0..1000).map(|_| vec![1; 4000]).collect()))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    assert!(process_usage().region.taken_bytes > before + (60 << 20));
    drop(kept);
    purge();
    let after = process_usage().region.taken_bytes;
    println!("{before} bytes taken before, {after} after");
    assert!(after < before + (4 << 20), "{before} {after}");
}

#[test]
fn one_allocates_and_another_frees_for_ever_in_bounded_memory() {
    let _alone = alone();
    for uses_heap in [false, true] {
        let (sender, receiver) = mpsc::sync_channel::<Vec<Vec<u8>>>(16);
        let producer = thread::spawn(move || {
            let heap = Heap::new().unwrap();
            let _scope = uses_heap.then(|| heap.enter().unwrap());
            for round in 0..3000 * SCALE {
                let batch = (0..50).map(|size| vec![round as u8; size * 30 + 1]).collect();
                sender.send(batch).unwrap();
            }
        });
        let mut most_after_warm_up = 0;
        let mut warm = 0;
        for (round, batch) in receiver.iter().enumerate() {
            assert!(batch.iter().all(|block| block[0] == round as u8));
            drop(batch);
            if round == 500 {
                warm = process_usage().region.taken_bytes;
            } else if round > 500 {
                most_after_warm_up = most_after_warm_up.max(process_usage().region.taken_bytes);
            }
        }
        producer.join().unwrap();
        println!("in a heap: {uses_heap}; {warm} bytes when warm, at most {most_after_warm_up}");
        assert!(most_after_warm_up < warm + (8 << 20));
    }
}

/// The owner asks for nothing but blocks that are runs of their own, and never comes by for less.
#[test]
fn large_blocks_that_another_frees_are_used_again() {
    let _alone = alone();
    const BYTES: usize = 1 << 20;
    const WAITING: usize = 4;
    for uses_heap in [false, true] {
        let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(WAITING);
        let before = process_usage().region.taken_bytes;
        let producer = thread::spawn(move || {
            let heap = Heap::new().unwrap();
            let _scope = uses_heap.then(|| heap.enter().unwrap());
            for number in 0..300_u32 {
                let mut block = Vec::with_capacity(BYTES);
                block.push(number as u8);
                sender.send(block).unwrap();
            }
        });
        let mut most = 0;
        for (number, block) in receiver.iter().enumerate() {
            assert_eq!(block[0], number as u8);
            drop(block);
            most = most.max(process_usage().region.taken_bytes);
        }
        producer.join().unwrap();
        println!("in a heap: {uses_heap}; {before} bytes before, at most {most}");
        assert!(most < before + 4 * WAITING * BYTES, "{before} {most}");
    }
}
