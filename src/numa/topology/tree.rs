//! The files that tell the topology, below a root, through a buffer of a few hundred bytes.

use core::ffi::CStr;
use core::fmt::{self, Write};

use crate::sys::SystemError;
use crate::sys::read::SmallFile;

/// The longest path of a root, in bytes.
pub(in crate::numa) const ROOT_BYTES: usize = 255;

/// The longest path below a root, in bytes, with the zero at its end.
const PATH_BYTES: usize = 96;

/// A folder that `sys` and `proc` lie in.
#[derive(Clone, Copy)]
pub(in crate::numa) struct Root {
    bytes: [u8; ROOT_BYTES],
    length: usize,
}

/// A path that is being written, with room for its closing zero.
struct Path {
    bytes: [u8; ROOT_BYTES + PATH_BYTES],
    length: usize,
}

impl Write for Path {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        let part = self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?;
        part.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

impl Root {
    /// `None` where the path is longer than 255 bytes or holds a zero.
    pub(in crate::numa) fn new(path: &str) -> Option<Self> {
        let mut root = Self { bytes: [0; ROOT_BYTES], length: path.len() };
        root.bytes.get_mut(..path.len())?.copy_from_slice(path.as_bytes());
        (!path.contains('\0')).then_some(root)
    }

    fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        // Copied from a `str`, so it is one.
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Opens a file below the root; its path begins with a slash.
    pub(in crate::numa) fn open(&self, path: &dyn fmt::Display) -> Result<Bytes, SystemError> {
        self.with_path(path, SmallFile::open).map(Bytes::of)
    }

    /// Opens a file below the root for writing.
    pub(in crate::numa) fn open_for_writing(
        &self,
        path: &dyn fmt::Display,
    ) -> Result<SmallFile, SystemError> {
        self.with_path(path, SmallFile::open_for_writing)
    }

    fn with_path<T>(
        &self,
        path: &dyn fmt::Display,
        open: impl FnOnce(&CStr) -> Result<T, SystemError>,
    ) -> Result<T, SystemError> {
        let mut whole = Path { bytes: [0; ROOT_BYTES + PATH_BYTES], length: 0 };
        let written = write!(whole, "{}{path}\0", self.as_str());
        let bytes = whole.bytes.get(..whole.length).unwrap_or_default();
        match (written, CStr::from_bytes_with_nul(bytes)) {
            (Ok(()), Ok(path)) => open(path),
            _ => Err(SystemError::NO_ENTRY),
        }
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(formatter)
    }
}

/// The bytes of a file, one after the other.
#[derive(Debug)]
pub(in crate::numa) struct Bytes {
    file: SmallFile,
    buffer: [u8; 256],
    next: usize,
    length: usize,
    /// What ended the bytes before the file's end.
    error: Option<SystemError>,
}

impl Bytes {
    fn of(file: SmallFile) -> Self {
        Self { file, buffer: [0; 256], next: 0, length: 0, error: None }
    }

    /// What `parse` makes of the bytes; but the error that ended them, where one did.
    pub(in crate::numa) fn read<T>(
        mut self,
        parse: impl FnOnce(&mut Self) -> T,
    ) -> Result<T, SystemError> {
        let parsed = parse(&mut self);
        self.error.map_or(Ok(parsed), Err)
    }

    /// Goes to the line that begins with `start`, behind that; whether there is one.
    pub(in crate::numa) fn find_line(&mut self, start: &[u8]) -> bool {
        loop {
            let mut matched = 0;
            let byte = loop {
                match (self.next(), start.get(matched)) {
                    (Some(byte), Some(&wanted)) if byte == wanted => matched += 1,
                    (byte, _) => break byte,
                }
                if matched == start.len() {
                    return true;
                }
            };
            let mut byte = byte;
            while byte != Some(b'\n') {
                if byte.is_none() {
                    return false;
                }
                byte = self.next();
            }
        }
    }

    /// The rest of the line.
    pub(in crate::numa) fn line(&mut self) -> impl Iterator<Item = u8> + '_ {
        self.take_while(|&byte| byte != b'\n')
    }

    /// The next decimal number of the line, after blanks; `None` where something else comes.
    pub(in crate::numa) fn number(&mut self) -> Option<u64> {
        let mut number = None;
        for byte in self {
            match byte {
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    number = Some(number.unwrap_or(0_u64).checked_mul(10)?.checked_add(digit)?);
                }
                b' ' | b'\t' if number.is_none() => {}
                b' ' | b'\t' | b'\n' => break,
                _ => return None,
            }
        }
        number
    }
}

impl Iterator for Bytes {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        if self.next == self.length {
            if self.error.is_some() {
                return None;
            }
            match self.file.read(&mut self.buffer) {
                Ok(length) => (self.next, self.length) = (0, length),
                Err(error) => self.error = Some(error),
            }
        }
        if self.next == self.length {
            return None;
        }
        let byte = self.buffer.get(self.next).copied();
        self.next += 1;
        byte
    }
}
