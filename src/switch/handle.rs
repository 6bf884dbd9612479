//! `Heap`: the handle of a context's heap.

use core::alloc::Layout;
use core::cell::Cell;
use core::marker::PhantomData;
use core::ptr::NonNull;

use super::builder::HeapBuilder;
use super::configuration::settle;
use super::state::{Phase, state};
use super::{closing, life, safe_point};
use crate::allocator::{AllocError, MemoryUsage};
use crate::heap::{Account, AccountUsage, HeapHeader, LifetimeHint};
use crate::region::owners;
use crate::sync::Token;

/// A heap of its own for a coroutine, a task, a request.
///
/// While it is entered, every allocation of the thread comes from it. What is allocated in it may
/// be freed anywhere at any time; what outlives it stays valid. Dropping it closes it.
///
/// Where no allocator of heapswitch's is installed ([`is_installed`](crate::is_installed) tells),
/// heaps serve only through the trait [`Allocator`](crate::Allocator): entering one changes what is
/// [`current`](crate::current), and neither who allocates nor what a limit counts.
///
/// `Send` and not `Sync`: it may be entered on one thread after the other, never on two at once.
///
/// ```
/// use heapswitch::Heap;
///
/// let heap = Heap::new()?;
/// let text = heap.run(|| String::from("made in the heap"))?;
/// let report = heap.close();
/// assert_eq!(text, "made in the heap");
/// # let _ = report;
/// # Ok::<(), heapswitch::HeapError>(())
/// ```
#[derive(Debug)]
pub struct Heap {
    header: NonNull<HeapHeader>,
    not_sync: PhantomData<Cell<()>>,
}

// SAFETY: whoever has the handle may enter the heap; the token in the header keeps a second thread
// out where a guard was leaked. The strategy's pointers lead to the heap's own memory.
unsafe impl Send for Heap {}

/// Why a heap could not be made or entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeapError {
    /// There was no memory for the heap's records.
    NoMemory,
    /// The heap runs already, here or on another thread: a guard of it lives or was leaked.
    Running,
    /// A guard or a wrapper holds the current heap, so it cannot be swapped.
    Held,
    /// No coroutine-local heap is current.
    NoHeap,
    /// The thread is ending and can enter no heap any more.
    ThreadEnded,
    /// The heap's source does not hand out memory chunk by chunk.
    Granule,
    /// The heap's parent has ended, and the heap with it.
    Closed,
}

impl core::fmt::Display for HeapError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::NoMemory => "a heap's records need memory and the system has none; free some",
            Self::Running => {
                "the heap was to be entered and runs already; leave it first, here or on the \
                 thread where it runs"
            }
            Self::Held => {
                "the coroutine-local heap was to be swapped and a guard or wrapper holds it; drop \
                 that first"
            }
            Self::NoHeap => {
                "the coroutine-local allocator was to be used and no heap is current; enter or \
                 swap in a heap first"
            }
            Self::Granule => {
                "a heap was to be made on a source whose granule is not 64 KiB; use an arena of \
                 such blocks, or a map of the region"
            }
            Self::ThreadEnded => "a heap was to be entered while the thread's state is torn down",
            Self::Closed => {
                "a heap was to be entered whose parent has ended; detach children that outlive it"
            }
        })
    }
}

impl core::error::Error for HeapError {}

impl From<AllocError> for HeapError {
    /// Where records are made, that is all it can mean.
    fn from(_: AllocError) -> Self {
        Self::NoMemory
    }
}

/// This thread's token; sets the thread up if need be.
pub(super) fn token() -> Result<Token, HeapError> {
    let state = state();
    if state.phase.get() == Phase::Fresh {
        settle();
        // The probe may have set the thread up.
        if state.phase.get() == Phase::Fresh {
            life::arm_exit(state);
        }
    }
    match state.token.get() {
        Token::NOBODY => Err(HeapError::ThreadEnded),
        token => Ok(token),
    }
}

/// Why a heap could not be entered.
pub(super) fn refused(this: &HeapHeader) -> HeapError {
    if this.is_ended_with_parent() { HeapError::Closed } else { HeapError::Running }
}

impl Heap {
    /// A heap of the kind that the program's allocator was declared with; for short lives where
    /// none is installed. Takes no chunk before its first allocation.
    ///
    /// # Errors
    /// [`HeapError::NoMemory`].
    pub fn new() -> Result<Self, HeapError> {
        Self::builder().build()
    }

    /// A heap for blocks that live about so long.
    ///
    /// # Errors
    /// [`HeapError::NoMemory`].
    pub fn with_hint(hint: LifetimeHint) -> Result<Self, HeapError> {
        Self::builder().hint(hint).build()
    }

    /// A builder: strategy, source, name, limits, parent or account, call sites.
    pub fn builder<'a>() -> HeapBuilder<'a> {
        HeapBuilder::default()
    }

