//! The slab's back as a strategy of its own: what any thread may do with a heap whose runner
//! sleeps, while it holds the heap's lock.
//!
//! It takes blocks in and gives empty extents up, and hands nothing out. The runner's magazines it
//! neither sees nor needs: their blocks count as used.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::class::{CLASSES, block_bytes};
use super::front::{MIN_MAGAZINE, capacity};
use super::partial::{
    Partials, carved, class_of_extent, free, freed_twice, note_drop, owner, set_owner, used,
    used_bytes,
};
use super::{Slab, bits};
use crate::allocator::AllocError;
use crate::pointers;
use crate::strategy::{Extent, Strategy};
use crate::units::CHUNK_BYTES;

/// How much of a class there is.
#[derive(Clone, Copy, Debug)]
struct Count {
    extents: u32,
    /// Blocks that are allocated, or in front.
    used: u32,
}

/// The extents of a slab, and how many blocks of each class are out of them.
#[derive(Debug)]
pub struct Back {
    pub(super) partials: Partials,
    counts: [Count; CLASSES],
}

impl Back {
    const NEW: Self =
        Self { partials: Partials::new(), counts: [Count { extents: 0, used: 0 }; CLASSES] };

    /// Gives the class an extent that has none yet, if there is one.
    pub(super) fn assign(&mut self, class: usize) -> Option<&'static Extent> {
        let extent = self.partials.assign(class)?;
        set_owner(extent, self.mark(class));
        self.counts.get_mut(class)?.extents += 1;
        Some(extent)
    }

    /// Counts blocks of a class that go to the front.
    pub(super) fn count_out(&mut self, class: usize, blocks: usize) {
        if let Some(count) = self.counts.get_mut(class) {
            count.used += blocks as u32;
        }
    }

    /// Counts blocks of a class that extents have back.
    pub(super) fn count_in(&mut self, class: usize, blocks: usize) {
        if let Some(count) = self.counts.get_mut(class) {
            count.used -= blocks as u32;
        }
    }

    /// The blocks that are allocated or in front, and their bytes.
    pub fn used(&self) -> (usize, usize) {
        let blocks_of = |(class, count): (usize, &Count)| (class, count.used as usize);
        let add =
            |(blocks, bytes), (class, used)| (blocks + used, bytes + used * block_bytes(class));
        self.counts.iter().enumerate().map(blocks_of).fold((0, 0), add)
    }

    /// What the extents of a class of this back have as their owner: an address within it, so that
    /// no other's are the same. It does not move while it has any: a heap's strategy lies in its
    /// header.
    #[inline]
    fn mark(&self, class: usize) -> usize {
        const { assert!(CLASSES < size_of::<Self>()) };
        core::ptr::from_ref(self).addr() + class
    }

    /// Ends the process where a block of the class goes back whose chunk is no extent of this slab
    /// and class: it went back before, for the block was freed twice, or the block was freed by a
    /// layout that does not fit it. Nothing was written to yet.
    #[inline]
    pub(super) fn check_owner(&self, extent: &Extent, class: usize) {
        if owner(extent) != self.mark(class) {
            freed_twice();
        }
    }

    /// Takes a block back. Whether extents became empty.
    pub(super) fn put_back(&mut self, extent: &Extent, block: NonNull<u8>) -> bool {
        let class = class_of_extent(extent);
        self.check_owner(extent, class);
        bits::put_back(extent, block, bits::reciprocal_of(class));
        self.count_in(class, 1);
        self.partials.count_back(extent, 1)
    }

    /// Forgets an extent without used blocks.
    fn remove(&mut self, extent: &Extent) {
        // One that has a class has had blocks.
        if carved(extent) != 0
            && let Some(count) = self.counts.get_mut(class_of_extent(extent))
        {
            count.extents -= 1;
        }
        self.partials.remove(extent);
    }

    /// How many blocks of a class the front should hold at most. Each pins its extent: where there
    /// are far more extents than the blocks need, an eighth of the blocks.
    pub(super) fn magazine_length(&self, class: usize) -> usize {
        let Some(&Count { extents, used }) = self.counts.get(class) else { return 0 };
        // As a comparison without a division: `extents <= 2 * used / blocks in an extent + 3`.
        let needed_bytes = used as usize * bits::least_bytes(class);
        if (extents as usize).saturating_sub(3) * CHUNK_BYTES <= 2 * needed_bytes {
            return capacity(class);
        }
        (used as usize / 8).clamp(MIN_MAGAZINE, capacity(class))
    }
}

// SAFETY: no block is ever handed out. The rest is the slab's own.
unsafe impl Strategy for Back {
    type Settings = ();

    const NAME: &'static str = Slab::NAME;
    const COUNTS_BLOCKS: bool = true;
    const KEEPS_SPARES: bool = true;
    const EXTENT_ALIGN: usize = CHUNK_BYTES;

    const DEFAULT: Self = Self::NEW;

    fn new((): ()) -> Self {
        Self::NEW
    }

    fn metadata_bytes(&self, _: usize) -> usize {
        bits::BITS_BYTES
    }

    fn extent_bytes(&self, _: Layout) -> Option<usize> {
        None
    }

    fn block_length(&self, _: Layout) -> Result<usize, AllocError> {
        Err(AllocError)
    }

    fn allocate(&mut self, _: Layout) -> Option<NonNull<[u8]>> {
        None
    }

    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, _: Layout) {
        self.put_back(extent, block);
    }

    unsafe fn free(&mut self, extent: &Extent, block: NonNull<u8>, _: Layout) -> bool {
        self.put_back(extent, block)
    }

    fn next_emptied(&mut self) -> Option<NonNull<u8>> {
        self.partials.next_emptied().map(Extent::start)
    }

    fn kept_extents(&mut self) -> u32 {
        self.partials.kept() as u32
    }

    fn live_blocks(&mut self, extent: &Extent) -> u32 {
        used(extent) as u32
    }

    fn used_bytes(&self, extent: &Extent) -> usize {
        used_bytes(extent)
    }

    unsafe fn add_extent(&mut self, extent: &Extent) {
        self.partials.take_in(extent);
    }

    unsafe fn remove_extent(&mut self, extent: &Extent) {
        self.remove(extent);
    }

    fn visit_idle(&self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        // One without a class was not touched since it was an extent.
        if carved(extent) == 0 {
            return;
        }
        let bytes = block_bytes(class_of_extent(extent));
        // What was not carved was not touched either, but may be resident in a huge page.
        let (searched, tail) = match free(extent) {
            0 => (0, carved(extent) * bytes),
            _ => (carved(extent), 0),
        };
        let mut show = |from: usize, to: usize| {
            if from < to {
                // SAFETY: the range lies in the extent.
                let start = unsafe { pointers::forward(extent.start(), from) };
                visit(pointers::block(start, to - from));
            }
        };
        let mut idle_from = tail;
        for index in 0..searched {
            if !bits::is_free(extent, index) {
                show(idle_from, index * bytes);
                idle_from = (index + 1) * bytes;
            }
        }
        show(idle_from, extent.length());
    }

    /// What lies between the blocks that are used, once: not again before that changes.
    fn visit_unallocated(&mut self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        if note_drop(extent) {
            self.visit_idle(extent, visit);
        }
    }

    fn verify(&self) {
        self.verify_extents();
    }
}
