//! Scopes: entering and leaving by guard and by closure; the allocator in use; swapping.

use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use super::handle::{Heap, HeapError, refused, token};
use super::in_use::CurrentAllocatorInUse;
use super::safe_point;
use super::stack::{Entry, Hold, Place};
use super::state::{ThreadState, state};
use crate::allocator::MemoryUsageChange;
use crate::heap::HeapHeader;

/// Ends a scope when dropped: what was in use before it is in use again.
///
/// `!Send`: it belongs to its thread's stack of contexts and holds the number of its entry there.
/// One that is dropped before those made after it takes effect when they are gone. One that is
/// moved out of a coroutine and dropped while that is suspended does nothing; the heap that it
/// entered is left when the coroutine ends.
#[derive(Debug)]
#[must_use = "dropping the guard ends the scope"]
pub struct Scope<'a> {
    place: Place,
    not_send: PhantomData<(&'a Heap, *mut ())>,
}

impl Drop for Scope<'_> {
    #[inline]
    fn drop(&mut self) {
        state().pop_context(self.place);
    }
}

impl Scope<'_> {
    #[inline]
    fn push(state: &ThreadState, entry: Entry) -> Option<Self> {
        let place = Place::of_serial(state.push_context(entry)?);
        Some(Self { place, not_send: PhantomData })
    }
}

/// As [`Scope`], and ends with it every scope that was entered since and not left: guards that a
/// future keeps across an await.
#[derive(Debug)]
pub(super) struct WholeScope<'a>(ManuallyDrop<Scope<'a>>);

impl<'a> WholeScope<'a> {
    #[inline]
    pub(super) fn enter(heap: &'a Heap) -> Result<Self, HeapError> {
        heap.enter().map(|scope| Self(ManuallyDrop::new(scope)))
    }
}

impl Drop for WholeScope<'_> {
    #[inline]
    fn drop(&mut self) {
        state().pop_context_and_above(self.0.place);
    }
}

/// Enters a heap: makes this thread its runner and it the thread's current one.
#[inline]
pub(super) fn enter_raw<'a>(header: NonNull<HeapHeader>) -> Result<Scope<'a>, HeapError> {
    let state = state();
    // SAFETY: the caller has the heap's handle, so its header is valid.
    let this = unsafe { header.as_ref() };
    // Where a heap may be pushed, the thread has its token.
    let place = if state.may_push_heap()
        && this.foreign.is_empty()
        && this.runner.try_enter_idle(state.token.get())
    {
        // SAFETY: this thread runs the heap, and may push it.
        unsafe { state.push_heap(header) }
    } else {
        enter_otherwise(header)?
    };
    Ok(Scope { place, not_send: PhantomData })
}

/// As [`enter_raw`], of a heap within another, and of children.
#[cold]
#[inline(never)]
fn enter_otherwise(header: NonNull<HeapHeader>) -> Result<Place, HeapError> {
    let state = state();
    state.contexts.settle();
    // SAFETY: the caller has the heap's handle; then this thread runs it, and may push it.
    unsafe {
        if state.may_push_heap() && safe_point::try_enter_soon(header.as_ref(), state.token.get()) {
            return Ok(state.push_heap(header));
        }
    }
    enter_with_work(header)
}

/// Sets the thread up, makes room for an entry, takes what others freed: whatever is needed.
#[cold]
#[inline(never)]
fn enter_with_work(header: NonNull<HeapHeader>) -> Result<Place, HeapError> {
    let token = token()?;
    let state = state();
    if !state.contexts.reserve_newest() {
        return Err(HeapError::NoMemory);
    }
    // SAFETY: the caller has the heap's handle, so its header is valid.
    let this = unsafe { header.as_ref() };
    // SAFETY: the caller has the heap's handle.
    if !unsafe { safe_point::try_enter(header, token) } {
        return Err(refused(this));
    }
    // SAFETY: this thread runs the heap, and room for it was made.
    unsafe {
        (this.operations.collect)(header);
        Ok(state.push_heap(header))
    }
}

