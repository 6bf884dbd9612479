//! Who runs a heap: one thread at a time, without a read-modify-write.

use super::{AtomicU64, Ordering};

/// Names a thread for the life of the process. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Token(u64);

impl Token {
    /// The token of no thread.
    pub const NONE: Self = Self(0);

    /// The `number`-th token, from 1 up; the largest number means closed and is no thread's.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// In a heap's header while it is closed.
const CLOSED: u64 = u64::MAX;

// Loom must find the model failing with this weakened.
const LEAVE: Ordering =
    if cfg!(heapswitch_weaken = "runner_leave") { Ordering::Relaxed } else { Ordering::Release };

/// Who runs a heap.
///
/// # Invariants
/// - Only the thread whose token it holds reads or writes what belongs to the runner.
/// - Calls of `try_enter`, `leave` and `close` on one `Runner` never overlap: the heap's handle is
///   `Send` and not `Sync`, so types exclude two entries at once. Therefore a load and a plain store
///   do; a compare-and-swap would cost seven times as much.
#[derive(Debug)]
pub struct Runner {
    token: AtomicU64,
}

impl Runner {
    /// Run by nobody.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { token: AtomicU64::new(0) }
    }

    /// Run by nobody.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { token: AtomicU64::new(0) }
    }

    /// Whether the thread of `token` runs the heap. Only that thread can see its own token there, so
    /// a relaxed load suffices: it reads its own store, or another's value, which differs.
    #[inline]
    pub fn is(&self, token: Token) -> bool {
        self.token.load(Ordering::Relaxed) == token.0
    }

    /// Whether somebody runs it, or it is closed.
    #[inline]
    pub fn is_busy(&self) -> bool {
        self.token.load(Ordering::Relaxed) != 0
    }

    /// Makes the thread of `token` the runner, unless somebody is.
    #[inline]
    pub fn try_enter(&self, token: Token) -> bool {
        // Acquire pairs with the Release in `leave`: what the last runner did is seen.
        if self.token.load(Ordering::Acquire) != 0 {
            return false;
        }
        self.token.store(token.0, Ordering::Relaxed);
        true
    }

    /// Ends the run. Called by the runner.
    #[inline]
    pub fn leave(&self) {
        // Release pairs with the Acquire in `try_enter`.
        self.token.store(0, LEAVE);
    }

    /// Nobody ever runs it again. Called by the runner.
    #[inline]
    pub fn close(&self) {
        // Relaxed: nobody takes the heap over after this.
        self.token.store(CLOSED, Ordering::Relaxed);
    }
}

impl Default for Runner {
    fn default() -> Self {
        Self::new()
    }
}
