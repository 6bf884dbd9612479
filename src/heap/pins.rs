//! Pins: contexts that are put aside name heaps that nobody runs meanwhile.
//!
//! A pinned heap may be entered, also closed, but only by the thread that it is bound to: the guard
//! that a waiting coroutine holds borrows the heap, so that thread is where the handle is, too.
//! Only where the guard was forgotten can the handle be elsewhere; it is then refused there. So two
//! threads never enter at once, and a header outlives every context that names it.

use core::ptr::NonNull;

use super::cell::drop_remaining;
use super::header::{HeapHeader, attention};
use crate::sync::Token;
use crate::sys::abort_with;

/// Puts a context aside that names a heap which the caller runs, and ends the run.
///
/// # Safety
/// The caller runs the heap.
pub unsafe fn pin_and_leave(header: NonNull<HeapHeader>) {
    // SAFETY: the caller runs the heap, so it is not closed.
    let this = unsafe { header.as_ref() };
    let Some(pinned) = attention::with_pin(this.attention()) else {
        // Contexts that are forgotten keep no memory, so a program can make that many.
        abort_with(&["a heap is named by 2^30 contexts that wait, forgotten and not dropped"]);
    };
    this.set_attention(pinned);
    this.leave();
}

/// Whether a pinned heap can be entered: nobody runs it, and it is not closed.
///
/// # Safety
/// The caller has a pin, of a heap that is bound to the thread of `bound`.
pub unsafe fn is_free(header: NonNull<HeapHeader>, bound: Token) -> bool {
    // SAFETY: the pin keeps the header.
    let this = unsafe { header.as_ref() };
    this.runner.is_bound(bound)
}

/// Whether a pinned heap is closed.
///
/// # Safety
/// The caller has a pin.
pub unsafe fn is_closed(header: NonNull<HeapHeader>) -> bool {
    // SAFETY: the pin keeps the header.
    let this = unsafe { header.as_ref() };
    this.runner.is_closed()
}

/// Takes the pin back and makes the thread of `token` the runner; false, and the pin stays, if the
/// heap runs or is closed.
///
/// # Safety
/// The caller has a pin, is the thread of `token`, and is the thread of `bound` or was sent the
/// context by that thread.
pub unsafe fn unpin_and_enter(header: NonNull<HeapHeader>, bound: Token, token: Token) -> bool {
    // SAFETY: the pin keeps the header.
    let this = unsafe { header.as_ref() };
    if !this.runner.try_enter_bound(bound, token) {
        return false;
    }
    this.set_attention(this.attention() - attention::PIN);
    if !this.foreign.is_empty() {
        // SAFETY: this thread runs the heap now.
        unsafe { (this.operations.collect)(header) };
    }
    true
}

/// Takes a pin back. The header may be gone afterwards.
///
/// # Safety
/// As [`unpin_and_enter`].
pub unsafe fn unpin(header: NonNull<HeapHeader>, bound: Token) {
    // SAFETY: the pin keeps the header.
    let this = unsafe { header.as_ref() };
    if this.runner.is_closed() {
        // SAFETY: the close counted the pin.
        unsafe { drop_remaining(header) };
        return;
    }
    this.set_attention(this.attention() - attention::PIN);
    if this.pins() == 0 && this.runner.try_enter_bound(bound, bound) {
        this.leave();
    }
}
