//! `Heap`: the handle of a context's heap.

use core::alloc::Layout;
use core::cell::Cell;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::configuration::{GLOBAL_COUNTERS, installed, settle, source_for};
use super::home;
use super::in_use::CurrentAllocatorInUse;
use super::life;
use super::state::{Phase, state};
use crate::allocator::{AllocError, MemoryUsage, RegionSource};
use crate::heap::kind::ContextChoice;
use crate::heap::{AccountHandle, AccountUsage, EscapeReport, HeapHeader, HeapKind, LifetimeHint};
use crate::region;
use crate::sync::Token;
use crate::units::CHUNK_BYTES;

/// A heap of its own for a coroutine, a task, a request.
///
/// While it is entered, every allocation of the thread comes from it. What is allocated in it may
/// be freed anywhere at any time; what outlives it stays valid. Dropping it closes it.
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
        })
    }
}

impl core::error::Error for HeapError {}

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

/// How a heap is made.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct HeapBuilder<'a> {
    hint: Option<LifetimeHint>,
    source: Option<&'static dyn RegionSource>,
    parent: Option<&'a Heap>,
}

impl<'a> HeapBuilder<'a> {
    /// How long what is allocated in it lives, which chooses the strategy. Without it the strategy
    /// that the program's allocator was declared with, or the one for short lives.
    pub fn hint(self, hint: LifetimeHint) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// Where its chunks come from: a source whose [granule](crate::MemorySource::granule) is 64
    /// KiB. Only sources inside the region can back a heap; the type system refuses any other:
    ///
    /// ```compile_fail,E0277
    /// use heapswitch::{Heap, MemoryMapSource};
    ///
    /// static SOURCE: MemoryMapSource = MemoryMapSource::new();
    /// let heap = Heap::builder().source(&SOURCE).build();
    /// ```
    pub fn source(self, source: &'static dyn RegionSource) -> Self {
        Self { source: Some(source), ..self }
    }

    /// The heap whose account its memory is charged to as well.
    pub fn parent(self, parent: &'a Heap) -> Self {
        Self { parent: Some(parent), ..self }
    }

    /// The source, that of contexts unless another was chosen.
    fn checked_source(&self) -> Result<&'static dyn RegionSource, HeapError> {
        match self.source {
            // Longer ranges would be wasted, or taken for one chunk; shorter ones never come.
            Some(source) if source.granule() != CHUNK_BYTES => Err(HeapError::Granule),
            Some(source) => Ok(source),
            None => Ok(context_source()),
        }
    }

    /// Makes the heap.
    ///
    /// # Errors
    /// [`HeapError::NoMemory`]; [`HeapError::Granule`].
    pub fn build(self) -> Result<Heap, HeapError> {
        settle();
        let source = self.checked_source()?;
        let parent = self.parent.map(|parent| &parent.header().account);
        let header = match (self.hint, installed()) {
            (Some(hint), _) => ContextChoice::create(hint, source, parent),
            (None, Some(installed)) => (installed.make_coroutine_heap)(source, parent),
            (None, None) => ContextChoice::create(LifetimeHint::Short, source, parent),
        };
        Heap::from_header(header)
    }

    /// Makes a heap of a given kind.
    ///
    /// # Errors
    /// [`HeapError::NoMemory`]; [`HeapError::Granule`].
    pub fn build_kind<K: HeapKind>(self, settings: K::Settings) -> Result<Heap, HeapError> {
        settle();
        let source = self.checked_source()?;
        let parent: Option<&AccountHandle> = self.parent.map(|parent| &parent.header().account);
        Heap::from_header(K::create(settings, source, parent))
    }
}

/// The source of contexts that this thread makes.
fn context_source() -> &'static dyn RegionSource {
    source_for(CurrentAllocatorInUse::CoroutineLocal, home::of_thread(state()))
}

impl Heap {
    fn from_header(header: Option<NonNull<HeapHeader>>) -> Result<Self, HeapError> {
        let header = header.ok_or(HeapError::NoMemory)?;
        Ok(Self { header, not_sync: PhantomData })
    }

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

    /// Chooses source, parent and strategy.
    pub fn builder<'a>() -> HeapBuilder<'a> {
        HeapBuilder::default()
    }

    pub(super) fn raw(&self) -> NonNull<HeapHeader> {
        self.header
    }

    /// Whether contexts of suspended coroutines name it, so that it is bound to their thread. For
    /// its runner, or who was just that and has the only handle.
    pub(super) fn is_pinned(&self) -> bool {
        self.header().pins.get() != 0
    }

