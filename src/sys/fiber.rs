//! What ThreadSanitizer is told: that a coroutine has a stack of its own. For each stack it keeps
//! the calls on it, and what happened before; without this, what a coroutine did on the thread that
//! it left would be taken for that thread's, until the calls that it thinks are open are too many
//! for it. Compiles to nothing without `--cfg heapswitch_tsan`, which goes with
//! `-Zsanitizer=thread` (a stable compiler cannot ask).

#[cfg(heapswitch_tsan)]
use core::ffi::{c_uint, c_void};

#[cfg(heapswitch_tsan)]
unsafe extern "C" {
    fn __tsan_create_fiber(flags: c_uint) -> *mut c_void;
    fn __tsan_destroy_fiber(fiber: *mut c_void);
    fn __tsan_get_current_fiber() -> *mut c_void;
    fn __tsan_switch_to_fiber(fiber: *mut c_void, flags: c_uint);
}

/// What is before a switch happens before what is after it.
#[cfg(heapswitch_tsan)]
const ORDERED: c_uint = 0;

/// A coroutine's stack, as the sanitizer knows it.
pub(crate) struct Fiber {
    #[cfg(heapswitch_tsan)]
    known_as: *mut c_void,
}

impl Fiber {
    #[inline]
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(heapswitch_tsan)]
            // SAFETY: it may be called anywhere, with no flags.
            known_as: unsafe { __tsan_create_fiber(0) },
        }
    }

    /// This thread is about to switch to the stack, until the result is dropped: right after it has
    /// switched back.
    #[inline]
    pub(crate) fn switch_to(&self) -> SwitchedTo<'_> {
        SwitchedTo {
            _fiber: self,
            #[cfg(heapswitch_tsan)]
            // SAFETY: this thread's fiber, which is alive, and this one, which nobody else is on:
            // it is its coroutine's, and who resumes that holds it exclusively.
            from: unsafe {
                let from = __tsan_get_current_fiber();
                __tsan_switch_to_fiber(self.known_as, ORDERED);
                from
            },
        }
    }
}

#[cfg(heapswitch_tsan)]
impl Drop for Fiber {
    fn drop(&mut self) {
        // SAFETY: it was made by `new`, and nobody is on it: that would borrow it.
        unsafe { __tsan_destroy_fiber(self.known_as) };
    }
}

/// While a thread is on a fiber.
pub(crate) struct SwitchedTo<'a> {
    _fiber: &'a Fiber,
    #[cfg(heapswitch_tsan)]
    from: *mut c_void,
}

impl Drop for SwitchedTo<'_> {
    #[inline]
    fn drop(&mut self) {
        #[cfg(heapswitch_tsan)]
        // SAFETY: the thread was on it, and is back on its stack.
        unsafe {
            __tsan_switch_to_fiber(self.from, ORDERED);
        }
    }
}
