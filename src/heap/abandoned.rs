//! Heaps of threads that ended, for the next threads to take over whole.
//!
//! What was allocated in them stays where it is; what is freed meanwhile waits on their foreign
//! stacks.

use core::ptr::NonNull;

use super::header::{HeapHeader, Operations};
use crate::numa::Node;
use crate::sync::Token;
use crate::sys::SystemError;
use crate::sys::fork::{ForkEntry, Rank};
use crate::sys::lock::Lock;

struct List {
    first: Option<NonNull<HeapHeader>>,
    length: usize,
}

// SAFETY: heaps on the list are run by nobody; whoever takes one off runs it.
unsafe impl Send for List {}

static LIST: Lock<List> = Lock::new(List { first: None, length: 0 });

/// Takes the list's lock around every fork from now on. Again is harmless.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn protect_fork() -> Result<(), SystemError> {
    static ENTRY: ForkEntry = ForkEntry::new();
    ENTRY.register(LIST.raw(), Rank::Heap)
}

/// How many heaps wait for a thread.
pub fn abandoned_heaps() -> usize {
    LIST.lock().length
}

/// Hands a heap over to whichever thread starts next.
///
/// # Safety
/// The caller runs the heap and touches it no more.
pub unsafe fn publish(header: NonNull<HeapHeader>) {
    let mut list = LIST.lock();
    // SAFETY: the caller runs the heap until `leave`.
    let this = unsafe { header.as_ref() };
    this.next_in_list.set(list.first);
    this.runner.leave();
    list.first = Some(header);
    list.length += 1;
}

/// Takes over a heap with the given operations and home, if one waits; the caller's thread runs it
/// from now on.
pub fn adopt(
    operations: &Operations,
    token: Token,
    home: Option<Node>,
) -> Option<NonNull<HeapHeader>> {
    let mut list = LIST.lock();
    let mut previous: Option<NonNull<HeapHeader>> = None;
    let mut next = list.first;
    while let Some(header) = next {
        // SAFETY: heaps on the list are valid and run by nobody; the lock is held.
        let this = unsafe { header.as_ref() };
        next = this.next_in_list.get();
        if !this.operations.is_same(operations) || this.home.get() != home {
            previous = Some(header);
            continue;
        }
        match previous {
            // SAFETY: as above.
            Some(previous) => unsafe { previous.as_ref() }.next_in_list.set(next),
            None => list.first = next,
        }
        list.length -= 1;
        this.next_in_list.set(None);
        return this.runner.try_enter(token).then_some(header);
    }
    None
}

/// Takes what was freed in the heaps that wait, and gives their chunks without blocks back: nobody
/// else does before a thread takes them over, which may be never.
pub fn release_unused(token: Token) {
    let list = LIST.lock();
    let mut next = list.first;
    while let Some(header) = next {
        // SAFETY: heaps on the list are valid and run by nobody; the lock is held.
        let this = unsafe { header.as_ref() };
        next = this.next_in_list.get();
        if this.runner.try_enter(token) {
            // SAFETY: this thread runs the heap now.
            unsafe { (this.operations.release_unused)(header, 0) };
            this.runner.leave();
        }
    }
}
