//! The pool below its handles: blocks, and the two permutations that number them.
//!
//! ```text
//!   virtual index     0   1   2 │ 3   4 │ 5   6          length = 3, touched = 5
//!   order           │ 4 │ 0 │ 2 │ 1 │ 3 │ not written
//!                     live        free
//!   positions[order[v]] == v, for every v below `touched`
//! ```
//! `order` holds the physical index of each virtual one. Its first `length` entries are the live
//! blocks in virtual order, the rest the free ones, the last freed first. So allocating only moves
//! the border, and freeing swaps two entries; no list of free blocks is kept beside it. A block
//! that was never used is not in the arrays, so a large pool's pages are touched as it fills.
//!
//! Costs: two indices a block. Allocating, freeing and either index from the other: O(1). Sorting:
//! a sort of indices, and O(n) to invert them.

use core::alloc::Layout;
use core::cmp::Ordering;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::NonNull;

use super::{PoolError, PoolIndex};
use crate::allocator::{MemoryRange, MemorySource};
use crate::pointers;
use crate::source::MemoryMapSource;

/// A pool whose user keeps account of what is live; see [`OrderedPool`](super::OrderedPool) for the
/// safe one.
///
/// # Invariants
/// - `blocks`, `order` and `positions` lie in `range` (or are dangling where they take no bytes),
///   `total` elements long each.
/// - `length <= touched` and `length <= usable <= total`; `reusable` is the lesser of `touched` and
///   `usable`.
/// - `order[..touched]` is a permutation of `0..touched`, and `positions` its inverse.
pub struct RawOrderedPool<T, Index: PoolIndex = usize, S: MemorySource = MemoryMapSource> {
    blocks: NonNull<T>,
    order: NonNull<Index>,
    positions: NonNull<Index>,
    length: usize,
    touched: usize,
    /// The total less the retired blocks, which lie behind it in the order.
    usable: usize,
    /// While fewer are live, a block that was used before is free.
    reusable: usize,
    total: usize,
    range: Option<MemoryRange>,
    source: S,
    owns: PhantomData<T>,
}

// SAFETY: the pool owns its blocks and its range. The source is used by whoever drops the pool.
unsafe impl<T: Send, Index: PoolIndex, S: MemorySource + Send> Send
    for RawOrderedPool<T, Index, S>
{
}
// SAFETY: a shared pool gives out nothing but `&T` and pointers, and never uses its source.
unsafe impl<T: Sync, Index: PoolIndex, S: MemorySource> Sync for RawOrderedPool<T, Index, S> {}

/// A block just allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocated<Index> {
    /// The block's physical index.
    pub physical: Index,
    /// Whether the block was never allocated before: its memory is as the source gave it.
    pub is_first_use: bool,
}

/// Where the three arrays lie in the range.
struct Arrays {
    layout: Layout,
    order: usize,
    positions: usize,
}

impl Arrays {
    fn of<T, Index>(capacity: usize) -> Option<Self> {
        let blocks = Layout::array::<T>(capacity).ok()?;
        let indices = Layout::array::<Index>(capacity).ok()?;
        let (layout, order) = blocks.extend(indices).ok()?;
        let (layout, positions) = layout.extend(indices).ok()?;
        Some(Self { layout, order, positions })
    }
}

