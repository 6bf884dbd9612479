//! A mutual-exclusion lock that neither allocates nor unwinds and can be taken across `fork`.
//!
//! Futex based: spin a little, then sleep. The standard library's `Mutex` cannot be unlocked
//! without its guard, which `pthread_atfork` handlers would need.
//!
//! While a fork holds a lock, the thread that forks passes through it: the program's own handlers
//! of that fork may come to it, and nobody else can. Others wait until the fork is over.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use super::fork;

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody may sleep.
const CONTENDED: u32 = 2;
/// Held by a fork.
const FORKING: u32 = 3;
/// Held by a fork, and somebody may sleep.
const FORKING_CONTENDED: u32 = 4;

const SPINS: u32 = 100;

/// The lock word alone.
#[derive(Debug, Default)]
pub struct RawLock {
    state: AtomicU32,
}

impl RawLock {
    /// An open lock.
    pub const fn new() -> Self {
        Self { state: AtomicU32::new(FREE) }
    }

    /// Waits for the lock and takes it.
    #[inline]
    pub fn lock(&self) {
        // Acquire pairs with the Release in `unlock`.
        if self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.lock_contended(SPINS);
        }
    }

    /// Takes the lock if it is open.
    #[inline]
    pub fn try_lock(&self) -> bool {
        // Acquire pairs with the Release in `unlock`.
        self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn lock_contended(&self, spins: u32) {
        for _ in 0..spins {
            if self.state.load(Ordering::Relaxed) == FREE && self.try_lock() {
                return;
            }
            core::hint::spin_loop();
        }
        // From here on the word says that somebody may sleep, so that whoever unlocks wakes one.
        loop {
            let seen = match self.replace(FREE, CONTENDED) {
                Ok(_) => return,
                Err(seen) => seen,
            };
            let is_forks = seen == FORKING || seen == FORKING_CONTENDED;
            if is_forks && fork::is_here() {
                return; // This thread's fork holds it, for this thread.
            }
            let contended = if is_forks { FORKING_CONTENDED } else { CONTENDED };
            if seen == contended || self.replace(seen, contended).is_ok() {
                futex_wait(&self.state, contended);
            }
        }
    }

    /// Replaces one word by another; if it was not there, what was.
    fn replace(&self, word: u32, with: u32) -> Result<u32, u32> {
        // Acquire pairs with the Release in `unlock`, and the Release with the Acquire in `lock`.
        self.state.compare_exchange(word, with, Ordering::AcqRel, Ordering::Relaxed)
    }

    /// Opens the lock; leaves it as it is where a fork of this thread holds it.
    ///
    /// # Safety
    /// The caller called [`lock`](Self::lock), or [`try_lock`](Self::try_lock) took it.
    #[inline]
    pub unsafe fn unlock(&self) {
        // Release pairs with the Acquire in `lock`.
        if self.state.compare_exchange(HELD, FREE, Ordering::Release, Ordering::Relaxed).is_err() {
            self.unlock_contended();
        }
    }

    #[cold]
    fn unlock_contended(&self) {
        // Otherwise the fork that holds it opens it.
        if self.replace(CONTENDED, FREE).is_ok() {
            futex_wake(&self.state);
        }
    }

    /// Makes a lock that was taken the fork's that this thread is at, until
    /// [`open_after_fork`](Self::open_after_fork).
    pub(super) fn keep_for_fork(&self) {
        // Waiters turn the one word into the other, and nobody turns it back meanwhile.
        if self.replace(HELD, FORKING).is_err() {
            let _ = self.replace(CONTENDED, FORKING_CONTENDED);
        }
    }

    /// Opens the lock if a fork holds it: that of this thread, or in the child of its parent's.
    pub(super) fn open_after_fork(&self) {
        if self.replace(FORKING, FREE).is_err() && self.replace(FORKING_CONTENDED, FREE).is_ok() {
            futex_wake(&self.state);
        }
    }
}

