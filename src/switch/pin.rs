//! Confines a thread that is there already, while a guard lives.
#![forbid(unsafe_code)]

use core::marker::PhantomData;

use super::home::rehome_thread;
use super::worker::WorkerError;
use crate::numa::ProcessorSet;
use crate::sys::SystemError;
use crate::sys::thread::Affinity;

/// Keeps the thread that made it on some processors; dropping it lets the thread run again where it
/// could before. Its memory stays at home where it was pinned.
///
/// Guards are to be dropped in the reverse order in which they were made.
#[derive(Debug)]
#[must_use = "dropping it lets the thread run where it could before"]
pub struct PinnedThread {
    /// What to restore; `None` once that was done.
    previous: Option<Affinity>,
    /// The affinity is this thread's.
    not_send: PhantomData<*const ()>,
}

/// Confines this thread to processors, and makes the node where it then runs its home.
///
/// ```
/// use heapswitch::{pin_thread, processors};
///
/// # if heapswitch::sys::IS_PASS_THROUGH { return Ok(()); }
/// let before = processors()?;
/// let pinned = pin_thread(&before.iter().copied().take(1).collect())?;
/// assert_eq!(processors()?, before[..1]);
/// drop(pinned);
/// assert_eq!(processors()?, before);
/// # Ok::<(), heapswitch::WorkerError>(())
/// ```
///
/// # Errors
/// [`WorkerError::PinToSet`], [`WorkerError::Processors`]; the thread runs where it could.
pub fn pin_thread(processors: &ProcessorSet) -> Result<PinnedThread, WorkerError> {
    let previous = Affinity::current().map_err(WorkerError::Processors)?;
    processors
        .affinity()
        .apply()
        .map_err(|error| WorkerError::PinToSet { processors: Box::new(*processors), error })?;
    rehome_thread();
    Ok(PinnedThread { previous: Some(previous), not_send: PhantomData })
}

impl PinnedThread {
    /// Restores where the thread may run, as dropping does, and tells whether the system took it.
    ///
    /// # Errors
    /// The system's: the thread stays where it was pinned.
    pub fn restore(mut self) -> Result<(), SystemError> {
        self.previous.take().map_or(Ok(()), |previous| previous.apply())
    }
}

impl Drop for PinnedThread {
    fn drop(&mut self) {
        if let Some(previous) = self.previous.take() {
            // Who wants to know calls `restore`.
            let _ = previous.apply();
        }
    }
}