impl<T, Index: PoolIndex, S: MemorySource> RawOrderedPool<T, Index, S> {
    /// A pool of `capacity` blocks, in one range of `source`.
    ///
    /// # Errors
    /// More blocks than `Index` can number or memory can hold, or the source is exhausted.
    pub fn new(source: S, capacity: usize) -> Result<Self, PoolError> {
        let arrays = Arrays::of::<T, Index>(capacity).filter(|_| capacity <= Index::MOST_BLOCKS);
        let Some(arrays) = arrays else {
            return Err(PoolError::TooManyBlocks { blocks: capacity, most: Index::MOST_BLOCKS });
        };
        let bytes = arrays.layout.size();
        let range = if bytes == 0 {
            None
        } else {
            Some(source.take(arrays.layout).map_err(|_| PoolError::NoMemory { bytes })?)
        };
        let start = range.map_or(pointers::dangling(arrays.layout.align()), |range| range.start);
        // SAFETY: the offsets lie in the range, or are zero where there is none.
        let (order, positions) = unsafe {
            (pointers::forward(start, arrays.order), pointers::forward(start, arrays.positions))
        };
        Ok(Self {
            blocks: start.cast(),
            order: order.cast(),
            positions: positions.cast(),
            length: 0,
            touched: 0,
            usable: capacity,
            reusable: 0,
            total: capacity,
            range,
            source,
            owns: PhantomData,
        })
    }

