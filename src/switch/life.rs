//! A thread's life: set up at its first allocation, torn down when it ends; and `fork`.

use core::cell::Cell;
use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::configuration::{self, Configuration};
use super::home;
use super::in_use::CurrentAllocatorInUse;
use super::stack::{Entry, Hidden, Hold};
use super::state::{Phase, ThreadState, state};
use super::{closing, lane, pressure, safe_point};
use crate::heap::{
    Account, ContextName, HeapHeader, HeapKind, Inline, abandoned, account, cell, census, counting,
    decay, lost, protect_site_logs,
};
use crate::region;
use crate::sync::Token;
use crate::sys::thread::{self, ExitKey};
use crate::sys::{fork, loaded};

static NEXT_TOKEN: AtomicU64 = AtomicU64::new(0);
static EXIT: ExitKey = ExitKey::new();

/// How many threads were set up since the process's start.
pub fn threads_started() -> u64 {
    NEXT_TOKEN.load(Ordering::Relaxed)
}

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
    stay_loaded();
    if let Some(installed) = configuration::installed() {
        let top = state.contexts.top();
        if state.contexts.depth() == 0 && top.heap.is_none() {
            state.contexts.set_top(Entry { in_use: installed.default, ..top });
        }
    }
    state.phase.set(Phase::Running);
    state.apply_top();
}

/// Threads run code of ours when they end, and the purge thread all the time: the library that it
/// is in stays loaded from now on. Where the allocator serves the dynamic linker it must not call
/// that: such a library is linked so that it stays.
pub(super) fn stay_loaded() {
    static IS_ASKED: AtomicBool = AtomicBool::new(false);
    // Relaxed: to do it twice does no harm. Not a `Once`: a fork may leave one behind for ever.
    if !IS_ASKED.load(Ordering::Relaxed) {
        if !configuration::serves_linker() {
            let code: unsafe extern "C" fn(*mut c_void) = end_thread;
            loaded::keep(code as *const c_void);
        }
        IS_ASKED.store(true, Ordering::Relaxed);
    }
}

/// Sets a thread up for its first allocation.
#[cold]
#[inline(never)]
pub fn start_thread<C: Configuration>(state: &ThreadState) {
    state.phase.set(Phase::Busy);
    configuration::install::<C>();
    configuration::protect_sources();
    arm_exit(state);
}

