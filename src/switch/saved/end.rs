//! The end of a coroutine by the budget, or the cancel, of a heap which it is within a scope of.

use core::ptr::NonNull;

use super::SavedContext;
use crate::heap::{HeapHeader, pins};
use crate::switch::budget::{ContextError, end_of};
use crate::switch::closing;
use crate::switch::stack::{Entry, Hold};
use crate::switch::state::state;

impl SavedContext {
    /// Why one of the scopes that the coroutine is suspended within is to end now, if it is: with
    /// it all that lies above it on the coroutine's stack, which nobody can unwind alone.
    #[inline]
    pub(in crate::switch) fn end(&self) -> Option<ContextError> {
        (0..self.length).find_map(|index| {
            let Entry { hold, heap: Some(heap), .. } = self.get(index) else { return None };
            if hold == Hold::Inherited {
                return None;
            }
            // SAFETY: the entry has a pin or the only handle, either of which keeps the header.
            let account = unsafe { &heap.as_ref().account };
            if !account.is_ended() {
                return None;
            }
            let account = account.clone();
            if hold == Hold::Entered {
                // SAFETY: the entry has a pin.
                unsafe {
                    // Who runs it now is told, and this coroutine is refused.
                    if !pins::is_free(heap, self.token) {
                        return None;
                    }
                    if account.first_over().is_some() {
                        self.release_unused(heap);
                    }
                }
            }
            end_of(&account)
        })
    }

    /// Gives back what a heap has no block in, also what callbacks freed in it, if its contexts
    /// wait on this thread.
    ///
    /// # Safety
    /// An entry has a pin of the heap.
    unsafe fn release_unused(&self, heap: NonNull<HeapHeader>) {
        closing::flush_own_frees();
        let token = state().token.get();
        // SAFETY: the pin is taken back by the thread that the heap is bound to, which then runs
        // the heap until it is pinned again.
        unsafe {
            if self.token == token && pins::unpin_and_enter(heap, token, token) {
                (heap.as_ref().operations.release_unused)(heap, 0);
                pins::pin_and_leave(heap);
            }
        }
    }
}
