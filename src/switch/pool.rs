//! `HeapPool`: heaps that are used again instead of made anew.
//!
//! Making a heap takes memory for its records behind a process-wide lock, and its first chunk
//! behind another. A heap from a pool has both: taking one, allocating in it and giving it back
//! makes no system call and costs two atomic exchanges.
//!
//! ```text
//!   slots, by the thread's lane             list, behind a lock
//!   ┌───┬───┬───┬───┬─ ─ ─┬───┐             ┌───┐   ┌───┐   ┌───┐
//!   │ H │   │ H │   │     │ H │   overflow  │ H │──▶│ H │──▶│ H │
//!   └───┴───┴───┴───┴─ ─ ─┴───┘             └───┘   └───┘   └───┘
//! ```
//!
//! A heap is reset as it is given back: the next user sees nothing of the last one's, and what
//! survives lives on as after a close. Not for heaps that live long: those gain nothing.

use core::borrow::Borrow;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::Arc;

use crossbeam_utils::CachePadded;

use super::handle::{Heap, HeapError};
use super::lane::own_lane;
use crate::heap::{HeapHeader, LifetimeHint};
use crate::sys::lock::{Lock, LockGuard};

/// Slots that hold one heap each, found by the thread's [lane](own_lane). More threads than that
/// at once share them.
const SLOTS: usize = 32;

/// How many heaps a pool keeps unless told otherwise: with a chunk each, 4 MiB.
const DEFAULT_KEPT: usize = 64;

/// How often the list's lock is tried.
const SPINS: usize = 200;

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
///
/// # Invariants
/// - `listed` is the list's length, or one more while a heap is put there, and only written by who
///   holds the lock.
/// - Slots in use and list together have at most `most_kept` heaps, but for one that was just put
///   into a slot: whoever puts a heap into a slot looks at `listed` afterwards, and whoever puts
///   one on the list writes `listed` and looks at the slots afterwards. So one of them sees the
///   other, and gives up.
#[derive(Debug)]
pub struct HeapPool {
    slots: [CachePadded<AtomicPtr<HeapHeader>>; SLOTS],
    listed: AtomicUsize,
    list: Lock<List>,
    most_kept: usize,
    maker: Maker,
}

/// # Invariants
/// The heaps on it are not closed, are run by nobody, and have no other handle.
#[derive(Debug)]
struct List {
    first: Option<NonNull<HeapHeader>>,
    length: usize,
}

// SAFETY: heaps on the list are run by nobody, and whoever takes one off has its only handle.
unsafe impl Send for List {}

impl HeapPool {
    /// A pool of heaps as [`Heap::new`] makes them. Takes no memory.
    pub const fn new() -> Self {
        Self::made_by(Maker::Default)
    }

