//! The two permutations that number a pool's blocks.
//!
//! ```text
//!   virtual index     0   1   2 │ 3   4   5   6           length = 3, touched = 5
//!   order           │ 4 │ 0 │ 2 │ not in use
//!                     live                                places[order[v]].number == v
//!
//!   last_freed ──▶ 1 ──▶ 3                                places[1].number == 3
//! ```
//! `order` holds the physical index of each virtual one, and a live block's place its virtual one.
//! A free block's place holds the next free block instead, the last freed first. A block that was
//! never used is in neither array, so a large pool's pages are touched as it fills.
//!
//! A block's tag lies in its place too, and not in the block: freeing needs both, so that one cache
//! line serves, and blocks are as far apart as `T` is long.
//!
//! Measured, in instructions for a free and the allocation after it, values written included: 59
//! with the generation in the block and the free blocks in `order` behind the live ones; 54 with it
//! in the place; 48 with the free ones linked, since the compiler then sees that the allocation
//! gets the block just freed, and what its place holds; 46 and a store less with nothing between
//! the two that the compiler must take for a use of the list, also not a result in memory. It must
//! not find a branch in between: with spent blocks told at freeing and not at allocating, 66.

use core::hint::assert_unchecked;
use core::ptr::NonNull;

use super::PoolIndex;
use super::raw::element;

/// What is kept of each block apart from it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Place<Index, Tag> {
    /// A live block's virtual index; of a free one the physical index of that freed before it.
    number: Index,
    tag: Tag,
}

/// The numbers of a pool's blocks.
///
/// # Invariants
/// - `order` and `places` are as long as the pool has blocks.
/// - `length <= reusable <= usable`, and as many blocks as `touched` has more than `reusable` are
///   retired; so many fewer are usable.
/// - `order[..length]` are the live blocks, all below `touched`, and their places hold its inverse.
/// - `reusable - length` blocks are linked from `last_freed`, by the places' numbers.
pub(super) struct Numbering<Index: PoolIndex, Tag> {
    order: NonNull<Index>,
    places: NonNull<Place<Index, Tag>>,
    length: usize,
    touched: usize,
    /// The blocks that were used before and are not retired, live or free.
    reusable: usize,
    /// All that are not retired.
    usable: usize,
    /// Has a meaning while fewer are live than are reusable.
    last_freed: Index,
}

impl<Index: PoolIndex, Tag: Copy> Numbering<Index, Tag> {
    /// Of `total` blocks, none of which was used.
    ///
    /// # Safety
    /// The arrays have room for as many, and nobody else uses them as long as this is used.
    pub(super) unsafe fn new(
        order: NonNull<Index>,
        places: NonNull<Place<Index, Tag>>,
        total: usize,
    ) -> Self {
        let last_freed = Index::from_usize(0);
        Self { order, places, length: 0, touched: 0, reusable: 0, usable: total, last_freed }
    }

    #[inline]
    pub(super) const fn length(&self) -> usize {
        self.length
    }

    #[inline]
    pub(super) const fn usable(&self) -> usize {
        self.usable
    }

    /// Whether a block was ever allocated.
    #[inline]
    pub(super) fn was_used(&self, physical: Index) -> bool {
        physical.to_usize() < self.touched
    }

    /// Takes out the block that was freed last, and its tag. [`append`](Self::append) it.
    #[inline]
    pub(super) fn take_freed(&mut self) -> Option<(Index, Tag)> {
        if self.length == self.reusable {
            return None;
        }
        let physical = self.last_freed;
        // SAFETY: a block is free, so it was used. INVARIANT: it is unlinked.
        let place = unsafe { *self.place(physical) };
        self.last_freed = place.number;
        Some((physical, place.tag))
    }

    /// Takes a block that was never used. [`append`](Self::append) it.
    #[inline]
    pub(super) fn take_unused(&mut self) -> Option<Index> {
        if self.reusable == self.usable {
            return None;
        }
        // INVARIANT: as many more blocks were touched as are reusable.
        let physical = Index::from_usize(self.touched);
        self.touched += 1;
        self.reusable += 1;
        Some(physical)
    }

    /// Makes a block live, at the end of the order.
    ///
    /// # Safety
    /// The block was just taken.
    #[inline]
    pub(super) unsafe fn append(&mut self, physical: Index, tag: Tag) {
        let end = self.length;
        self.length = end + 1;
        // SAFETY: there are more blocks than the length was. INVARIANT: the last in the order.
        unsafe {
            *self.order_entry(end) = physical;
            *self.place(physical) = Place { number: Index::from_usize(end), tag };
        }
    }

