//! The pool below its handles: blocks, and the numbering of them, in one range of memory.
//!
//! Costs: two indices a block, and its tag if it has one. Allocating, freeing and either index from
//! the other: O(1). Sorting: a sort of indices, and O(n) to invert them.

use core::alloc::Layout;
use core::cmp::Ordering;
use core::fmt;
use core::hint::assert_unchecked;
use core::marker::PhantomData;
use core::ptr::NonNull;

use super::numbering::{Numbering, Place};
use super::{PoolError, PoolIndex};
use crate::allocator::{MemoryRange, MemorySource};
use crate::pointers;
use crate::source::MemoryMapSource;

/// A pool whose user keeps account of what is live; see [`OrderedPool`](super::OrderedPool) for the
/// safe one.
///
/// `Tag` is what the safe pool keeps of each block beside its numbers; pools of others have none.
///
/// # Invariants
/// `blocks` and the arrays of `numbers` lie in `range` (or are dangling where they take no bytes).
pub struct RawOrderedPool<
    T,
    Index: PoolIndex = usize,
    S: MemorySource = MemoryMapSource,
    Tag: Copy = (),
> {
    blocks: NonNull<T>,
    pub(super) numbers: Numbering<Index, Tag>,
    range: Option<MemoryRange>,
    source: S,
    owns: PhantomData<T>,
}

// SAFETY: the pool owns its blocks and its range. The source is used by whoever drops the pool.
unsafe impl<T: Send, Index: PoolIndex, S: MemorySource + Send, Tag: Copy + Send> Send
    for RawOrderedPool<T, Index, S, Tag>
{
}
// SAFETY: a shared pool gives out nothing but `&T` and pointers, and never uses its source.
unsafe impl<T: Sync, Index: PoolIndex, S: MemorySource, Tag: Copy + Sync> Sync
    for RawOrderedPool<T, Index, S, Tag>
{
}

/// A block just allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocated<Index> {
    /// The block's physical index.
    pub physical: Index,
    /// Whether the block was never allocated before: its memory is as the source gave it.
    pub is_first_use: bool,
}

/// What a processor fetches at once. A pool that is as long begins at a multiple of it: then blocks
/// of that length, or of a half or a double of it and so on, are in no more lines than they must.
const CACHE_LINE_BYTES: usize = 64;

/// Where the three arrays lie in the range.
struct Arrays {
    layout: Layout,
    order: usize,
    places: usize,
}

impl Arrays {
    fn of<T, Index, Tag>(capacity: usize) -> Option<Self> {
        let blocks = Layout::array::<T>(capacity).ok()?;
        let (layout, order) = blocks.extend(Layout::array::<Index>(capacity).ok()?).ok()?;
        let places = Layout::array::<Place<Index, Tag>>(capacity).ok()?;
        let (layout, places) = layout.extend(places).ok()?;
        let align = if layout.size() < CACHE_LINE_BYTES { 1 } else { CACHE_LINE_BYTES };
        let layout = layout.align_to(align).ok()?;
        Some(Self { layout, order, places })
    }
}

impl<T, Index: PoolIndex, S: MemorySource> RawOrderedPool<T, Index, S> {
    /// A pool of `capacity` blocks, in one range of `source`, at a multiple of 64 if it is as long.
    ///
    /// # Errors
    /// More blocks than `Index` can number or memory can hold, or the source is exhausted.
    pub fn new(source: S, capacity: usize) -> Result<Self, PoolError> {
        Self::with_tags(source, capacity)
    }

    /// Allocates a block, at the end of the virtual order; `None` if all are live. O(1).
    ///
    /// # Safety
    /// The caller writes a `T` to the block before anything else of the pool is used.
    #[inline]
    pub unsafe fn allocate(&mut self) -> Option<Allocated<Index>> {
        let (physical, is_first_use) = match self.numbers.take_freed() {
            Some((physical, ())) => (physical, false),
            None => (self.numbers.take_unused()?, true),
        };
        // SAFETY: the block was just taken.
        unsafe { self.numbers.append(physical, ()) };
        Some(Allocated { physical, is_first_use })
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
        // SAFETY: the caller's contract.
        unsafe { self.numbers.release(physical, ()) };
    }

    /// Takes a live block out of use for ever, whose contents were moved out. The last block in the
    /// virtual order takes its virtual index, and the capacity is one less. O(1).
    ///
    /// # Safety
    /// The block is live.
    #[inline]
    pub unsafe fn retire(&mut self, physical: Index) {
        // SAFETY: the caller's contract.
        unsafe { self.numbers.retire(physical, ()) };
    }
}

