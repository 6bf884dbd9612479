//! The optional thread that takes decay's turns while the program does nothing.

use core::ffi::c_void;

use super::environment::Once;
use super::life;
use crate::heap::decay;
use crate::sys::{SystemError, thread};

/// The shortest sleep between two turns, in milliseconds.
const LEAST_SLEEP_MILLISECONDS: u64 = 10;

static START: Once = Once::new();

/// Starts the thread that gives free memory back to the kernel while the program does nothing,
/// unless it was started before. It sleeps, and once in a decay's period takes a turn of what other
/// threads' slow paths do otherwise; it takes no signals, and does not keep the process from its
/// end. The settings `purge_thread` and `HEAPSWITCH_PURGE_THREAD` start it with the program.
///
/// A child of `fork` does not have it, and another call there does not start one.
///
/// # Errors
/// The system's: `EAGAIN` where it has no thread left, `ENOSYS` where everything passes through to
/// the global allocator.
pub fn start_purge_thread() -> Result<(), SystemError> {
    if !START.is_first() {
        return Ok(());
    }
    life::stay_loaded();
    thread::start_detached(c"heapswitch", take_turns).inspect_err(|_| START.forget())
}

extern "C" fn take_turns(_: *mut c_void) -> *mut c_void {
    loop {
        thread::sleep_milliseconds(decay::period_milliseconds().max(LEAST_SLEEP_MILLISECONDS));
        decay::take_turn_if_due();
    }
}
