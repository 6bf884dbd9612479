//! A thread's life: set up at its first allocation, torn down when it ends; and `fork`.

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Once;

use super::configuration::{self, Configuration};
use super::in_use::CurrentAllocatorInUse;
use super::stack::{Entry, Hold};
use super::state::{Phase, ThreadState, state};
use super::{closing, safe_point};
use crate::heap::{Account, ContextName, FastPath, HeapHeader, HeapKind, abandoned};
use crate::sync::Token;
use crate::sys::thread::{self, ExitKey};
use crate::{heap, region};

static NEXT_TOKEN: AtomicU64 = AtomicU64::new(0);
static EXIT: ExitKey = ExitKey::new();

/// Gives the thread its token and asks for its tear-down, so that it can run heaps and batch frees.
#[cold]
#[inline(never)]
pub fn arm_exit(state: &ThreadState) {
    // What `pthread_setspecific` or `pthread_atfork` allocate comes from the global allocator.
    state.phase.set(Phase::Busy);
    state.token.set(Token::from_number(NEXT_TOKEN.fetch_add(1, Ordering::Relaxed)));
    watch_forks();
    // Where the system has no key left, the thread's heap and batches are not recovered at its end:
    // a leak, and nothing worse.
    let _ = EXIT.arm(end_thread);
    if let Some(installed) = configuration::installed() {
        let top = state.contexts.top();
        if state.contexts.depth() == 0 && top.heap.is_none() {
            state.contexts.set_top(Entry { in_use: installed.default, ..top });
        }
    }
    state.phase.set(Phase::Running);
    state.apply_top();
}

/// Sets a thread up for its first allocation.
#[cold]
#[inline(never)]
pub fn start_thread<C: Configuration>(state: &ThreadState) {
    state.phase.set(Phase::Busy);
    configuration::install::<C>();
    arm_exit(state);
}

/// The thread's own heap, made or adopted at its first use. `None` where there is no memory.
pub fn thread_heap<C: Configuration>(state: &ThreadState) -> Option<NonNull<HeapHeader>> {
    if let Some(heap) = state.thread_heap.get() {
        return Some(heap);
    }
    make_thread_heap::<C>(state)
}

/// As [`thread_heap`], also in a thread that is not set up; `None` in one that was torn down.
pub fn thread_heap_if_running<C: Configuration>(
    state: &ThreadState,
) -> Option<NonNull<HeapHeader>> {
    if state.phase.get() == Phase::Fresh {
        start_thread::<C>(state);
    }
    if state.phase.get() != Phase::Running {
        return None;
    }
    thread_heap::<C>(state)
}

#[cold]
fn make_thread_heap<C: Configuration>(state: &ThreadState) -> Option<NonNull<HeapHeader>> {
    if !region::ensure_reserved() {
        return None;
    }
    let token = state.token.get();
    let heap = match abandoned::adopt(C::Thread::operations(C::THREAD), token) {
        Some(adopted) => {
            // SAFETY: the thread runs the heap from now on.
            unsafe { (adopted.as_ref().operations.collect)(adopted) };
            adopted
        }
        None => {
            let source = configuration::source_for(CurrentAllocatorInUse::ThreadLocal);
            let account = Account::make(None, ContextName::new("thread"))?;
            let heap = C::Thread::create(C::THREAD, source, account)?;
            // SAFETY: the heap is new and the thread's alone.
            unsafe { heap.as_ref() }.runner.try_enter(token);
            heap
        }
    };
    // SAFETY: the thread runs the heap.
    let is_slab = unsafe { heap.as_ref() }.fast_path == FastPath::Slab;
    state.thread_heap.set(Some(heap));
    state.own_slab.set(is_slab.then_some(heap));
    state.apply_top();
    Some(heap)
}

/// Runs when a thread ends, after Rust's own thread-locals.
///
/// # Safety
/// Called by the system, on the thread that ends.
unsafe extern "C" fn end_thread(_: *mut c_void) {
    let state = state();
    if state.phase.get() != Phase::Running {
        return;
    }
    state.phase.set(Phase::Busy);
    state.own_slab.set(None);
    state.leave_above(0);
    close_owned_heap(state);
    safe_point::reach(state);
    state.contexts.give_back();
    state.batches.flush();
    state.contexts.set_top(Entry { in_use: CurrentAllocatorInUse::Global, ..Entry::EMPTY });
    state.slab.set(None);
    state.bump.set(None);
    state.phase.set(Phase::Ended);
    if let Some(heap) = state.thread_heap.take() {
        // SAFETY: the thread runs the heap, and after `publish` touches it no more.
        unsafe {
            (heap.as_ref().operations.release_unused)(heap, 0);
            abandoned::publish(heap);
        }
    }
    // Frees from here on are foreign: nothing is run by the token of no thread.
    state.token.set(Token::NOBODY);
}

/// Closes the heap that the thread's base context owns.
fn close_owned_heap(state: &ThreadState) {
    let base = state.contexts.top();
    if let (Hold::Owned, Some(heap)) = (base.hold, base.heap) {
        state.unlink(heap);
        // SAFETY: the base entry ran and owned the heap.
        unsafe { closing::close(heap) };
    }
}

/// Every lock is taken before a fork, in one order (a lock that another may be taken under comes
/// later), and opened on both sides, so that the child finds the structures whole. The child's
/// heaps of other threads are never entered: their tokens belong to no thread there. What is freed
/// to them is leaked.
fn watch_forks() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // Without memory for the handlers, a child of a threaded process may find a lock held.
        let _ = thread::on_fork(before_fork, after_fork, after_fork);
    });
}

fn for_each_lock(mut visit: impl FnMut(&'static crate::sys::lock::RawLock)) {
    visit(heap::abandoned::abandoned_lock());
    visit(heap::account::tree_lock());
    region::for_each_lock(visit);
}

unsafe extern "C" fn before_fork() {
    for_each_lock(|lock| lock.lock());
}

unsafe extern "C" fn after_fork() {
    // SAFETY: this thread, or in the child its image, took every lock in `before_fork`.
    for_each_lock(|lock| unsafe { lock.unlock() });
}
