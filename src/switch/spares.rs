//! `Spares`: what waits to be used again, a bounded number of it.
//!
//! ```text
//!   slots, by the thread's lane             list, behind a lock
//!   ┌───┬───┬───┬───┬─ ─ ─┬───┐             ┌───┐   ┌───┐   ┌───┐
//!   │ S │   │ S │   │     │ S │   overflow  │ S │──▶│ S │──▶│ S │
//!   └───┴───┴───┴───┴─ ─ ─┴───┘             └───┘   └───┘   └───┘
//! ```
//!
//! A thread looks into its own slot first, and then into the list. Nothing is allocated: the list
//! is linked through what waits.

use core::cell::Cell;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

use super::lane::own_lane;
use crate::sys::lock::{Lock, LockGuard};

/// Slots that hold one each, found by the thread's [lane](own_lane). More threads than that at once
/// share them.
const SLOTS: usize = 32;

/// How often the list's lock is tried.
const SPINS: usize = 200;

/// What can wait.
pub(super) trait Spare {
    /// What it is called where it is found damaged.
    #[cfg(heapswitch_check)]
    const NAME: &'static str;

    /// The link of the list, nobody else's while it waits.
    fn next(&self) -> &Cell<Option<NonNull<Self>>>;

    /// Whether it is as what waits has to be.
    #[cfg(heapswitch_check)]
    fn is_idle(&self) -> bool;
}

/// What waits, for any thread.
///
/// # Invariants
/// - What lies in a slot or on the list is valid, in no use, and known to nobody else.
/// - `listed` is the list's length, or one more while something is put there, and only written by
///   who holds the lock.
/// - At most `most` wait, but for one that was just put into a slot: whoever puts something there
///   reads `listed` afterwards, and whoever puts something on the list writes `listed` and reads
///   the slots afterwards. So one of them sees the other, and gives up.
pub(super) struct Spares<S: Spare> {
    slots: [CachePadded<AtomicPtr<S>>; SLOTS],
    listed: AtomicUsize,
    list: Lock<List<S>>,
    most: usize,
}

struct List<S> {
    first: Option<NonNull<S>>,
    length: usize,
}

// SAFETY: what is on the list is in no use, and whoever takes it off is the only one to know it; by
// the contract of `Spares::put` it may be taken by any thread.
unsafe impl<S: Spare> Send for List<S> {}

impl<S: Spare> Spares<S> {
    /// Nothing; at most so many will wait.
    pub(super) const fn new(most: usize) -> Self {
        Self {
            slots: [const { CachePadded::new(AtomicPtr::new(core::ptr::null_mut())) }; SLOTS],
            listed: AtomicUsize::new(0),
            list: Lock::new(List { first: None, length: 0 }),
            most,
        }
    }

    /// At most so many will wait, where none do yet.
    pub(super) const fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// How many may wait.
    pub(super) const fn most(&self) -> usize {
        self.most
    }

    /// The list's lock, to be taken across `fork`.
    #[cfg(feature = "corosensei")]
    pub(super) fn lock(&self) -> &crate::sys::lock::RawLock {
        self.list.raw()
    }

    /// How many wait. Already outdated when other threads take and put.
    pub(super) fn waiting(&self) -> usize {
        self.slotted() + self.try_list().map_or(0, |list| list.length)
    }

    /// Takes what waits in this thread's slot.
    #[inline]
    pub(super) fn take(&self) -> Option<NonNull<S>> {
        self.slot().and_then(take_from)
    }

    /// Takes what waits on the list; nothing while its lock stays taken.
    pub(super) fn take_listed(&self) -> Option<NonNull<S>> {
        let mut list = self.try_list()?;
        let spare = list.pop()?;
        self.listed.store(list.length, Ordering::SeqCst);
        Some(spare)
    }

    /// Takes what waits anywhere.
    pub(super) fn take_anywhere(&self) -> Option<NonNull<S>> {
        self.slots.iter().find_map(|slot| take_from(slot)).or_else(|| self.take_listed())
    }

    /// Lets something wait; gives back what is one too many then, this or another.
    ///
    /// # Safety
    /// It is valid, in no use, known to nobody else, and may be used by any thread.
    #[inline]
    #[must_use]
    pub(super) unsafe fn put(&self, spare: NonNull<S>) -> Option<NonNull<S>> {
        match self.slot() {
            Some(slot) if slot.load(Ordering::Relaxed).is_null() => self.put_into(slot, spare),
            _ => self.put_listed(spare),
        }
    }

    /// How many slots are in use.
    #[inline]
    fn used_slots(&self) -> usize {
        self.most.min(SLOTS)
    }

    /// How many slots hold something.
    fn slotted(&self) -> usize {
        // SeqCst: after `listed` was written, see the type.
        self.slots.iter().filter(|slot| !slot.load(Ordering::SeqCst).is_null()).count()
    }