/// Without a futex: a waiter gives its time away, and nobody needs to be woken.
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
fn futex_wait(_: &AtomicU32, _: u32) {
    std::thread::yield_now();
}

#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
fn futex_wake(_: &AtomicU32) {}

/// Sleeps while the word says `value`.
#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
fn futex_wait(word: &AtomicU32, value: u32) {
    futex(word, libc::FUTEX_WAIT, value);
}

/// Wakes one sleeper.
#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
fn futex_wake(word: &AtomicU32) {
    futex(word, libc::FUTEX_WAKE, 1);
}

#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
fn futex(word: &AtomicU32, operation: core::ffi::c_int, value: u32) {
    // SAFETY: the word is valid, and no time limit is given. A spurious return is handled by the
    // callers. errno is restored, for a free must not change it.
    unsafe {
        let error_number = libc::__errno_location();
        let saved = *error_number;
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            operation | libc::FUTEX_PRIVATE_FLAG,
            value,
            core::ptr::null::<libc::timespec>(),
        );
        *error_number = saved;
    }
}

/// A value behind a [`RawLock`].
#[derive(Debug)]
pub struct Lock<T> {
    raw: RawLock,
    value: UnsafeCell<T>,
}

// SAFETY: the lock lets one thread at a time reach the value, so it is sent rather than shared.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// An open lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { raw: RawLock::new(), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock; it opens when the guard is dropped. Must not be taken twice by one
    /// thread.
    #[inline]
    pub fn lock(&self) -> LockGuard<'_, T> {
        self.raw.lock();
        LockGuard { lock: self, not_sync: PhantomData }
    }

    /// As [`lock`](Self::lock), but looks so many times before it sleeps: for a lock that is held
    /// for a microsecond at a time, which is far less than going to sleep and being woken takes.
    #[inline]
    pub fn lock_after(&self, spins: u32) -> LockGuard<'_, T> {
        if !self.raw.try_lock() {
            self.raw.lock_contended(spins);
        }
        LockGuard { lock: self, not_sync: PhantomData }
    }

    /// Takes the lock if it is open.
    #[inline]
    pub fn try_lock(&self) -> Option<LockGuard<'_, T>> {
        self.raw.try_lock().then(|| LockGuard { lock: self, not_sync: PhantomData })
    }

    /// The value, while nobody else can reach it.
    #[inline]
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// The word, for `fork` handlers.
    pub fn raw(&self) -> &RawLock {
        &self.raw
    }
}

/// Opens the lock when dropped. As shareable as the value:
///
/// ```compile_fail
/// fn share<T: Sync>() {}
/// share::<heapswitch::sys::lock::LockGuard<'static, core::cell::Cell<u8>>>();
/// ```
#[derive(Debug)]
pub struct LockGuard<'a, T> {
    lock: &'a Lock<T>,
    /// A `Lock<T>` is `Sync` where `T` is only `Send`, and a shared guard gives `&T`: without this
    /// field two threads could reach one `Cell` through one guard.
    not_sync: PhantomData<*const T>,
}

// SAFETY: a shared guard gives out nothing but `&T`.
unsafe impl<T: Sync> Sync for LockGuard<'_, T> {}

impl<T> Deref for LockGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard's thread holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for LockGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard's thread holds the lock, and the guard is borrowed alone.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for LockGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the guard was made by `lock`.
        unsafe { self.lock.raw.unlock() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excludes() {
        let lock = Lock::new(0_u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        *lock.lock() += 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), 40_000);
    }

    #[test]
    fn is_tried_and_opened_again() {
        let mut lock = Lock::new(1);
        let guard = lock.try_lock();
        assert!(guard.is_some() && lock.try_lock().is_none());
        drop(guard);
        *lock.try_lock().unwrap() += 1;
        assert_eq!(*lock.get_mut(), 2);
    }
}