impl Heap {
    /// Enters the heap until the guard is dropped.
    ///
    /// The thread is in the heap, whatever it runs. A guard that is held across an `await` on a
    /// runtime of one thread is current in other tasks, too: [`wrap`](Self::wrap) the future. A
    /// thread of rayon's that waits within (`join`, `scope`, a parallel iterator) may run other
    /// jobs meanwhile, in this heap: enter in the innermost job, not around the wait.
    ///
    /// # Errors
    /// [`HeapError::Running`] if it is entered already, here or elsewhere; [`HeapError::Closed`] if
    /// its parent has ended; [`HeapError::NoMemory`] for the entry; [`HeapError::ThreadEnded`].
    #[inline]
    pub fn enter(&self) -> Result<Scope<'_>, HeapError> {
        enter_raw(self.raw())
    }

    /// A copy of a value in this heap, as deep as its `Clone`: what that shares, an `Arc`, an `Rc`,
    /// a `Bytes`, stays where it is, and charged there.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn copy_in<T: Clone>(&self, value: &T) -> Result<T, HeapError> {
        self.run(|| value.clone())
    }

    /// Calls `body` with the heap entered, and leaves it, also when `body` panics: see
    /// [`run_panic_hook_outside`](crate::run_panic_hook_outside) for what a panic leaves behind. As
    /// with [`enter`](Self::enter), whatever the thread runs meanwhile is in the heap.
    ///
    /// # Errors
    /// As [`enter`](Self::enter); `body` is not called then.
    #[inline(always)] // measured: the call is a sixth of entering and leaving
    pub fn run<T>(&self, body: impl FnOnce() -> T) -> Result<T, HeapError> {
        let scope = self.enter()?;
        let result = body();
        drop(scope);
        Ok(result)
    }
}

/// Which allocator serves this thread's allocations now.
pub fn current() -> CurrentAllocatorInUse {
    state().contexts.top().in_use
}

/// Uses another allocator until the guard is dropped. The coroutine-local heap stays current, so it
/// may be chosen again within.
///
/// # Errors
/// [`HeapError::NoHeap`] where the coroutine-local one is asked for and no heap is current;
/// [`HeapError::ThreadEnded`]; [`HeapError::NoMemory`].
pub fn use_allocator(in_use: CurrentAllocatorInUse) -> Result<Scope<'static>, HeapError> {
    token()?;
    let state = state();
    let heap = state.contexts.top().heap;
    if in_use == CurrentAllocatorInUse::CoroutineLocal && heap.is_none() {
        return Err(HeapError::NoHeap);
    }
    let entry = Entry { heap, in_use, hold: Hold::Inherited, ..Entry::EMPTY };
    Scope::push(state, entry).ok_or(HeapError::NoMemory)
}

/// Calls `body` with the thread's own heap in use.
///
/// # Errors
/// [`HeapError::ThreadEnded`], [`HeapError::NoMemory`].
pub fn with_thread_local<T>(body: impl FnOnce() -> T) -> Result<T, HeapError> {
    let scope = use_allocator(CurrentAllocatorInUse::ThreadLocal)?;
    let result = body();
    drop(scope);
    Ok(result)
}

/// Calls `body` with the locked global allocator in use.
///
/// # Errors
/// [`HeapError::ThreadEnded`], [`HeapError::NoMemory`].
pub fn with_global<T>(body: impl FnOnce() -> T) -> Result<T, HeapError> {
    let scope = use_allocator(CurrentAllocatorInUse::Global)?;
    let result = body();
    drop(scope);
    Ok(result)
}

/// Calls `body` with the thread's own heap in use, where that is possible.
pub(super) fn out_of_contexts<T>(body: impl FnOnce() -> T) -> T {
    // On a thread that ends the global allocator serves anyway.
    let scope = use_allocator(CurrentAllocatorInUse::ThreadLocal);
    let result = body();
    drop(scope);
    result
}

/// As [`out_of_contexts`], where nothing of the program's may be called: what is due waits for the
/// next safe point.
pub(super) fn out_of_contexts_quietly<T>(body: impl FnOnce() -> T) -> T {
    let scope = use_allocator(CurrentAllocatorInUse::ThreadLocal);
    let result = body();
    if let Ok(scope) = scope {
        state().pop_quietly(ManuallyDrop::new(scope).place);
    }
    result
}

/// Calls `body` with that in use which was when the innermost context was entered: the parent's
/// heap, or the thread's.
///
/// # Errors
/// [`HeapError::ThreadEnded`], [`HeapError::NoMemory`].
pub fn with_outer<T>(body: impl FnOnce() -> T) -> Result<T, HeapError> {
    token()?;
    let state = state();
    let innermost = (0..state.contexts.depth())
        .rev()
        .find(|&depth| state.contexts.get(depth).is_some_and(|e| e.hold != Hold::Inherited));
    let below = match innermost {
        None => Entry::EMPTY,
        Some(0) => state.contexts.base(),
        Some(depth) => state.contexts.get(depth - 1).unwrap_or(Entry::EMPTY),
    };
    let entry = Entry { heap: below.heap, in_use: below.in_use, ..Entry::EMPTY };
    let scope = Scope::push(state, entry.with_possible_use()).ok_or(HeapError::NoMemory)?;
    let result = body();
    drop(scope);
    Ok(result)
}