    fn header(&self) -> &HeapHeader {
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

    /// Gives the handle up without closing the heap.
    pub(super) fn into_raw(self) -> NonNull<HeapHeader> {
        core::mem::ManuallyDrop::new(self).header
    }

    /// Calls `act` as the heap's runner: as it is if this thread runs it, else entered for that
    /// call.
    ///
    /// # Errors
    /// [`HeapError::Running`] on another thread; [`HeapError::ThreadEnded`].
    pub(super) fn as_runner<T>(
        &self,
        act: impl FnOnce(NonNull<HeapHeader>) -> T,
    ) -> Result<T, HeapError> {
        let token = token()?;
        let runner = &self.header().runner;
        if runner.is(token) {
            return Ok(act(self.header));
        }
        if !runner.try_enter(token) {
            return Err(HeapError::Running);
        }
        // `act` is the crate's own, and neither unwinds nor enters the heap.
        let result = act(self.header);
        self.header().leave();
        Ok(result)
    }

    /// Whether an address lies in a chunk of this heap. O(1).
    pub fn contains(&self, address: *const u8) -> bool {
        region::entry_of(address)
            .is_some_and(|entry| entry.owner.load(Ordering::Relaxed) == self.header.as_ptr().cast())
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
    /// [`HeapError::Running`] on another thread.
    pub fn memory_usage(&self) -> Result<MemoryUsage, HeapError> {
        // SAFETY: called as the runner.
        self.as_runner(|header| unsafe { (header.as_ref().operations.usage)(header) })
    }

    /// What its account counts: its own chunks, its children's, its orphans'. Any time.
    pub fn account(&self) -> AccountUsage {
        self.header().account.usage()
    }

    /// The name of its strategy.
    pub fn strategy(&self) -> &'static str {
        self.header().operations.name
    }

    /// Takes what others freed, and gives back every chunk without blocks; the bytes.
    ///
    /// # Errors
    /// [`HeapError::Running`] on another thread.
    pub fn release_unused(&self) -> Result<usize, HeapError> {
        flush_own_frees();
        // SAFETY: called as the runner.
        self.as_runner(|header| unsafe { (header.as_ref().operations.release_unused)(header, 0) })
    }

    /// Checks every structure of the heap; aborts with its name where one is broken.
    ///
    /// # Errors
    /// [`HeapError::Running`] on another thread.
    pub fn verify(&self) -> Result<(), HeapError> {
        // SAFETY: called as the runner.
        self.as_runner(|header| unsafe { (header.as_ref().operations.verify)(header) })
    }

    /// Ends what is in the heap and goes on with it empty: chunks without blocks are kept for reuse
    /// (one) or given back, those with survivors become orphans, as after [`close`](Self::close).
    ///
    /// # Errors
    /// [`HeapError::Running`]; [`HeapError::NoMemory`] where something survives and there is no
    /// memory for new records: the heap is then unchanged.
    pub fn reset(&mut self) -> Result<EscapeReport, HeapError> {
        flush_own_frees();
        let token = token()?;
        if !self.header().runner.try_enter(token) {
            return Err(HeapError::Running);
        }
        let operations = self.header().operations;
        // SAFETY: this thread runs the heap from here on; a closed one is replaced in the handle.
        unsafe {
            let returned_bytes = match (operations.reset)(self.header) {
                Ok(returned_bytes) => {
                    self.header().leave();
                    return Ok(EscapeReport { returned_bytes, ..EscapeReport::default() });
                }
                Err(returned_bytes) => returned_bytes,
            };
            let Some(successor) = (operations.recreate)(self.header) else {
                self.header().leave();
                return Err(HeapError::NoMemory);
            };
            let mut report = (operations.close)(self.header);
            report.returned_bytes += returned_bytes;
            self.header = successor;
            Ok(report)
        }
    }

    /// Ends the heap. Chunks without blocks go back at once; what is still allocated stays valid
    /// until it is freed, and its chunks go back with their last block.
    ///
    /// A heap that a leaked guard left current on this thread is first made not current. One that a
    /// leaked guard left running on *another* thread cannot be closed: it is leaked and counted,
    /// and the report is empty.
    pub fn close(self) -> EscapeReport {
        let header = self.into_raw();
        // SAFETY: the handle was the only one, and is gone.
        unsafe { close_raw(header) }
    }

    /// Ends the heap and frees everything in it, also what is still allocated.
    ///
    /// # Safety
    /// Nothing that was allocated in the heap is used, or freed, any more. Other threads that freed
    /// blocks of it have called [`flush_foreign_frees`](crate::flush_foreign_frees) since, or
    /// ended: blocks that wait in their batches would be handed over to a heap that is gone.
    pub unsafe fn discard_unchecked(self) -> EscapeReport {
        flush_own_frees();
        let _ = self.as_runner(|header| {
            // SAFETY: the caller says that no block is in use; called as the runner.
            unsafe { (header.as_ref().operations.forget_blocks)(header) }
        });
        self.close()
    }
}

/// Hands over what this thread freed while it did not run the heap: to whoever asks for the heap's
/// end, that is freed, and waiting in a batch it would pin the heap's chunks.
fn flush_own_frees() {
    let batches = &state().batches;
    if batches.is_pending() {
        batches.flush();
    }
}

/// Closes a heap whose handle is gone.
///
/// # Safety
/// No handle of the heap exists, and it is not closed.
pub(super) unsafe fn close_raw(header: NonNull<HeapHeader>) -> EscapeReport {
    // SAFETY: the heap is not closed, so its header is valid.
    let this = unsafe { header.as_ref() };
    flush_own_frees();
    let may_close = match token() {
        Ok(token) if this.runner.is(token) => {
            state().unlink(header);
            true
        }
        Ok(token) => this.runner.try_enter(token),
        // A thread that is torn down runs nothing, but may close what nobody runs.
        Err(_) => this.runner.try_enter(Token::CLOSER),
    };
    if !may_close {
        GLOBAL_COUNTERS.leaked_heaps.fetch_add(1, Ordering::Relaxed);
        return EscapeReport::default();
    }
    // SAFETY: this thread runs the heap, and nobody has a handle.
    unsafe { (this.operations.close)(header) }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: this was the only handle.
        unsafe { close_raw(self.header) };
    }
}
