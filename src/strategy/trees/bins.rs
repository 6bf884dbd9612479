//! The free blocks of all extents: lists by size, and trees for what the lists cannot tell.
//!
//! Every free block is in the list of its bin, the newest first. A bit set says which bins may hold
//! blocks, so the first bin that may serve a request is found in one instruction. Below 1 KiB a bin
//! holds one size, so its first block is the best fit. Above, the first block of the request's own
//! bin is taken if it fits, otherwise the first of the next bin that holds any, all of which fit.
//!
//! Who takes the last block out of a list leaves the bit, and who finds the list empty clears it:
//! most are filled again before. (Rejected: the bit cleared at once. Then the next request waits
//! for what lies beside the block that was freed last, for which no branch asks.)
//!
//! Only when no bin is left but the request's own and the large blocks does the order in a bin
//! matter. Now its blocks are **sorted**: put into the octave's red-black tree, besides their list,
//! and the tree is searched for the least that fits. A block is sorted at most once between two
//! frees, so a request costs O(log n) amortised however many blocks there are, and most blocks are
//! taken or coalesced before anybody wants their order, at the cost of a list. (Rejected: every
//! block in a tree at once. Four tree operations for a block that is allocated and freed, each with
//! branches that are as often wrong as right, cost several times the lists.)

use core::hint::select_unpredictable;
use core::ptr::{self, NonNull};

use super::free_block::{
    self, FreeBlock, any_or_nothing, bin_if_first, first_of_bin, flagged_length, is_sorted,
    mark_sorted, write_ends,
};
use super::size_class::{BINS, FIRST_RANGE, LARGE, TREES, bin_of, tree_of};
use super::verify::{Tally, check};
use crate::strategy::Extent;
use crate::strategy::red_black::RedBlackTree;

/// The bits of all bins but that of the large blocks.
const NOT_LARGE: u64 = (1 << LARGE) - 1;

/// A free block that was found and taken out of its list.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    pub(super) block: NonNull<FreeBlock>,
    pub(super) length: usize,
    pub(super) extent: NonNull<Extent>,
}

/// The free blocks of all extents.
///
/// # Invariants
/// 1. `heads[b]` is the first block of bin `b`, or null where that holds none. Bit `b` of
///    `occupied` is set where it holds any, and may be set where it holds none, until somebody
///    looks for a block there. Bin 0 never holds any, and its bit is never set.
/// 2. A block is in the list of `bin_of` its length.
/// 3. The links of a list agree in both directions; the first's previous link tells the bin.
/// 4. In each list the blocks that are not sorted come first. The sorted ones are exactly those in
///    the tree of their octave.
///
/// The `SAFETY` comments below say "listed" for: in one of the lists, hence free, hence valid for
/// reads and writes by the strategy alone.
#[derive(Debug)]
pub(super) struct Bins {
    occupied: u64,
    /// Where the previous link is written of a block that does not exist: a conditional move of the
    /// address costs less than a branch that is as often wrong as right. Never read.
    sink: [*mut FreeBlock; 2],
    trees: [RedBlackTree<FreeBlock>; TREES],
    heads: [*mut FreeBlock; BINS],
}

impl Bins {
    pub(super) const fn new() -> Self {
        Self {
            occupied: 0,
            sink: [ptr::null_mut(); 2],
            trees: [const { RedBlackTree::new() }; TREES],
            heads: [ptr::null_mut(); BINS],
        }
    }

    /// Writes a free block's ends and lists it.
    ///
    /// # Safety
    /// `block..block + length` is free memory of `extent`, in no list.
    #[inline]
    pub(super) unsafe fn insert(
        &mut self,
        block: NonNull<FreeBlock>,
        length: usize,
        extent: NonNull<Extent>,
    ) {
        // SAFETY: the block is free by the contract, and the head of a list is listed.
        unsafe {
            write_ends(block, length, extent);
            let bin = bin_of(length) % BINS;
            let first = self.heads[bin];
            self.heads[bin] = block.as_ptr();
            self.occupied |= 1 << bin;
            (*block.as_ptr()).next = first;
            (*block.as_ptr()).previous = first_of_bin(bin);
            (*self.or_sink(first)).previous = block.as_ptr();
        }
    }

