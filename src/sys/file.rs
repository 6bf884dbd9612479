//! File mappings beside those of [`memory`](super::memory): parts of a file, disk space, flushing.

use core::ffi::{c_int, c_void};
use core::ptr::NonNull;
use std::fs::File;

use super::SystemError;
use super::fault::{self, Call};
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
use super::no_libc as libc;

/// The file's descriptor; where the system has none, one that every call refuses.
pub(crate) fn descriptor(file: &File) -> c_int {
    #[cfg(unix)]
    return std::os::fd::AsRawFd::as_raw_fd(file);
    #[cfg(not(unix))]
    {
        let _ = file;
        -1
    }
}

/// Why a part of a file was not mapped over a reservation, and what became of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The system's reason.
    pub error: SystemError,
    /// Whether the part is reserved as before. If not, whoever mapped something meanwhile may have
    /// it.
    pub is_still_reserved: bool,
}

/// Maps `offset..offset + bytes` of an open file over part of a reservation, shared.
///
/// Only the part is replaced: mapping the whole file anew would drop every page-table entry of what
/// is in use.
///
/// The kernel takes the old mapping away before it asks the file for the new one, and leaves
/// nothing there where that refuses. So the part is mapped elsewhere first, and for that moment
/// takes as many addresses again.
///
/// # Errors
/// The system's.
///
/// # Safety
/// `start..start + bytes` is whole pages of a reservation that is the caller's alone, and nothing
/// uses them.
pub unsafe fn map_part_over(
    start: NonNull<u8>,
    file: c_int,
    offset: usize,
    bytes: usize,
) -> Result<(), Refused> {
    let refused = |is_still_reserved| move |error| Refused { error, is_still_reserved };
    let offset = file_offset(offset).map_err(refused(true))?;
    let map = |address: *mut c_void, flags| {
        if fault::strikes(Call::Map) {
            return Err(SystemError(libc::ENOMEM));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping wherever the kernel likes, or one over what is the caller's.
        let start = unsafe { libc::mmap(address, bytes, protection, flags, file, offset) };
        if start == libc::MAP_FAILED { Err(SystemError::last()) } else { Ok(start) }
    };
    let elsewhere = map(core::ptr::null_mut(), libc::MAP_SHARED).map_err(refused(true))?;
    // SAFETY: mapped above, and unknown to anybody. It is a whole mapping, or the end of one.
    unsafe { libc::munmap(elsewhere, bytes) };
    map(start.as_ptr().cast(), libc::MAP_SHARED | libc::MAP_FIXED)
        .map(|_| ())
        .map_err(refused(false))
}

/// The process's limit on the length of files (`RLIMIT_FSIZE`): beyond it a call would not be
/// refused, but end the process (`SIGXFSZ`).
///
/// # Errors
/// `EFBIG` above it.
pub(crate) fn check_limit(bytes: usize) -> Result<(), SystemError> {
    if bytes > super::file_length_limit() { Err(SystemError(libc::EFBIG)) } else { Ok(()) }
}

/// Makes an open file at least `offset + bytes` long, with disk space behind `offset..` of it: a
/// write there then never raises `SIGBUS` for a full disk.
///
/// # Errors
/// The system's: `ENOSPC`, `EFBIG`, or `EOPNOTSUPP` where the file system cannot. A part may be
/// there all the same, and the file that much longer.
pub(crate) fn allocate_space(file: c_int, offset: usize, bytes: usize) -> Result<(), SystemError> {
    let is_struck = fault::strikes(Call::Allocate);
    let bytes = if is_struck { bytes / 2 } else { bytes };
    let (offset, length) = (file_offset(offset)?, file_offset(bytes)?);
    loop {
        // SAFETY: no memory is involved; a bad descriptor is an error.
        if unsafe { libc::fallocate(file, 0, offset, length) } == 0 {
            return if is_struck { Err(SystemError(libc::ENOSPC)) } else { Ok(()) };
        }
        match SystemError::last() {
            SystemError(libc::EINTR) => {}
            error => return Err(error),
        }
    }
}

/// Writes the changed pages of a shared file mapping to the file, and waits for it (`MS_SYNC`).
///
/// # Errors
/// The system's: `EIO`, or `ENOMEM` where part of the range is not mapped.
///
/// # Safety
/// The range is whole pages of a mapping of the caller's.
pub unsafe fn flush(start: NonNull<u8>, bytes: usize) -> Result<(), SystemError> {
    // SAFETY: flushing changes no contents of memory.
    if unsafe { libc::msync(start.as_ptr().cast(), bytes, libc::MS_SYNC) } == 0 {
        Ok(())
    } else {
        Err(SystemError::last())
    }
}

/// Frees the memory and the disk space behind a shared file mapping (`MADV_REMOVE`); it then reads
/// as zero.
///
/// # Errors
/// The system's, `EOPNOTSUPP` where the file system cannot; the contents are then unchanged.
///
/// # Safety
/// The range is whole pages of a mapping that is the caller's alone, and nothing uses the contents.
pub unsafe fn remove(start: NonNull<u8>, bytes: usize) -> Result<(), SystemError> {
    if fault::strikes(Call::Advise) {
        return Err(SystemError(libc::EOPNOTSUPP));
    }
    // SAFETY: the caller's contract.
    if unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_REMOVE) } == 0 {
        Ok(())
    } else {
        Err(SystemError::last())
    }
}

fn file_offset(bytes: usize) -> Result<libc::off_t, SystemError> {
    libc::off_t::try_from(bytes).map_err(|_| SystemError(libc::EFBIG))
}
