//! Blocks that were freed and that nobody gets yet, under AddressSanitizer (`--cfg
//! heapswitch_asan`).
//!
//! Strategies keep their links in free memory, so free memory cannot stay poisoned. Therefore a
//! block that the runner frees first waits here, poisoned from end to end, and goes to the strategy
//! when [`BLOCKS`] others or [`BYTES`] bytes were freed after it. To the strategy it is allocated
//! until then. Blocks freed by others are poisoned, but for the links and names in some of them,
//! until they are collected; free runs, and what is freed in closed heaps, for as long as they are
//! free.

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;

use crate::region::Metadata;
use crate::sys::poison;

/// The most blocks that wait.
const BLOCKS: usize = 64;

/// The most bytes that wait, but for the last block.
const BYTES: usize = 64 << 10;

/// A block that was freed.
#[derive(Clone, Copy, Debug)]
pub struct Freed {
    /// Where it is.
    pub block: NonNull<u8>,
    /// What it was freed with.
    pub layout: Layout,
}

type Ring = [Cell<Option<Freed>>; BLOCKS];

/// A heap's waiting blocks. Belongs to the runner.
///
/// # Invariants
/// `length` blocks from index `first` on, going round; their sizes add up to `bytes`.
#[derive(Debug, Default)]
pub struct Quarantine {
    ring: Cell<Option<NonNull<Ring>>>,
    first: Cell<usize>,
    length: Cell<usize>,
    bytes: Cell<usize>,
}

impl Quarantine {
    fn ring(&self) -> Option<&Ring> {
        if self.ring.get().is_none() {
            // All zero bytes are a ring of `None`: `Option` has its niche in the pointer.
            self.ring.set(Metadata::take(size_of::<Ring>()).map(NonNull::cast));
        }
        // SAFETY: the ring is valid until the drop, and made of cells.
        self.ring.get().map(|ring| unsafe { ring.as_ref() })
    }

    /// Lets a block wait. False where there is no memory for the list.
    pub fn admit(&self, freed: Freed) -> bool {
        let (first, length) = (self.first.get(), self.length.get());
        let Some(slot) = self.ring().and_then(|ring| ring.get((first + length) % BLOCKS)) else {
            return false;
        };
        poison::poison(freed.block, freed.layout.size());
        slot.set(Some(freed));
        self.length.set(length + 1);
        self.bytes.set(self.bytes.get() + freed.layout.size());
        true
    }

    /// The block that waited longest, if too many wait. For the strategy now.
    pub fn next_due(&self) -> Option<Freed> {
        let is_full = self.length.get() == BLOCKS || self.bytes.get() > BYTES;
        if is_full { self.take() } else { None }
    }

    /// The block that waited longest. For the strategy now.
    pub fn take(&self) -> Option<Freed> {
        let (first, length) = (self.first.get(), self.length.get().checked_sub(1)?);
        let freed = self.ring()?.get(first)?.take()?;
        self.first.set((first + 1) % BLOCKS);
        self.length.set(length);
        self.bytes.set(self.bytes.get() - freed.layout.size());
        poison::unpoison(freed.block, freed.layout.size());
        Some(freed)
    }
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        if let Some(ring) = self.ring.take() {
            // SAFETY: the ring was taken with this size.
            unsafe { Metadata::give_back(ring.cast(), size_of::<Ring>()) };
        }
    }
}
