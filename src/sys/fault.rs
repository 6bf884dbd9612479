//! Fault injection: makes the n-th system call of a kind fail, so that tests reach error paths.
//!
//! Costs one relaxed load beside each system call.

use core::sync::atomic::{AtomicU32, Ordering};

/// A kind of system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Call {
    /// Reserving or mapping memory.
    Map,
    /// Changing the protection of memory.
    Protect,
    /// Advice, including giving pages back.
    Advise,
    /// Moving or resizing a mapping.
    Remap,
    /// Locking memory.
    Lock,
    /// Growing a file.
    Truncate,
    /// Setting a range's memory policy.
    Policy,
    /// Setting or asking a thread's affinity.
    Affinity,
    /// Opening a small file.
    Open,
    /// Reading a small file.
    Read,
    /// Writing a small file.
    Write,
    /// Setting a thread's memory policy.
    ThreadPolicy,
    /// Asking for a memory policy or the nodes that are allowed.
    AskPolicy,
    /// Asking on which nodes pages lie.
    AskPages,
    /// Asking on which node a thread runs.
    AskNode,
    /// Laying a fence on every thread.
    Barrier,
    /// Unmapping memory.
    Unmap,
    /// Allocating disk space; half of it is there all the same, as some file systems leave it.
    Allocate,
}

const CALLS: usize = 18;

/// 0: no fault. n: the n-th call from now on, and all after it, fail.
static COUNTDOWN: [AtomicU32; CALLS] = [const { AtomicU32::new(0) }; CALLS];

/// From the `nth` call of this kind on (1: the next), every call fails, until [`clear`].
/// Zero means the same as [`clear`].
pub fn fail_from(call: Call, nth: u32) {
    if let Some(countdown) = COUNTDOWN.get(call as usize) {
        countdown.store(nth, Ordering::Relaxed);
    }
}

/// Ends the faults of this kind.
pub fn clear(call: Call) {
    fail_from(call, 0);
}

/// Whether this call has to fail.
#[inline]
pub(crate) fn strikes(call: Call) -> bool {
    let Some(countdown) = COUNTDOWN.get(call as usize) else { return false };
    match countdown.load(Ordering::Relaxed) {
        0 => false,
        1 => true,
        left => {
            // Tests that inject faults run alone: losing a step to a race only delays the fault.
            countdown.store(left - 1, Ordering::Relaxed);
            false
        }
    }
}