    const fn made_by(maker: Maker) -> Self {
        Self {
            slots: [const { CachePadded::new(AtomicPtr::new(core::ptr::null_mut())) }; SLOTS],
            listed: AtomicUsize::new(0),
            list: Lock::new(List { first: None, length: 0 }),
            most_kept: DEFAULT_KEPT,
            maker,
        }
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
    /// kept heap holds a chunk of 64 KiB.
    #[must_use]
    pub const fn keep_at_most(mut self, heaps: usize) -> Self {
        self.most_kept = heaps;
        self
    }

    /// Takes a heap, empty; makes one if none waits. It comes back when it is dropped.
    ///
    /// # Errors
    /// Those of making one: [`HeapError::NoMemory`].
    #[inline]
    pub fn take(&self) -> Result<PooledHeap<&Self>, HeapError> {
        Ok(PooledHeap { heap: ManuallyDrop::new(self.pop_or_make()?), pool: self })
    }

    /// As [`take`](Self::take); the heap shares the pool's ownership, so it may go anywhere.
    ///
    /// # Errors
    /// Those of making one: [`HeapError::NoMemory`].
    #[inline]
    pub fn take_shared(self: &Arc<Self>) -> Result<PooledHeap<Arc<Self>>, HeapError> {
        let heap = ManuallyDrop::new(self.pop_or_make()?);
        Ok(PooledHeap { heap, pool: Arc::clone(self) })
    }

    /// Makes heaps until so many wait, at most as many as are kept: the first request pays nothing.
    ///
    /// # Errors
    /// Those of making one: [`HeapError::NoMemory`].
    pub fn fill(&self, heaps: usize) -> Result<(), HeapError> {
        for _ in self.waiting()..heaps.min(self.most_kept) {
            self.put(self.make()?);
        }
        Ok(())
    }

    /// How many heaps wait. Already outdated when other threads use the pool.
    pub fn waiting(&self) -> usize {
        self.slotted() + self.try_list().map_or(0, |list| list.length)
    }

    /// Closes every heap that waits; how many. Those in use are kept when they are given back.
    pub fn clear(&self) -> usize {
        let mut closed = 0;
        while let Some(heap) = self.pop_anywhere() {
            drop(heap);
            closed += 1;
        }
        closed
    }

    /// How many slots are in use.
    #[inline]
    fn used_slots(&self) -> usize {
        self.most_kept.min(SLOTS)
    }

    /// How many slots hold a heap.
    fn slotted(&self) -> usize {
        // SeqCst: after `listed` was written, see the type.
        self.slots.iter().filter(|slot| !slot.load(Ordering::SeqCst).is_null()).count()
    }

    /// This thread's slot.
    #[inline]
    fn slot(&self) -> Option<&AtomicPtr<HeapHeader>> {
        let (lane, used) = (own_lane() - 1, self.used_slots());
        let index = if lane < used { lane } else { lane.checked_rem(used)? };
        self.slots.get(index).map(|slot| &**slot)
    }

    #[inline]
    fn pop_or_make(&self) -> Result<Heap, HeapError> {
        match self.slot().and_then(pop_slot) {
            Some(heap) => Ok(for_a_new_user(heap)),
            None => self.pop_listed_or_make(),
        }
    }

    #[cold]
    #[inline(never)]
    fn pop_listed_or_make(&self) -> Result<Heap, HeapError> {
        match self.pop_listed() {
            Some(heap) => Ok(for_a_new_user(heap)),
            None => self.make(),
        }
    }

    fn pop_listed(&self) -> Option<Heap> {
        let mut list = self.try_list()?;
        let heap = list.pop()?;
        self.listed.store(list.length, Ordering::SeqCst);
        Some(heap)
    }

    fn pop_anywhere(&self) -> Option<Heap> {
        let slotted = self.slots.iter().find_map(|slot| pop_slot(slot));
        slotted.or_else(|| self.pop_listed())
    }

    /// The list, unless its lock stays taken: its holder does not run, or a `fork` left it behind.
    /// Making a heap, or closing one, then takes less time than waiting.
    fn try_list(&self) -> Option<LockGuard<'_, List>> {
        (0..SPINS).find_map(|_| {
            let guard = self.list.try_lock();
            if guard.is_none() {
                core::hint::spin_loop();
            }
            guard
        })
    }

    fn make(&self) -> Result<Heap, HeapError> {
        match self.maker {
            Maker::Default => Heap::new(),
            Maker::Hint(hint) => Heap::with_hint(hint),
            Maker::Function(make) => make(),
        }
    }

    /// Keeps a heap, or closes it.
    #[inline]
    fn put(&self, heap: Heap) {
        match self.slot() {
            Some(slot) if slot.load(Ordering::Relaxed).is_null() => self.put_into(slot, heap),
            _ => self.put_listed(heap),
        }
    }

    #[inline]
    fn put_into(&self, slot: &AtomicPtr<HeapHeader>, heap: Heap) {
        let (header, none) = (heap.into_raw(), core::ptr::null_mut());
        // SeqCst: before `listed` is read, see the type. It pairs with the Acquire in `pop_slot`:
        // the heap is seen as it was left.
        let order = (Ordering::SeqCst, Ordering::Relaxed);
        if slot.compare_exchange(none, header.as_ptr(), order.0, order.1).is_err() {
            // SAFETY: the handle was given up above and nobody else got it.
            self.put_listed(unsafe { Heap::from_raw(header) });
        } else if !self.has_room_for_slots(self.listed.load(Ordering::SeqCst)) {
            self.take_back_surplus(slot);
        }
    }

    /// Whether all slots may hold a heap beside so many on the list.
    #[inline]
    fn has_room_for_slots(&self, listed: usize) -> bool {
        listed + self.used_slots() <= self.most_kept
    }