/// A copy of a value of the innermost context outside of it: where what is returned from a request,
/// a task or a query may live on when its heap has gone.
///
/// It is as deep as the value's `Clone`. What that shares, an `Arc`, an `Rc`, a `Bytes`, stays in
/// the context's heap: valid, and an escapee once the heap is closed.
///
/// ```
/// use heapswitch::{Heap, copy_out};
///
/// let heap = Heap::new()?;
/// let names = heap.run(|| {
///     let names = vec![String::from("one"), String::from("two")];
///     copy_out(&names)
/// })??;
/// assert!(!heap.contains(names[0].as_ptr()));
/// assert_eq!(heap.close().blocks, 0);
/// # Ok::<(), heapswitch::HeapError>(())
/// ```
///
/// # Errors
/// As [`with_outer`].
pub fn copy_out<T: Clone>(value: &T) -> Result<T, HeapError> {
    with_outer(|| value.clone())
}

/// Replaces the allocator in use in the innermost context; what was in use. Lasts until the context
/// is left.
///
/// # Errors
/// [`HeapError::NoHeap`] where the coroutine-local one is asked for and no heap is current;
/// [`HeapError::ThreadEnded`].
pub fn replace_current(in_use: CurrentAllocatorInUse) -> Result<CurrentAllocatorInUse, HeapError> {
    token()?;
    let state = state();
    let top = state.contexts.top();
    if in_use == CurrentAllocatorInUse::CoroutineLocal && top.heap.is_none() {
        return Err(HeapError::NoHeap);
    }
    state.contexts.set_top(Entry { in_use, ..top });
    state.apply_top();
    Ok(top.in_use)
}

/// Puts a heap into the innermost context's own slot as its coroutine-local heap, or none; the heap
/// that was there, no longer current. A heap that is put in is in use at once; without one the
/// thread's own heap is. What is in the slot when its context ends is closed.
///
/// # Errors
/// [`HeapError::Held`] where a guard or a wrapper holds the current heap, [`HeapError::Running`]
/// where the new one is entered already, [`HeapError::Closed`] where its parent has ended,
/// [`HeapError::ThreadEnded`]: both heaps are unchanged, and the new one comes back.
pub fn swap_coroutine_local(heap: Option<Heap>) -> Result<Option<Heap>, SwapError> {
    let token = match token() {
        Ok(token) => token,
        Err(error) => return Err(SwapError { error, heap }),
    };
    let state = state();
    let top = state.contexts.top();
    // An inherited heap is held by an entry below.
    if top.hold == Hold::Entered || (top.hold == Hold::Inherited && top.heap.is_some()) {
        return Err(SwapError { error: HeapError::Held, heap });
    }
    if let Some(new) = &heap {
        // SAFETY: this is the handle, which keeps the header valid.
        if !unsafe { safe_point::try_enter(new.raw(), token) } {
            return Err(SwapError { error: new.refused(), heap });
        }
        // A heap that a suspended context names could come back to two contexts at once. Asked by
        // the runner: where a guard was leaked, another thread may be about to pin it until then.
        if new.is_pinned() {
            new.header().leave();
            return Err(SwapError { error: HeapError::Running, heap });
        }
    }
    let entry = match heap {
        Some(heap) => Entry {
            heap: Some(heap.into_raw()),
            in_use: CurrentAllocatorInUse::CoroutineLocal,
            hold: Hold::Owned,
            ..top
        },
        None => Entry {
            is_dead: top.is_dead,
            is_telling: top.is_telling,
            serial: top.serial,
            ..Entry::EMPTY
        },
    };
    state.contexts.set_top(entry);
    state.apply_top();
    match (top.hold, top.heap) {
        (Hold::Owned, Some(old)) => {
            // SAFETY: the slot ran the heap and owned its only handle.
            unsafe {
                safe_point::leave(state, old);
                safe_point::reach(state);
                Ok(Some(Heap::from_raw(old)))
            }
        }
        _ => Ok(None),
    }
}

/// Why a swap was refused, with the heap that was to be put in.
#[derive(Debug)]
pub struct SwapError {
    /// The reason.
    pub error: HeapError,
    /// The heap.
    pub heap: Option<Heap>,
}

impl core::fmt::Display for SwapError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.error.fmt(formatter)
    }
}

impl core::error::Error for SwapError {}

/// Calls `body` and tells by how much the current allocator's memory changed meanwhile: the
/// coroutine's heap, the thread's, or the global allocator, whichever is in use when it is called.
pub fn usage_change<T>(body: impl FnOnce() -> T) -> (T, MemoryUsageChange) {
    let in_use = current();
    let before = super::usage::usage_of(in_use);
    let result = body();
    (result, super::usage::usage_of(in_use).since(&before))
}
