//! `HeapPool`: heaps that are used again instead of made anew.
//!
//! Making a heap takes memory for its records behind a process-wide lock, and its first chunk
//! behind another. A heap from a pool has both: taking one, allocating in it and giving it back
//! makes no system call and costs two atomic exchanges, where one waits in this thread's slot of
//! the [spares](super::spares).
//!
//! A heap is reset as it is given back: the next user sees no block of the last one's. Its account
//! stays: limits that a user sets on it are the next one's, too, and its totals go on. Where
//! something survives, or a child of the heap goes on, the heap is closed and another made, at once
//! or (where a function makes them) at the next take: no later user is charged with it. A heap that
//! ended with its parent is not handed out again. Not for heaps that live long: those gain nothing.

use core::borrow::Borrow;
use core::cell::Cell;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;
use std::sync::Arc;

use super::handle::{Heap, HeapError};
use super::spares::{Spare, Spares};
use crate::heap::{EscapeReport, HeapHeader, LifetimeHint};

/// How many heaps a pool keeps unless told otherwise: with a chunk each, 4 MiB.
const DEFAULT_KEPT: usize = 64;

/// How a pool makes a heap when it has none.
#[derive(Clone, Copy, Debug)]
enum Maker {
    /// As [`Heap::new`].
    Default,
    /// As [`Heap::with_hint`].
    Hint(LifetimeHint),
    /// Whatever the user's function makes.
    Function(fn() -> Result<Heap, HeapError>),
}

/// Heaps that wait to be used again. For a `static`, an [`Arc`], or a borrow.
///
/// ```
/// use heapswitch::HeapPool;
///
/// static POOL: HeapPool = HeapPool::new().keep_at_most(32);
///
/// for request in 0..100 {
///     let heap = POOL.take()?;
///     let length = heap.run(|| format!("request {request}").len())?;
///     assert!(length > 8);
/// }
/// # Ok::<(), heapswitch::HeapError>(())
/// ```
#[derive(Debug)]
pub struct HeapPool {
    spares: Spares<HeapHeader>,
    maker: Maker,
}

impl Spare for HeapHeader {
    #[cfg(heapswitch_check)]
    const NAME: &'static str = "heap pool";

    fn next(&self) -> &Cell<Option<NonNull<Self>>> {
        &self.next_in_list
    }

    #[cfg(heapswitch_check)]
    fn is_idle(&self) -> bool {
        // One that ends with its parent may be closed by others at any time.
        self.is_shared() || self.runner.runner().is_none() && !self.runner.is_closed()
    }
}

impl HeapPool {
    /// A pool of heaps as [`Heap::new`] makes them. Takes no memory.
    pub const fn new() -> Self {
        Self::made_by(Maker::Default)
    }

    const fn made_by(maker: Maker) -> Self {
        Self { spares: Spares::new(DEFAULT_KEPT), maker }
    }

    /// A pool of heaps for blocks that live about so long.
    #[must_use]
    pub const fn with_hint(hint: LifetimeHint) -> Self {
        Self::made_by(Maker::Hint(hint))
    }

    /// A pool of heaps that `make` makes: of any kind, source or parent.
    ///
    /// ```
    /// use heapswitch::{Heap, HeapPool, LifetimeHint};
    ///
    /// static POOL: HeapPool = HeapPool::with_maker(|| {
    ///     Heap::builder().hint(LifetimeHint::Medium).build()
    /// });
    /// assert_eq!(POOL.take()?.strategy(), Heap::with_hint(LifetimeHint::Medium)?.strategy());
    /// # Ok::<(), heapswitch::HeapError>(())
    /// ```
    #[must_use]
    pub const fn with_maker(make: fn() -> Result<Heap, HeapError>) -> Self {
        Self::made_by(Maker::Function(make))
    }

    /// How many unused heaps to keep, 64 otherwise; what is given back beyond that is closed. Each
    /// kept heap holds a chunk of 64 KiB. To be said before heaps are given back: those that wait
    /// already are not closed.
    #[must_use]
    pub const fn keep_at_most(mut self, heaps: usize) -> Self {
        self.spares.set_most(heaps);
        self
    }

    /// Takes a heap, empty; makes one if none waits. It comes back when it is dropped.
    ///
    /// # Errors
    /// Those of making one: [`HeapError::NoMemory`], or what the pool's maker returns.
    #[inline]
    pub fn take(&self) -> Result<PooledHeap<&Self>, HeapError> {
        Ok(PooledHeap { heap: ManuallyDrop::new(self.pop_or_make()?), pool: self })
    }

    /// As [`take`](Self::take); the heap shares the pool's ownership, so it may go anywhere.
    ///
    /// # Errors
    /// Those of making one: [`HeapError::NoMemory`], or what the pool's maker returns.
    #[inline]
    pub fn take_shared(self: &Arc<Self>) -> Result<PooledHeap<Arc<Self>>, HeapError> {
        let heap = ManuallyDrop::new(self.pop_or_make()?);
        Ok(PooledHeap { heap, pool: Arc::clone(self) })
    }

