//! `fork`, also of a process whose other threads allocate all the time: the child allocates, frees
//! what the parent made, enters heaps, and leaves alone those that other threads ran.
//! Not under ThreadSanitizer, which cannot follow a fork of a process with threads.
#![cfg(not(any(heapswitch_pass_through, heapswitch_tsan, loom)))]

#[path = "support/child.rs"]
mod child;
#[path = "support/hints.rs"]
mod hints;

use std::mem::forget;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;

use child::in_child;
use heapswitch::CurrentAllocatorInUse::{CoroutineLocal, ThreadLocal};
use heapswitch::{
    Account, ArenaMemorySource, ArenaSettings, Heap, HeapError, HeapSwitch, RegionMapSource,
    current, flush_foreign_frees, process_usage, purge, swap_coroutine_local, with_global,
};
use hints::HINTS;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const FORKS: usize = if cfg!(debug_assertions) { 150 } else { 500 };

fn strings(count: usize) -> Vec<String> {
    (0..count).map(|number| "s".repeat(number)).collect()
}

fn are_right(strings: &[String]) -> bool {
    strings.iter().enumerate().all(|(number, text)| text.len() == number)
}

#[test]
fn a_child_goes_on_as_if_nothing_had_happened() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let idle = Heap::with_hint(hint).unwrap();
        let inside = heap.run(|| strings(300)).unwrap();
        let outside = strings(300);
        let scope = heap.enter().unwrap();
        in_child(|| {
            let more = strings(500);
            let is_right = are_right(&inside) && are_right(&outside) && are_right(&more);
            drop((inside.clone(), outside.clone()));
            let is_still_in = current() == CoroutineLocal && heap.contains(more.as_ptr().cast());
            drop(scope);
            idle.run(|| drop(strings(500))).unwrap();
            drop(outside);
            drop(inside);
            heap.verify().unwrap();
            idle.verify().unwrap();
            purge();
            heap.release_unused().unwrap();
            let usage = heap.memory_usage().unwrap();
            is_right && is_still_in && usage.allocated_blocks == 500 && current() == ThreadLocal
        });
    }
}

#[test]
fn a_child_frees_what_other_threads_of_its_parent_made() {
    let (to_here, from_there) = mpsc::channel();
    let (to_there, from_here) = mpsc::channel::<()>();
    let other = thread::spawn(move || {
        let heap = Heap::new().unwrap();
        forget(heap.enter().unwrap());
        let inside = strings(300);
        let outside = with_global(|| strings(300)).unwrap();
        let own = heapswitch::with_thread_local(|| strings(300)).unwrap();
        to_here.send((heap, inside, outside, own)).unwrap();
        from_here.recv().unwrap();
    });
    let (heap, inside, outside, own) = from_there.recv().unwrap();
    let parents = (heap, inside, outside, own);
    in_child(|| {
        let (heap, inside, outside, own) = parents;
        let is_right = are_right(&inside) && are_right(&outside) && are_right(&own);
        let is_refused = heap.enter().unwrap_err() == HeapError::Running;
        let mut grown = own.clone();
        grown.iter_mut().for_each(|text| text.push_str("grown"));
        drop((inside, outside, own));
        flush_foreign_frees();
        // The empty strings have no block; those of the global allocator are really freed. Growing
        // freed what was there before.
        let is_lost = process_usage().lost_blocks == 299 + 299 + 2;
        let before = process_usage().leaked_heaps;
        drop(heap);
        let is_counted = process_usage().leaked_heaps == before + 1 && is_lost;
        // New threads are started in the child too, with heaps of their own.
        let made = thread::spawn(|| strings(1000)).join().unwrap();
        purge();
        is_right && is_refused && is_counted && are_right(&made)
    });
    to_there.send(()).unwrap();
    other.join().unwrap();
}

#[test]
fn a_child_of_a_child_works_as_well() {
    let heap = Heap::new().unwrap();
    let text = heap.run(|| "grandparent's".to_owned()).unwrap();
    in_child(|| {
        swap_coroutine_local(Some(heap)).unwrap();
        let mine = strings(100);
        in_child(|| {
            let heap = swap_coroutine_local(None).unwrap().unwrap();
            let is_right = are_right(&mine) && text == "grandparent's";
            drop(mine);
            drop(text);
            heap.close().blocks == 0 && is_right
        });
        drop(swap_coroutine_local(None));
        true
    });
}

