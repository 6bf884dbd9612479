//! A coroutine with a heap of its own, on corosensei's stacks.
//!
//! ```text
//!   the resumer's stack            the coroutine's stack         its heap
//!
//!   Coroutine { raw ─────────────▶ body's frames and values ──▶ what the body allocates
//!               context              scopes entered by the body
//!               heap ──────────────────────────────────────────▶ }
//! ```
//!
//! The heap is entered by every [`resume`](Coroutine::resume) before the switch, and left after the
//! switch back: when the body suspends, returns, panics, or is unwound because the coroutine is
//! dropped. So are the scopes that the body is suspended within. All of that happens in the
//! resumer, around the switch; see [`saved`](super::saved). The `Coroutine` lies where its owner
//! puts it, the body's captured values on its stack: neither in its heap.
//!
//! # Panics and unwinding
//! A panic in the body comes out of `resume`, in the resumer's context; its payload was allocated
//! in the coroutine's heap and stays valid, as any block that outlives its heap. Dropping a
//! suspended coroutine unwinds its stack in its own contexts, by a panic that runs no hook. A
//! program built with `panic = "abort"` has no unwinding: there a panic in a body ends the process,
//! as anywhere; so does dropping a coroutine that is **suspended**. Resuming, returning, dropping
//! coroutines that have ended or were never resumed work there too. Resume such a program's
//! coroutines to their end, or forget them.
//!
//! # Budgets
//! A coroutine that is over its budget when it suspends itself, or that was cancelled, ends there,
//! also where that is the budget of a heap which it is within a scope of, whoever took the memory:
//! a scope cannot be unwound alone. Of several that wait in one heap the first is told. Its stack
//! is unwound in its heap, as if it were dropped. What it gave to its resumer still arrives; the
//! next resume is refused with the error that names it. A program without unwinding keeps the
//! stack, and only refuses.
//!
//! # Under ThreadSanitizer
//! Built with `--cfg heapswitch_tsan` beside `-Zsanitizer=thread`, a coroutine is a fiber to the
//! sanitizer: its calls are named in reports, and it may change threads.
//!
//! # What it costs
//! A resume and suspend: corosensei's two switches and, in their shade, an enter and a leave.
//! Nothing is allocated, and no lock taken, but at the making and at the end: where what is wanted,
//! or given back, has no place in the thread's slot of its pool.

use core::any::Any;
use core::borrow::Borrow;
use core::cell::Cell;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::budget::ContextError;
use super::handle::Heap;
use super::pool::{HeapPool, PooledHeap};
use super::saved::{ContextMark, SavedContext};
use super::stack_pool::{CoroutineStack, DEFAULT_STACKS};
use crate::heap::account::set_unrefused;
use crate::sys::SystemError;
use crate::sys::fiber::{Fiber, on_fiber};

/// What corosensei moves to a new stack at most, in bytes; and no alignment takes it off the stack.
const MAX_CAPTURE_BYTES: usize = 1024;

type Raw<Input, Yield, Return> = corosensei::Coroutine<Input, Yield, Return, CoroutineStack>;

mod sealed {
    pub trait Sealed {}
}

/// What a coroutine's heap may be: a [`Heap`], which closes with the coroutine, or a
/// [`PooledHeap`], which then goes back to its pool. Sealed, for it has to be one heap as long as
/// the coroutine lives.
pub trait CoroutineHeap: Borrow<Heap> + fmt::Debug + sealed::Sealed {}

impl sealed::Sealed for Heap {}
impl CoroutineHeap for Heap {}

impl<P: Deref<Target = HeapPool>> sealed::Sealed for PooledHeap<P> {}
impl<P: Deref<Target = HeapPool> + fmt::Debug> CoroutineHeap for PooledHeap<P> {}

