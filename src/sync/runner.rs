//! Who runs a heap: one thread at a time, without a read-modify-write.

use super::{AtomicU64, Ordering, inspection};

/// Names a thread for the life of the process. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Token(u64);

impl Token {
    /// Of a thread that has none yet, or no more: it runs nothing. Never stored in a [`Runner`].
    pub const NOBODY: Self = Self(0);

    /// Of a thread that closes a heap that nobody runs: one that is torn down, or claims a child
    /// whose parent has ended. The close, at the thread's next safe point at the latest, lets
    /// nobody else in, so several threads may use it at once, each for a heap of its own. And of a
    /// heap whose end calls the program's code: no thread takes it for its own meanwhile.
    /// Without the bit of `BOUND`: nothing is bound to it, so what is claimed is not idle to it.
    pub const CLOSER: Self = Self(BOUND - 2);

    /// The `number`-th token, from 0 up.
    pub const fn from_number(number: u64) -> Self {
        Self(number + FIRST)
    }

    /// A number that tells it from other tokens, and grows from one to the next.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// In a heap's header while nobody runs it. Not 0, which a thread without a token would take for
/// its own.
const IDLE: u64 = 1;
/// The first token.
const FIRST: u64 = 2;
/// Set beside a token: nobody runs the heap, and only that token's thread may.
const BOUND: u64 = 1 << 63;
/// In a heap's header when it is closed.
const CLOSED: u64 = u64::MAX;
/// Nobody runs the heap, and others than its handle's owner may close it: entering competes with
/// them.
const SHARED: u64 = CLOSED - 2;

// What is bound to a token differs from what the other words say, also to who closes: with
// `BOUND - 1` a closed heap would be bound to it.
const _: () = {
    let bound_to_closer = Token::CLOSER.0 | BOUND;
    assert!(bound_to_closer != CLOSED && bound_to_closer != SHARED && bound_to_closer != IDLE);
};

// Loom must find the models failing with these weakened.
#[inline]
fn claim() -> Ordering {
    weakened!("runner_claim", Ordering::Relaxed, Ordering::Acquire)
}
#[inline]
fn leave() -> Ordering {
    weakened!("runner_leave", Ordering::Relaxed, Ordering::Release)
}
#[inline]
fn closed() -> u64 {
    weakened!("runner_close", IDLE, CLOSED)
}

/// Who ran a heap at one moment, by one load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen(u64);

impl Seen {
    /// As [`Runner::is`].
    #[inline]
    pub fn is(self, token: Token) -> bool {
        self.0 == token.0
    }

    /// As [`Runner::is_closed`].
    #[inline]
    pub fn is_closed(self) -> bool {
        self.0 == CLOSED
    }
}

/// Who runs a heap.
///
/// # Invariants
/// - Only the thread whose token it holds reads or writes what belongs to the runner; while nobody
///   runs it, who [looks](super::inspection) at it.
/// - Calls of `try_enter`, `leave` and `close` (and of those for bound heaps) on one `Runner` never
///   overlap: the heap's handle is `Send` and not `Sync`, so types exclude two entries at once.
///   Therefore a load and a plain store do; a compare-and-swap would cost seven times as much. A
///   heap that ends with its parent is the exception: `try_claim` may come from elsewhere at any
///   time, so entering such a heap takes the compare-and-swap.
/// - Whoever becomes the runner waits for who looks, before anything else.
#[derive(Debug)]
pub struct Runner {
    token: AtomicU64,
}

impl Runner {
    /// Run by nobody.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { token: AtomicU64::new(IDLE) }
    }

