//! Fixed blocks of one type, in an order that can be changed without moving them.
//!
//! Each block has two indices. The **physical** one says where it is in memory and never changes:
//! pointers and handles stay good. The **virtual** one says where it is in the order: sorting
//! changes it, and so does freeing another block.
//!
//! ```text
//!   virtual order     "kiwi"   "apple"   "pear"      sorted:  "apple"  "kiwi"  "pear"
//!                        │        │        │                     │       │       │
//!   memory            │ kiwi  │ apple │ pear │       the same │ kiwi │ apple │ pear │
//! ```
//! [`OrderedPool`] is safe: its handles carry a generation, so that one of a freed block is told
//! from that of the block's next user. [`RawOrderedPool`] below it knows physical indices and
//! pointers only.
//!
//! # What it is not for
//! A pool does not grow: it takes all its memory, or address space, at once. Freeing puts the last
//! block of the order in the freed one's place, so a sorted pool is not sorted afterwards.

mod index;
mod iterate;
mod raw;
#[cfg(test)]
mod tests;

use core::cmp::Ordering;
use core::fmt;
use core::ptr::NonNull;

pub use index::PoolIndex;
pub use iterate::{Iter, IterMut};
pub use raw::{Allocated, RawOrderedPool};

use crate::allocator::MemorySource;
use crate::source::MemoryMapSource;

/// Names a block of an [`OrderedPool`]. Meant for the pool that gave it: another one may take it
/// for a block of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle<Index = usize> {
    physical: Index,
    generation: u32,
}

impl<Index: PoolIndex> Handle<Index> {
    /// The block's physical index: below the pool's capacity, and of no other live block.
    pub fn physical(self) -> Index {
        self.physical
    }
}

/// A block: what it holds, and how often it was allocated. A freed block keeps its generation.
struct Entry<T> {
    value: T,
    generation: u32,
}

/// A pool of values that are sorted without being moved; see the [module](self).
///
/// ```
/// use heapswitch::store::OrderedPool;
///
/// # if heapswitch::sys::IS_PASS_THROUGH { return; }
/// let mut pool: OrderedPool<&str, u8> = OrderedPool::with_capacity(100).unwrap();
/// let kiwi = pool.allocate("kiwi").unwrap();
/// let apple = pool.allocate("apple").unwrap();
/// let address = pool.pointer(kiwi).unwrap();
/// pool.sort();
/// assert_eq!(pool.iter().collect::<Vec<_>>(), [&"apple", &"kiwi"]);
/// assert_eq!(pool.position_of(kiwi), Some(1));
/// assert_eq!(pool.pointer(kiwi), Some(address));
/// assert_eq!(pool.free(apple), Ok("apple"));
/// assert_eq!(pool.get(apple), None);
/// ```
pub struct OrderedPool<T, Index: PoolIndex = usize, S: MemorySource = MemoryMapSource> {
    raw: RawOrderedPool<Entry<T>, Index, S>,
}

impl<T, Index: PoolIndex> OrderedPool<T, Index> {
    /// A pool of `capacity` blocks in a mapping of its own.
    ///
    /// # Errors
    /// More blocks than `Index` can number or memory can hold, or the system has no memory.
    pub fn with_capacity(capacity: usize) -> Result<Self, PoolError> {
        Self::new_in(MemoryMapSource::new(), capacity)
    }
}

impl<T, Index: PoolIndex, S: MemorySource> OrderedPool<T, Index, S> {
    /// A pool of `capacity` blocks in one range of `source`.
    ///
    /// # Errors
    /// More blocks than `Index` can number or memory can hold, or the source is exhausted.
    pub fn new_in(source: S, capacity: usize) -> Result<Self, PoolError> {
        Ok(Self { raw: RawOrderedPool::new(source, capacity)? })
    }

