//! The only user of libc: mappings, locks, thread exit, fork. Each call that the kernel may refuse can
//! be made to fail by [`fault`], so that tests reach every error path.
//!
//! Nothing here allocates or unwinds. Errors are the system's error numbers.

pub mod fault;
pub mod file;
pub mod fork;
pub mod lock;
pub mod memory;
pub mod policy;
pub mod thread;

use core::sync::atomic::{AtomicUsize, Ordering};

/// An error number of the system (`errno`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemError(pub i32);

impl SystemError {
    /// `ENOMEM`.
    pub(crate) const NO_MEMORY: Self = Self(libc::ENOMEM);

    /// The error of this thread's last call.
    pub(crate) fn last() -> Self {
        // SAFETY: errno's address is valid on every thread.
        Self(unsafe { *libc::__errno_location() })
    }

    /// The system has no such call, or does not know what was asked of it.
    pub fn is_unsupported(self) -> bool {
        matches!(self.0, libc::ENOSYS | libc::EINVAL | libc::EOPNOTSUPP)
    }
}

impl core::fmt::Display for SystemError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "system error {}", self.0)
    }
}

impl core::error::Error for SystemError {}

/// The kernel's page size in bytes: 4096 on x86-64, up to 65,536 on aarch64.
#[inline]
pub fn page_bytes() -> usize {
    static CACHED: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: every thread computes the same value.
    match CACHED.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: sysconf reads a constant.
            let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            let bytes = usize::try_from(bytes).unwrap_or(crate::units::PAGE_BYTES);
            CACHED.store(bytes, Ordering::Relaxed);
            bytes
        }
        bytes => bytes,
    }
}

/// Writes `heapswitch: <parts>` to the standard error without allocating, and aborts.
#[cold]
#[inline(never)]
pub fn abort_with(parts: &[&str]) -> ! {
    let mut buffer = [0_u8; 512];
    let mut length = 0;
    for part in ["heapswitch: "].iter().chain(parts).chain(&["\n"]) {
        for byte in part.bytes() {
            if let Some(slot) = buffer.get_mut(length) {
                *slot = byte;
                length += 1;
            }
        }
    }
    // SAFETY: the buffer is valid for `length` bytes; descriptor 2 may be closed, which is harmless.
    unsafe { libc::write(2, buffer.as_ptr().cast(), length) };
    std::process::abort()
}

/// The process's limit on address space (`RLIMIT_AS`) in bytes; `usize::MAX` where there is none.
pub fn address_space_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) } != 0;
    if failed || limit.rlim_cur == libc::RLIM_INFINITY {
        return usize::MAX;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}
