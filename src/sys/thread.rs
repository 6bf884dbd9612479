//! Threads: exit, fork, affinity.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, Ordering};

use super::SystemError;
use super::fault::{self, Call};
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
use super::no_libc as libc;

/// A destructor that runs when a thread ends, after Rust's own thread-locals.
#[derive(Debug)]
pub struct ExitKey {
    /// 0: none yet. Otherwise the pthread key + 1.
    key: AtomicU32,
}

impl ExitKey {
    /// No key yet.
    pub const fn new() -> Self {
        Self { key: AtomicU32::new(0) }
    }

    /// Asks for `destructor` to run at the exit of this thread, with a value that is not null. The
    /// key is made at the first call; all calls on one `ExitKey` must name the same destructor.
    ///
    /// `pthread_setspecific` may allocate for a key above 31: the caller's allocator must be in a
    /// state to serve that.
    ///
    /// # Errors
    /// `EAGAIN` where the process has no key left, `ENOMEM`.
    pub(crate) fn arm(
        &self,
        destructor: unsafe extern "C" fn(*mut c_void),
    ) -> Result<(), SystemError> {
        let key = self.key_or_create(destructor)?;
        // SAFETY: the key exists, and any value that is not null makes the destructor run.
        let error = unsafe { libc::pthread_setspecific(key, core::ptr::dangling::<u8>().cast()) };
        if error == 0 { Ok(()) } else { Err(SystemError(error)) }
    }

    fn key_or_create(
        &self,
        destructor: unsafe extern "C" fn(*mut c_void),
    ) -> Result<libc::pthread_key_t, SystemError> {
        // Relaxed: the key is a number, valid in itself.
        if let Some(key) = self.key.load(Ordering::Relaxed).checked_sub(1) {
            return Ok(key);
        }
        let mut key = 0;
        // SAFETY: `key` is valid for writes.
        let error = unsafe { libc::pthread_key_create(&mut key, Some(destructor)) };
        if error != 0 {
            return Err(SystemError(error));
        }
        let mine = key + 1;
        match self.key.compare_exchange(0, mine, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Ok(key),
            Err(theirs) => {
                // SAFETY: the key was made above and nobody else knows it.
                unsafe { libc::pthread_key_delete(key) };
                Ok(theirs - 1)
            }
        }
    }
}

impl Default for ExitKey {
    fn default() -> Self {
        Self::new()
    }
}

/// Registers handlers that run around `fork`: before it, after it in the parent, in the child.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn on_fork(
    prepare: unsafe extern "C" fn(),
    parent: unsafe extern "C" fn(),
    child: unsafe extern "C" fn(),
) -> Result<(), SystemError> {
    // SAFETY: the handlers are functions of the program and live for ever.
    let error = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
    if error == 0 { Ok(()) } else { Err(SystemError(error)) }
}

/// The processors that a thread may run on; processors from 1024 up are left out.
#[derive(Clone, Copy)]
pub struct Affinity {
    set: libc::cpu_set_t,
}

impl Affinity {
    /// Only `processor`; `None` from 1024 up.
    pub fn of(processor: usize) -> Option<Self> {
        if processor >= libc::CPU_SETSIZE as usize {
            return None;
        }
        // SAFETY: a cpu_set_t is plain bits, and the processor is in its range.
        unsafe {
            let mut set: libc::cpu_set_t = core::mem::zeroed();
            libc::CPU_SET(processor, &mut set);
            Some(Self { set })
        }
    }

    /// This thread's.
    ///
    /// # Errors
    /// `EINVAL` where the kernel's set is larger than 1024 processors.
    pub fn current() -> Result<Self, SystemError> {
        // SAFETY: a cpu_set_t is plain bits and valid for writes.
        unsafe {
            let mut set: libc::cpu_set_t = core::mem::zeroed();
            let bytes = core::mem::size_of::<libc::cpu_set_t>();
            if libc::sched_getaffinity(0, bytes, &mut set) == 0 {
                Ok(Self { set })
            } else {
                Err(SystemError::last())
            }
        }
    }

    /// Makes it this thread's.
    ///
    /// # Errors
    /// `EINVAL` where none of its processors may be used.
    pub fn apply(&self) -> Result<(), SystemError> {
        if fault::strikes(Call::Affinity) {
            return Err(SystemError(libc::EINVAL));
        }
        let bytes = core::mem::size_of::<libc::cpu_set_t>();
        // SAFETY: the set is valid for reads.
        if unsafe { libc::sched_setaffinity(0, bytes, &self.set) } == 0 {
            Ok(())
        } else {
            Err(SystemError::last())
        }
    }

    /// The processors in it, in order.
    pub fn processors(&self) -> impl Iterator<Item = usize> + '_ {
        (0..libc::CPU_SETSIZE as usize).filter(|&processor| {
            // SAFETY: the processor is in the set's range.
            unsafe { libc::CPU_ISSET(processor, &self.set) }
        })
    }
}

impl core::fmt::Debug for Affinity {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_list().entries(self.processors()).finish()
    }
}
