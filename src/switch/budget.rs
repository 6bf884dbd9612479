//! The end of a context that is over its budget: how it is found, and what the program is told.
//!
//! A task that neither awaits, nor suspends, nor calls [`checkpoint`] cannot be ended: stable Rust
//! has no way to stop running code. Its account shows it.

use core::fmt;

use super::handle::{Heap, HeapError};
use super::scope::out_of_contexts;
use super::state::state;
use super::{closing, safe_point};
use crate::heap::account::{largest, signal, unrefused};
use crate::heap::{Account, AccountId, ContextName, HeapHeader, attention};

/// How many of the largest consumers an error names.
const NAMED_CONSUMERS: usize = 3;

/// Why a task, a coroutine or a loop in a context was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContextError {
    /// Its heap could not be entered.
    Heap(HeapError),
    /// It, or a context above it, was over its budget.
    OverBudget(Box<OverBudget>),
    /// Somebody asked for its end: [`Account::cancel`].
    Cancelled,
}

/// Who was over which limit, and who holds the memory.
///
/// Allocated outside the context that it tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OverBudget {
    /// What the account with the limit held, in bytes, when this was found; where it holds less
    /// than the limit again but went beyond the reserve, the most that it held. Not more than the
    /// limit where the region had no memory, and what the global allocator served is not counted.
    pub used_bytes: usize,
    /// Its hard limit in bytes.
    pub limit_bytes: usize,
    /// The account with the limit.
    pub account: AccountId,
    /// The name of that account: of the context, or of one above it.
    pub name: ContextName,
    /// The context that was ended.
    pub context: ContextName,
    /// Those that hold most below that account, itself included, largest first; at most three.
    pub largest: Vec<Consumer>,
}

/// A context and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Consumer {
    /// The account.
    pub account: AccountId,
    /// Its name.
    pub name: ContextName,
    /// Bytes in its own chunks.
    pub bytes: usize,
}

impl From<HeapError> for ContextError {
    fn from(error: HeapError) -> Self {
        Self::Heap(error)
    }
}

impl PartialEq<HeapError> for ContextError {
    fn eq(&self, other: &HeapError) -> bool {
        matches!(self, Self::Heap(error) if error == other)
    }
}

impl ContextError {
    /// The figures, if it was over its budget.
    pub fn over_budget(&self) -> Option<&OverBudget> {
        match self {
            Self::OverBudget(over) => Some(over),
            _ => None,
        }
    }
}

impl fmt::Display for ContextError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heap(error) => error.fmt(formatter),
            Self::OverBudget(over) => over.fmt(formatter),
            Self::Cancelled => formatter.write_str("the context was cancelled"),
        }
    }
}

impl core::error::Error for ContextError {}

impl fmt::Display for OverBudget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { used_bytes, limit_bytes, name, context, largest, .. } = self;
        write!(formatter, "context `{context}` was ended: ")?;
        if used_bytes <= limit_bytes {
            formatter.write_str("it took memory that nothing counts, for there was no other; ")?;
        }
        write!(formatter, "`{name}` used {used_bytes} bytes of its limit of {limit_bytes}")?;
        for (index, Consumer { name, bytes, .. }) in largest.iter().enumerate() {
            let before = if index == 0 { "; the largest:" } else { "," };
            write!(formatter, "{before} `{name}` {bytes}")?;
        }
        Ok(())
    }
}

impl core::error::Error for OverBudget {}

/// Whether the current context may go on: for loops that allocate and neither await nor suspend.
/// Does what is due at a safe point. Cheap: a few loads while there is nothing to tell.
///
/// Such a loop, or a recursion, that does not call it cannot be ended: stable Rust has no way to
/// stop running code. It goes on taking memory, up to the process's limit, unless its context's
/// policy is [`LimitPolicy::Fail`](crate::LimitPolicy::Fail); its account shows how much.
///
/// ```
/// use heapswitch::{ContextError, checkpoint};
///
/// fn rows() -> Result<Vec<String>, ContextError> {
///     let mut rows = Vec::new();
///     for number in 0..100 {
///         checkpoint()?;
///         rows.push(format!("row {number}"));
///     }
///     Ok(rows)
/// }
/// # rows()?;
/// # Ok::<(), ContextError>(())
/// ```
///
/// # Errors
/// [`ContextError::OverBudget`] and [`ContextError::Cancelled`], each told once; while the context
/// stays above its limit, at every call. [`HeapError::Closed`] when its parent has ended.
#[inline]
pub fn checkpoint() -> Result<(), ContextError> {
    let state = state();
    let Some(heap) = state.contexts.top().heap else {
        safe_point::reach(state);
        return Ok(());
    };
    // SAFETY: heaps that the state names are run by this thread.
    let this = unsafe { heap.as_ref() };
    let is_noted = this.attention() & attention::NOTED != 0 || state.due.is_any();
    if !is_noted && this.account.signals() & (signal::END | signal::CLOSE) == 0 {
        return Ok(());
    }
    checkpoint_with_work(this)
}

