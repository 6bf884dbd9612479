//! Threads: exit, fork, affinity.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, Ordering};

use super::SystemError;
use super::fault::{self, Call};
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
use super::no_libc as libc;

/// Lays a full memory fence on every thread of the process, at once: afterwards this thread sees
/// what each has stored before, and each sees what this one has. Costs a system call of a
/// microsecond or two. False where the kernel has no such thing (before Linux 4.14) or a sandbox
/// forbids it.
pub(crate) fn fence_all() -> bool {
    // From the kernel's `linux/membarrier.h`.
    const PRIVATE_EXPEDITED: usize = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: usize = 1 << 4;

    if fault::strikes(Call::Barrier) {
        return false;
    }
    let call = |command: usize| {
        // SAFETY: the call takes numbers, and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0, 0, 0, 0) == 0 }
    };
    // A process has to say once that it will ask; until then it is refused.
    call(PRIVATE_EXPEDITED) || (call(REGISTER_PRIVATE_EXPEDITED) && call(PRIVATE_EXPEDITED))
}

/// Rounds of a thread's destructors that are let pass. musl has no list for those of thread-locals:
/// Rust drops them by a key of its own there, in the second round of the four that POSIX has.
const PASSED_ROUNDS: usize =
    if cfg!(all(target_env = "musl", not(heapswitch_pass_through))) { 2 } else { 0 };

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
        Self::set(key, PASSED_ROUNDS + 1)
    }

    /// Whether the destructor, called with `value`, is to return: it is called again in the next
    /// round.
    pub(crate) fn is_put_off(&self, value: *mut c_void) -> bool {
        let key = self.key.load(Ordering::Relaxed).checked_sub(1);
        let rounds = value.addr().saturating_sub(1);
        rounds > 0 && key.is_some_and(|key| Self::set(key, rounds).is_ok())
    }

    fn set(key: libc::pthread_key_t, value: usize) -> Result<(), SystemError> {
        let value = core::ptr::without_provenance::<c_void>(value);
        // SAFETY: the key exists, and any value that is not null makes the destructor run.
        let error = unsafe { libc::pthread_setspecific(key, value) };
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

/// The stack of a thread of our own, in bytes: enough for the thread-local memory of large programs
/// beside it.
#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
const STACK_BYTES: usize = 256 << 10;

/// Starts a thread that nobody joins, with all signals blocked.
///
/// # Errors
/// `EAGAIN` where the system has no thread left.
#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
pub(crate) fn start_detached(
    name: &'static core::ffi::CStr,
    body: extern "C" fn(*mut c_void) -> *mut c_void,
) -> Result<(), SystemError> {
    use core::mem::MaybeUninit;
    // SAFETY: the attributes and the sets are initialised before they are read, and destroyed; the
    // body takes any pointer.
    let error = unsafe {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        libc::sigfillset(all.as_mut_ptr());
        // What is blocked is inherited: other threads take the signals.
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        let mut attributes = MaybeUninit::uninit();
        libc::pthread_attr_init(attributes.as_mut_ptr());
        libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
        libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK_BYTES);
        let mut thread = MaybeUninit::uninit();
        let none = core::ptr::null_mut();
        let error = libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), body, none);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), core::ptr::null_mut());
        if error == 0 {
            libc::pthread_setname_np(thread.assume_init(), name.as_ptr());
        }
        error
    };
    if error == 0 { Ok(()) } else { Err(SystemError(error)) }
}

/// Refused elsewhere.
///
/// # Errors
/// `ENOSYS`.
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
pub(crate) fn start_detached(
    _: &'static core::ffi::CStr,
    _: extern "C" fn(*mut c_void) -> *mut c_void,
) -> Result<(), SystemError> {
    Err(SystemError(libc::ENOSYS))
}

/// Sleeps for about so long. Allocates nothing.
pub(crate) fn sleep_milliseconds(milliseconds: u64) {
    std::thread::sleep(core::time::Duration::from_millis(milliseconds));
}

/// Bits in a set of processors: what a kernel of x86-64 or aarch64 knows at most (`NR_CPUS`).
pub const PROCESSOR_BITS: usize = 8192;

const PROCESSOR_WORDS: usize = PROCESSOR_BITS / 64;

/// The processors that a thread may run on, of 1 KiB. Larger than the C library's set, which ends
/// at 1024 and which the kernel refuses where it has more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Affinity {
    words: [u64; PROCESSOR_WORDS],
}

impl Affinity {
    /// Only `processor`; `None` from 8192 up.
    pub fn of(processor: usize) -> Option<Self> {
        let mut words = [0; PROCESSOR_WORDS];
        *words.get_mut(processor / 64)? = 1 << (processor % 64);
        Some(Self { words })
    }

    /// The processors whose bits are set, the lowest number in the lowest bit of the first word.
    pub const fn from_words(words: [u64; PROCESSOR_WORDS]) -> Self {
        Self { words }
    }

    /// Its bits.
    pub const fn as_words(&self) -> &[u64; PROCESSOR_WORDS] {
        &self.words
    }

    /// This thread's.
    ///
    /// # Errors
    /// The system's.
    pub fn current() -> Result<Self, SystemError> {
        if fault::strikes(Call::Affinity) {
            return Err(SystemError(libc::EINVAL));
        }
        let mut words = [0_u64; PROCESSOR_WORDS];
        // SAFETY: the words are valid for writes of so many bytes, and any bits are valid.
        let read =
            unsafe { libc::sched_getaffinity(0, size_of_val(&words), words.as_mut_ptr().cast()) };
        if read == 0 { Ok(Self { words }) } else { Err(SystemError::last()) }
    }

    /// Makes it this thread's.
    ///
    /// # Errors
    /// `EINVAL` where none of its processors may be used.
    pub fn apply(&self) -> Result<(), SystemError> {
        if fault::strikes(Call::Affinity) {
            return Err(SystemError(libc::EINVAL));
        }
        let bytes = size_of_val(&self.words);
        // SAFETY: the set is valid for reads.
        if unsafe { libc::sched_setaffinity(0, bytes, self.words.as_ptr().cast()) } == 0 {
            Ok(())
        } else {
            Err(SystemError::last())
        }
    }

    /// The processors in it, in order.
    pub fn processors(&self) -> impl Iterator<Item = usize> + '_ {
        (0..PROCESSOR_BITS).filter(|processor| {
            self.words.get(processor / 64).is_some_and(|word| word >> (processor % 64) & 1 != 0)
        })
    }
}

impl core::fmt::Debug for Affinity {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_list().entries(self.processors()).finish()
    }
}