/// A stackful coroutine whose allocations come from its own heap.
///
/// ```
/// use heapswitch::{Coroutine, CoroutineResult, Heap};
///
/// let mut words = Coroutine::new(Heap::new()?, |yielder, first: String| {
///     let second = yielder.suspend(first + " world");
///     format!("{second}!")
/// })?;
/// let CoroutineResult::Yield(greeting) = words.resume("hello".to_owned())? else { panic!() };
/// let farewell = words.resume("bye".to_owned())?.as_return();
/// drop(words);
/// assert_eq!((&*greeting, farewell.as_deref()), ("hello world", Some("bye!")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With a heap and a stack of pools, making one and ending it makes no system call:
///
/// ```
/// use heapswitch::{Coroutine, HeapPool, StackPool};
///
/// static HEAPS: HeapPool = HeapPool::new();
/// static STACKS: StackPool = StackPool::new(256 << 10, 100);
///
/// for request in 0..3 {
///     let (heap, stack) = (HEAPS.take()?, STACKS.take()?);
///     let mut coroutine = Coroutine::with_stack(heap, stack, move |yielder, name: &str| {
///         yielder.suspend(format!("{name} {request}").len());
///     });
///     assert_eq!(coroutine.resume("request")?.as_yield(), Some(9));
/// }
/// assert_eq!((HEAPS.waiting(), STACKS.waiting()), (1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `!Send`, whatever its body holds: see [`assume_send`](Self::assume_send).
///
/// ```compile_fail
/// fn is_send<T: Send>() {}
/// is_send::<heapswitch::Coroutine<(), (), ()>>();
/// ```
///
/// Nor `Sync`, as its heap:
///
/// ```compile_fail
/// fn is_sync<T: Sync>() {}
/// is_sync::<heapswitch::Coroutine<(), (), ()>>();
/// ```
pub struct Coroutine<Input, Yield, Return, H: CoroutineHeap = Heap> {
    // Dropped first: it is unwound in the heap.
    body: Body<Input, Yield, Return>,
    heap: H,
    /// Why it was ended before its time, until somebody was told.
    end: Option<ContextError>,
}

/// What runs, without the heap.
///
/// # Invariants
/// - `heap` is the one that lies beside it.
struct Body<Input, Yield, Return> {
    raw: Raw<Input, Yield, Return>,
    fiber: Fiber,
    context: SavedContext,
    heap: core::ptr::NonNull<crate::heap::HeapHeader>,
}

/// What a coroutine gave back to its resumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CoroutineResult<Yield, Return> {
    /// It is suspended, and gave this to [`Yielder::suspend`].
    Yield(Yield),
    /// It has ended, and its body returned this.
    Return(Return),
}

impl<Yield, Return> CoroutineResult<Yield, Return> {
    /// What it gave when it was suspended.
    pub fn as_yield(self) -> Option<Yield> {
        match self {
            Self::Yield(value) => Some(value),
            Self::Return(_) => None,
        }
    }

    /// What its body returned.
    pub fn as_return(self) -> Option<Return> {
        match self {
            Self::Yield(_) => None,
            Self::Return(value) => Some(value),
        }
    }
}

/// Why a coroutine was not resumed, with what was to be given to it. It is as it was, but where its
/// budget or a cancel ended it.
pub struct ResumeError<Input> {
    /// The reason; `None`: it has ended.
    pub error: Option<ContextError>,
    /// What was to be given to it.
    pub input: Input,
}

impl<Input> fmt::Debug for ResumeError<Input> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ResumeError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<Input> fmt::Display for ResumeError<Input> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            Some(error) => write!(formatter, "a coroutine was to be resumed: {error}"),
            None => {
                formatter.write_str("a coroutine was to be resumed and has ended; make another")
            }
        }
    }
}

impl<Input> core::error::Error for ResumeError<Input> {}

/// The body's way to suspend its coroutine. It stays on the body's thread:
///
/// ```compile_fail,E0277
/// fn is_send<T: Send>() {}
/// is_send::<&heapswitch::Yielder<'static, (), ()>>();
/// ```
pub struct Yielder<'a, Input, Yield> {
    raw: &'a corosensei::Yielder<Input, Yield>,
}

