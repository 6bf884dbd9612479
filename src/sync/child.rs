//! The end of a heap with its parent's: which step comes before which, for all who take part.
//!
//! ```text
//!   who ends the parent     who runs the child       who has its handle
//!   marks CLOSE             leaves it                drops it
//!   looks: does it run?     looks: is CLOSE set?     marks HANDLE_GONE, and looks: CLOSED?
//!   closes it               closes it
//!   marks CLOSED, and looks: HANDLE_GONE?
//! ```
//!
//! Marking and looking are steps in the one order of the child's [`Signals`]. So of the first two
//! one at least sees the other's step, and [`Runner::try_claim`] lets one of them close the child;
//! of the last two, whoever marks second frees what is left.

use super::{Runner, Signals, Token};

/// The parent has ended: the heap closes when it is left.
pub const CLOSE: u64 = 1 << 6;
/// And was closed for that.
pub const CLOSED: u64 = 1 << 7;
/// The heap's handle was dropped while somebody else ran it or closed it.
pub const HANDLE_GONE: u64 = 1 << 8;

// Loom must find the model failing with these steps in the wrong order.
#[inline]
fn looks_before_leaving() -> bool {
    weakened!("child_leave", true, false)
}

/// What is left to do by who dropped a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Nothing: it was closed.
    Closed,
    /// It was closed by another, who left it to free what remains.
    LastOfTwo,
    /// Nothing: who ends the parent closes it, or is about to, and frees what remains.
    LeftToCloser,
    /// Nothing that could be done: it runs elsewhere, and its parent has not ended.
    Runs,
}

/// As who ends the parent. `mark` sets the bits that it gets, unless the child is gone; `close`
/// closes the child unless somebody runs it: after a claim by [`try_claim`].
pub fn end<T>(mark: impl FnOnce(u64) -> Option<u64>, close: impl FnOnce() -> T) -> Option<T> {
    mark(CLOSE)?;
    Some(close())
}

/// Whether the parent has ended. May be outdated as soon as it is known.
#[inline]
pub fn is_ended(signals: &Signals) -> bool {
    signals.get() & CLOSE != 0
}

/// Keeps everybody out of a child whose parent has ended, if nobody runs it. By whoever comes: the
/// parent's end, one who leaves the child, one who finds it ended when entering it. Waits for
/// nobody, for it is called under a lock: [`pass`](super::Inspection::pass) is to follow.
pub fn try_claim(runner: &Runner, signals: &Signals) -> bool {
    // Not by a thread's own token, or the handle, dropped by a callback of the close, would seem to
    // be that thread's to close.
    is_ended(signals) && runner.try_claim(Token::CLOSER)
}

/// As who runs the child: `leave` ends the run. Whether it is to be closed then, after a claim.
#[inline]
pub fn leave(signals: &Signals, leave: impl FnOnce()) -> bool {
    if looks_before_leaving() {
        let is_ended = signals.raise(0) & CLOSE != 0;
        leave();
        return is_ended;
    }
    leave();
    signals.raise(0) & CLOSE != 0
}

/// As who claimed the child: `close` closes it. Whether the caller frees what remains of it.
#[must_use]
pub fn finish(signals: &Signals, close: impl FnOnce()) -> bool {
    close();
    signals.raise(CLOSED) & HANDLE_GONE != 0
}

/// As who drops the handle: `try_close` closes the heap if it can be entered, after which there may
/// be no signals; `mark` sets the bits that it gets, and returns those that were set before.
pub fn drop_handle(try_close: impl FnOnce() -> bool, mark: impl FnOnce(u64) -> u64) -> Dropped {
    if try_close() {
        return Dropped::Closed;
    }
    match mark(HANDLE_GONE) {
        before if before & CLOSED != 0 => Dropped::LastOfTwo,
        before if before & CLOSE != 0 => Dropped::LeftToCloser,
        // If its parent ends later, who closes it then finds the mark.
        _ => Dropped::Runs,
    }
}
