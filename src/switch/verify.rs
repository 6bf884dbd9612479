//! Checks a thread's stack of contexts, in the `check` build: at each change of what is current.
//!
//! Costs a look at up to [`LOOKS`] entries and each pair of them.

use super::in_use::CurrentAllocatorInUse;
use super::stack::{Entry, Hold};
use super::state::{Phase, ThreadState};

/// So many entries from the top are checked, so that deep nesting stays linear.
const LOOKS: usize = 9;

impl ThreadState {
    /// Aborts where an equation of the stack or of the state does not hold.
    pub(super) fn verify(&self) {
        let top = self.contexts.top();
        let entries = || self.contexts.entries().take(LOOKS);
        let is_whole = entries().all(|entry| self.is_whole(entry));
        let is_run_once = entries().enumerate().all(|(index, entry)| {
            let holds_it =
                |other: &Entry| other.hold != Hold::Inherited && other.heap == entry.heap;
            entry.hold == Hold::Inherited
                || !entries().skip(index + 1).any(|other| holds_it(&other))
        });
        let base = self.contexts.base();
        let is_base_free = base.hold != Hold::Entered && !base.is_dead;
        // What is inline is what the top says, or nothing.
        let (slab, bump) = (self.inline.get().slab(), self.inline.get().bump());
        let is_context = top.in_use == CurrentAllocatorInUse::CoroutineLocal;
        let in_use = match top.in_use {
            CurrentAllocatorInUse::CoroutineLocal => top.heap,
            CurrentAllocatorInUse::ThreadLocal => self.thread_heap.get(),
            CurrentAllocatorInUse::Global => None,
        };
        let is_bump_right = bump.is_none() || (is_context && bump == in_use);
        let is_slab_right = slab.is_none() || slab == in_use;
        if !(is_whole && is_run_once && is_base_free && is_bump_right && is_slab_right) {
            crate::sys::abort_with(&["a thread's stack of contexts is corrupted"]);
        }
    }

    /// Whether the entry has a heap where it must, and this thread runs it.
    fn is_whole(&self, entry: Entry) -> bool {
        match entry.heap {
            None => {
                entry.hold == Hold::Inherited
                    && entry.in_use != CurrentAllocatorInUse::CoroutineLocal
            }
            Some(heap) => {
                let token = self.token.get();
                // SAFETY: heaps that the state names are valid.
                let is_run = unsafe { heap.as_ref() }.runner.is(token);
                is_run && self.phase.get() != Phase::Ended
            }
        }
    }
}
