//! What of an extent is allocated.
#![forbid(unsafe_code)]

use core::cell::Cell;

use crate::strategy::Extent;

/// The counts: in the extent's words, not side by side, where both would be added at
/// once, which takes more instructions.
#[derive(Clone, Copy)]
pub(super) struct Used<'a> {
    /// How many requests are served with blocks of it.
    pub(super) requests: &'a Cell<usize>,
    /// How many blocks of the bit set they have.
    pub(super) blocks: &'a Cell<usize>,
}

impl<'a> Used<'a> {
    #[inline]
    pub(super) const fn of(extent: &'a Extent) -> Self {
        let [requests, _, blocks, ..] = &extent.words;
        Self { requests, blocks }
    }

    #[inline]
    pub(super) fn count_new(self, blocks: usize) {
        self.requests.set(self.requests.get() + 1);
        self.blocks.set(self.blocks.get() + blocks);
    }

    #[inline]
    pub(super) fn count_freed(self, blocks: usize) {
        self.requests.set(self.requests.get().wrapping_sub(1));
        self.blocks.set(self.blocks.get().wrapping_sub(blocks));
    }

    /// One has another length.
    #[inline]
    pub(super) fn resize(self, had: usize, has: usize) {
        self.blocks.set(self.blocks.get().wrapping_sub(had).wrapping_add(has));
    }
}
