//! Looking into what nobody runs, from any thread, at no cost to those who enter it.
//!
//! Entering is a load and a plain store ([`Runner`]), so nobody else can claim an idle heap for a
//! look: who enters would not notice. Instead each side first says what it does and then looks at
//! what the other said:
//!
//! ```text
//!   who looks                          who enters
//!   active = true                      token = its own
//!   a barrier on every processor       (the compiler keeps the order)
//!   at = the runner                    is anyone active? no: go on
//!   a fence                            a fence
//!   is it idle? then look              while at = this runner: wait
//!   at = nothing
//!   active = false
//! ```
//!
//! Who enters needs a fence between its store and its load, which would cost ten times as much as
//! all the rest; the one who looks lays it for them, on every processor at once (`membarrier(2)`):
//! afterwards everybody who did not see `active` has their token where it can be read.
//!
//! What is looked at is found through a place that its owner clears before it frees it: `at` keeps
//! it until then, a hazard pointer.

use core::ptr::NonNull;
#[cfg(not(loom))]
use core::sync::atomic::compiler_fence;

use super::{AtomicPtr, AtomicUsize, Ordering, Runner, fence, relax};

// Loom must find the models failing with these weakened.
#[inline]
fn enters_without_a_look() -> bool {
    weakened!("inspection_enter", true, false)
}
#[inline]
fn looks_without_a_fence() -> bool {
    weakened!("inspection_fence", true, false)
}
#[inline]
fn frees_at_once() -> bool {
    weakened!("inspection_remove", true, false)
}
#[inline]
fn takes_all_for_busy() -> bool {
    weakened!("inspection_idle", true, false)
}
#[inline]
fn end() -> Ordering {
    weakened!("inspection_end", Ordering::Relaxed, Ordering::Release)
}

/// What those who look and those who enter tell each other.
///
/// # Invariants
/// - One looks at a time: calls of `begin`, `look` and `end` never overlap. Who looks sees to that,
///   by the contract of [`look`](Self::look).
/// - `at` is what is being looked at, or about to be; null at any other time.
#[derive(Debug)]
pub struct Inspection {
    /// 1 while anyone looks.
    active: AtomicUsize,
    at: AtomicPtr<Runner>,
}

impl Inspection {
    /// Nobody looks.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { active: AtomicUsize::new(0), at: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// Nobody looks.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { active: AtomicUsize::new(0), at: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// Has all who enter ask from now on. `barrier` lays a full fence on every thread of the
    /// process; false, and nothing has begun, where it cannot.
    pub fn begin(&self, barrier: impl FnOnce() -> bool) -> bool {
        self.activate();
        let is_ordered = barrier();
        if !is_ordered {
            self.active.store(0, end());
        }
        is_ordered
    }

    /// Nobody need ask any more.
    pub fn end(&self) {
        // Release pairs with the Acquire in `is_active`: who enters sees what was done meanwhile.
        self.active.store(0, end());
    }