    /// This thread's slot.
    #[inline]
    fn slot(&self) -> Option<&AtomicPtr<S>> {
        let (lane, used) = (own_lane() - 1, self.used_slots());
        let index = if lane < used { lane } else { lane.checked_rem(used)? };
        self.slots.get(index).map(|slot| &**slot)
    }

    #[inline]
    fn put_into(&self, slot: &AtomicPtr<S>, spare: NonNull<S>) -> Option<NonNull<S>> {
        let none = core::ptr::null_mut();
        // SeqCst: before `listed` is read, see the type. It pairs with the Acquire in `take_from`:
        // what waits is seen as it was left.
        let order = (Ordering::SeqCst, Ordering::Relaxed);
        if slot.compare_exchange(none, spare.as_ptr(), order.0, order.1).is_err() {
            self.put_listed(spare)
        } else if self.has_room_for_slots(self.listed.load(Ordering::SeqCst)) {
            None
        } else {
            self.take_surplus(slot)
        }
    }

    /// Whether all slots may hold something beside so many on the list.
    #[inline]
    fn has_room_for_slots(&self, listed: usize) -> bool {
        listed + self.used_slots() <= self.most
    }

    /// Takes out what lies in a slot if it is one too many, or may be.
    #[cold]
    #[inline(never)]
    fn take_surplus(&self, slot: &AtomicPtr<S>) -> Option<NonNull<S>> {
        match self.try_list() {
            Some(list) if list.length + self.slotted() <= self.most => None,
            _ => take_from(slot),
        }
    }

    #[cold]
    #[inline(never)]
    fn put_listed(&self, spare: NonNull<S>) -> Option<NonNull<S>> {
        let Some(mut list) = self.try_list() else { return Some(spare) };
        let listed = list.length + 1;
        self.listed.store(listed, Ordering::SeqCst);
        if self.has_room_for_slots(listed) || listed + self.slotted() <= self.most {
            list.push(spare);
            return None;
        }
        self.listed.store(list.length, Ordering::SeqCst);
        Some(spare)
    }

    /// The list, unless its lock stays taken: its holder does not run, or a `fork` left it behind.
    /// Making what is wanted, or ending what is given back, takes less time than waiting.
    fn try_list(&self) -> Option<LockGuard<'_, List<S>>> {
        (0..SPINS).find_map(|_| {
            let guard = self.list.try_lock();
            if guard.is_none() {
                core::hint::spin_loop();
            }
            guard
        })
    }
}

#[inline]
fn take_from<S>(slot: &AtomicPtr<S>) -> Option<NonNull<S>> {
    // The load spares an empty slot the exchange.
    if slot.load(Ordering::Relaxed).is_null() {
        return None;
    }
    // Acquire pairs with the exchange in `put_into`.
    NonNull::new(slot.swap(core::ptr::null_mut(), Ordering::Acquire))
}

impl<S: Spare> List<S> {
    fn push(&mut self, spare: NonNull<S>) {
        // SAFETY: by the contract of `put` it is valid, and this list's now.
        unsafe { spare.as_ref() }.next().set(self.first);
        self.first = Some(spare);
        self.length += 1;
        #[cfg(heapswitch_check)]
        self.verify();
    }

    fn pop(&mut self) -> Option<NonNull<S>> {
        #[cfg(heapswitch_check)]
        self.verify();
        let spare = self.first?;
        // SAFETY: what is on the list is valid.
        self.first = unsafe { spare.as_ref() }.next().take();
        self.length -= 1;
        Some(spare)
    }

    /// Aborts unless so many are on the list, all of them idle.
    #[cfg(heapswitch_check)]
    fn verify(&self) {
        let (mut length, mut next) = (0, self.first);
        while let Some(spare) = next {
            // SAFETY: what is on the list is valid.
            let this = unsafe { spare.as_ref() };
            if !this.is_idle() {
                crate::sys::abort_with(&[S::NAME, ": one on the list is in use"]);
            }
            length += 1;
            if length > self.length {
                break;
            }
            next = this.next().get();
        }
        if length != self.length {
            crate::sys::abort_with(&[S::NAME, ": the list's length is corrupted"]);
        }
    }
}

impl<S: Spare> fmt::Debug for Spares<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Spares")
            .field("waiting", &self.waiting())
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    struct Nothing(Cell<Option<NonNull<Self>>>);

    impl Spare for Nothing {
        #[cfg(heapswitch_check)]
        const NAME: &'static str = "nothing";

        fn next(&self) -> &Cell<Option<NonNull<Self>>> {
            &self.0
        }

        #[cfg(heapswitch_check)]
        fn is_idle(&self) -> bool {
            true
        }
    }

    /// As long as there are enough.
    #[test]
    fn threads_have_slots_of_their_own() {
        const THREADS: usize = 12;
        let (spares, barrier) = (Spares::<Nothing>::new(64), Barrier::new(THREADS));
        let lane_and_slot = || {
            let found = (own_lane(), spares.slot().expect("a slot").as_ptr().addr());
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
