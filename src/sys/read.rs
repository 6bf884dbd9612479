//! Small files of the system, read and written without allocating: what sysfs and `/proc` tell.

use core::ffi::{CStr, c_int};

use super::SystemError;
use super::fault::{self, Call};
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
use super::no_libc as libc;

/// A file that is open, and closed when dropped.
#[derive(Debug)]
pub struct SmallFile {
    descriptor: c_int,
}

impl SmallFile {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// The system's: `ENOENT`, `EACCES`.
    pub fn open(path: &CStr) -> Result<Self, SystemError> {
        Self::open_with(path, libc::O_RDONLY)
    }

    /// Opens a file that exists for writing.
    ///
    /// # Errors
    /// The system's: `ENOENT`, `EACCES`.
    pub fn open_for_writing(path: &CStr) -> Result<Self, SystemError> {
        Self::open_with(path, libc::O_WRONLY)
    }

    fn open_with(path: &CStr, access: c_int) -> Result<Self, SystemError> {
        if fault::strikes(Call::Open) {
            return Err(SystemError(libc::EACCES));
        }
        // SAFETY: the path is a C string.
        let descriptor = unsafe { libc::open(path.as_ptr(), access | libc::O_CLOEXEC) };
        if descriptor < 0 { Err(SystemError::last()) } else { Ok(Self { descriptor }) }
    }

    /// Reads what comes next; how many bytes. Zero at the end.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SystemError> {
        if fault::strikes(Call::Read) {
            return Err(SystemError(libc::EIO));
        }
        loop {
            let (start, bytes) = (buffer.as_mut_ptr().cast(), buffer.len());
            // SAFETY: the buffer is valid for writes of its length, the descriptor is ours.
            let length = unsafe { libc::read(self.descriptor, start, bytes) };
            match usize::try_from(length) {
                Ok(length) => return Ok(length),
                Err(_) if SystemError::last() == SystemError(libc::EINTR) => {}
                Err(_) => return Err(SystemError::last()),
            }
        }
    }

    /// Writes a text as a whole, as sysfs wants it.
    ///
    /// # Errors
    /// The system's; `EIO` where only a part was written.
    pub fn write(&mut self, text: &[u8]) -> Result<(), SystemError> {
        if fault::strikes(Call::Write) {
            return Err(SystemError(libc::EACCES));
        }
        // SAFETY: the text is valid for reads of its length, the descriptor is ours.
        let written = unsafe { libc::write(self.descriptor, text.as_ptr().cast(), text.len()) };
        match usize::try_from(written) {
            Ok(written) if written == text.len() => Ok(()),
            Ok(_) => Err(SystemError(libc::EIO)),
            Err(_) => Err(SystemError::last()),
        }
    }
}

impl Drop for SmallFile {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours and used no more.
        unsafe { libc::close(self.descriptor) };
    }
}
