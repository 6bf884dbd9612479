//! Contexts that go along to other threads: closures in a heap, for `spawn_blocking`, threads and
//! rayon.
//!
//! A heap is run by one thread at a time, so work that is handed to another thread takes a heap of
//! its own along: one that was made for it, or a child of the context that hands it over.

use super::budget::ContextError;
use super::builder::HeapBuilder;
use super::handle::{Heap, HeapError};

impl Heap {
    /// A closure that runs `body` in this heap, wherever it is called, and closes the heap then.
    /// What `body` returns may live in the heap and outlives it.
    ///
    /// ```
    /// use heapswitch::Heap;
    ///
    /// let heap = Heap::builder().name("report").limit(16 << 20).build()?;
    /// let thread = std::thread::spawn(heap.wrap_closure(|| vec![1, 2, 3].len()));
    /// assert_eq!(thread.join().unwrap()?, 3);
    /// # Ok::<(), heapswitch::ContextError>(())
    /// ```
    ///
    /// # Errors
    /// The closure's: the heap was cancelled, is over a budget, or ended with its parent before it
    /// was called, or the thread is ending. `body` is not called then.
    pub fn wrap_closure<T>(
        self,
        body: impl FnOnce() -> T,
    ) -> impl FnOnce() -> Result<T, ContextError> {
        move || match self.end() {
            Some(error) => Err(error),
            None => Ok(self.run(body)?),
        }
    }
}

/// A closure that runs `body` in a child of the heap that is current now, wherever it is called: it
/// is bound by the same limits, shows in the same accounts, and ends with the context.
///
/// ```
/// use heapswitch::{Heap, in_child};
///
/// let request = Heap::builder().name("request").limit(16 << 20).build()?;
/// let length = request.run(|| {
///     // So with `tokio::task::spawn_blocking`, and with `rayon::spawn`.
///     let part = in_child("part", || vec![1, 2, 3].len())?;
///     std::thread::spawn(part).join().unwrap()
/// })??;
/// assert_eq!(length, 3);
/// # Ok::<(), heapswitch::ContextError>(())
/// ```
///
/// # Errors
/// [`HeapError::NoMemory`]; [`HeapError::Closed`] if the current context's parent has ended. The
/// closure's are those of [`Heap::wrap_closure`].
pub fn in_child<T>(
    name: &str,
    body: impl FnOnce() -> T,
) -> Result<impl FnOnce() -> Result<T, ContextError>, HeapError> {
    let heap = HeapBuilder::default().name(name).parent_current().build()?;
    Ok(heap.wrap_closure(body))
}
