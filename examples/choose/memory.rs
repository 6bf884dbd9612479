//! What the strategies are given: one piece of memory, used anew for each.

use std::mem::MaybeUninit;

use heapswitch::BorrowedSliceSource;

/// A piece of memory, all of whose pages are there before anything is timed that fits in it.
pub(crate) struct Memory(Box<[MaybeUninit<u8>]>);

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Box::new_uninit_slice(bytes))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// The first `bytes` of it, or all.
    pub(crate) fn source(&mut self, bytes: usize) -> BorrowedSliceSource<'_> {
        let bytes = bytes.min(self.0.len());
        BorrowedSliceSource::new(&mut self.0[..bytes])
    }

    /// The address of the first byte.
    pub(crate) fn start(&self) -> usize {
        self.0.as_ptr().addr()
    }
}
