//! What of an extent is used.

use core::cell::Cell;

use crate::strategy::Extent;

/// How many blocks of an extent are allocated, and how many granules they have: in its words, not
/// side by side, where both would be added at once, which takes more instructions.
#[derive(Clone, Copy)]
pub(super) struct Used<'a> {
    pub(super) blocks: &'a Cell<usize>,
    pub(super) granules: &'a Cell<usize>,
}

impl<'a> Used<'a> {
    #[inline]
    pub(super) fn of(extent: &'a Extent) -> Self {
        let [blocks, _, granules, ..] = &extent.words;
        Self { blocks, granules }
    }

    /// A block was allocated.
    #[inline]
    pub(super) fn count_new(self, granules: usize) {
        self.blocks.set(self.blocks.get() + 1);
        self.granules.set(self.granules.get() + granules);
    }

    /// A block was freed.
    #[inline]
    pub(super) fn count_freed(self, granules: usize) {
        self.blocks.set(self.blocks.get().wrapping_sub(1));
        self.granules.set(self.granules.get().wrapping_sub(granules));
    }

    /// A block has another length.
    pub(super) fn resize(self, had: usize, has: usize) {
        self.granules.set(self.granules.get().wrapping_sub(had).wrapping_add(has));
    }
}
