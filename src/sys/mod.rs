//! The only user of libc.

/// Ends the process with `message` on standard error, written without allocating or locking.
///
/// For a broken invariant inside an allocator: to unwind or to panic there would allocate.
#[cold]
#[inline(never)]
pub fn abort_with(message: &str) -> ! {
    for part in ["heapswitch: ", message, "\n"] {
        // SAFETY: the pointer and the length are those of a live string. A failed or short write
        // is not repeated: the abort that follows matters more than its message.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: has no preconditions.
    unsafe { libc::abort() }
}
