//! Text without allocating: a buffer to format into, and writing it out.

use core::ffi::c_int;
use core::fmt::{self, Write};

/// What fits of what was written to it.
#[derive(Debug)]
pub(crate) struct Text<const BYTES: usize> {
    buffer: [u8; BYTES],
    length: usize,
}

impl<const BYTES: usize> Text<BYTES> {
    /// Empty.
    pub(crate) const fn new() -> Self {
        Self { buffer: [0; BYTES], length: 0 }
    }

    /// What was written, cut at a character's end where it did not fit.
    pub(crate) fn as_str(&self) -> &str {
        self.buffer.get(..self.length).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or("")
    }
}

impl<const BYTES: usize> Write for Text<BYTES> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let end = self.length + character.len_utf8();
            let Some(place) = self.buffer.get_mut(self.length..end) else { return Err(fmt::Error) };
            character.encode_utf8(place);
            self.length = end;
        }
        Ok(())
    }
}

/// Bytes as a person reads them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >> shift != 0 {
                let tenths = (u128::from(self.0) * 10) >> shift;
                return write!(formatter, "{}.{} {unit}", tenths / 10, tenths % 10);
            }
        }
        write!(formatter, "{} B", self.0)
    }
}

/// Writes all of a text to a descriptor. What the system refuses is lost: there is nobody to tell,
/// and the program does not end by it.
pub(crate) fn write_to(descriptor: c_int, text: &str) {
    heapswitch::sys::without_its_signals(|| write_all(descriptor, text));
}

fn write_all(descriptor: c_int, text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        // SAFETY: the bytes are valid for reads; a descriptor that is closed is an error.
        let written = unsafe { libc::write(descriptor, rest.as_ptr().cast(), rest.len()) };
        match usize::try_from(written) {
            Ok(written) => rest = rest.get(written..).unwrap_or(&[]),
            // SAFETY: errno's address is valid on every thread.
            Err(_) if unsafe { *libc::__errno_location() } == libc::EINTR => {}
            Err(_) => return,
        }
    }
}