    /// Takes a block out of its list, and out of its tree if it is in one.
    ///
    /// # Safety
    /// `block` is listed, or the empty one.
    #[inline]
    pub(super) unsafe fn remove(&mut self, block: NonNull<FreeBlock>) {
        // SAFETY: the block is listed.
        unsafe {
            if is_sorted(block) {
                self.unsort(block);
            }
            self.unlink(block);
        }
    }

    /// Takes a block that is in no tree out of its list. It is as if the
    /// [empty block](free_block::or_nothing) were alone in that of bin 0, where nothing changes.
    ///
    /// # Safety
    /// `block` is listed and not sorted, or the empty one.
    #[inline]
    pub(super) unsafe fn unlink(&mut self, block: NonNull<FreeBlock>) {
        // SAFETY: the block is listed, and so are its neighbours in the list.
        unsafe {
            let FreeBlock { next, previous, .. } = *block.as_ptr();
            let bin = bin_if_first(previous);
            let head = &raw mut self.heads[bin.unwrap_or(0)];
            *select_unpredictable(bin.is_some(), head, previous.cast()) = next;
            (*self.or_sink(next)).previous = previous;
        }
    }

    /// Takes out a block of at least `length` bytes, a multiple of the granule above zero, but none
    /// of the large ones, and none that only a search would find.
    #[inline(always)] // measured: as `release_at_once`
    pub(super) fn take(&mut self, length: usize) -> Option<Taken> {
        let own = bin_of(length) % BINS;
        loop {
            let fitting = self.occupied & (u64::MAX << own) & NOT_LARGE;
            let mut bin = fitting.trailing_zeros() as usize % BINS;
            let mut first = self.heads[bin];
            if own >= FIRST_RANGE {
                // It may be too short only in the request's own bin. Whether it is, nobody can
                // foresee.
                // SAFETY: the block is listed, or the empty one.
                let is_long = unsafe { flagged_length(any_or_nothing(first)) } >= length;
                let others = fitting & fitting.wrapping_sub(1);
                let other = others.trailing_zeros() as usize % BINS;
                let is_other = !first.is_null() & !is_long;
                bin = select_unpredictable(is_other, other, bin);
                first = select_unpredictable(is_other, self.heads[other], first);
            }
            let Some(block) = NonNull::new(first) else {
                if bin == 0 {
                    return None;
                }
                self.occupied &= !(1 << bin);
                continue;
            };
            // SAFETY: the block is the first of the bin.
            unsafe {
                if is_sorted(block) {
                    return Some(self.take_first_sorted(block));
                }
                return Some(self.take_first(block, bin));
            }
        }
    }

    /// Takes out the first block of a bin.
    ///
    /// # Safety
    /// The block is that, and not sorted.
    #[inline]
    unsafe fn take_first(&mut self, block: NonNull<FreeBlock>, bin: usize) -> Taken {
        // SAFETY: the block is listed, and so is the next.
        unsafe {
            let length = flagged_length(block);
            let FreeBlock { next, extent, .. } = *block.as_ptr();
            self.heads[bin % BINS] = next;
            (*self.or_sink(next)).previous = first_of_bin(bin);
            Taken { block, length, extent }
        }
    }

    /// Takes out a block that is sorted.
    ///
    /// # Safety
    /// It is listed and sorted.
    #[cold]
    #[inline(never)]
    unsafe fn take_first_sorted(&mut self, block: NonNull<FreeBlock>) -> Taken {
        // SAFETY: the block is listed.
        unsafe {
            self.remove(block);
            let extent = (*block.as_ptr()).extent;
            Taken { block, length: free_block::length(block), extent }
        }
    }

    /// Whether [`take_sorted`](Self::take_sorted) may find a block where [`take`](Self::take) found
    /// none.
    #[inline]
    pub(super) fn may_find_sorted(&self, length: usize) -> bool {
        self.occupied & (1 << bin_of(length) | 1 << LARGE) != 0
    }

