//! Text without allocating.

use core::fmt;

/// What fits of what was written to it.
#[derive(Debug)]
pub struct Text<const BYTES: usize> {
    buffer: [u8; BYTES],
    length: usize,
}

impl<const BYTES: usize> Text<BYTES> {
    /// Empty.
    pub const fn new() -> Self {
        Self { buffer: [0; BYTES], length: 0 }
    }

    /// What was written.
    pub fn as_bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl<const BYTES: usize> Default for Text<BYTES> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const BYTES: usize> fmt::Write for Text<BYTES> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        let Some(place) = self.buffer.get_mut(self.length..end) else { return Err(fmt::Error) };
        place.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}