    /// Makes heaps until so many wait, at most as many as are kept: the first request pays nothing.
    ///
    /// # Errors
    /// Those of making one: [`HeapError::NoMemory`], or what the pool's maker returns.
    pub fn fill(&self, heaps: usize) -> Result<(), HeapError> {
        for _ in self.waiting()..heaps.min(self.spares.most()) {
            self.put(self.make()?);
        }
        Ok(())
    }

    /// How many heaps wait. Already outdated when other threads use the pool.
    pub fn waiting(&self) -> usize {
        self.spares.waiting()
    }

    /// Closes every heap that waits; how many. Those in use are kept when they are given back.
    pub fn clear(&self) -> usize {
        let mut closed = 0;
        while let Some(header) = self.spares.take_anywhere() {
            // SAFETY: as in `used_again`.
            drop(unsafe { Heap::from_raw(header) });
            closed += 1;
        }
        closed
    }

    #[inline]
    fn pop_or_make(&self) -> Result<Heap, HeapError> {
        match self.spares.take().and_then(used_again) {
            Some(heap) => Ok(heap),
            None => self.pop_listed_or_make(),
        }
    }

    #[cold]
    #[inline(never)]
    fn pop_listed_or_make(&self) -> Result<Heap, HeapError> {
        while let Some(header) = self.spares.take_listed() {
            if let Some(heap) = used_again(header) {
                return Ok(heap);
            }
        }
        self.make()
    }

    fn make(&self) -> Result<Heap, HeapError> {
        match self.maker {
            Maker::Default => Heap::new(),
            Maker::Hint(hint) => Heap::with_hint(hint),
            Maker::Function(make) => make(),
        }
    }

    /// Closes a heap whose account is still charged with what its user left, and keeps another.
    /// What a function makes is made where it is taken, as it may ask what is current.
    #[cold]
    #[inline(never)]
    fn replace(&self, heap: Heap) {
        drop(heap);
        if !matches!(self.maker, Maker::Function(_))
            && let Ok(heap) = self.make()
        {
            self.put(heap);
        }
    }

    /// Keeps a heap, or closes it or another.
    #[inline]
    fn put(&self, heap: Heap) {
        // SAFETY: the handle was the only one and is given up; it is not closed, and run by nobody,
        // or the caller would not keep it.
        if let Some(surplus) = unsafe { self.spares.put(heap.into_raw()) } {
            close(surplus);
        }
    }
}

/// A heap that waited, unless it ended with its parent meanwhile.
#[inline]
fn used_again(header: NonNull<HeapHeader>) -> Option<Heap> {
    // SAFETY: what waited has no other handle, and now waits no more.
    let heap = unsafe { Heap::from_raw(header) };
    if heap.header().is_ended_with_parent() {
        return None;
    }
    // A cancel of the accounts above that came meanwhile was not meant for who takes it.
    heap.forget_end();
    Some(heap)
}

#[cold]
#[inline(never)]
fn close(header: NonNull<HeapHeader>) {
    // SAFETY: as in `used_again`.
    drop(unsafe { Heap::from_raw(header) });
}

impl Default for HeapPool {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for HeapPool {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A heap of a pool. Dropping it resets it, as [`Heap::reset`] does, and gives it back.
#[derive(Debug)]
pub struct PooledHeap<P: Deref<Target = HeapPool>> {
    heap: ManuallyDrop<Heap>,
    pool: P,
}

impl<P: Deref<Target = HeapPool>> PooledHeap<P> {
    /// Takes the heap out for good: the pool gets nothing back.
    pub fn into_heap(self) -> Heap {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped nor used after: each field is moved out or dropped once.
        unsafe {
            core::ptr::drop_in_place(&mut this.pool);
            ManuallyDrop::take(&mut this.heap)
        }
    }

    /// Gives it back as dropping it does; what outlived it.
    ///
    /// # Errors
    /// As [`Heap::reset`]; the heap was closed then, or leaked and counted where a guard that was
    /// forgotten runs it on another thread.
    pub fn give_back(self) -> Result<EscapeReport, HeapError> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped nor used after: each field is moved out or dropped once.
        unsafe {
            let report = this.end();
            core::ptr::drop_in_place(&mut this.pool);
            report
        }
    }

    /// Resets the heap and puts it into the pool, or closes it.
    ///
    /// # Safety
    /// The heap is not used after this.
    #[inline]
    unsafe fn end(&mut self) -> Result<EscapeReport, HeapError> {
        // SAFETY: the caller's contract.
        let mut heap = unsafe { ManuallyDrop::take(&mut self.heap) };
        let (report, is_alone) = heap.reset_and_look()?;
        // One that a leaked guard left running or bound to its thread, or that cannot be renewed,
        // is closed instead.
        if !heap.is_pinned() {
            if is_alone {
                self.pool.put(heap);
            } else {
                self.pool.replace(heap);
            }
        }
        Ok(report)
    }
}

impl<P: Deref<Target = HeapPool>> Deref for PooledHeap<P> {
    type Target = Heap;

    #[inline]
    fn deref(&self) -> &Heap {
        &self.heap
    }
}

impl<P: Deref<Target = HeapPool>> Borrow<Heap> for PooledHeap<P> {
    #[inline]
    fn borrow(&self) -> &Heap {
        &self.heap
    }
}

impl<P: Deref<Target = HeapPool>> Drop for PooledHeap<P> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the field is not used after this.
        let _ = unsafe { self.end() };
    }
}
