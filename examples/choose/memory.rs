//! What the strategies are given: one piece of memory, used anew for each.

use std::mem::MaybeUninit;

use heapswitch::BorrowedSliceSource;

/// What the memory begins at a multiple of: then it serves alike wherever the system put it.
const ALIGNMENT: usize = 64 << 10;

/// A piece of memory.
pub(crate) struct Memory {
    memory: Box<[MaybeUninit<u8>]>,
    bytes: usize,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { memory: Box::new_uninit_slice(bytes + ALIGNMENT), bytes }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first `bytes` of it, or all.
    pub(crate) fn source(&mut self, bytes: usize) -> BorrowedSliceSource<'_> {
        let skipped = self.start() - self.memory.as_ptr().addr();
        let end = skipped + bytes.min(self.bytes);
        BorrowedSliceSource::new(&mut self.memory[skipped..end])
    }

    /// The address of the first byte.
    pub(crate) fn start(&self) -> usize {
        self.memory.as_ptr().addr().next_multiple_of(ALIGNMENT)
    }
}