#[cold]
#[inline(never)]
fn checkpoint_with_work(this: &HeapHeader) -> Result<(), ContextError> {
    let account = this.account.clone();
    safe_point::note(state(), this);
    // The callbacks may give back so much that the context may go on.
    safe_point::reach(state());
    if account.is_ended() && account.first_over().is_some() {
        release_current(&account);
    }
    match end_of(&account) {
        Some(error) => Err(error),
        None if account.signals() & signal::CLOSE != 0 => Err(HeapError::Closed.into()),
        None => Ok(()),
    }
}

/// Gives back what the current heap has no block in, if it is still that of `account`.
fn release_current(account: &Account) {
    closing::flush_own_frees();
    let Some(heap) = state().contexts.top().heap else { return };
    // SAFETY: heaps that the state names are run by this thread.
    unsafe {
        if heap.as_ref().account == *account {
            (heap.as_ref().operations.release_unused)(heap, 0);
        }
    }
}

/// Why a context is to end now, if it is. Told once, unless it stays above its limit.
#[cold]
#[inline(never)]
pub(super) fn end_of(account: &Account) -> Option<ContextError> {
    // Of who did not take what passed a limit, its neighbours' overdraft is none.
    if !account.is_ended() {
        return None;
    }
    let told = account.lower(signal::SPENT | signal::CANCELLED);
    if told & signal::CANCELLED != 0 {
        return Some(ContextError::Cancelled);
    }
    let is_spent = told & signal::SPENT != 0;
    let over = match account.first_over() {
        Some(over) => over,
        None => {
            account.lower(signal::OVER);
            account.first_overdrawn().filter(|_| is_spent)?
        }
    };
    let error = out_of_contexts(|| {
        let over = unrefused(|| Box::new(over_budget(account, &over)));
        super::events::over_budget(&over);
        over
    });
    Some(ContextError::OverBudget(error))
}

fn over_budget(context: &Account, over: &Account) -> OverBudget {
    let usage = over.last_usage();
    let limit_bytes = usage.hard_limit_bytes.unwrap_or(usize::MAX);
    let is_over = usage.committed_bytes > limit_bytes;
    let largest = largest(over.subtree(), NAMED_CONSUMERS);
    OverBudget {
        used_bytes: if is_over { usage.committed_bytes } else { usage.peak_bytes },
        limit_bytes,
        account: over.id(),
        name: over.name(),
        context: context.name(),
        largest: largest
            .into_iter()
            .map(|(bytes, account)| Consumer { account: account.id(), name: account.name(), bytes })
            .collect(),
    }
}

impl Account {
    /// Ends the contexts that are charged to this account and those below it: each gets
    /// [`ContextError::Cancelled`] at its next safe point. For a reclaim callback that chooses a
    /// victim, or a request whose client has gone. Heaps that wait in a [`HeapPool`] are passed
    /// over.
    ///
    /// It wakes nobody. A task that waits keeps what it holds until it is polled, a coroutine until
    /// it is resumed. Waking the task is for who cancels it, with the waker of its last poll; or
    /// abort the task through its executor instead, which drops the future, in its heap, at once.
    /// The wrapper keeps no wakers: that would take two atomic operations in each poll of each
    /// task. To keep one for a task that may be cancelled, wrap it outside of its heap:
    ///
    /// ```
    /// use std::future::{Future, poll_fn};
    /// use std::sync::Mutex;
    /// use std::task::Waker;
    ///
    /// /// The future, which leaves its waker in `last` whenever it is polled.
    /// fn woken<T>(
    ///     future: impl Future<Output = T>,
    ///     last: &Mutex<Option<Waker>>,
    /// ) -> impl Future<Output = T> {
    ///     let mut future = Box::pin(future);
    ///     poll_fn(move |context| {
    ///         *last.lock().unwrap() = Some(context.waker().clone());
    ///         future.as_mut().poll(context)
    ///     })
    /// }
    ///
    /// let heap = heapswitch::Heap::new()?;
    /// let (account, last) = (heap.account_handle(), Mutex::new(None));
    /// let task = woken(heap.wrap(std::future::pending::<()>()), &last);
    /// // Spawned and polled meanwhile. To end it now:
    /// account.cancel();
    /// last.lock().unwrap().take().into_iter().for_each(Waker::wake);
    /// # drop(task);
    /// # Ok::<(), heapswitch::HeapError>(())
    /// ```
    ///
    /// [`HeapPool`]: crate::HeapPool
    pub fn cancel(&self) {
        for account in self.subtree().filter(Account::has_heap) {
            account.raise(signal::CANCELLED);
        }
    }
}

impl Heap {
    /// Why the heap's context is to end now, if it is. Calls the program's code if so: callbacks
    /// may give back so much that it may go on.
    #[inline]
    pub(super) fn end(&self) -> Option<ContextError> {
        if self.header().account.is_ended() { self.end_unless_reclaimed() } else { None }
    }

    #[cold]
    #[inline(never)]
    fn end_unless_reclaimed(&self) -> Option<ContextError> {
        let (this, state) = (self.header(), state());
        if this.runner.is(state.token.get()) {
            safe_point::note(state, this);
        }
        safe_point::reach(state);
        let account = &this.account;
        if account.first_over().is_some() {
            // A heap that runs elsewhere keeps what it has.
            let _ = self.release_unused();
        }
        end_of(account)
    }
}
