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
    pub(crate) fn __tsan_get_current_fiber() -> *mut c_void;
    pub(crate) fn __tsan_switch_to_fiber(fiber: *mut c_void, flags: c_uint);
}

/// What is before a switch happens before what is after it.
#[cfg(heapswitch_tsan)]
pub(crate) const ORDERED: c_uint = 0;

/// A coroutine's stack, as the sanitizer knows it.
pub(crate) struct Fiber {
    #[cfg(heapswitch_tsan)]
    pub(crate) known_as: *mut c_void,
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
}

#[cfg(heapswitch_tsan)]
impl Drop for Fiber {
    fn drop(&mut self) {
        // SAFETY: it was made by `new`, and no thread is on it: that would borrow it.
        unsafe { __tsan_destroy_fiber(self.known_as) };
    }
}

/// Runs what switches to a coroutine's stack and back, or unwinds from there.
///
/// A macro: the sanitizer keeps a stack of the functions that were entered, for each fiber. So the
/// function that tells it of a switch has to be the one that tells it of the switch back, and no
/// other may be entered before the one and left after the other.
macro_rules! on_fiber {
    ($fiber:expr, $run:expr) => {{
        #[cfg(not(heapswitch_tsan))]
        {
            let _ = &$fiber;
            $run
        }
        #[cfg(heapswitch_tsan)]
        {
            use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
            use $crate::sys::fiber::{__tsan_get_current_fiber, __tsan_switch_to_fiber, ORDERED};
            // SAFETY: this thread's fiber, which lives until it is switched back to below; and the
            // coroutine's, which no other thread is on: who resumes it holds it exclusively.
            let from = unsafe { __tsan_get_current_fiber() };
            // SAFETY: as above.
            unsafe { __tsan_switch_to_fiber($fiber.known_as, ORDERED) };
            let result = catch_unwind(AssertUnwindSafe(|| $run));
            // SAFETY: as above; the thread is back on its stack.
            unsafe { __tsan_switch_to_fiber(from, ORDERED) };
            match result {
                Ok(result) => result,
                Err(payload) => resume_unwind(payload),
            }
        }
    }};
}
pub(crate) use on_fiber;
