//! The only user of libc: mappings, locks, thread exit, fork. Each call that the kernel may refuse
//! can be made to fail by [`fault`], so that tests reach every error path.
//!
//! Nothing here allocates or unwinds. Errors are the system's error numbers.

pub mod call_stack;
#[cfg(not(loom))]
pub(crate) mod environment;
pub mod fault;
#[cfg(feature = "corosensei")]
pub(crate) mod fiber;
pub mod file;
pub mod fork;
pub(crate) mod loaded;
pub mod lock;
pub mod memory;
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
mod no_libc;
pub mod poison;
pub mod policy;
pub mod read;
pub mod text;
pub mod thread;
mod write;

use core::sync::atomic::{AtomicUsize, Ordering};

#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
use no_libc as libc;

pub use self::write::{without_its_signals, write_error};

/// Whether every allocation passes through to the declared global allocator, as it does on systems
/// other than Linux: heaps can be made, entered and closed, and hold nothing.
pub const IS_PASS_THROUGH: bool = cfg!(any(not(target_os = "linux"), heapswitch_pass_through));

/// An error number of the system (`errno`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemError(pub i32);

impl SystemError {
    /// `ENOMEM`.
    pub(crate) const NO_MEMORY: Self = Self(libc::ENOMEM);

    /// `ENOENT`.
    pub(crate) const NO_ENTRY: Self = Self(libc::ENOENT);

    /// The error of this thread's last call.
    pub(crate) fn last() -> Self {
        // SAFETY: errno's address is valid on every thread.
        Self(unsafe { *libc::__errno_location() })
    }

    /// There is no such file.
    pub fn is_no_entry(self) -> bool {
        self == Self::NO_ENTRY
    }

    /// The system has no such call, or does not know what was asked of it.
    pub fn is_unsupported(self) -> bool {
        matches!(self.0, libc::ENOSYS | libc::EINVAL | libc::EOPNOTSUPP)
    }
}

impl core::fmt::Display for SystemError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // The numbers are Linux's.
        if cfg!(target_os = "linux") {
            std::io::Error::from(*self).fmt(formatter)
        } else {
            write!(formatter, "system error {}", self.0)
        }
    }
}

impl core::error::Error for SystemError {}

impl From<&std::io::Error> for SystemError {
    /// 0 where the system did not say it.
    fn from(error: &std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(0))
    }
}

impl From<SystemError> for std::io::Error {
    fn from(error: SystemError) -> Self {
        Self::from_raw_os_error(error.0)
    }
}

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

/// The machine's memory in bytes; `usize::MAX` where it is not known.
pub fn physical_bytes() -> usize {
    static CACHED: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: every thread reads the same value from the system.
    match CACHED.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: sysconf reads a figure.
            let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
            let bytes = usize::try_from(pages)
                .ok()
                .filter(|&pages| pages != 0)
                .map_or(usize::MAX, |pages| pages.saturating_mul(page_bytes()));
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
    complain_with(parts);
    std::process::abort()
}

/// Writes `heapswitch: <parts>` to the standard error without allocating.
#[cold]
#[inline(never)]
pub fn complain_with(parts: &[&str]) {
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
    write_error(buffer.get(..length).unwrap_or_default());
}

/// Has a function called when the process exits. False where the system has no room for that.
#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
pub(crate) fn at_exit(function: extern "C" fn()) -> bool {
    // SAFETY: the function is the program's and lives for ever.
    unsafe { libc::atexit(function) == 0 }
}

/// Nothing is called elsewhere.
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
pub(crate) fn at_exit(_: extern "C" fn()) -> bool {
    false
}

/// The most bytes that [`decimal`] writes.
pub const DECIMAL_BYTES: usize = 20;

/// A number's digits, for messages that must not allocate.
pub fn decimal(mut number: u64, buffer: &mut [u8; DECIMAL_BYTES]) -> &str {
    let mut start = buffer.len();
    for byte in buffer.iter_mut().rev() {
        *byte = b'0' + (number % 10) as u8;
        number /= 10;
        start -= 1;
        if number == 0 {
            break;
        }
    }
    buffer.get(start..).and_then(|digits| core::str::from_utf8(digits).ok()).unwrap_or("?")
}

/// The bytes that [`hexadecimal`] writes.
pub const HEXADECIMAL_BYTES: usize = 18;

/// `0x` and 16 digits, for messages that must not allocate.
pub fn hexadecimal(value: usize, buffer: &mut [u8; HEXADECIMAL_BYTES]) -> &str {
    for (index, byte) in buffer.iter_mut().enumerate() {
        let nibble = (value >> (4 * (HEXADECIMAL_BYTES - 1 - index)).min(60)) & 0xF;
        *byte = match index {
            0 => b'0',
            1 => b'x',
            _ => char::from_digit(nibble as u32, 16).map_or(b'?', |digit| digit as u8),
        };
    }
    core::str::from_utf8(buffer).unwrap_or("?")
}

/// The process's limit on address space (`RLIMIT_AS`) in bytes; `usize::MAX` where there is none.
pub fn address_space_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) } != 0;
    bytes_of(failed, limit)
}

/// The process's limit on the length of files (`RLIMIT_FSIZE`) in bytes; `usize::MAX` where there
/// is none.
pub fn file_length_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) } != 0;
    bytes_of(failed, limit)
}

fn bytes_of(is_unknown: bool, limit: libc::rlimit) -> usize {
    if is_unknown || limit.rlim_cur == libc::RLIM_INFINITY {
        return usize::MAX;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

/// The address space that the process uses now, in bytes; 0 where `/proc` cannot be read.
pub fn address_space_used() -> usize {
    first_number_in(c"/proc/self/statm").unwrap_or(0).saturating_mul(page_bytes())
}

/// Whether the kernel charges all memory that can be written against a limit and refuses what is
/// above it (overcommit 2), also what a mapping asks it to leave out.
pub fn is_commit_charged() -> bool {
    first_number_in(c"/proc/sys/vm/overcommit_memory") == Some(2)
}

/// The number that a short file of the system begins with; `None` where it cannot be read.
fn first_number_in(path: &core::ffi::CStr) -> Option<usize> {
    let mut buffer = [0_u8; 64];
    // SAFETY: the path is a C string, the buffer is valid for its length, the descriptor is ours.
    let length = unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return None;
        }
        let length = libc::read(file, buffer.as_mut_ptr().cast(), buffer.len());
        libc::close(file);
        length
    };
    let read = buffer.get(..usize::try_from(length).ok()?)?;
    let digits = read.iter().take_while(|byte| byte.is_ascii_digit());
    let number = digits.fold(0_usize, |sum, digit| {
        sum.saturating_mul(10).saturating_add(usize::from(digit - b'0'))
    });
    read.first().filter(|byte| byte.is_ascii_digit()).map(|_| number)
}

/// A clock that only goes forward, in milliseconds, as coarse as the kernel's tick (a few).
pub fn coarse_milliseconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) };
    (now.tv_sec as u64).wrapping_mul(1000).wrapping_add(now.tv_nsec as u64 / 1_000_000)
}