    /// Takes out the least block that fits among the request's own bin and the large blocks.
    #[cold]
    pub(super) fn take_sorted(&mut self, length: usize) -> Option<Taken> {
        let own = bin_of(length);
        let block = match self.search(own, length) {
            None if own != LARGE => self.search(LARGE, length)?,
            found => found?,
        };
        // SAFETY: what `search` finds is listed.
        unsafe {
            self.remove(block);
            let extent = (*block.as_ptr()).extent;
            Some(Taken { block, length: free_block::length(block), extent })
        }
    }

    /// The least block in `bin` of at least `length` bytes; sorts the bin unless it has one block.
    fn search(&mut self, bin: usize, length: usize) -> Option<NonNull<FreeBlock>> {
        if bin < FIRST_RANGE {
            return None;
        }
        let Some(first) = NonNull::new(self.heads[bin % BINS]) else {
            self.occupied &= !(1 << bin);
            return None;
        };
        let tree = &mut self.trees[tree_of(bin)];
        // SAFETY: every block that is reached is listed, and one that is not marked is in no tree.
        unsafe {
            if (*first.as_ptr()).next.is_null() {
                return (free_block::length(first) >= length).then_some(first);
            }
            let mut unsorted = Some(first);
            while let Some(block) = unsorted.filter(|&block| !is_sorted(block)) {
                mark_sorted(block);
                tree.insert(block);
                unsorted = NonNull::new((*block.as_ptr()).next);
            }
        }
        tree.first_from(length)
    }

    /// Takes a block out of its tree.
    ///
    /// # Safety
    /// `block` is listed and sorted.
    #[cold]
    unsafe fn unsort(&mut self, block: NonNull<FreeBlock>) {
        // SAFETY: by invariant 4 the block is in that tree.
        unsafe { self.trees[tree_of(bin_of(free_block::length(block)))].remove(block) }
    }

    /// The block, or the sink if it is null. Only the previous link may be written there.
    #[inline]
    fn or_sink(&mut self, block: *mut FreeBlock) -> *mut FreeBlock {
        select_unpredictable(block.is_null(), (&raw mut self.sink).cast(), block)
    }

    /// Checks the invariants, aborts where one fails, and counts the blocks.
    pub(super) fn verify(&self) -> Tally {
        let mut tally = Tally::default();
        // The trees first: what follows walks up in them.
        let in_trees = self.trees.each_ref().map(RedBlackTree::verify);
        let mut sorted = [0; TREES];
        for bin in 0..BINS {
            let is_occupied = self.occupied >> bin & 1 != 0;
            check(is_occupied || self.heads[bin].is_null(), "an occupied bin's bit is not set");
            self.verify_list(bin, &mut tally, &mut sorted);
        }
        // It is as if the empty block were in the first bin, alone, and had been taken out.
        let is_unused = self.heads[0].is_null() && self.occupied & 1 == 0;
        check(is_unused, "the first bin holds a block");
        check(in_trees == sorted, "a tree holds other blocks than are marked sorted");
        tally
    }

    /// Has bits say that bins are occupied, for the tests.
    #[cfg(test)]
    pub(super) fn damage(&mut self, bits: u64) {
        self.occupied |= bits;
    }

    /// Checks and counts the blocks of one bin, and counts the sorted ones by tree.
    fn verify_list(&self, bin: usize, tally: &mut Tally, sorted: &mut [usize; TREES]) {
        let mut previous = first_of_bin(bin);
        let mut previous_is_sorted = false;
        let mut at = self.heads[bin];
        while let Some(block) = NonNull::new(at) {
            // SAFETY: the block is listed.
            unsafe {
                let length = free_block::length(block);
                check((*at).previous == previous, "the links of a bin's list disagree");
                check(bin_of(length) == bin, "a free block is in another bin than its length's");
                let is_sorted = is_sorted(block);
                check(is_sorted || !previous_is_sorted, "a block before is sorted, one behind not");
                if is_sorted {
                    check(bin >= FIRST_RANGE, "a block of an exact bin is sorted");
                    let tree = tree_of(bin);
                    sorted[tree] += 1;
                    check(self.trees[tree].holds(block), "a sorted block is not in its tree");
                }
                tally.count(block.addr().get(), length);
                previous_is_sorted = is_sorted;
                previous = at;
                at = (*at).next;
            }
        }
    }
}