    /// Closes the heap in a slot if it is one too many.
    #[cold]
    #[inline(never)]
    fn take_back_surplus(&self, slot: &AtomicPtr<HeapHeader>) {
        let list = self.try_list();
        let listed = list.as_ref().map_or(0, |list| list.length);
        let surplus = if listed + self.slotted() > self.most_kept { pop_slot(slot) } else { None };
        drop(list);
        drop(surplus); // Closed while others may have the lock.
    }

    #[cold]
    #[inline(never)]
    fn put_listed(&self, heap: Heap) {
        if let Some(surplus) = self.try_put_listed(heap) {
            drop(surplus); // Closed while others may have the lock.
        }
    }

    /// Puts a heap on the list; gives it back where that would be one too many.
    fn try_put_listed(&self, heap: Heap) -> Option<Heap> {
        let Some(mut list) = self.try_list() else { return Some(heap) };
        let listed = list.length + 1;
        self.listed.store(listed, Ordering::SeqCst);
        if self.has_room_for_slots(listed) || listed + self.slotted() <= self.most_kept {
            list.push(heap);
            return None;
        }
        self.listed.store(list.length, Ordering::SeqCst);
        Some(heap)
    }
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

/// A cancel of the accounts above that came while the heap waited was not meant for who takes it.
#[inline]
fn for_a_new_user(heap: Heap) -> Heap {
    heap.forget_end();
    heap
}

#[inline]
fn pop_slot(slot: &AtomicPtr<HeapHeader>) -> Option<Heap> {
    // The load spares an empty slot the exchange.
    if slot.load(Ordering::Relaxed).is_null() {
        return None;
    }
    // Acquire pairs with the Release in `put_into`.
    let header = NonNull::new(slot.swap(core::ptr::null_mut(), Ordering::Acquire))?;
    // SAFETY: what lies in a slot has no other handle, and now lies there no more.
    Some(unsafe { Heap::from_raw(header) })
}

impl List {
    fn push(&mut self, heap: Heap) {
        let header = heap.into_raw();
        // SAFETY: the heap is not closed; its only handle is this list's now.
        unsafe { header.as_ref() }.next_in_list.set(self.first);
        self.first = Some(header);
        self.length += 1;
        #[cfg(heapswitch_check)]
        self.verify();
    }

    /// Aborts unless so many heaps are on the list, none of them run or closed.
    #[cfg(heapswitch_check)]
    fn verify(&self) {
        let (mut length, mut next) = (0, self.first);
        while let Some(header) = next {
            // SAFETY: heaps on the list are valid.
            let this = unsafe { header.as_ref() };
            // One that ends with its parent may be closed by others at any time.
            let is_touched = this.runner.runner().is_some() || this.runner.is_closed();
            if is_touched && !this.is_shared() {
                crate::sys::abort_with(&["heap pool: a heap on the list is run or closed"]);
            }
            length += 1;
            if length > self.length {
                break;
            }
            next = this.next_in_list.get();
        }
        if length != self.length {
            crate::sys::abort_with(&["heap pool: the list's length is corrupted"]);
        }
    }

    fn pop(&mut self) -> Option<Heap> {
        #[cfg(heapswitch_check)]
        self.verify();
        let header = self.first?;
        // SAFETY: heaps on the list are valid, and this one's only handle leaves it.
        unsafe {
            self.first = header.as_ref().next_in_list.take();
            self.length -= 1;
            Some(Heap::from_raw(header))
        }
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
        let mut heap = unsafe { ManuallyDrop::take(&mut self.heap) };
        // One that a leaked guard left running or bound to its thread, or that cannot be renewed,
        // is closed instead.
        if heap.reset().is_ok() && !heap.is_pinned() {
            self.pool.put(heap);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    /// As long as there are enough.
    #[test]
    fn threads_have_slots_of_their_own() {
        const THREADS: usize = 12;
        let (pool, barrier) = (HeapPool::new(), Barrier::new(THREADS));
        let lane_and_slot = || {
            let found = (own_lane(), pool.slot().expect("a slot").as_ptr().addr());
            barrier.wait(); // So that all have their lanes at once.
            found
        };
        let found: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(lane_and_slot)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
        });
        // Other tests' threads have lanes meanwhile, so that some of these may be high.
        let low = || found.iter().filter(|(lane, _)| *lane <= SLOTS);
        let slots: BTreeSet<usize> = low().map(|(_, slot)| *slot).collect();
        assert_eq!(slots.len(), low().count(), "{found:?}");
        assert_ne!(slots.len(), 0, "{found:?}");
    }
}
