//! Going through a pool in virtual order.

use core::marker::PhantomData;
use core::slice;

use super::{Generation, OrderedPool, PoolIndex, RawOrderedPool};
use crate::allocator::MemorySource;

/// The values of a pool in virtual order.
pub struct Iter<'a, T, Index: PoolIndex, S: MemorySource> {
    order: slice::Iter<'a, Index>,
    raw: &'a RawOrderedPool<T, Index, S, Generation>,
}

impl<'a, T, Index: PoolIndex, S: MemorySource> Iter<'a, T, Index, S> {
    pub(super) fn new(pool: &'a OrderedPool<T, Index, S>) -> Self {
        Self { order: pool.raw.order().iter(), raw: &pool.raw }
    }

    fn value(&self, physical: Index) -> &'a T {
        // SAFETY: the block is live, and the pool is borrowed for `'a`.
        unsafe { self.raw.pointer(physical).as_ref() }
    }
}

impl<'a, T, Index: PoolIndex, S: MemorySource> Iterator for Iter<'a, T, Index, S> {
    type Item = &'a T;

    #[inline]
    fn next(&mut self) -> Option<&'a T> {
        let physical = *self.order.next()?;
        Some(self.value(physical))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.order.size_hint()
    }
}

impl<T, Index: PoolIndex, S: MemorySource> DoubleEndedIterator for Iter<'_, T, Index, S> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let physical = *self.order.next_back()?;
        Some(self.value(physical))
    }
}

impl<T, Index: PoolIndex, S: MemorySource> ExactSizeIterator for Iter<'_, T, Index, S> {}

/// The values of a pool in virtual order, to be changed.
pub struct IterMut<'a, T, Index: PoolIndex, S: MemorySource> {
    order: slice::Iter<'a, Index>,
    raw: &'a RawOrderedPool<T, Index, S, Generation>,
    /// It gives out each value once, alone.
    alone: PhantomData<&'a mut T>,
}

impl<'a, T, Index: PoolIndex, S: MemorySource> IterMut<'a, T, Index, S> {
    pub(super) fn new(pool: &'a mut OrderedPool<T, Index, S>) -> Self {
        Self { order: pool.raw.order().iter(), raw: &pool.raw, alone: PhantomData }
    }

    fn value(&mut self, physical: Index) -> &'a mut T {
        // SAFETY: the block is live, the pool is borrowed alone for `'a`, and an index comes once.
        // The shared borrow of the raw pool does not cover the blocks, which it only points to.
        unsafe { self.raw.pointer(physical).as_mut() }
    }
}

impl<'a, T, Index: PoolIndex, S: MemorySource> Iterator for IterMut<'a, T, Index, S> {
    type Item = &'a mut T;

    #[inline]
    fn next(&mut self) -> Option<&'a mut T> {
        let physical = *self.order.next()?;
        Some(self.value(physical))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.order.size_hint()
    }
}

impl<T, Index: PoolIndex, S: MemorySource> DoubleEndedIterator for IterMut<'_, T, Index, S> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let physical = *self.order.next_back()?;
        Some(self.value(physical))
    }
}

impl<T, Index: PoolIndex, S: MemorySource> ExactSizeIterator for IterMut<'_, T, Index, S> {}

impl<'a, T, Index: PoolIndex, S: MemorySource> IntoIterator for &'a OrderedPool<T, Index, S> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T, Index, S>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, T, Index: PoolIndex, S: MemorySource> IntoIterator for &'a mut OrderedPool<T, Index, S> {
    type Item = &'a mut T;
    type IntoIter = IterMut<'a, T, Index, S>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}