/// The thread's own heap, made or adopted at its first use. `None` where there is no memory.
pub fn thread_heap<C: Configuration>(state: &ThreadState) -> Option<NonNull<HeapHeader>> {
    if let Some(heap) = state.thread_heap.get() {
        if let Some(home) = state.home.get() {
            home::notice(state, home);
        }
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
    let (token, home) = (state.token.get(), home::of_thread(state));
    let apart = configuration::thread_heaps_kept_apart_by(home);
    let heap = match abandoned::adopt(C::Thread::operations(C::THREAD), token, apart) {
        Some(adopted) => {
            // SAFETY: the thread runs the heap from now on.
            unsafe { (adopted.as_ref().operations.collect)(adopted) };
            adopted
        }
        None => {
            let source = configuration::source_for(CurrentAllocatorInUse::ThreadLocal, home);
            let account = Account::make(None, ContextName::new("thread"))?;
            let heap = C::Thread::create(C::THREAD, source, account)?;
            // SAFETY: the heap is new and the thread's alone; threads' heaps are never closed.
            unsafe {
                let header = heap.as_ref();
                header.runner.try_enter(token);
                header.home.set(apart);
                census::enlist(heap);
                cell::publish(heap);
            }
            heap
        }
    };
    // SAFETY: the thread runs the heap.
    let slab = unsafe { heap.as_ref() }.inline.slab();
    state.thread_heap.set(Some(heap));
    state.own_slab.set(slab);
    state.apply_top();
    // What that allocates is served from the heap that is ready now.
    configuration::start_with_first_heap();
    Some(heap)
}

/// Runs when a thread ends, after Rust's own thread-locals.
///
/// # Safety
/// Called by the system, on the thread that ends.
unsafe extern "C" fn end_thread(value: *mut c_void) {
    let state = state();
    if state.phase.get() != Phase::Running || EXIT.is_put_off(value) {
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
    state.inline.set(Inline::NONE);
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
    lane::give_back(state);
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

/// Every lock of the process as a whole is taken before a fork, in the order of
/// [`Rank`](crate::sys::fork::Rank), and opened on both sides, so that the child finds the
/// structures whole. The child's heaps of other threads are never entered: their tokens belong to
/// no thread there. What is freed to them is leaked, and counted.
fn watch_forks() {
    static IS_WATCHED: AtomicBool = AtomicBool::new(false);
    // Relaxed: to do it twice does no harm. Not a `Once`: a fork may leave one behind for ever.
    if !IS_WATCHED.load(Ordering::Relaxed) {
        // Without memory for the handlers, a child of a threaded process may find a lock held.
        let _ = pressure::protect_fork();
        let _ = decay::protect_fork();
        let _ = abandoned::protect_fork();
        let _ = counting::protect_fork();
        let _ = account::protect_fork();
        let _ = protect_site_logs();
        let _ = region::protect_fork();
        let _ = thread::on_fork(suspend, resume, resume_in_child);
        IS_WATCHED.store(true, Ordering::Relaxed);
    }
}

/// What a thread that forks had in use. Handlers that were registered before ours run while the
/// locks are held: meanwhile the global allocator serves the thread, its frees wait, and it enters
/// no heap. Locks that the fork holds it [passes](crate::sys::fork::is_here), and figures of heaps
/// are as they were counted last. Ours are registered at the first allocation, so that only what
/// the loader runs before `main` comes before them; where no allocator is installed, at the first
/// use of a heap. They must not wait for other threads, which may wait for the fork.
#[derive(Debug)]
pub struct Suspended {
    phase: Cell<Phase>,
    token: Cell<Token>,
    inline: Cell<Inline>,
    own_slab: Cell<Option<NonNull<HeapHeader>>>,
    contexts: Hidden,
}

impl Suspended {
    /// Nothing; the same as all zero bytes.
    pub const fn new() -> Self {
        Self {
            phase: Cell::new(Phase::Fresh),
            token: Cell::new(Token::NOBODY),
            inline: Cell::new(Inline::NONE),
            own_slab: Cell::new(None),
            contexts: Hidden::new(),
        }
    }

    /// Exchanges it for what the thread has.
    fn exchange(&self, state: &ThreadState) {
        self.phase.swap(&state.phase);
        self.token.swap(&state.token);
        self.inline.swap(&state.inline);
        self.own_slab.swap(&state.own_slab);
        state.contexts.exchange(&self.contexts);
    }
}

impl Default for Suspended {
    fn default() -> Self {
        Self::new()
    }
}

/// Registered after the handlers of the locks, so it runs before they are taken.
unsafe extern "C" fn suspend() {
    if fork::is_here() {
        return; // A handler of a fork forks.
    }
    let state = state();
    state.batches.flush();
    state.suspended.exchange(state);
    state.phase.set(Phase::Busy);
}

unsafe extern "C" fn resume() {
    if fork::is_here() {
        return;
    }
    let state = state();
    state.suspended.exchange(state);
    // As new for the next fork.
    state.suspended.phase.set(Phase::Fresh);
}

unsafe extern "C" fn resume_in_child() {
    // SAFETY: the child's thread is the image of the one that called `suspend`.
    unsafe { resume() };
    let next = Token::from_number(NEXT_TOKEN.load(Ordering::Relaxed));
    let state = state();
    let own = if fork::is_here() { &state.suspended.token } else { &state.token };
    lost::lose_threads(next, own.get());
}

#[cfg(all(test, target_os = "linux", not(heapswitch_pass_through)))]
mod tests {
    use core::sync::atomic::AtomicU32;

    use super::*;

    /// In the destructor of a pthread key, in a round after ours: nobody would give it back.
    #[test]
    fn a_thread_that_was_torn_down_takes_none() {
        static KEY: AtomicU32 = AtomicU32::new(0);
        static ENDED: AtomicU32 = AtomicU32::new(0);
        unsafe extern "C" fn late(round: *mut core::ffi::c_void) {
            if round.addr() < 3 {
                let next = core::ptr::without_provenance::<u8>(round.addr() + 1);
                // SAFETY: the key exists while the threads run, and the value is only a number.
                unsafe { libc::pthread_setspecific(KEY.load(Ordering::Relaxed), next.cast()) };
            } else {
                lane::own_lane();
                ENDED.fetch_add(u32::from(!state().is_lane_own.get()), Ordering::Relaxed);
            }
        }
        let mut key = 0;
        // SAFETY: a valid place, and a function that lives as long as the key.
        assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(late)) }, 0);
        KEY.store(key, Ordering::Relaxed);
        for _ in 0..200 {
            let thread = std::thread::spawn(move || {
                super::super::handle::token().expect("it runs");
                // SAFETY: as above.
                unsafe { libc::pthread_setspecific(key, core::ptr::without_provenance(1)) };
            });
            thread.join().expect("it does not panic");
        }
        // SAFETY: no thread has a value.
        unsafe { libc::pthread_key_delete(key) };
        assert_eq!(ENDED.load(Ordering::Relaxed), 200);
        assert_ne!(lane::TAKEN.load(Ordering::Relaxed), u64::MAX);
    }
}
