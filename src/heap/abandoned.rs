//! Heaps of threads that ended, for the next threads to take over whole.
//!
//! What was allocated in them stays where it is; what is freed meanwhile waits on their foreign
//! stacks.
//!
//! A list for each NUMA node, and one for where there are no homes: taking one over is O(1), unless
//! threads' heaps of several strategies wait, which needs two allocators in one program.

use core::ptr::NonNull;

use super::header::{HeapHeader, Operations};
use crate::numa::Node;
use crate::sync::Token;
use crate::sys::SystemError;
use crate::sys::fork::{ForkEntry, Rank};
use crate::sys::lock::Lock;

/// Every node, and before them no node.
const LISTS: usize = Node::LIMIT + 1;

struct Lists {
    firsts: [Option<NonNull<HeapHeader>>; LISTS],
    length: usize,
}

impl Lists {
    fn first_of(&mut self, home: Option<Node>) -> Option<&mut Option<NonNull<HeapHeader>>> {
        self.firsts.get_mut(home.map_or(0, |node| node.number() + 1))
    }
}

// SAFETY: heaps on the lists are run by nobody; whoever takes one off runs it.
unsafe impl Send for Lists {}

static WAITING: Lock<Lists> = Lock::new(Lists { firsts: [None; LISTS], length: 0 });

/// Takes the lists' lock around every fork from now on. Again is harmless.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn protect_fork() -> Result<(), SystemError> {
    static ENTRY: ForkEntry = ForkEntry::new();
    ENTRY.register(WAITING.raw(), Rank::Heap)
}

/// How many heaps wait for a thread.
pub fn abandoned_heaps() -> usize {
    WAITING.lock().length
}

/// Hands a heap over to whichever thread starts next on its node.
///
/// # Safety
/// The caller runs the heap and touches it no more.
pub unsafe fn publish(header: NonNull<HeapHeader>) {
    let mut waiting = WAITING.lock();
    // SAFETY: the caller runs the heap until `leave`.
    let this = unsafe { header.as_ref() };
    // There is a list for every node that can be named.
    let Some(first) = waiting.first_of(this.home.get()) else { return };
    this.next_in_list.set(*first);
    this.runner.leave();
    *first = Some(header);
    waiting.length += 1;
}

/// Takes over a heap with the given operations and home, if one waits; the caller's thread runs it
/// from now on.
pub fn adopt(
    operations: &Operations,
    token: Token,
    home: Option<Node>,
) -> Option<NonNull<HeapHeader>> {
    let mut waiting = WAITING.lock();
    let first = waiting.first_of(home)?;
    let mut previous: Option<NonNull<HeapHeader>> = None;
    let mut next = *first;
    while let Some(header) = next {
        // SAFETY: heaps on the list are valid and run by nobody; the lock is held.
        let this = unsafe { header.as_ref() };
        next = this.next_in_list.get();
        if !this.operations.is_same(operations) {
            previous = Some(header);
            continue;
        }
        match previous {
            // SAFETY: as above.
            Some(previous) => unsafe { previous.as_ref() }.next_in_list.set(next),
            None => *first = next,
        }
        waiting.length -= 1;
        this.next_in_list.set(None);
        // Entering may have to wait for who counts the heap.
        drop(waiting);
        return this.runner.try_enter(token).then_some(header);
    }
    None
}

/// Takes what was freed in the heaps that wait, and gives their chunks without blocks back: nobody
/// else does before a thread takes them over, which may be never.
pub fn release_unused(token: Token) {
    let waiting = WAITING.lock();
    for first in &waiting.firsts {
        let mut next = *first;
        while let Some(header) = next {
            // SAFETY: heaps on the lists are valid and run by nobody; the lock is held.
            let this = unsafe { header.as_ref() };
            next = this.next_in_list.get();
            if this.runner.try_enter(token) {
                // SAFETY: this thread runs the heap now.
                unsafe { (this.operations.release_unused)(header, 0) };
                this.runner.leave();
            }
        }
    }
}
