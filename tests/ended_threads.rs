//! What is dropped on a thread that was torn down: it runs no heap, and nothing is lost for it.
#![cfg(not(heapswitch_pass_through))]

use core::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use heapswitch::{
    Coroutine, Heap, HeapError, accounts, global_thread_and_coroutine_switchable_allocator,
    process_usage,
};

global_thread_and_coroutine_switchable_allocator!();

/// The key, and what is counted of the process, is one test's at a time.
static TURN: Mutex<()> = Mutex::new(());
static KEY: AtomicU32 = AtomicU32::new(0);

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Late {
    rounds: u32,
    job: Box<dyn FnOnce() + Send>,
}

/// # Safety
/// The value is a boxed [`Late`].
unsafe extern "C" fn late(value: *mut c_void) {
    // SAFETY: the caller's contract.
    let mut late = unsafe { Box::from_raw(value.cast::<Late>()) };
    if late.rounds > 0 {
        late.rounds -= 1;
        // SAFETY: the key exists while the test runs.
        unsafe {
            libc::pthread_setspecific(KEY.load(Ordering::Relaxed), Box::into_raw(late).cast())
        };
        return;
    }
    assert_eq!(Heap::new().unwrap().run(|| ()), Err(HeapError::ThreadEnded));
    (late.job)();
}

/// Runs the job on a thread that has used the allocator and whose part in it was torn down: in a
/// round of the system's destructors after ours.
fn after_the_tear_down(job: impl FnOnce() + Send + 'static) {
    let mut key = 0;
    // SAFETY: a valid place, and a function that lives as long as the key.
    assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(late)) }, 0);
    KEY.store(key, Ordering::Relaxed);
    let thread = std::thread::spawn(move || {
        drop(vec![1_u8; 100]);
        let late = Box::new(Late { rounds: 2, job: Box::new(job) });
        // SAFETY: the key exists.
        unsafe { libc::pthread_setspecific(key, Box::into_raw(late).cast()) };
    });
    thread.join().unwrap();
    // SAFETY: the key exists, and no thread has a value.
    unsafe { libc::pthread_key_delete(key) };
}

/// That would have given its records back twice.
#[test]
fn the_handle_of_a_child_that_its_parent_closed_closes_nothing() {
    let _turn = turn();
    for _ in 0..20 {
        let parent = Heap::new().unwrap();
        let child = Heap::builder().parent(&parent).build().unwrap();
        let kept = child.run(|| Box::new(7)).unwrap();
        assert_eq!(parent.close().closed_children, 1);
        after_the_tear_down(move || drop(child));
        assert_eq!(*kept, 7);
    }
}

#[test]
fn a_child_and_its_parent_end_once_whichever_is_dropped_first() {
    let _turn = turn();
    static ENDED: AtomicU32 = AtomicU32::new(0);
    for is_parent_first in [false, true] {
        ENDED.store(0, Ordering::Relaxed);
        let parent = Heap::new().unwrap();
        let child = Heap::builder().parent(&parent).build().unwrap();
        for heap in [&parent, &child] {
            let count = |_| {
                ENDED.fetch_add(1, Ordering::Relaxed);
            };
            heap.on_end(count).unwrap();
        }
        let kept = child.run(|| Box::new(7)).unwrap();
        let handles = if is_parent_first { [parent, child] } else { [child, parent] };
        after_the_tear_down(move || handles.into_iter().for_each(drop));
        assert_eq!((ENDED.load(Ordering::Relaxed), *kept), (2, 7));
    }
}

#[test]
fn a_coroutine_suspended_in_a_heap_on_its_stack_leaks_none() {
    let _turn = turn();
    let leaked = process_usage().leaked_heaps;
    let outer = Heap::builder().name("outer").build().unwrap();
    let coroutine = Coroutine::new(outer, |yielder, ()| {
        let inner = Heap::builder().name("inner").build().unwrap();
        let made = inner.run(|| {
            let made = vec![1_u8; 100];
            yielder.suspend(());
            made
        });
        drop(made);
    });
    // SAFETY: it holds heaps, a `Vec` and the yielder, and reads no thread-local variable.
    let mut coroutine = unsafe { coroutine.unwrap().assume_send() };
    coroutine.resume(()).unwrap();
    after_the_tear_down(move || drop(coroutine));
    assert_eq!(process_usage().leaked_heaps, leaked);
    let left = |name| accounts().filter(|account| account.name().as_str() == name).count();
    assert_eq!((left("outer"), left("inner")), (0, 0));
}