/// What every other thread does while this one forks.
fn allocate_until(stop: &AtomicBool, shelf: &Mutex<Vec<Vec<String>>>) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let heap = Heap::with_hint(HINTS[round % 3]).unwrap();
        let escapees = heap.run(|| strings(100)).unwrap();
        let mine = strings(200);
        drop(vec![0_u8; 300_000]);
        let theirs = {
            let mut shelf = shelf.lock().unwrap();
            shelf.push(escapees);
            shelf.push(mine);
            if shelf.len() > 20 { shelf.drain(..10).collect() } else { Vec::new() }
        };
        assert!(theirs.iter().all(|strings| are_right(strings)));
        drop(theirs);
        drop(heap);
        if round % 16 == 0 {
            purge();
            thread::spawn(|| drop(strings(100))).join().unwrap();
        }
    }
}

/// What `make` gives on a thread that is started without the standard library: that one's start
/// takes a lock of its own, which another thread may have held at the fork and never opens here.
fn from_bare_thread(make: fn() -> Vec<String>) -> Vec<String> {
    type Task = (fn() -> Vec<String>, Vec<String>);
    extern "C" fn body(task: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: the starter lends its task until the join.
        let (make, made) = unsafe { &mut *task.cast::<Task>() };
        *made = make();
        std::ptr::null_mut()
    }
    let mut task: Task = (make, Vec::new());
    let mut id = std::mem::MaybeUninit::uninit();
    // SAFETY: the task outlives the thread, which is joined here.
    unsafe {
        let task = (&raw mut task).cast();
        assert_eq!(libc::pthread_create(id.as_mut_ptr(), std::ptr::null(), body, task), 0);
        assert_eq!(libc::pthread_join(id.assume_init(), std::ptr::null_mut()), 0);
    }
    task.1
}

#[test]
fn forks_while_others_allocate() {
    static STOP: AtomicBool = AtomicBool::new(false);
    static SHELF: Mutex<Vec<Vec<String>>> = Mutex::new(Vec::new());
    let threads: Vec<_> = (0..4).map(|_| thread::spawn(|| allocate_until(&STOP, &SHELF))).collect();
    let heap = Heap::new().unwrap();
    let mut rotated = Vec::new();
    for round in 0..FORKS {
        let kept = heap.run(|| strings(100)).unwrap();
        if let Ok(mut shelf) = SHELF.try_lock() {
            rotated = shelf.pop().unwrap_or_default();
        }
        in_child(|| {
            let is_right = are_right(&kept) && are_right(&rotated);
            drop(std::mem::take(&mut rotated));
            for hint in HINTS {
                let own = Heap::with_hint(hint).unwrap();
                let escapees = own.run(|| strings(100)).unwrap();
                drop(own);
                drop(escapees);
            }
            heap.run(|| drop(strings(200))).unwrap();
            drop(kept);
            drop(vec![0_u8; 10 << 20]);
            let adopted = from_bare_thread(|| strings(200));
            if round % 4 == 0 {
                purge();
            }
            is_right && are_right(&adopted)
        });
    }
    STOP.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Locks that a program meets by what it asks for: a source of a heap's own, reclaim callbacks.
#[test]
fn forks_while_others_watch_limits_and_take_from_an_arena() {
    static CHUNKS: ArenaMemorySource<RegionMapSource> =
        ArenaMemorySource::new(RegionMapSource::CONTEXTS, ArenaSettings::DEFAULT);
    let from_the_arena = || {
        let heap = Heap::builder().source(&CHUNKS).build().unwrap();
        let blocks = heap.run(|| (0..8).map(|_| Vec::with_capacity(60 << 10)).collect());
        drop::<Vec<Vec<u8>>>(blocks.unwrap());
        drop(heap);
        // The next has to take a new range, under the lock.
        CHUNKS.release_unused();
    };
    let watched = || drop(Account::process().on_pressure(|_| ()));
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_stopped = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&is_stopped);
        for work in [from_the_arena as fn(), from_the_arena, watched] {
            let is_stopped = &is_stopped;
            scope.spawn(move || {
                while !is_stopped.load(Ordering::Relaxed) {
                    work();
                }
            });
        }
        for _ in 0..FORKS {
            in_child(|| {
                from_the_arena();
                watched();
                true
            });
        }
    });
}