    /// How many blocks are live.
    #[inline]
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Whether no block is live.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// How many blocks can be live at once: as many as asked for, less one for each that was
    /// allocated two thousand million times.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.raw.capacity()
    }

    /// Whether every block is live.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.raw.is_full()
    }

    /// Puts `value` into a free block, at the end of the virtual order. O(1).
    ///
    /// # Errors
    /// Every block is live; the error has the value.
    #[inline]
    pub fn allocate(&mut self, value: T) -> Result<Handle<Index>, PoolFull<T>> {
        // SAFETY: the block is written at once.
        let Some(Allocated { physical, is_first_use }) = (unsafe { self.raw.allocate() }) else {
            return Err(PoolFull { value, capacity: self.capacity() });
        };
        // SAFETY: the block exists. Its generation was written when it was freed.
        unsafe {
            let entry = self.raw.pointer(physical).as_ptr();
            // Odd while it is live.
            let generation = if is_first_use { 1 } else { (*entry).generation + 1 };
            entry.write(Entry { value, generation });
            Ok(Handle { physical, generation })
        }
    }

    /// Frees a block; the last one in the virtual order takes its virtual index. O(1).
    ///
    /// # Errors
    /// The block was freed before.
    #[inline]
    pub fn free(&mut self, handle: Handle<Index>) -> Result<T, StaleHandle> {
        let entry = self.entry(handle).ok_or(StaleHandle)?.as_ptr();
        let physical = handle.physical;
        // SAFETY: the block is live, and its value is not used where it was any more.
        unsafe {
            let value = (&raw const (*entry).value).read();
            let next = handle.generation.wrapping_add(1);
            (*entry).generation = next;
            self.raw.release(physical);
            // The next generation would be the first again, and old handles good for new blocks.
            if next == 0 {
                self.retire(physical);
            }
            Ok(value)
        }
    }

    /// Takes a block out of use for ever.
    ///
    /// # Safety
    /// It was just freed.
    #[cold]
    #[inline(never)]
    unsafe fn retire(&mut self, physical: Index) {
        // SAFETY: the block was allocated, and is free and not retired; those that were not used
        // exist, and get the generation of free ones.
        unsafe {
            for unused in self.raw.retire(physical) {
                let entry = self.raw.pointer(Index::from_usize(unused)).as_ptr();
                (&raw mut (*entry).generation).write(0);
            }
        }
    }

    /// The value of a block; `None` if it was freed. O(1).
    #[inline]
    pub fn get(&self, handle: Handle<Index>) -> Option<&T> {
        // SAFETY: the block is live, and changes only by `&mut self`.
        self.entry(handle).map(|entry| unsafe { &(*entry.as_ptr()).value })
    }

    /// The value of a block; `None` if it was freed. O(1).
    #[inline]
    pub fn get_mut(&mut self, handle: Handle<Index>) -> Option<&mut T> {
        // SAFETY: the block is live, and `self` is borrowed alone.
        self.entry(handle).map(|entry| unsafe { &mut (*entry.as_ptr()).value })
    }

    /// The value at a virtual index; `None` from the length on. O(1).
    #[inline]
    pub fn get_at(&self, position: usize) -> Option<&T> {
        let physical = self.raw.physical_at(position)?;
        // SAFETY: the block is live, and changes only by `&mut self`.
        Some(unsafe { &(*self.raw.pointer(physical).as_ptr()).value })
    }

    /// The handle of the block at a virtual index; `None` from the length on. O(1).
    #[inline]
    pub fn handle_at(&self, position: usize) -> Option<Handle<Index>> {
        let physical = self.raw.physical_at(position)?;
        // SAFETY: the block is live.
        let generation = unsafe { (*self.raw.pointer(physical).as_ptr()).generation };
        Some(Handle { physical, generation })
    }

    /// The virtual index of a block; `None` if it was freed. O(1).
    #[inline]
    pub fn position_of(&self, handle: Handle<Index>) -> Option<usize> {
        self.entry(handle)?;
        self.raw.position_of(handle.physical)
    }

    /// Where a block's value is, until it is freed; `None` if it was. Neither sorting nor moving
    /// the pool changes it. O(1).
    #[inline]
    pub fn pointer(&self, handle: Handle<Index>) -> Option<NonNull<T>> {
        let entry = self.entry(handle)?.as_ptr();
        // SAFETY: the block is live, so the field's address is in it and not null.
        Some(unsafe { NonNull::new_unchecked(&raw mut (*entry).value) })
    }

    /// The values in virtual order.
    pub fn iter(&self) -> Iter<'_, T, Index, S> {
        Iter::new(self)
    }

    /// The values in virtual order, to be changed.
    pub fn iter_mut(&mut self) -> IterMut<'_, T, Index, S> {
        IterMut::new(self)
    }

    /// The live blocks' handles in virtual order.
    pub fn handles(&self) -> impl ExactSizeIterator<Item = Handle<Index>> + '_ {
        self.raw.order().iter().map(|physical| {
            // SAFETY: the block is live.
            let generation = unsafe { (*self.raw.pointer(*physical).as_ptr()).generation };
            Handle { physical: *physical, generation }
        })
    }

    /// Puts the values in their order; equal ones keep theirs. No block moves, no pointer or handle
    /// changes. O(n log n), with scratch memory for up to n indices.
    pub fn sort(&mut self)
    where
        T: Ord,
    {
        self.sort_by(T::cmp);
    }

    /// As [`sort`](Self::sort), in the order of `compare`. If that panics, or is no order, the
    /// virtual order is some order of the same blocks.
    pub fn sort_by(&mut self, mut compare: impl FnMut(&T, &T) -> Ordering) {
        self.raw.sort_by(|a, b| compare(&a.value, &b.value));
    }

    /// As [`sort_by`](Self::sort_by), in the order of a key.
    pub fn sort_by_key<K: Ord>(&mut self, mut key: impl FnMut(&T) -> K) {
        self.raw.sort_by(|a, b| key(&a.value).cmp(&key(&b.value)));
    }

    /// As [`sort_by_key`](Self::sort_by_key), where the key is dear: it is found once for each.
    pub fn sort_by_cached_key<K: Ord>(&mut self, mut key: impl FnMut(&T) -> K) {
        self.raw.sort_by_cached_key(|entry| key(&entry.value));
    }

    /// Puts the values in their order, equal ones in any. No block moves. O(n log n), faster than
    /// [`sort`](Self::sort) and without scratch memory.
    pub fn sort_unstable(&mut self)
    where
        T: Ord,
    {
        self.sort_unstable_by(T::cmp);
    }

    /// As [`sort_unstable`](Self::sort_unstable), in the order of `compare`.
    pub fn sort_unstable_by(&mut self, mut compare: impl FnMut(&T, &T) -> Ordering) {
        self.raw.sort_unstable_by(|a, b| compare(&a.value, &b.value));
    }

    /// As [`sort_unstable`](Self::sort_unstable), in the order of a key.
    pub fn sort_unstable_by_key<K: Ord>(&mut self, mut key: impl FnMut(&T) -> K) {
        self.raw.sort_unstable_by(|a, b| key(&a.value).cmp(&key(&b.value)));
    }

    /// The block of a handle, if it is live.
    #[inline]
    fn entry(&self, handle: Handle<Index>) -> Option<NonNull<Entry<T>>> {
        if !self.raw.was_used(handle.physical) {
            return None;
        }
        // SAFETY: a block that was used once has its generation written, and handles' are odd, as
        // only those of live blocks are.
        unsafe {
            let entry = self.raw.pointer(handle.physical);
            ((*entry.as_ptr()).generation == handle.generation).then_some(entry)
        }
    }
}

