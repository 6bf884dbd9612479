//! Futures that run in a heap of their own, on any executor.
//!
//! ```text
//!   executor ──poll──▶ InHeap ──enter──▶ ┌───────────────────────┐
//!                                        │ inner future: poll    │ allocates in its heap
//!   executor ◀─Poll─── InHeap ◀─leave─── └───────────────────────┘
//! ```
//!
//! The heap is entered for each poll and for the inner future's drop, and left after it, also by a
//! panic. Between polls nothing of it is current, so the task may move to another thread.
//!
//! A task that is over its budget when it awaits, or that was cancelled, ends there: the wrapper
//! drops the inner future in its heap and resolves to the error that names it. One that is done
//! gives its output, over its budget or not.
//!
//! The inner future is dropped, in its heap, as soon as it is done. Its output may live in the heap
//! and outlive it. What the executor allocates for the task lies outside.
//!
//! A guard that the inner future keeps across an `.await` ends with the poll: the context that it
//! entered is not current in the next one, and dropping it does nothing. Guards are not `Send`, so
//! this concerns only futures that stay on their thread.

use core::borrow::Borrow;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use super::budget::ContextError;
use super::builder::HeapBuilder;
use super::handle::{Heap, HeapError};
use super::scope::WholeScope;

/// A future that runs in a heap. See [`Heap::wrap`] and [`FutureExt::in_heap`].
///
/// `Send` where the future is. Its output is the future's, or why it was ended.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is polled"]
pub struct InHeap<F, H: Borrow<Heap> = Heap> {
    /// `None` once it is done. Pinned with the wrapper.
    inner: Option<F>,
    heap: H,
}

impl Heap {
    /// Makes a future run in this heap, which closes when the wrapper is dropped.
    ///
    /// ```
    /// use heapswitch::Heap;
    /// # use std::future::Future;
    /// # fn block_on<F: Future>(future: F) -> F::Output {
    /// #     let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// #     match std::pin::pin!(future).poll(&mut context) {
    /// #         std::task::Poll::Ready(output) => output,
    /// #         std::task::Poll::Pending => unreachable!(),
    /// #     }
    /// # }
    ///
    /// let answer = Heap::new()?.wrap(async { format!("{}", 6 * 7) });
    /// assert_eq!(block_on(answer)?, "42");
    /// # Ok::<(), heapswitch::ContextError>(())
    /// ```
    #[inline]
    pub fn wrap<F: Future>(self, future: F) -> InHeap<F> {
        InHeap::new(self, future)
    }
}

/// [`in_heap`](Self::in_heap) for every future.
pub trait FutureExt: Future + Sized {
    /// Makes the future run in a heap: an owned one, a borrowed one, or a [`PooledHeap`].
    ///
    /// [`PooledHeap`]: crate::PooledHeap
    ///
    /// ```
    /// use heapswitch::{FutureExt, HeapPool};
    ///
    /// static POOL: HeapPool = HeapPool::new();
    ///
    /// let task = async { vec![1, 2, 3].len() }.in_heap(POOL.take()?);
    /// # fn spawn<F: Future + Send + 'static>(_: F) {}
    /// # use std::future::Future;
    /// spawn(task); // On any executor.
    /// # Ok::<(), heapswitch::HeapError>(())
    /// ```
    #[inline]
    fn in_heap<H: Borrow<Heap>>(self, heap: H) -> InHeap<Self, H> {
        InHeap::new(heap, self)
    }

