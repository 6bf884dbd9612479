//! A mutual-exclusion lock that neither allocates nor unwinds and can be taken across `fork`.
//!
//! Futex based: spin a little, then sleep. The standard library's `Mutex` cannot be unlocked
//! without its guard, which `pthread_atfork` handlers would need.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody may sleep.
const CONTENDED: u32 = 2;

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
        // From here on the word says CONTENDED, so that whoever unlocks wakes one.
        while self.state.swap(CONTENDED, Ordering::Acquire) != FREE {
            futex(&self.state, true);
        }
    }

    /// Opens the lock.
    ///
    /// # Safety
    /// The caller holds it: it called [`lock`](Self::lock), or its parent process did before
    /// `fork`.
    #[inline]
    pub unsafe fn unlock(&self) {
        // Release pairs with the Acquire in `lock`.
        if self.state.swap(FREE, Ordering::Release) == CONTENDED {
            futex(&self.state, false);
        }
    }
}

/// Without a futex: a waiter gives its time away, and nobody needs to be woken.
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
fn futex(_: &AtomicU32, is_wait: bool) {
    if is_wait {
        std::thread::yield_now();
    }
}

#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
fn futex(word: &AtomicU32, is_wait: bool) {
    // Sleeps while the word says CONTENDED, or wakes one sleeper.
    let (operation, value) =
        if is_wait { (libc::FUTEX_WAIT, CONTENDED) } else { (libc::FUTEX_WAKE, 1) };
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