impl<Input, Yield> Yielder<'_, Input, Yield> {
    /// Suspends the coroutine: its resumer gets `value`. Returns what the next resume gives.
    ///
    /// Scopes that are entered here are left for as long, innermost first, and entered again in
    /// order.
    ///
    /// # Panics
    /// When the coroutine is dropped while it is suspended, with a payload that runs no panic hook:
    /// so its stack is unwound. A body that catches it must return, or go on unwinding. Suspended
    /// again meanwhile it panics anew; in a destructor that ends the process.
    #[inline]
    pub fn suspend(&self, value: Yield) -> Input {
        let unwound = Unwound;
        let input = self.raw.suspend(value);
        core::mem::forget(unwound);
        input
    }
}

/// Dropped where a coroutine that is dropped begins to unwind: limits hold for its destructors.
struct Unwound;

impl Drop for Unwound {
    fn drop(&mut self) {
        set_unrefused(false);
    }
}

impl<Input, Yield> fmt::Debug for Yielder<'_, Input, Yield> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Yielder")
    }
}

impl<Input: 'static, Yield: 'static, Return: 'static, H: CoroutineHeap>
    Coroutine<Input, Yield, Return, H>
{
    /// A coroutine that runs `body` in `heap` when it is first resumed, on a stack of 1 MiB of
    /// address space from a pool that all threads share.
    ///
    /// What `body` captures moves to that stack: 1 KiB at most, aligned to 1 KiB at most. More does
    /// not compile:
    ///
    /// ```compile_fail,E0080
    /// use heapswitch::{Coroutine, Heap};
    ///
    /// let large = [0_u8; 2000];
    /// let heap = Heap::new().unwrap();
    /// let coroutine = Coroutine::<(), (), u8>::new(heap, move |_, ()| large[0]);
    /// ```
    ///
    /// # Errors
    /// The system's, where it refuses a stack: `ENOMEM` also at the limit on mappings, of which
    /// each takes two (`vm.max_map_count`, mostly 65,530). The heap is dropped then.
    pub fn new<F>(heap: H, body: F) -> Result<Self, SystemError>
    where
        F: FnOnce(&Yielder<'_, Input, Yield>, Input) -> Return + 'static,
    {
        Ok(Self::with_stack(heap, DEFAULT_STACKS.take()?, body))
    }

    /// As [`new`](Self::new), on a stack of a pool of one's own.
    pub fn with_stack<F>(heap: H, stack: CoroutineStack, body: F) -> Self
    where
        F: FnOnce(&Yielder<'_, Input, Yield>, Input) -> Return + 'static,
    {
        const {
            assert!(
                size_of::<F>() <= MAX_CAPTURE_BYTES && align_of::<F>() <= MAX_CAPTURE_BYTES,
                "a coroutine's body captures more than 1 KiB, or what is aligned to more; box it"
            );
        }
        let captured = Captured(ManuallyDrop::new(body));
        let raw =
            Raw::with_stack(stack, move |raw, input| captured.take()(&Yielder { raw }, input));
        let body = Body {
            raw,
            fiber: Fiber::new(),
            context: SavedContext::new(),
            heap: heap.borrow().raw(),
        };
        Self { body, heap, end: None }
    }
}

impl<Input, Yield, Return, H: CoroutineHeap> Coroutine<Input, Yield, Return, H> {
    /// Switches to the coroutine, in its heap and the scopes that it is within, until it suspends
    /// itself or returns. Whatever was current before is current again afterwards.
    ///
    /// # Errors
    /// It has ended, of itself or by its budget; its heap, or that of a scope which it is within,
    /// is entered already; there is no memory for the entries. It is not switched to then.
    ///
    /// # Panics
    /// With what the body panics with. The coroutine has ended then.
    #[inline]
    pub fn resume(
        &mut self,
        input: Input,
    ) -> Result<CoroutineResult<Yield, Return>, ResumeError<Input>> {
        if self.body.raw.done() || self.is_over() {
            return Err(self.ended(input));
        }
        let mark = match self.body.context.resume_at(Some(self.body.heap)) {
            Ok(mark) => mark,
            Err(error) => return Err(ResumeError { error: Some(error.into()), input }),
        };
        let entered = Entered { body: &mut self.body, mark: Some(mark) };
        // Nothing of the thread's state is held across this: the body may resume, and be resumed,
        // anywhere.
        let result = on_fiber!(entered.body.fiber, entered.body.raw.resume(input));
        drop(entered);
        Ok(match result {
            corosensei::CoroutineResult::Yield(value) => {
                self.is_over();
                CoroutineResult::Yield(value)
            }
            corosensei::CoroutineResult::Return(value) => CoroutineResult::Return(value),
        })
    }

    /// Whether it is ended by its budget; if it is to be, it is unwound here.
    #[inline]
    fn is_over(&mut self) -> bool {
        match self.heap.borrow().end().or_else(|| self.body.context.end()) {
            Some(error) => self.unwind_over(error),
            None => self.end.is_some(),
        }
    }

    #[cold]
    #[inline(never)]
    fn unwind_over(&mut self, error: ContextError) -> bool {
        self.end = Some(error);
        if cfg!(panic = "unwind") {
            self.body.unwind();
        }
        true
    }

    /// Why it is not resumed.
    #[cold]
    fn ended(&mut self, input: Input) -> ResumeError<Input> {
        // Without unwinding it is not done, and every resume is refused.
        let error = if self.body.raw.done() { self.end.take() } else { self.end.clone() };
        ResumeError { error, input }
    }

    /// Whether the body has returned or panicked.
    pub fn is_done(&self) -> bool {
        self.body.raw.done()
    }

    /// Whether it was resumed at least once.
    pub fn is_started(&self) -> bool {
        self.body.raw.started()
    }

    /// Its heap. A guard of it that is forgotten makes the next resume fail.
    pub fn heap(&self) -> &Heap {
        self.heap.borrow()
    }

    /// Ends the coroutine and hands its heap back, with everything in it. A coroutine that is
    /// suspended is unwound first, as if dropped.
    pub fn into_heap(self) -> H {
        let Self { body, heap, .. } = self;
        drop(body);
        heap
    }

    /// The same coroutine, which may be sent to other threads.
    ///
    /// Its heap goes with it; the memory stays where it is, also on the node where it is.
    ///
    /// # Safety
    /// Whenever it is sent while it is suspended, and when it is sent before its first resume:
    /// - every value on its stack, and all that `body` captured, is `Send`. Guards of this crate's
    ///   scopes are excepted;
    /// - no heap of a scope that it is within, but its own, is used by anybody else until it is
    ///   resumed or dropped where it was sent to;
    /// - it is not within `LocalKey::with` or any other code that holds on to a thread-local
    ///   variable, and the function that suspends has not read a `thread_local!` which it reads
    ///   again afterwards: the compiler may keep the variable's address from the thread before
    ///   (LLVM issue 98479). Reads in functions that are never inlined into one that suspends are
    ///   safe;
    /// - it is not within a destructor that runs because of a panic, nor holds a lock that must be
    ///   released on the thread that took it.
    pub unsafe fn assume_send(self) -> SendCoroutine<Input, Yield, Return, H> {
        SendCoroutine { coroutine: self }
    }
}

/// A coroutine's body until it is called. A coroutine that was never resumed drops it: corosensei
/// does not note that it has, should that panic, and would drop it once more with the stack.
/// Therefore the panic waits in `PANIC` until that is over.
struct Captured<F>(ManuallyDrop<F>);

std::thread_local! {
    /// From a body's drop to the end of its coroutine's, on one thread. Without a destructor, which
    /// a coroutine that is dropped when the thread's others have run would register in vain.
    static PANIC: Cell<Option<ManuallyDrop<Box<dyn Any + Send>>>> = const { Cell::new(None) };
}

impl<F> Captured<F> {
    #[inline]
    fn take(self) -> F {
        // SAFETY: `self` is never dropped nor used after.
        unsafe { ManuallyDrop::take(&mut ManuallyDrop::new(self).0) }
    }
}

impl<F> Drop for Captured<F> {
    fn drop(&mut self) {
        // SAFETY: not used afterwards.
        let dropped = || unsafe { ManuallyDrop::drop(&mut self.0) };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(dropped)) {
            put_off(payload);
        }
    }
}

// Neither is inlined: around them other code may change threads with its stack.

#[cold]
#[inline(never)]
fn put_off(payload: Box<dyn Any + Send>) {
    PANIC.set(Some(ManuallyDrop::new(payload)));
}

#[cold]
#[inline(never)]
fn panic_put_off() {
    if let Some(payload) = PANIC.take() {
        resume_unwind(ManuallyDrop::into_inner(payload));
    }
}

/// Leaves the contexts when dropped: after the switch back, and when a panic comes out of it.
struct Entered<'a, Input, Yield, Return> {
    body: &'a mut Body<Input, Yield, Return>,
    mark: Option<ContextMark>,
}