impl<T: fmt::Debug, Index: PoolIndex, S: MemorySource> fmt::Debug for OrderedPool<T, Index, S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

/// Why there is no pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// The index cannot number so many blocks, or memory cannot hold them.
    TooManyBlocks {
        /// What was asked.
        blocks: usize,
        /// What the index can number.
        most: usize,
    },
    /// The source is exhausted.
    NoMemory {
        /// What was asked of it, in bytes.
        bytes: usize,
    },
}

impl fmt::Display for PoolError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyBlocks { blocks, most } => write!(
                formatter,
                "a pool of {blocks} blocks was asked, but its index can number {most} and memory \
                 must hold them; use a larger index or fewer blocks"
            ),
            Self::NoMemory { bytes } => write!(
                formatter,
                "{bytes} bytes were asked of a memory source for a pool, which refused; use a \
                 larger source or fewer blocks"
            ),
        }
    }
}

impl core::error::Error for PoolError {}

/// Every block of a pool is live.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PoolFull<T> {
    /// What was to be put into a block.
    pub value: T,
    /// How many blocks the pool has.
    pub capacity: usize,
}

impl<T> fmt::Display for PoolFull<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capacity = self.capacity;
        write!(
            formatter,
            "a block was asked of a pool whose {capacity} blocks are all live; free one first"
        )
    }
}

// For values without `Debug` as well, so that every result can be unwrapped.
impl<T> fmt::Debug for PoolFull<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PoolFull").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl<T> core::error::Error for PoolFull<T> {}

/// The handle's block was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleHandle;

impl fmt::Display for StaleHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a block was to be freed by a handle whose block was freed before")
    }
}

impl core::error::Error for StaleHandle {}
