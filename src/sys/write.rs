//! Writing to the standard error, which must not end the process.

#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
use super::no_libc as libc;

/// Writes to the standard error. What the system refuses is lost: there is nobody to tell.
pub fn write_error(bytes: &[u8]) {
    // SAFETY: the bytes are valid; descriptor 2 may be closed, which is harmless.
    without_its_signals(|| unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) });
}

/// Runs the body, in which a write that nobody reads, or to a file at its limit, ends nothing and
/// is only refused: no `SIGPIPE` or `SIGXFSZ` that comes of it reaches the program.
#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
pub fn without_its_signals<T>(body: impl FnOnce() -> T) -> T {
    use core::mem::MaybeUninit;
    use core::ptr::null_mut;

    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    let (mut mask, mut pending) = (set, set);
    // SAFETY: each set is emptied or written as a whole before it is read.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigemptyset(mask.as_mut_ptr());
        libc::sigemptyset(pending.as_mut_ptr());
        // What waits already is the program's.
        libc::sigpending(pending.as_mut_ptr());
        for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
            if libc::sigismember(pending.as_ptr(), signal) != 1 {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), mask.as_mut_ptr());
    }
    let result = body();
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: all sets are initialized.
    unsafe {
        // Those of a write are this thread's own, at most one of each.
        while libc::sigtimedwait(set.as_ptr(), null_mut(), &raw const at_once) > 0 {}
        libc::pthread_sigmask(libc::SIG_SETMASK, mask.as_ptr(), null_mut());
    }
    result
}

/// There are no such signals.
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
pub fn without_its_signals<T>(body: impl FnOnce() -> T) -> T {
    body()
}
