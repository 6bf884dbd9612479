//! Quick lists: blocks that were freed lately, by length, kept out of the books.
//!
//! A block that waits here is taken as far as the strategy's books say, so freeing it and handing
//! it out again joins nothing and splits nothing: that is most of what either costs. The price is
//! that it does not join its neighbours meanwhile. So few blocks wait and only short ones; all are
//! freed before the strategy says that nothing fits, and those of an extent when it is removed.
//!
//! Lengths are in the strategy's own unit. The lists are linked through the blocks, 16 bytes at a
//! block's start.

use core::ptr::NonNull;

use crate::strategy::Extent;

/// What a block that waits is written over with, from its start on.
pub(super) const WAITING_BYTES: usize = size_of::<Waiting>();

/// A block that waits, in its own memory.
#[repr(C)]
struct Waiting {
    next: Option<NonNull<Waiting>>,
    extent: NonNull<Extent>,
}

/// The quick lists.
///
/// # Invariants
/// - Every block in a list is of that list's length, free to its user, taken for the books, and in
///   the extent that it names, which was added and not removed.
/// - `room` is how many more of each length may wait.
#[derive(Debug)]
pub(super) struct Quick<const LENGTHS: usize> {
    heads: [Option<NonNull<Waiting>>; LENGTHS],
    room: [u8; LENGTHS],
}

impl<const LENGTHS: usize> Quick<LENGTHS> {
    /// Empty lists: so many blocks of each length may wait. Where that is not none, the length is
    /// at least [`WAITING_BYTES`].
    pub(super) const fn new(room: [u8; LENGTHS]) -> Self {
        Self { heads: [None; LENGTHS], room }
    }

    /// Takes a block of `blocks` out, and tells its extent.
    #[inline]
    pub(super) fn pop(&mut self, blocks: usize) -> Option<(NonNull<u8>, NonNull<Extent>)> {
        let head = self.heads.get_mut(blocks)?;
        let block = (*head)?;
        // SAFETY: by the type's invariant the block is the strategy's, and `push` wrote its link.
        let waiting = unsafe { block.as_ref() };
        *head = waiting.next;
        if let Some(room) = self.room.get_mut(blocks) {
            *room = room.wrapping_add(1);
        }
        Some((block.cast(), waiting.extent))
    }

    /// Lets a block wait if fewer than the most of its length do; whether it does.
    ///
    /// # Safety
    /// The block is of this extent, `blocks` long, was just freed by its user and is marked as
    /// taken; when the extent is removed none of its blocks waits any more, because they were
    /// [forgotten](Self::forget) or [drained](Self::drain).
    #[inline]
    pub(super) unsafe fn push(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        blocks: usize,
    ) -> bool {
        let Some((head, room)) = self.heads.get_mut(blocks).zip(self.room.get_mut(blocks)) else {
            return false;
        };
        if *room == 0 {
            return false;
        }
        // SAFETY: the block is the strategy's by the contract, in the extent, and long enough:
        // there is room only for lengths that are. Blocks are 8-aligned.
        let waiting = unsafe {
            let waiting = extent.own(block).cast::<Waiting>();
            waiting.write(Waiting { next: *head, extent: extent.into() });
            waiting
        };
        // INVARIANT: the block is freed and still marked, and in the list of its length.
        *head = Some(waiting);
        *room -= 1;
        true
    }

    /// Takes all blocks out, and calls `visit(extent, block, blocks)` for each.
    pub(super) fn drain(&mut self, mut visit: impl FnMut(&Extent, NonNull<u8>, usize)) {
        for blocks in 0..LENGTHS {
            while let Some((block, extent)) = self.pop(blocks) {
                // SAFETY: the extent was added and not removed.
                visit(unsafe { extent.as_ref() }, block, blocks);
            }
        }
    }

    /// Calls `visit(extent, block, blocks)` for each block that waits.
    pub(super) fn visit(&self, mut visit: impl FnMut(NonNull<Extent>, NonNull<u8>, usize)) {
        for (blocks, &head) in self.heads.iter().enumerate() {
            let mut next = head;
            while let Some(waiting) = next {
                // SAFETY: as in `pop`.
                let link = unsafe { waiting.as_ref() };
                next = link.next;
                visit(link.extent, waiting.cast(), blocks);
            }
        }
    }

    /// Forgets the blocks of an extent, which stay taken for the books.
    pub(super) fn forget(&mut self, extent: &Extent) {
        let extent: NonNull<Extent> = extent.into();
        for (head, room) in self.heads.iter_mut().zip(&mut self.room) {
            let mut slot = head;
            while let Some(mut waiting) = *slot {
                // SAFETY: as in `pop`; the reference is to the link that the slot leads to.
                let link = unsafe { waiting.as_mut() };
                if link.extent == extent {
                    *slot = link.next;
                    *room = room.wrapping_add(1);
                } else {
                    slot = &mut link.next;
                }
            }
        }
    }

    /// Whether a block of that extent waits.
    pub(super) fn has(&self, extent: &Extent) -> bool {
        let mut has = false;
        self.visit(|other, _, _| has |= other == extent.into());
        has
    }

    /// Whether blocks of all of the eight longest lengths wait, of each of which four may: a sign
    /// that many do, for an instruction or two.
    #[inline]
    pub(super) fn many_wait(&self) -> bool {
        let longest = self.room.last_chunk().map_or(u64::MAX, |&room| u64::from_ne_bytes(room));
        longest & u64::from_ne_bytes([4; 8]) == 0
    }

    /// Whether no block waits.
    pub(super) fn is_empty(&self) -> bool {
        self.heads.iter().all(Option::is_none)
    }
}
