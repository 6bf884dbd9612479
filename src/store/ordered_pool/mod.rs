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
mod numbering;
mod raw;
#[cfg(test)]
mod tests;

use core::cmp::Ordering;
use core::fmt;
use core::ptr::NonNull;

pub use index::PoolIndex;
pub use iterate::{Iter, IterMut};
use numbering::Numbering;
pub use raw::{Allocated, RawOrderedPool};

use crate::allocator::MemorySource;
use crate::source::MemoryMapSource;

/// Names a block of an [`OrderedPool`]. Meant for the pool that gave it: another one may take it
/// for a block of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle<Index = usize> {
    physical: Index,
    generation: Generation,
}

impl<Index: PoolIndex> Handle<Index> {
    /// The block's physical index: below the pool's capacity, and of no other live block.
    pub fn physical(self) -> Index {
        self.physical
    }
}

/// How often a block was freed, and allocated again, together: even while it is live.
type Generation = u32;

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
    raw: RawOrderedPool<T, Index, S, Generation>,
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
    /// A pool of `capacity` blocks in one range of `source`, at a multiple of 64 if it is as long.
    ///
    /// # Errors
    /// More blocks than `Index` can number or memory can hold, or the source is exhausted.
    pub fn new_in(source: S, capacity: usize) -> Result<Self, PoolError> {
        Ok(Self { raw: RawOrderedPool::with_tags(source, capacity)? })
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
    /// allocated two thousand million times and would have been once more.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.raw.capacity()
    }

    /// Whether every block is live; one that is spent counts until it would be allocated again.
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
        let Some(handle) = next_handle(&mut self.raw.numbers) else {
            return Err(PoolFull { value, capacity: self.capacity() });
        };
        // SAFETY: the block is live and holds nothing.
        unsafe { self.raw.pointer(handle.physical).write(value) };
        Ok(handle)
    }

    /// Frees a block; the last one in the virtual order takes its virtual index. O(1).
    ///
    /// # Errors
    /// The block was freed before.
    #[inline]
    pub fn free(&mut self, handle: Handle<Index>) -> Result<T, StaleHandle> {
        if !self.is_live(handle) {
            return Err(StaleHandle);
        }
        let Handle { physical, generation } = handle;
        // SAFETY: the block is live, and its value is not used where it was any more.
        unsafe {
            let value = self.raw.pointer(physical).read();
            // Handles' are even, so this is at most the largest.
            self.raw.numbers.release(physical, generation.wrapping_add(1));
            Ok(value)
        }
    }

    /// The value of a block; `None` if it was freed. O(1).
    #[inline]
    pub fn get(&self, handle: Handle<Index>) -> Option<&T> {
        // SAFETY: the block is live, and changes only by `&mut self`.
        self.is_live(handle).then(|| unsafe { self.raw.pointer(handle.physical).as_ref() })
    }

    /// The value of a block; `None` if it was freed. O(1).
    #[inline]
    pub fn get_mut(&mut self, handle: Handle<Index>) -> Option<&mut T> {
        // SAFETY: the block is live, and `self` is borrowed alone.
        self.is_live(handle).then(|| unsafe { self.raw.pointer(handle.physical).as_mut() })
    }

    /// The value at a virtual index; `None` from the length on. O(1).
    #[inline]
    pub fn get_at(&self, position: usize) -> Option<&T> {
        let physical = self.raw.physical_at(position)?;
        // SAFETY: the block is live, and changes only by `&mut self`.
        Some(unsafe { self.raw.pointer(physical).as_ref() })
    }

    /// The handle of the block at a virtual index; `None` from the length on. O(1).
    #[inline]
    pub fn handle_at(&self, position: usize) -> Option<Handle<Index>> {
        let physical = self.raw.physical_at(position)?;
        // SAFETY: the block is live.
        let generation = unsafe { self.raw.numbers.used_tag(physical) };
        Some(Handle { physical, generation })
    }

    /// The virtual index of a block; `None` if it was freed. O(1).
    #[inline]
    pub fn position_of(&self, handle: Handle<Index>) -> Option<usize> {
        if self.is_live(handle) { self.raw.position_of(handle.physical) } else { None }
    }

    /// Where a block's value is, until it is freed; `None` if it was. Neither sorting nor moving
    /// the pool changes it. O(1).
    #[inline]
    pub fn pointer(&self, handle: Handle<Index>) -> Option<NonNull<T>> {
        // SAFETY: the block exists.
        self.is_live(handle).then(|| unsafe { self.raw.pointer(handle.physical) })
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
            let generation = unsafe { self.raw.numbers.used_tag(*physical) };
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
    pub fn sort_by(&mut self, compare: impl FnMut(&T, &T) -> Ordering) {
        self.raw.sort_by(compare);
    }

    /// As [`sort_by`](Self::sort_by), in the order of a key.
    pub fn sort_by_key<K: Ord>(&mut self, mut key: impl FnMut(&T) -> K) {
        self.raw.sort_by(|a, b| key(a).cmp(&key(b)));
    }

    /// As [`sort_by_key`](Self::sort_by_key), where the key is dear: it is found once for each.
    pub fn sort_by_cached_key<K: Ord>(&mut self, key: impl FnMut(&T) -> K) {
        self.raw.sort_by_cached_key(key);
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
    pub fn sort_unstable_by(&mut self, compare: impl FnMut(&T, &T) -> Ordering) {
        self.raw.sort_unstable_by(compare);
    }

    /// As [`sort_unstable`](Self::sort_unstable), in the order of a key.
    pub fn sort_unstable_by_key<K: Ord>(&mut self, mut key: impl FnMut(&T) -> K) {
        self.raw.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
    }

    /// Whether the block of a handle is live.
    #[inline]
    fn is_live(&self, handle: Handle<Index>) -> bool {
        // Those of handles are even, as only those of live blocks are.
        self.raw.numbers.tag(handle.physical) == Some(handle.generation)
    }
}

type Numbers<Index> = Numbering<Index, Generation>;

/// Makes a block live, which is to be written at once.
#[inline]
fn next_handle<Index: PoolIndex>(numbers: &mut Numbers<Index>) -> Option<Handle<Index>> {
    let Some((physical, last)) = numbers.take_freed() else {
        let physical = numbers.take_unused()?;
        // SAFETY: the block was just taken.
        unsafe { numbers.append(physical, 0) };
        return Some(Handle { physical, generation: 0 });
    };
    let generation = last.wrapping_add(1);
    // SAFETY: the block was just taken.
    unsafe { numbers.append(physical, generation) };
    // Seen only now, so that nothing stands between the block's being freed and made live again.
    if generation == 0 {
        let physical = another_block(numbers, physical)?;
        // SAFETY: the block is live.
        return Some(unsafe { Handle { physical, generation: numbers.used_tag(physical) } });
    }
    Some(Handle { physical, generation })
}

/// Takes another block, where the one that was taken had all generations: the next would be
/// the first again, and old handles good for new blocks. So that is taken out of use. Gives what
/// comes in registers: see [`Numbering`] for what a result in memory costs, also where this is not
/// called.
#[cold]
#[inline(never)]
fn another_block<Index: PoolIndex>(numbers: &mut Numbers<Index>, spent: Index) -> Option<Index> {
    // SAFETY: the block was just made live, and holds nothing. No handle has its generation.
    unsafe { numbers.retire(spent, Generation::MAX) };
    next_handle(numbers).map(Handle::physical)
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
