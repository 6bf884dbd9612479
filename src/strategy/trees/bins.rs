//! The free blocks of all extents: lists by size, and trees for what the lists cannot tell.
//!
//! Every free block is in the list of its bin, the newest first, but for the singles, which are in
//! a list of their extent. A bit set says which bins hold blocks, so a block that surely fits is found
//! in one instruction, and is the best fit where a bin holds one size.
//!
//! Only when no such block is left but the large ones does order matter: then the blocks of the
//! request's own bin may or may not fit. Now they are **sorted**: put into the octave's red-black tree,
//! besides their list, and the tree is searched for the least that fits. A block is sorted at most
//! once between two frees, so a request costs O(log n) however many blocks there are, and most
//! blocks are taken or coalesced before anybody wants their order, at the cost of a list.
//! (Rejected: always in a tree. The searches mispredict, and freeing took twice as long.)

use core::hint::select_unpredictable;
use core::ptr::{self, NonNull};

use super::free_block::{
    self, FreeBlock, bin_if_first, first_of_bin, is_sorted, mark_sorted, next_of, tag_single,
    untag_single, write_ends,
};
use super::record::Record;
use super::red_black::RedBlackTree;
use super::size_class::{
    BINS, FIRST_RANGE, GRANULE, LARGE, TREES, bin_of, first_bin_that_fits, tree_of,
};

/// The bin of the singles, whose head in `heads` is not used: the records with singles are listed.
pub(super) const SINGLES: usize = 1;

/// The bits of all bins but that of the large blocks.
const NOT_LARGE: u64 = (1 << LARGE) - 1;

/// A free block that was found and taken out of its list.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    pub(super) block: NonNull<FreeBlock>,
    pub(super) length: usize,
    pub(super) record: NonNull<Record>,
}