impl<Input, Yield, Return> Drop for Entered<'_, Input, Yield, Return> {
    #[inline]
    fn drop(&mut self) {
        if let Some(mark) = self.mark.take() {
            self.body.context.suspend(mark);
        }
        if self.body.raw.done() {
            // Guards that the body forgot.
            self.body.context.discard();
        }
    }
}

impl<Input, Yield, Return> Drop for Body<Input, Yield, Return> {
    fn drop(&mut self) {
        self.unwind();
    }
}

impl<Input, Yield, Return> Body<Input, Yield, Return> {
    /// Ends the coroutine where it is suspended, in its contexts.
    fn unwind(&mut self) {
        if self.raw.done() {
            return;
        }
        let mark = self.context.resume_to_unwind(self.heap);
        let entered = Entered { body: self, mark };
        // The payload that unwinds is allocated before the thread counts as one that unwinds. What
        // never began is only dropped.
        let was_unrefused = set_unrefused(entered.body.raw.started());
        on_fiber!(entered.body.fiber, entered.body.raw.force_unwind());
        set_unrefused(was_unrefused);
        drop(entered);
        panic_put_off();
    }
}

impl<Input, Yield, Return, H: CoroutineHeap> fmt::Debug for Coroutine<Input, Yield, Return, H> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Coroutine")
            .field("is_done", &self.is_done())
            .field("heap", &self.heap)
            .finish_non_exhaustive()
    }
}

