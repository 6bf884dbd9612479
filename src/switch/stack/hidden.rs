//! A thread's stack of contexts out of sight, while the thread forks: handlers that were registered
//! before ours run meanwhile, and may neither enter nor leave a heap.

use core::cell::Cell;
use core::ptr::NonNull;

use super::{ContextStack, Entry};
use crate::heap::Inline;

/// Where a stack's entries are while its thread forks. All zero bytes: nowhere.
#[derive(Debug)]
pub struct Hidden {
    top: Cell<*mut Entry>,
    last: Cell<*mut Entry>,
    slots: Cell<Option<NonNull<Entry>>>,
    below: Cell<Inline>,
}

impl Hidden {
    /// Nowhere.
    pub const fn new() -> Self {
        Self {
            top: Cell::new(core::ptr::null_mut()),
            last: Cell::new(core::ptr::null_mut()),
            slots: Cell::new(None),
            below: Cell::new(Inline::NONE),
        }
    }
}

impl ContextStack {
    /// Hides the entries, or shows them again: meanwhile nothing is entered or left at once.
    pub fn exchange(&self, other: &Hidden) {
        self.settle();
        self.newest.close();
        if self.slots.get().is_some_and(|slots| slots != self.inline()) {
            // The base moved with the others; what is left there names heaps that may be gone.
            // SAFETY: the slot is this thread's, and no reference to it is held.
            unsafe { self.inline().write(Entry::EMPTY) };
        }
        self.top.swap(&other.top);
        self.last.swap(&other.last);
        self.slots.swap(&other.slots);
        self.newest.below.swap(&other.below);
        self.open_newest();
    }
}