/// The free blocks of all extents.
///
/// # Invariants
/// 1. Bit `b` of `occupied` is set exactly where bin `b` holds a block.
/// 2. A block of at least two granules is in the list of `bin_of` its length, a single in its
///    record's list; a record is in the list `with_singles` exactly where its list is not empty.
/// 3. The links of a list agree in both directions, the first's previous link is null.
/// 4. In each list the blocks that are not sorted come first. The sorted are exactly those in the tree
///    of their octave.
///
/// The `SAFETY` comments below say "listed" for: in one of the lists, hence free, hence valid for
/// reads and writes by the strategy alone.
#[derive(Debug)]
pub(super) struct Bins {
    occupied: u64,
    with_singles: *mut Record,
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
            with_singles: ptr::null_mut(),
            sink: [ptr::null_mut(); 2],
            trees: [const { RedBlackTree::new() }; TREES],
            heads: [ptr::null_mut(); BINS],
        }
    }

    /// Writes a free block's ends and lists it.
    ///
    /// # Safety
    /// `block..block + length` is free memory of the extent of `record`, in no list.
    #[inline]
    pub(super) unsafe fn insert(
        &mut self,
        block: NonNull<FreeBlock>,
        length: usize,
        record: NonNull<Record>,
    ) {
        // SAFETY: the block is free by the contract, and the head of a list is listed.
        unsafe {
            if length == GRANULE {
                return self.insert_single(block, record);
            }
            write_ends(block, length, record);
            let bin = bin_of(length) % BINS;
            let first = self.heads[bin];
            self.heads[bin] = block.as_ptr();
            self.occupied |= 1 << bin;
            (*block.as_ptr()).next = first;
            (*block.as_ptr()).previous = first_of_bin(bin);
            (*self.or_sink(first)).previous = block.as_ptr();
        }
    }

    /// Takes a block out of its list.
    ///
    /// # Safety
    /// `block` is listed, `length` bytes long and in the extent of `record`.
    #[inline]
    pub(super) unsafe fn remove(
        &mut self,
        block: NonNull<FreeBlock>,
        length: usize,
        record: NonNull<Record>,
    ) {
        // SAFETY: the block is listed, and so are its neighbours in the list.
        unsafe {
            if length == GRANULE {
                return self.remove_single(block, record);
            }
            if is_sorted(block) {
                self.unsort(block);
            }
            let FreeBlock { next, previous, .. } = *block.as_ptr();
            let bin = bin_if_first(previous);
            let head = (&raw mut self.heads[bin.unwrap_or(0)]).cast();
            *next_of(select_unpredictable(bin.is_some(), head, previous)) = next;
            (*self.or_sink(next)).previous = previous;
            self.clear_if(bin.unwrap_or(0), next.is_null() & bin.is_some());
        }
    }

    /// Takes out a block of at least `length` bytes, a multiple of [`GRANULE`] above zero, but none of
    /// the large ones, and none that only a search would find.
    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Option<Taken> {
        let fitting = self.occupied & NOT_LARGE & (u64::MAX << first_bin_that_fits(length));
        if fitting == 0 {
            return None;
        }
        let bin = fitting.trailing_zeros() as usize % BINS;
        if bin == SINGLES {
            return self.take_single();
        }
        let block = NonNull::new(self.heads[bin])?;
        // SAFETY: the head of a list is listed, and so is the next.
        unsafe {
            if is_sorted(block) {
                self.unsort(block);
            }
            let next = (*block.as_ptr()).next;
            self.heads[bin] = next;
            (*self.or_sink(next)).previous = first_of_bin(bin);
            self.clear_if(bin, next.is_null());
            let record = (*block.as_ptr()).record;
            Some(Taken { block, length: free_block::length(block), record })
        }
    }

    /// Whether [`take_sorted`](Self::take_sorted) may find a block where [`take`](Self::take) found none.
    #[inline]
    pub(super) fn may_find_sorted(&self, length: usize) -> bool {
        let own = (first_bin_that_fits(length) - 1).min(LARGE);
        self.occupied & (1 << own | 1 << LARGE) != 0
    }

    /// Takes out the least block that fits among the request's own bin and the large blocks.
    #[cold]
    pub(super) fn take_sorted(&mut self, length: usize) -> Option<Taken> {
        let own = bin_of(length);
        let found = self
            .search(own, length)
            .or_else(|| if own == LARGE { None } else { self.search(LARGE, length) })?;
        // SAFETY: what `search` finds is listed.
        unsafe {
            let (length, record) = (free_block::length(found), (*found.as_ptr()).record);
            self.remove(found, length, record);
            Some(Taken { block: found, length, record })
        }
    }

    /// The least block in `bin` of at least `length` bytes; sorts the bin unless it has one block.
    fn search(&mut self, bin: usize, length: usize) -> Option<NonNull<FreeBlock>> {
        if bin < FIRST_RANGE {
            return None;
        }
        let first = NonNull::new(self.heads[bin % BINS])?;
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

    /// [`insert`](Self::insert) of a block of one granule.
    ///
    /// # Safety
    /// As there.
    unsafe fn insert_single(&mut self, block: NonNull<FreeBlock>, record: NonNull<Record>) {
        let record = record.as_ptr();
        // SAFETY: the block is free, the record valid, and the first single and record are listed.
        unsafe {
            let first = (*record).singles;
            (*block.as_ptr()).next = first;
            (*block.as_ptr()).previous = tag_single(ptr::null_mut());
            (*record).singles = block.as_ptr();
            if !first.is_null() {
                (*first).previous = tag_single(block.as_ptr());
                return;
            }
            (*record).next_with_singles = self.with_singles;
            (*record).previous_with_singles = ptr::null_mut();
            if !self.with_singles.is_null() {
                (*self.with_singles).previous_with_singles = record;
            }
        }
        self.with_singles = record;
        self.occupied |= 1 << SINGLES;
    }

    /// [`remove`](Self::remove) of a block of one granule.
    ///
    /// # Safety
    /// As there.
    unsafe fn remove_single(&mut self, block: NonNull<FreeBlock>, record: NonNull<Record>) {
        // SAFETY: the block is listed, and so are its neighbours in the list; the record is valid.
        unsafe {
            let FreeBlock { next, previous, .. } = *block.as_ptr();
            let head = (&raw mut (*record.as_ptr()).singles).cast();
            let before = untag_single(previous);
            *next_of(select_unpredictable(before.is_null(), head, before)) = next;
            (*self.or_sink(next)).previous = previous;
            if (*record.as_ptr()).singles.is_null() {
                self.unlist_record(record);
            }
        }
    }

    /// Takes out any single.
    fn take_single(&mut self) -> Option<Taken> {
        let record = NonNull::new(self.with_singles)?;
        // SAFETY: a record in the list is valid, its first single is listed.
        unsafe {
            let block = NonNull::new((*record.as_ptr()).singles)?;
            self.remove_single(block, record);
            Some(Taken { block, length: GRANULE, record })
        }
    }

    /// Takes a record out of the list of those with singles.
    ///
    /// # Safety
    /// The record is in that list.
    unsafe fn unlist_record(&mut self, record: NonNull<Record>) {
        // SAFETY: the record and its neighbours in the list are valid.
        unsafe {
            let Record { next_with_singles: next, previous_with_singles: previous, .. } =
                *record.as_ptr();
            match NonNull::new(previous) {
                Some(previous) => (*previous.as_ptr()).next_with_singles = next,
                None => self.with_singles = next,
            }
            if !next.is_null() {
                (*next).previous_with_singles = previous;
            }
        }
        self.clear_if(SINGLES, self.with_singles.is_null());
    }

    /// The block, or the sink if it is null. Only the previous link may be written there.
    #[inline]
    fn or_sink(&mut self, block: *mut FreeBlock) -> *mut FreeBlock {
        select_unpredictable(block.is_null(), (&raw mut self.sink).cast(), block)
    }

    /// Notes that a bin has become empty.
    #[inline]
    fn clear_if(&mut self, bin: usize, is_empty: bool) {
        self.occupied &= !(u64::from(is_empty) << bin);
    }
}