    /// Calls `act` with what the place leads to, which is kept from being freed meanwhile, and from
    /// being entered if nobody runs it; the flag says so. `None` where the place is empty.
    ///
    /// # Safety
    /// - [`begin`](Self::begin) has returned true, of a barrier that was laid, and no call of
    ///   [`end`](Self::end) came since; until this returns, `act` included, nobody else calls
    ///   `begin`, `look` or `end` of this inspection.
    /// - What the place leads to is valid until its owner has cleared the place and then called
    ///   [`pass`](Self::pass) or [`remove`](Self::remove) of this inspection, and `runner_of` gives
    ///   the runner in it, at whose address no other record has one.
    /// - Where `act` relies on the flag, this inspection is the process's, which runners wait for.
    pub unsafe fn look<T, R>(
        &self,
        place: &AtomicPtr<T>,
        runner_of: impl Fn(NonNull<T>) -> NonNull<Runner>,
        act: impl FnOnce(NonNull<T>, bool) -> R,
    ) -> Option<R> {
        let (found, runner) = loop {
            let found = NonNull::new(place.load(Ordering::Acquire))?;
            let runner = runner_of(found);
            // Release, for whoever waits for the one before may see this one in its place.
            self.at.store(runner.as_ptr(), end());
            if !looks_without_a_fence() {
                // Pairs with the fence in `wait`: either they see what this looks at, or this sees
                // that the place was cleared, or the token there.
                fence(Ordering::SeqCst);
            }
            if place.load(Ordering::Acquire) == found.as_ptr() {
                break (found, runner);
            }
            self.at.store(core::ptr::null_mut(), end());
        };
        // SAFETY: it was in the place after everybody could see what this looks at, and that
        // anybody looks, which nobody takes back meanwhile; so its owner waits in `pass` before
        // freeing it. Until then it is valid by the caller's contract.
        let is_idle = unsafe { runner.as_ref() }.is_idle() && !takes_all_for_busy();
        let result = act(found, is_idle);
        // Release pairs with the Acquire in `wait`.
        self.at.store(core::ptr::null_mut(), end());
        Some(result)
    }

    /// As who has entered, after the store of its token; or who has emptied the place, before it
    /// frees what was there. Waits while that is looked at.
    #[inline]
    pub fn pass(&self, runner: &Runner) {
        if self.is_active() {
            self.wait(runner);
        }
    }

    /// Has nobody find what the place leads to, which this thread alone runs and is about to free.
    pub fn remove<T>(&self, place: &AtomicPtr<T>, this: NonNull<T>, runner: &Runner) {
        // Where a successor stands there already, that is left.
        let order = (Ordering::Relaxed, Ordering::Relaxed);
        let _ = place.compare_exchange(this.as_ptr(), core::ptr::null_mut(), order.0, order.1);
        if !frees_at_once() {
            self.pass(runner);
        }
    }

    #[cfg(not(loom))]
    fn activate(&self) {
        // Relaxed: the barrier that follows orders it.
        self.active.store(1, Ordering::Relaxed);
    }

    /// Whether anybody looks, at whatever it is. For who has stored its token, or emptied a place.
    #[cfg(not(loom))]
    #[inline]
    pub fn is_active(&self) -> bool {
        // The compiler does not load it before the stores that it is to follow; the processor is
        // kept from that by the barrier of who looks.
        compiler_fence(Ordering::SeqCst);
        // Acquire pairs with the Release in `end`.
        !enters_without_a_look() && self.active.load(Ordering::Acquire) != 0
    }

    /// Loom has no barrier for other threads. Two changes of one word do the same: of those that
    /// meet there the second sees what the first did before.
    #[cfg(loom)]
    fn activate(&self) {
        self.active.swap(1, Ordering::AcqRel);
    }

    /// Whether anybody looks.
    #[cfg(loom)]
    pub fn is_active(&self) -> bool {
        !enters_without_a_look() && self.active.fetch_add(0, Ordering::AcqRel) != 0
    }

    #[cold]
    #[inline(never)]
    fn wait(&self, runner: &Runner) {
        fence(Ordering::SeqCst);
        let mut rounds = 0_u32;
        // Acquire pairs with the Release in `look`.
        while core::ptr::eq(self.at.load(Ordering::Acquire), runner) {
            relax(rounds);
            rounds = rounds.saturating_add(1);
        }
    }
}

impl Default for Inspection {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(not(loom))]
static ALL: Inspection = Inspection::new();

#[cfg(loom)]
loom::lazy_static! {
    static ref ALL: Inspection = Inspection::new();
}

/// The process's: every [`Runner`] asks it. Not for users of the crate: who ended it while another
/// looks would let heaps be entered and freed that are looked at.
#[cfg(not(loom))]
#[inline]
pub(crate) fn all() -> &'static Inspection {
    &ALL
}

/// The process's, which the models begin and end.
#[cfg(loom)]
pub fn all() -> &'static Inspection {
    &ALL
}
