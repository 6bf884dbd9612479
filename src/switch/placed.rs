//! On which NUMA nodes heaps lie, as the kernel says.

use super::handle::{Heap, HeapError};
use super::in_use::CurrentAllocatorInUse;
use super::state::state;
use crate::heap::cell;
use crate::numa::Residence;
use crate::sys::SystemError;

/// Why it could not be told where a heap lies.
///
/// Not a part of [`HeapError`], which is one byte: entering a heap would cost an instruction more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResidenceError {
    /// The heap runs on another thread.
    Heap(HeapError),
    /// The system does not tell: it has no NUMA, or a sandbox forbids to ask.
    System(SystemError),
}

impl core::fmt::Display for ResidenceError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Heap(error) => error.fmt(formatter),
            Self::System(error) => write!(
                formatter,
                "the system was asked where a heap's pages lie and refused ({error}); allow \
                 move_pages in the sandbox"
            ),
        }
    }
}

impl core::error::Error for ResidenceError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Heap(error) => Some(error),
            Self::System(error) => Some(error),
        }
    }
}

impl Heap {
    /// On which NUMA nodes the pages of its chunks lie, as the kernel says, beside where they are
    /// wanted. Collects nothing and touches no page.
    ///
    /// # Errors
    /// [`ResidenceError`]; of the heap's, [`HeapError::Running`] on another thread,
    /// [`HeapError::Closed`], [`HeapError::ThreadEnded`].
    pub fn residence(&self) -> Result<Residence, ResidenceError> {
        // SAFETY: called as the runner.
        let residence = self.as_runner(|header| unsafe { cell::residence(header) });
        residence.map_err(ResidenceError::Heap)?.map_err(ResidenceError::System)
    }
}

/// On which NUMA nodes the pages of one of this thread's heaps lie, as the kernel says, beside
/// where they are wanted; without a page where it has no such heap. What the global allocator holds
/// is not known.
///
/// # Errors
/// The system's: `ENOSYS` where it has no NUMA, `EPERM` where a sandbox forbids to ask.
pub fn residence_of(allocator: CurrentAllocatorInUse) -> Result<Residence, SystemError> {
    let state = state();
    let heap = match allocator {
        CurrentAllocatorInUse::CoroutineLocal => state.contexts.top().heap,
        CurrentAllocatorInUse::ThreadLocal => state.thread_heap.get(),
        CurrentAllocatorInUse::Global => None,
    };
    match heap {
        // SAFETY: heaps that the state names are run by this thread.
        Some(heap) => unsafe { cell::residence(heap) },
        None => Ok(Residence::new()),
    }
}
