//! Slots with room for one pointer each, beside a list behind somebody's lock: together they hold a
//! bounded number, and neither is asked by who uses the other.
//!
//! ```text
//!   who puts one into a slot             who puts one on the list, with its lock
//!   opened = at least this slot          listed = one more
//!   slot = it                            ...
//!   ...                                  opened, the slots: too many? then not
//!   listed: too many? look again,
//!   with the lock
//! ```
//!
//! What stands above the dots comes before what stands below them in one order of all threads. So
//! of two who put the last one at once, one sees the other. Only slots that were ever used count: a
//! full list costs nobody anything as long as those few have room beside it.

use core::ptr::NonNull;

use crossbeam_utils::CachePadded;

use super::lanes::in_one_order;
use super::{AtomicPtr, AtomicUsize, Ordering};

/// How many slots there are.
pub const SLOTS: usize = if cfg!(loom) { 2 } else { 32 };

// Loom must find the models failing with these weakened.
#[inline]
fn put() -> Ordering {
    weakened!("slots_put", Ordering::Release, Ordering::SeqCst)
}
#[inline]
fn list() -> Ordering {
    weakened!("slots_list", Ordering::Release, Ordering::SeqCst)
}
#[inline]
fn take() -> Ordering {
    weakened!("slots_take", Ordering::Relaxed, Ordering::Acquire)
}

/// The slots, and what the list is said to hold.
#[derive(Debug)]
pub struct Slots<T> {
    slots: [CachePadded<AtomicPtr<T>>; SLOTS],
    /// How many slots were ever used: the others are empty.
    opened: AtomicUsize,
    listed: CachePadded<AtomicUsize>,
}

/// What became of a pointer that was to be put into a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The slot is another's.
    Occupied,
    /// It lies there.
    Placed,
    /// It lies there, and may be one too many: who has the list's lock can tell.
    Doubtful,
}

impl<T> Slots<T> {
    /// Empty ones, and an empty list.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            slots: [const { CachePadded::new(AtomicPtr::new(core::ptr::null_mut())) }; SLOTS],
            opened: AtomicUsize::new(0),
            listed: CachePadded::new(AtomicUsize::new(0)),
        }
    }

    /// Empty ones, and an empty list.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            slots: core::array::from_fn(|_| {
                CachePadded::new(AtomicPtr::new(core::ptr::null_mut()))
            }),
            opened: AtomicUsize::new(0),
            listed: CachePadded::new(AtomicUsize::new(0)),
        }
    }

    /// Takes what lies in a slot.
    #[inline]
    pub fn take(&self, slot: usize) -> Option<NonNull<T>> {
        let slot = self.slots.get(slot)?;
        // The load spares an empty slot the exchange.
        if slot.load(Ordering::Relaxed).is_null() {
            return None;
        }
        // Acquire pairs with the exchange in `put`: what is taken is seen as it was put.
        NonNull::new(slot.swap(core::ptr::null_mut(), take()))
    }

    /// Takes what lies in any slot.
    pub fn take_any(&self) -> Option<NonNull<T>> {
        (0..SLOTS).find_map(|slot| self.take(slot))
    }

    /// Puts something into a slot, where it and the list may hold `most` together.
    #[inline]
    pub fn put(&self, slot: usize, item: NonNull<T>, most: usize) -> Placement {
        let Some(place) = self.slots.get(slot) else { return Placement::Occupied };
        if !place.load(Ordering::Relaxed).is_null() {
            return Placement::Occupied;
        }
        if slot >= self.opened.load(Ordering::Relaxed) {
            self.open(slot);
        }
        let none = core::ptr::null_mut();
        // SeqCst: before `listed` is read. Release pairs with `take`.
        if place.compare_exchange(none, item.as_ptr(), put(), Ordering::Relaxed).is_err() {
            return Placement::Occupied;
        }
        in_one_order(put(), Ordering::SeqCst);
        if self.has_room(self.listed.load(Ordering::SeqCst), most) {
            Placement::Placed
        } else {
            Placement::Doubtful
        }
    }

    #[cold]
    #[inline(never)]
    fn open(&self, slot: usize) {
        // Before the slot is used, for who puts something on the list.
        self.opened.fetch_max(slot + 1, put());
    }

    /// Whether every slot that was ever used may hold something beside so many on the list.
    #[inline]
    fn has_room(&self, listed: usize, most: usize) -> bool {
        listed + self.opened.load(Ordering::SeqCst) <= most
    }

    /// Says, with the list's lock, that the list is about to hold so many; whether it may. If not,
    /// [`set_listed`](Self::set_listed) is to follow.
    pub fn lets_list_hold(&self, listed: usize, most: usize) -> bool {
        self.listed.store(listed, list());
        in_one_order(list(), Ordering::SeqCst);
        self.has_room(listed, most) || listed + self.count() <= most
    }

    /// Says, with the list's lock, how many the list holds.
    pub fn set_listed(&self, listed: usize) {
        self.listed.store(listed, Ordering::SeqCst);
    }

    /// How many slots hold something.
    pub fn count(&self) -> usize {
        let opened = self.opened.load(Ordering::SeqCst);
        let used = self.slots.iter().take(opened);
        used.filter(|slot| !slot.load(Ordering::SeqCst).is_null()).count()
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self::new()
    }
}
