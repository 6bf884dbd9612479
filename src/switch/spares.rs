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

use super::lane::own_lane;
use crate::sync::slots::{Placement, SLOTS, Slots};
use crate::sys::lock::{Lock, LockGuard};

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
/// - The slots are told the list's length by who holds the lock.
/// - At most `most` wait, but for one that was just put into a slot: see [`Slots`].
pub(super) struct Spares<S: Spare> {
    slots: Slots<S>,
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
        Self { slots: Slots::new(), list: Lock::new(List { first: None, length: 0 }), most }
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
        self.slots.count() + self.try_list().map_or(0, |list| list.length)
    }

    /// Takes what waits in this thread's slot.
    #[inline]
    pub(super) fn take(&self) -> Option<NonNull<S>> {
        self.slots.take(self.slot()?)
    }

    /// Takes what waits on the list; nothing while its lock stays taken.
    pub(super) fn take_listed(&self) -> Option<NonNull<S>> {
        let mut list = self.try_list()?;
        let spare = list.pop()?;
        self.slots.set_listed(list.length);
        Some(spare)
    }

    /// Takes what waits anywhere.
    pub(super) fn take_anywhere(&self) -> Option<NonNull<S>> {
        self.slots.take_any().or_else(|| self.take_listed())
    }

    /// Lets something wait; gives back what is one too many then, this or another.
    ///
    /// # Safety
    /// It is valid, in no use, known to nobody else, and may be used by any thread.
    #[inline]
    #[must_use]
    pub(super) unsafe fn put(&self, spare: NonNull<S>) -> Option<NonNull<S>> {
        let placement = match self.slot() {
            Some(slot) => self.slots.put(slot, spare, self.most),
            None => Placement::Occupied,
        };
        match placement {
            Placement::Placed => None,
            Placement::Doubtful => self.take_surplus(),
            Placement::Occupied => self.put_listed(spare),
        }
    }

    /// This thread's slot; none where nothing may wait.
    #[inline]
    fn slot(&self) -> Option<usize> {
        slot_of(own_lane(), self.most)
    }

    /// Takes out what lies in this thread's slot if it is one too many, or may be.
    #[cold]
    #[inline(never)]
    fn take_surplus(&self) -> Option<NonNull<S>> {
        match self.try_list() {
            Some(list) if list.length + self.slots.count() <= self.most => None,
            _ => self.slots.take(self.slot()?),
        }
    }

    #[cold]
    #[inline(never)]
    fn put_listed(&self, spare: NonNull<S>) -> Option<NonNull<S>> {
        let Some(mut list) = self.try_list() else { return Some(spare) };
        if self.slots.lets_list_hold(list.length + 1, self.most) {
            list.push(spare);
            return None;
        }
        self.slots.set_listed(list.length);
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

/// The slot of a lane, from 1 on, where so many may wait.
#[inline]
fn slot_of(lane: usize, most: usize) -> Option<usize> {
    let (number, used) = (lane - 1, most.min(SLOTS));
    if number < used { Some(number) } else { number.checked_rem(used) }
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
    use super::*;

    #[test]
    fn lanes_have_slots_of_their_own_as_long_as_there_are() {
        for most in [1, 2, 5, SLOTS - 1, SLOTS, SLOTS + 1, usize::MAX] {
            let used = most.min(SLOTS);
            for lane in 1..=2 * SLOTS {
                assert_eq!(slot_of(lane, most), Some((lane - 1) % used));
            }
        }
        assert_eq!(slot_of(1, 0), None);
    }
}