    /// How many blocks are live.
    #[inline]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no block is live.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many blocks can be live at once.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.usable
    }

    /// Whether every block is live.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.length == self.usable
    }

    /// Allocates a block, at the end of the virtual order; `None` if all are live. O(1).
    ///
    /// # Safety
    /// The caller writes a `T` to the block before anything else of the pool is used.
    #[inline]
    pub unsafe fn allocate(&mut self) -> Option<Allocated<Index>> {
        let end = self.length;
        if end < self.reusable {
            self.length = end + 1;
            // SAFETY: the entry is in the permutation.
            let physical = unsafe { *self.order_entry(end) };
            return Some(Allocated { physical, is_first_use: false });
        }
        if end == self.usable {
            return None;
        }
        // INVARIANT: no block was retired, for then all were touched: `touched` is `end`, and both
        // stay below `usable`.
        self.length = end + 1;
        self.touched = end + 1;
        self.reusable = end + 1;
        let physical = Index::from_usize(end);
        // SAFETY: `end` is below the capacity. INVARIANT: the permutation grows by a fixed point.
        unsafe {
            *self.order_entry(end) = physical;
            *self.positions_entry(end) = physical;
        }
        Some(Allocated { physical, is_first_use: true })
    }

    /// Drops what is in a block, and frees it. The last block in the virtual order takes its
    /// virtual index. O(1).
    ///
    /// # Safety
    /// The block is live.
    pub unsafe fn free(&mut self, physical: Index) {
        // SAFETY: the caller's contract. The block is freed first, so that a drop that panics does
        // not leave it to be dropped again.
        unsafe {
            self.release(physical);
            self.pointer(physical).drop_in_place();
        }
    }

    /// Frees a block as it is, whose contents were moved out. O(1).
    ///
    /// # Safety
    /// The block is live.
    #[inline]
    pub unsafe fn release(&mut self, physical: Index) {
        let end = self.length - 1;
        self.length = end;
        // SAFETY: the block is live, so its position is below the length. INVARIANT: its entry and
        // the last live one change places, in the permutation and in its inverse. The block itself
        // is what stands at its position, so that is not read.
        unsafe {
            let position = *self.positions_entry(physical.to_usize());
            let moved = *self.order_entry(end);
            *self.order_entry(position.to_usize()) = moved;
            *self.order_entry(end) = physical;
            *self.positions_entry(moved.to_usize()) = position;
            *self.positions_entry(physical.to_usize()) = Index::from_usize(end);
        }
    }

    /// Takes a free block out of use for ever. O(capacity) the first time, O(1) then. The blocks of
    /// the physical indices that it returns count as used from now on, though they were not.
    ///
    /// # Safety
    /// The block was allocated once, is free, and was not retired.
    #[cold]
    pub unsafe fn retire(&mut self, physical: Index) -> Range<usize> {
        let unused = self.touched..self.total;
        for index in unused.clone() {
            // SAFETY: the index is below the capacity. INVARIANT: fixed points, as in `allocate`.
            unsafe {
                *self.order_entry(index) = Index::from_usize(index);
                *self.positions_entry(index) = Index::from_usize(index);
            }
        }
        self.touched = self.total;
        self.usable -= 1;
        self.reusable = self.usable;
        // SAFETY: both positions are in the permutation; the block's is between the length and the
        // last usable one.
        unsafe {
            let position = (*self.positions_entry(physical.to_usize())).to_usize();
            self.swap_positions(position, self.usable);
        }
        unused
    }

    /// Where a block is. It stays there as long as the pool exists. O(1).
    ///
    /// # Safety
    /// The index is below the capacity.
    #[inline]
    pub unsafe fn pointer(&self, physical: Index) -> NonNull<T> {
        // SAFETY: the block lies in the array by the caller's contract.
        unsafe { element(self.blocks, physical.to_usize()) }
    }

    /// Whether the block of that physical index was ever allocated.
    #[inline]
    pub fn was_used(&self, physical: Index) -> bool {
        physical.to_usize() < self.touched
    }

    /// The physical index of the block at `pointer`. O(1). Blocks of no size are all at one
    /// address: the answer is then 0.
    ///
    /// # Safety
    /// The pointer is to one of this pool's blocks.
    #[inline]
    pub unsafe fn physical_of(&self, pointer: NonNull<T>) -> Index {
        let offset = pointers::distance(self.blocks.cast(), pointer.cast());
        Index::from_usize(offset.checked_div(size_of::<T>()).unwrap_or(0))
    }

    /// The physical index at a virtual one; `None` from the length on. O(1).
    #[inline]
    pub fn physical_at(&self, position: usize) -> Option<Index> {
        // SAFETY: the position is in the permutation.
        (position < self.length).then(|| unsafe { *self.order_entry(position) })
    }

    /// The virtual index of a block; `None` if it is not live. O(1).
    #[inline]
    pub fn position_of(&self, physical: Index) -> Option<usize> {
        if !self.was_used(physical) {
            return None;
        }
        // SAFETY: the block is in the permutation.
        let position = unsafe { (*self.positions_entry(physical.to_usize())).to_usize() };
        (position < self.length).then_some(position)
    }

    /// The live blocks' physical indices, in virtual order.
    #[inline]
    pub fn order(&self) -> &[Index] {
        // SAFETY: the entries below the length are written, and change only by `&mut self`.
        unsafe { NonNull::slice_from_raw_parts(self.order, self.length).as_ref() }
    }

    /// Puts the live blocks in the order of `compare`; equal ones keep theirs. Moves indices, no
    /// block. O(n log n), with scratch memory for up to n indices.
    ///
    /// If `compare` panics, or is no order, the virtual order is some order of the same blocks.
    pub fn sort_by(&mut self, mut compare: impl FnMut(&T, &T) -> Ordering) {
        self.reorder(|blocks, order| {
            // SAFETY: the order names live blocks, each of which holds a `T`.
            order.sort_by(|a, b| unsafe { compare(blocks.get(*a), blocks.get(*b)) });
        });
    }

    /// As [`sort_by`](Self::sort_by), faster and without scratch memory; equal ones come in any
    /// order.
    pub fn sort_unstable_by(&mut self, mut compare: impl FnMut(&T, &T) -> Ordering) {
        self.reorder(|blocks, order| {
            // SAFETY: as in `sort_by`.
            order.sort_unstable_by(|a, b| unsafe { compare(blocks.get(*a), blocks.get(*b)) });
        });
    }

    /// As [`sort_by`](Self::sort_by) by a key that is found once for each block.
    pub fn sort_by_cached_key<K: Ord>(&mut self, mut key: impl FnMut(&T) -> K) {
        self.reorder(|blocks, order| {
            // SAFETY: as in `sort_by`.
            order.sort_by_cached_key(|a| unsafe { key(blocks.get(*a)) });
        });
    }

    /// Permutes the order by `sort`, which does nothing else to it, and inverts it anew, also where
    /// `sort` unwinds: the standard library's sorts leave all elements in the slice then.
    fn reorder(&mut self, sort: impl FnOnce(Blocks<T>, &mut [Index])) {
        struct Invert<'a, Index: PoolIndex> {
            order: &'a mut [Index],
            positions: NonNull<Index>,
        }

        impl<Index: PoolIndex> Drop for Invert<'_, Index> {
            fn drop(&mut self) {
                for (position, physical) in self.order.iter().enumerate() {
                    // SAFETY: physical indices are below the capacity.
                    unsafe {
                        let entry = element(self.positions, physical.to_usize());
                        entry.write(Index::from_usize(position));
                    }
                }
            }
        }

        // SAFETY: the entries below the length are written, and `self` is borrowed alone.
        let order = unsafe { NonNull::slice_from_raw_parts(self.order, self.length).as_mut() };
        let invert = Invert { order, positions: self.positions };
        sort(Blocks(self.blocks), invert.order);
    }

    /// # Safety
    /// Both positions are below `touched`.
    #[inline]
    unsafe fn swap_positions(&mut self, a: usize, b: usize) {
        // SAFETY: the caller's contract. INVARIANT: two entries of the permutation are swapped, and
        // the two of its inverse.
        unsafe {
            let (at_a, at_b) = (*self.order_entry(a), *self.order_entry(b));
            *self.order_entry(a) = at_b;
            *self.order_entry(b) = at_a;
            *self.positions_entry(at_b.to_usize()) = Index::from_usize(a);
            *self.positions_entry(at_a.to_usize()) = Index::from_usize(b);
        }
    }

    /// # Safety
    /// The index is below the capacity, and below `touched` where the entry is read.
    #[inline]
    unsafe fn order_entry(&self, index: usize) -> *mut Index {
        // SAFETY: the caller's contract.
        unsafe { element(self.order, index).as_ptr() }
    }

    /// # Safety
    /// As for [`order_entry`](Self::order_entry).
    #[inline]
    unsafe fn positions_entry(&self, index: usize) -> *mut Index {
        // SAFETY: the caller's contract.
        unsafe { element(self.positions, index).as_ptr() }
    }
}