    /// Makes the future run in a child heap of the current context: for a task that is spawned. It
    /// has an account of its own below the context's, is bound by the limits there, and is ended
    /// with the context: at its next poll it resolves to [`HeapError::Closed`].
    ///
    /// ```
    /// use heapswitch::{FutureExt, Heap};
    ///
    /// # fn spawn<F: Future + Send + 'static>(_: F) {}
    /// # use std::future::Future;
    /// let request = Heap::builder().name("request").limit(16 << 20).build()?;
    /// let task = request.wrap(async {
    ///     spawn(async { vec![1, 2, 3].len() }.in_child("part")?); // On any executor.
    ///     Ok::<(), heapswitch::HeapError>(())
    /// });
    /// # drop(task);
    /// # Ok::<(), heapswitch::HeapError>(())
    /// ```
    ///
    /// # Errors
    /// [`HeapError::NoMemory`]; [`HeapError::Closed`] if the current context's parent has ended.
    fn in_child(self, name: &str) -> Result<InHeap<Self>, HeapError> {
        Ok(InHeap::new(HeapBuilder::default().name(name).parent_current().build()?, self))
    }
}

impl<F: Future> FutureExt for F {}

impl<F: Future, H: Borrow<Heap>> InHeap<F, H> {
    /// Makes `future` run in `heap`.
    #[inline]
    pub const fn new(heap: H, future: F) -> Self {
        Self { inner: Some(future), heap }
    }
}

impl<F, H: Borrow<Heap>> InHeap<F, H> {
    /// The heap that it runs in.
    #[inline]
    pub fn heap(&self) -> &Heap {
        self.heap.borrow()
    }

    /// Whether the inner future is done, and dropped.
    #[inline]
    pub const fn is_done(&self) -> bool {
        self.inner.is_none()
    }

    /// The inner future, pinned as the wrapper is, and the heap.
    #[inline]
    fn project(self: Pin<&mut Self>) -> (Pin<&mut Option<F>>, &Heap) {
        // SAFETY: `inner` is pinned with the wrapper: nothing moves it out, and `drop` drops it in
        // place. The heap is never pinned.
        unsafe {
            let this = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut this.inner), this.heap.borrow())
        }
    }
}

impl<F: Future, H: Borrow<Heap>> Future for InHeap<F, H> {
    type Output = Result<F::Output, ContextError>;

    /// # Panics
    /// As the inner future does; and if it is polled again when it was done.
    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (mut inner, heap) = self.project();
        let Some(future) = inner.as_mut().as_pin_mut() else { polled_when_done() };
        let _scope = match WholeScope::enter(heap) {
            Ok(scope) => scope,
            Err(error) => return Poll::Ready(Err(refused(inner, error))),
        };
        // Asked to end since the last poll, by whoever holds the account.
        if let Some(error) = heap.end() {
            inner.set(None);
            return Poll::Ready(Err(error));
        }
        let result = future.poll(context);
        if result.is_ready() {
            inner.set(None);
        } else if let Some(error) = heap.end() {
            inner.set(None);
            return Poll::Ready(Err(error));
        }
        result.map(Ok)
    }
}

/// A heap that has ended with its parent never runs again: its future is dropped. One that runs
/// elsewhere may be free at the next poll.
#[cold]
#[inline(never)]
fn refused<F>(mut inner: Pin<&mut Option<F>>, error: HeapError) -> ContextError {
    if error == HeapError::Closed {
        inner.set(None);
    }
    error.into()
}

#[cold]
#[inline(never)]
fn polled_when_done() -> ! {
    panic!("a future in a heap was polled after it was done")
}

impl<F, H: Borrow<Heap>> Drop for InHeap<F, H> {
    // Inlined as far as the look: of most wrappers that are dropped the future is done.
    #[inline]
    fn drop(&mut self) {
        if !self.is_done() {
            // SAFETY: the wrapper is not moved from here to its end.
            drop_undone(unsafe { Pin::new_unchecked(self) });
        }
    }
}

/// Drops a future that was not polled to its end.
#[inline(never)]
fn drop_undone<F, H: Borrow<Heap>>(this: Pin<&mut InHeap<F, H>>) {
    let (mut inner, heap) = this.project();
    // Where the heap cannot be entered, the future is dropped in the current context.
    let _scope = WholeScope::enter(heap);
    inner.set(None);
}