/// A [`Coroutine`] whose maker promised that it may change threads while it is suspended.
///
/// ```
/// use heapswitch::{Coroutine, Heap};
///
/// let coroutine = Coroutine::new(Heap::new()?, |yielder, ()| {
///     let text = String::from("made here");
///     yielder.suspend(());
///     text
/// })?;
/// // SAFETY: it holds a `String` and the yielder, and reads no thread-local variable.
/// let mut coroutine = unsafe { coroutine.assume_send() };
/// coroutine.resume(())?;
/// let there = std::thread::spawn(move || coroutine.resume(()).ok()?.as_return());
/// assert_eq!(there.join().unwrap().as_deref(), Some("made here"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SendCoroutine<Input, Yield, Return, H: CoroutineHeap = Heap> {
    coroutine: Coroutine<Input, Yield, Return, H>,
}

// SAFETY: the caller of `assume_send` said so. The heap is `Send`, and its pool; the saved context
// binds the heaps in it to this thread, and takes them to the next as the contract there allows.
unsafe impl<Input: Send, Yield: Send, Return: Send, H: CoroutineHeap + Send> Send
    for SendCoroutine<Input, Yield, Return, H>
{
}

impl<Input, Yield, Return, H: CoroutineHeap> SendCoroutine<Input, Yield, Return, H> {
    /// As [`Coroutine::resume`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    #[inline]
    pub fn resume(
        &mut self,
        input: Input,
    ) -> Result<CoroutineResult<Yield, Return>, ResumeError<Input>> {
        self.coroutine.resume(input)
    }

    /// Whether the body has returned or panicked.
    pub fn is_done(&self) -> bool {
        self.coroutine.is_done()
    }

    /// Its heap.
    pub fn heap(&self) -> &Heap {
        self.coroutine.heap()
    }

    /// As [`Coroutine::into_heap`].
    pub fn into_heap(self) -> H {
        self.coroutine.into_heap()
    }

    /// The same coroutine, which stays on this thread.
    pub fn into_local(self) -> Coroutine<Input, Yield, Return, H> {
        self.coroutine
    }
}