    /// Run by nobody.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { token: AtomicU64::new(IDLE) }
    }

    /// Run by nobody, and to be claimed by others than who enters it.
    pub fn new_shared() -> Self {
        let runner = Self::new();
        runner.token.store(SHARED, Ordering::Relaxed);
        runner
    }

    /// Whether the thread of `token` runs the heap. Only that thread can see its own token there,
    /// so a relaxed load suffices: it reads its own store, or another's value, which differs.
    #[inline]
    pub fn is(&self, token: Token) -> bool {
        self.token.load(Ordering::Relaxed) == token.0
    }

    /// Who runs the heap, for more than one question.
    #[inline]
    pub fn seen(&self) -> Seen {
        Seen(self.token.load(Ordering::Relaxed))
    }

    /// The thread that runs it, or that it is bound to; `None` where nobody does, or it is closed.
    /// May be outdated as soon as it is known.
    pub fn runner(&self) -> Option<Token> {
        match self.token.load(Ordering::Relaxed) {
            IDLE | SHARED | CLOSED => None,
            token => Some(Token(token & !BOUND)),
        }
    }

    /// Whether nobody runs it, and it is open. May be outdated as soon as it is known, but to who
    /// [looks](super::Inspection::look) at it.
    pub fn is_idle(&self) -> bool {
        // Acquire pairs with the Release in those that leave: what the last runner did is seen.
        match self.token.load(Ordering::Acquire) {
            IDLE | SHARED => true,
            CLOSED => false,
            token => token & BOUND != 0,
        }
    }

    /// Whether somebody runs it, or it is closed.
    #[inline]
    pub fn is_busy(&self) -> bool {
        self.token.load(Ordering::Relaxed) != IDLE
    }

    /// Whether the heap is closed: nobody will ever run it.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.token.load(Ordering::Relaxed) == CLOSED
    }

    /// Makes the thread of `token` the runner, unless somebody is.
    #[inline]
    pub fn try_enter(&self, token: Token) -> bool {
        self.try_enter_and_wait(token)
            || self.try_enter_bound(token, token)
            || self.try_claim_and_wait(token)
    }

    /// Makes the thread of `token` the runner of a heap that ends with its parent and that nobody
    /// runs. May be called by anyone who knows that the header is valid.
    #[inline]
    pub fn try_claim_and_wait(&self, token: Token) -> bool {
        let is_mine = self.try_claim(token);
        if is_mine {
            inspection::all().pass(self);
        }
        is_mine
    }

    /// As [`try_claim_and_wait`](Self::try_claim_and_wait), without waiting for who looks at the
    /// heap: [`pass`](super::Inspection::pass) is to follow before the heap is touched.
    #[inline]
    pub fn try_claim(&self, token: Token) -> bool {
        // Acquire pairs with the Release in `leave_shared`.
        self.token.compare_exchange(SHARED, token.0, claim(), Ordering::Relaxed).is_ok()
    }

    /// Ends the run of a heap that ends with its parent. Called by the runner.
    #[inline]
    pub fn leave_shared(&self) {
        // Release pairs with the Acquire in `try_claim`.
        self.token.store(SHARED, leave());
    }

    /// As [`try_enter`](Self::try_enter), unless the heap is bound to a thread, ends with its
    /// parent, or anybody looks at any: who is refused here asks there.
    #[inline]
    pub fn try_enter_idle(&self, token: Token) -> bool {
        // Acquire pairs with the Release in `leave`: what the last runner did is seen.
        if self.token.load(Ordering::Acquire) != IDLE {
            return false;
        }
        self.token.store(token.0, Ordering::Relaxed);
        if inspection::all().is_active() {
            // Waiting here would cost the fast path four saved registers. Nothing was done.
            self.leave();
            return false;
        }
        true
    }

    fn try_enter_and_wait(&self, token: Token) -> bool {
        if self.token.load(Ordering::Acquire) != IDLE {
            return false;
        }
        self.token.store(token.0, Ordering::Relaxed);
        inspection::all().pass(self);
        true
    }

    /// Makes the thread of `token` the runner of a heap that is bound to `bound`. Called by the
    /// thread of `bound`, or by one that has what binds the heap from there.
    #[cold]
    pub fn try_enter_bound(&self, bound: Token, token: Token) -> bool {
        // Acquire pairs with the Release in `leave_bound`.
        if self.token.load(Ordering::Acquire) != bound.0 | BOUND {
            return false;
        }
        self.token.store(token.0, Ordering::Relaxed);
        inspection::all().pass(self);
        true
    }

    /// Whether nobody runs the heap, and it is bound to the thread of `bound`.
    pub fn is_bound(&self, bound: Token) -> bool {
        self.token.load(Ordering::Relaxed) == bound.0 | BOUND
    }

    /// Ends the run, and lets nobody but this thread begin the next. Called by the runner.
    #[cold]
    pub fn leave_bound(&self) {
        let token = self.token.load(Ordering::Relaxed);
        // Release pairs with the Acquire in `try_enter_bound`.
        self.token.store(token | BOUND, leave());
    }

    /// Ends the run. Called by the runner.
    #[inline]
    pub fn leave(&self) {
        // Release pairs with the Acquire in `try_enter`.
        self.token.store(IDLE, leave());
    }

    /// Makes another the runner. Called by the runner, or by the thread on which its work goes on.
    pub fn hand_to(&self, token: Token) {
        // Relaxed: whatever brings the work to another thread orders what was done before.
        self.token.store(token.0, Ordering::Relaxed);
    }

    /// Nobody ever runs it again. Called by the runner.
    #[inline]
    pub fn close(&self) {
        // Relaxed: nobody takes the heap over after this.
        self.token.store(closed(), Ordering::Relaxed);
    }
}

impl Default for Runner {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_is_not_claimed_again() {
        let runner = Runner::new_shared();
        assert!(runner.try_claim(Token::CLOSER));
        assert!(!runner.try_enter(Token::CLOSER) && !runner.try_enter(Token::from_number(7)));
        runner.leave_shared();
        assert!(runner.try_enter(Token::CLOSER) && !runner.try_enter(Token::CLOSER));
        runner.close();
        assert!(!runner.try_enter(Token::CLOSER) && !runner.try_enter(Token::from_number(7)));
    }

    #[test]
    fn what_is_handed_on_is_the_others_alone() {
        let (runner, first, second) = (Runner::new(), Token::from_number(7), Token::from_number(8));
        assert!(runner.try_enter(first));
        runner.hand_to(Token::CLOSER);
        assert!(!runner.is(first) && !runner.is_idle() && runner.is_busy());
        assert!(!runner.try_enter(first) && !runner.try_enter(second));
        runner.hand_to(second);
        assert!(runner.is(second) && !runner.is(first));
    }
}
