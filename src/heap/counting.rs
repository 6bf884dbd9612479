//! Counting the blocks of heaps, by any thread, for whoever asks what an account holds.
//!
//! What is held in runs of chunks is charged as it is taken, and always known. How many blocks lie
//! in those runs only the heap's structures tell, which belong to its runner. So a heap is counted
//! where it is asked: one that nobody runs is kept from being entered meanwhile
//! ([`Inspection`](crate::sync::Inspection)), one that the asking thread runs is its own, and of a
//! thread's heap what is behind its front is behind a lock. Any other keeps the figures that its
//! runner left there last.
//!
//! Costs a system call for each time that is asked, for however many heaps, and a walk through the
//! runs of each.

use core::ptr::NonNull;

use super::account::{Account, IS_ACCOUNTED};
use super::cell::count_behind_front;
use super::header::{FastPath, HeapHeader};
use crate::sync::{Runner, Token, inspection};
use crate::sys::SystemError;
use crate::sys::fork::{self, ForkEntry, Rank};
use crate::sys::lock::RawLock;
use crate::sys::thread::fence_all;

/// One counts at a time. Taken around forks, so that a child finds no heap being looked at.
static TURN: RawLock = RawLock::new();

/// Takes the lock around every fork from now on. Again is harmless.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn protect_fork() -> Result<(), SystemError> {
    static ENTRY: ForkEntry = ForkEntry::new();
    ENTRY.register(&TURN, Rank::Heap)
}

/// Counts the heaps of accounts, as the thread of `token`, which is set up, so that forks are
/// watched. A heap that is closed meanwhile is passed over; where the system refuses the barrier
/// that this needs, and within a fork, all keep the figures that they have.
pub(crate) fn count<'a>(accounts: impl IntoIterator<Item = &'a Account>, token: Token) {
    let mut accounts = accounts.into_iter().filter(|account| account.names_heap()).peekable();
    // Within a fork who has a heap's own lock may wait for one that the fork holds.
    if !IS_ACCOUNTED || accounts.peek().is_none() || fork::is_here() {
        return;
    }
    TURN.lock();
    let all = inspection::all();
    if all.begin(fence_all) {
        for account in accounts {
            let count = |heap, is_idle| {
                // SAFETY: the heap is kept from being freed while it is looked at, and from being
                // entered if nobody runs it.
                unsafe { count_heap(heap, is_idle, token) }
            };
            // SAFETY: begun above, with a fence on every thread, and ended below; TURN is held, and
            // nobody else begins, looks or ends. Whoever closes a heap removes it from its place
            // before its header is freed, and its runner asks this inspection.
            unsafe { all.look(account.heap_place(), runner_of, count) };
        }
        all.end();
    }
    // SAFETY: taken above.
    unsafe { TURN.unlock() };
}

fn runner_of(heap: NonNull<HeapHeader>) -> NonNull<Runner> {
    const { assert!(core::mem::offset_of!(HeapHeader, runner) == 0) }
    heap.cast()
}

/// # Safety
/// The heap's header is valid; `is_idle`: nobody runs it, and nobody enters it meanwhile.
unsafe fn count_heap(heap: NonNull<HeapHeader>, is_idle: bool, token: Token) {
    // SAFETY: the caller's contract. Of the program's code only its sources' runs within an
    // operation of a heap, and asks for no report: so where this thread runs the heap, it is at no
    // operation.
    unsafe {
        let this = heap.as_ref();
        if is_idle || this.runner.is(token) {
            (this.operations.usage)(heap);
        } else if this.fast_path == FastPath::Slab && this.census.is_listed() {
            count_behind_front(heap);
        }
    }
}