/// # Safety
/// The element lies in the array.
#[inline]
unsafe fn element<E>(array: NonNull<E>, index: usize) -> NonNull<E> {
    // SAFETY: the caller's contract.
    unsafe { pointers::forward(array.cast(), index * size_of::<E>()).cast() }
}

/// The blocks, while their order changes.
struct Blocks<T>(NonNull<T>);

impl<T> Blocks<T> {
    /// # Safety
    /// The block is live, and stays as it is while the reference is used.
    #[inline]
    unsafe fn get(&self, physical: impl PoolIndex) -> &T {
        // SAFETY: the caller's contract.
        unsafe { element(self.0, physical.to_usize()).as_ref() }
    }
}

impl<T, Index: PoolIndex, S: MemorySource> Drop for RawOrderedPool<T, Index, S> {
    /// Drops what is left, in virtual order. If one panics the others are leaked; the range goes
    /// back in any case.
    fn drop(&mut self) {
        struct GiveBack<'a, S: MemorySource>(&'a S, Option<MemoryRange>);

        impl<S: MemorySource> Drop for GiveBack<'_, S> {
            fn drop(&mut self) {
                if let Some(range) = self.1 {
                    // SAFETY: the range was taken for the pool, which ends.
                    unsafe { self.0.give_back(range) };
                }
            }
        }

        let _range = GiveBack(&self.source, self.range);
        if core::mem::needs_drop::<T>() {
            for physical in self.order() {
                // SAFETY: the block is live, and is not reached again.
                unsafe { self.pointer(*physical).drop_in_place() };
            }
        }
    }
}

impl<T, Index: PoolIndex, S: MemorySource> fmt::Debug for RawOrderedPool<T, Index, S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RawOrderedPool")
            .field("length", &self.length)
            .field("capacity", &self.usable)
            .finish_non_exhaustive()
    }
}