    /// Makes a block free, with another tag; the last live one takes its place in the order.
    ///
    /// # Safety
    /// The block is live.
    #[inline]
    pub(super) unsafe fn release(&mut self, physical: Index, tag: Tag) {
        // SAFETY: the caller's contract. INVARIANT: the block is linked, and the length was at most
        // `reusable`; the compiler is told, so that an allocation that follows need not ask. Told
        // before the list is read: with nothing between that and the next allocation's writing the
        // same to it, the compiler leaves both out.
        unsafe {
            self.take_from_order(physical);
            assert_unchecked(self.length < self.reusable);
            *self.place(physical) = Place { number: self.last_freed, tag };
            self.last_freed = physical;
        }
    }

    /// Takes a live block out of use for ever, with another tag; the last live one takes its place
    /// in the order.
    ///
    /// # Safety
    /// The block is live.
    pub(super) unsafe fn retire(&mut self, physical: Index, tag: Tag) {
        // SAFETY: the caller's contract. INVARIANT: the block is in no list.
        unsafe {
            self.take_from_order(physical);
            *self.place(physical) = Place { number: physical, tag };
        }
        self.reusable -= 1;
        self.usable -= 1;
    }

    /// Puts the last block of the order in another's place.
    ///
    /// # Safety
    /// That block is live.
    #[inline]
    unsafe fn take_from_order(&mut self, physical: Index) {
        let end = self.length - 1;
        // SAFETY: the block is live, so its virtual index is below the length.
        unsafe {
            let position = *self.number(physical);
            let moved = *self.order_entry(end);
            *self.order_entry(position.to_usize()) = moved;
            *self.number(moved) = position;
        }
        self.length = end;
    }

    /// The tag of a block; `None` if it was never used.
    #[inline]
    pub(super) fn tag(&self, physical: Index) -> Option<Tag> {
        // SAFETY: the block was used.
        self.was_used(physical).then(|| unsafe { self.used_tag(physical) })
    }

    /// The tag of a block.
    ///
    /// # Safety
    /// It was used.
    #[inline]
    pub(super) unsafe fn used_tag(&self, physical: Index) -> Tag {
        // SAFETY: the block's place was written.
        unsafe { (*self.place(physical)).tag }
    }

    /// The physical index at a virtual one.
    #[inline]
    pub(super) fn physical_at(&self, position: usize) -> Option<Index> {
        // SAFETY: the position is below the length.
        (position < self.length).then(|| unsafe { *self.order_entry(position) })
    }

    /// The virtual index of a block, if it is live.
    #[inline]
    pub(super) fn position_of(&self, physical: Index) -> Option<usize> {
        if !self.was_used(physical) {
            return None;
        }
        // SAFETY: the block's place was written.
        let number = unsafe { *self.number(physical) }.to_usize();
        // A free block's number says nothing of the order, but the order does not have the block.
        (self.physical_at(number) == Some(physical)).then_some(number)
    }

    /// The live blocks, in virtual order.
    #[inline]
    pub(super) fn order(&self) -> &[Index] {
        // SAFETY: the entries below the length are written, and change only by `&mut self`.
        unsafe { NonNull::slice_from_raw_parts(self.order, self.length).as_ref() }
    }

    /// Permutes the order by `sort`, which does nothing else to it, and inverts it anew, also where
    /// `sort` unwinds: the standard library's sorts leave all elements in the slice then.
    pub(super) fn reorder(&mut self, sort: impl FnOnce(&mut [Index])) {
        struct Invert<'a, Index: PoolIndex, Tag> {
            order: &'a mut [Index],
            places: NonNull<Place<Index, Tag>>,
        }

        impl<Index: PoolIndex, Tag> Drop for Invert<'_, Index, Tag> {
            fn drop(&mut self) {
                for (position, physical) in self.order.iter().enumerate() {
                    // SAFETY: physical indices are below the capacity.
                    unsafe {
                        let place = element(self.places, physical.to_usize());
                        (*place.as_ptr()).number = Index::from_usize(position);
                    }
                }
            }
        }

        // SAFETY: the entries below the length are written, and `self` is borrowed alone.
        let order = unsafe { NonNull::slice_from_raw_parts(self.order, self.length).as_mut() };
        let invert = Invert { order, places: self.places };
        sort(invert.order);
    }

    /// # Safety
    /// The index is below the capacity, and below the length where the entry is read.
    #[inline]
    unsafe fn order_entry(&self, index: usize) -> *mut Index {
        // SAFETY: the caller's contract.
        unsafe { element(self.order, index).as_ptr() }
    }

    /// # Safety
    /// There is such a block, and it was used where the place is read.
    #[inline]
    unsafe fn place(&self, physical: Index) -> *mut Place<Index, Tag> {
        // SAFETY: the caller's contract.
        unsafe { element(self.places, physical.to_usize()).as_ptr() }
    }

    /// # Safety
    /// As for [`place`](Self::place).
    #[inline]
    unsafe fn number(&self, physical: Index) -> *mut Index {
        // SAFETY: the caller's contract.
        unsafe { &raw mut (*self.place(physical)).number }
    }
}