impl<T, Index: PoolIndex, S: MemorySource, Tag: Copy> RawOrderedPool<T, Index, S, Tag> {
    /// As [`new`](RawOrderedPool::new), with a tag of each block.
    pub(super) fn with_tags(source: S, capacity: usize) -> Result<Self, PoolError> {
        let arrays =
            Arrays::of::<T, Index, Tag>(capacity).filter(|_| capacity <= Index::MOST_BLOCKS);
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
        // SAFETY: the offsets lie in the range, or are zero where there is none; the arrays there
        // are as long, and the pool's.
        let numbers = unsafe {
            let order = pointers::forward(start, arrays.order).cast();
            let places = pointers::forward(start, arrays.places).cast();
            Numbering::new(order, places, capacity)
        };
        Ok(Self { blocks: start.cast(), numbers, range, source, owns: PhantomData })
    }

    /// How many blocks are live.
    #[inline]
    pub fn len(&self) -> usize {
        self.numbers.length()
    }

    /// Whether no block is live.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many blocks can be live at once.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.numbers.usable()
    }

    /// Whether every block is live; one that is spent counts until it would be allocated again.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.len() == self.capacity()
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
        self.numbers.was_used(physical)
    }

    /// The physical index of the block at `pointer`. O(1). Blocks of no size are all at one
    /// address: the answer is then 0.
    ///
    /// # Safety
    /// The pointer is to one of this pool's blocks.
    #[inline]
    pub unsafe fn physical_of(&self, pointer: NonNull<T>) -> Index {
        let offset = pointers::distance(self.blocks.cast(), pointer.cast());
        let index = offset.checked_div(size_of::<T>()).unwrap_or(0);
        // SAFETY: the block is this pool's. Said so that the compiler need not cut the number for
        // `Index`, and knows it again.
        unsafe { assert_unchecked(index < Index::MOST_BLOCKS) };
        Index::from_usize(index)
    }

    /// The physical index at a virtual one; `None` from the length on. O(1).
    #[inline]
    pub fn physical_at(&self, position: usize) -> Option<Index> {
        self.numbers.physical_at(position)
    }

    /// The virtual index of a block; `None` if it is not live. O(1).
    #[inline]
    pub fn position_of(&self, physical: Index) -> Option<usize> {
        self.numbers.position_of(physical)
    }

    /// The live blocks' physical indices, in virtual order.
    #[inline]
    pub fn order(&self) -> &[Index] {
        self.numbers.order()
    }

    /// Puts the live blocks in the order of `compare`; equal ones keep theirs. Moves indices, no
    /// block. O(n log n), with scratch memory for up to n indices.
    ///
    /// If `compare` panics, or is no order, the virtual order is some order of the same blocks.
    pub fn sort_by(&mut self, mut compare: impl FnMut(&T, &T) -> Ordering) {
        let blocks = Blocks(self.blocks);
        self.numbers.reorder(|order| {
            // SAFETY: the order names live blocks, each of which holds a `T`.
            order.sort_by(|a, b| unsafe { compare(blocks.get(*a), blocks.get(*b)) });
        });
    }

    /// As [`sort_by`](Self::sort_by), faster and without scratch memory; equal ones come in any
    /// order.
    pub fn sort_unstable_by(&mut self, mut compare: impl FnMut(&T, &T) -> Ordering) {
        let blocks = Blocks(self.blocks);
        self.numbers.reorder(|order| {
            // SAFETY: as in `sort_by`.
            order.sort_unstable_by(|a, b| unsafe { compare(blocks.get(*a), blocks.get(*b)) });
        });
    }

    /// As [`sort_by`](Self::sort_by) by a key that is found once for each block.
    pub fn sort_by_cached_key<K: Ord>(&mut self, mut key: impl FnMut(&T) -> K) {
        let blocks = Blocks(self.blocks);
        self.numbers.reorder(|order| {
            // SAFETY: as in `sort_by`.
            order.sort_by_cached_key(|a| unsafe { key(blocks.get(*a)) });
        });
    }
}

/// # Safety
/// The element lies in the array.
#[inline]
pub(super) unsafe fn element<E>(array: NonNull<E>, index: usize) -> NonNull<E> {
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

impl<T, Index: PoolIndex, S: MemorySource, Tag: Copy> Drop for RawOrderedPool<T, Index, S, Tag> {
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

impl<T, Index: PoolIndex, S: MemorySource, Tag: Copy> fmt::Debug
    for RawOrderedPool<T, Index, S, Tag>
{
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RawOrderedPool")
            .field("length", &self.len())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