    pub(super) fn raw(&self) -> NonNull<HeapHeader> {
        self.header
    }

    /// Whether contexts of suspended coroutines name it, so that it is bound to their thread. For
    /// its runner, or who was just that and has the only handle.
    pub(super) fn is_pinned(&self) -> bool {
        self.header().pins() != 0
    }

    pub(super) fn header(&self) -> &HeapHeader {
        // SAFETY: the handle's heap is not closed, so its header is valid.
        unsafe { self.header.as_ref() }
    }

    /// A handle of a heap that nobody else has a handle of.
    ///
    /// # Safety
    /// The heap is not closed, and this is its only handle.
    pub(super) unsafe fn from_raw(header: NonNull<HeapHeader>) -> Self {
        Self { header, not_sync: PhantomData }
    }

    /// Makes this the handle of another heap, in place of one that is about to be closed.
    ///
    /// # Safety
    /// As [`from_raw`](Self::from_raw).
    pub(super) unsafe fn replace_raw(&mut self, header: NonNull<HeapHeader>) {
        self.header = header;
    }

    /// Gives the handle up without closing the heap.
    pub(super) fn into_raw(self) -> NonNull<HeapHeader> {
        core::mem::ManuallyDrop::new(self).header
    }

    /// Calls `act` as the heap's runner: as it is if this thread runs it, else entered for that
    /// call.
    ///
    /// # Errors
    /// [`HeapError::Running`] on another thread; [`HeapError::Closed`]; [`HeapError::ThreadEnded`].
    pub(super) fn as_runner<T>(
        &self,
        act: impl FnOnce(NonNull<HeapHeader>) -> T,
    ) -> Result<T, HeapError> {
        let token = token()?;
        if self.header().runner.is(token) {
            return Ok(act(self.header));
        }
        if self.header().is_ended_with_parent() || !self.header().runner.try_enter(token) {
            return Err(self.refused());
        }
        // `act` is the crate's own, and neither unwinds nor enters the heap.
        let result = act(self.header);
        // SAFETY: this thread runs the heap, and this is its handle.
        unsafe { safe_point::leave_quietly(state(), self.header()) };
        Ok(result)
    }

    /// Why the heap could not be entered.
    pub(super) fn refused(&self) -> HeapError {
        refused(self.header())
    }

    /// Whether an address lies in a chunk of this heap. O(1).
    pub fn contains(&self, address: *const u8) -> bool {
        owners::owner_of(address) == Some(self.header.cast())
    }

    /// The length in bytes of every block that serves `layout`.
    ///
    /// # Errors
    /// The layout is never served.
    pub fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        if layout.size() == 0 {
            return Ok(0);
        }
        // SAFETY: the heap is valid, and anyone may ask for lengths.
        unsafe { (self.header().operations.block_length)(self.header, layout) }.ok_or(AllocError)
    }

    /// What the heap holds. Collects nothing.
    ///
    /// # Errors
    /// [`HeapError::Running`] on another thread; [`HeapError::Closed`]; [`HeapError::ThreadEnded`].
    pub fn memory_usage(&self) -> Result<MemoryUsage, HeapError> {
        // SAFETY: called as the runner.
        self.as_runner(|header| unsafe { (header.as_ref().operations.usage)(header) })
    }

    /// What its account counts: its own chunks, its children's, its orphans'. As
    /// [`Account::usage`], without a system call: while it runs elsewhere, with the blocks as they
    /// were counted last.
    pub fn account(&self) -> AccountUsage {
        // Refused while it runs elsewhere.
        let _ = self.memory_usage();
        self.header().account.last_usage()
    }

    /// Its account, as a handle that may be kept and shared: limits, figures, the tree.
    pub fn account_handle(&self) -> Account {
        self.header().account.clone()
    }

    /// The name of its strategy: that of the macro, with its call sites where those are recorded.
    pub fn strategy(&self) -> &'static str {
        self.header().operations.name
    }

    /// Takes what others freed, and gives back every chunk without blocks; the bytes.
    ///
    /// # Errors
    /// [`HeapError::Running`] on another thread; [`HeapError::Closed`]; [`HeapError::ThreadEnded`].
    pub fn release_unused(&self) -> Result<usize, HeapError> {
        closing::flush_own_frees();
        // SAFETY: called as the runner.
        self.as_runner(|header| unsafe { (header.as_ref().operations.release_unused)(header, 0) })
    }

    /// Checks every structure of the heap; aborts with its name where one is broken.
    ///
    /// # Errors
    /// [`HeapError::Running`] on another thread; [`HeapError::Closed`]; [`HeapError::ThreadEnded`].
    pub fn verify(&self) -> Result<(), HeapError> {
        // SAFETY: called as the runner.
        self.as_runner(|header| unsafe { (header.as_ref().operations.verify)(header) })
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: this was the only handle.
        unsafe { closing::close_by_handle(self.header) };
    }
}
