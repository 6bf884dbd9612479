//! What a program wants to be called when a heap's contents end.
//!
//! The callbacks are the program's boxes, kept in the header as a list. They are called by whoever
//! closes or resets the heap, before it does and outside the allocator, the newest first. One that
//! panics keeps none of the others from being called.

use core::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How a heap's contents end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeapEnd {
    /// The heap is closed.
    Close,
    /// The heap is reset, and goes on empty.
    Reset,
}

type Callback = Box<dyn FnOnce(HeapEnd) + Send>;

/// A callback that may be registered.
pub struct Registered {
    call: Callback,
    next: Option<Box<Registered>>,
}

/// A heap's callbacks, newest first. They belong to the heap's runner.
#[derive(Default)]
pub struct Callbacks {
    first: Cell<Option<Box<Registered>>>,
}

impl Callbacks {
    /// None.
    pub const fn new() -> Self {
        Self { first: Cell::new(None) }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        let first = self.first.take();
        let is_empty = first.is_none();
        self.first.set(first);
        is_empty
    }

    /// Adds one. Does not allocate.
    pub fn push(&self, mut registered: Box<Registered>) {
        registered.next = self.first.take();
        self.first.set(Some(registered));
    }

    /// Calls each, newest first, and forgets it; how many panicked. What they add meanwhile is
    /// called too.
    pub fn call_all(&self, end: HeapEnd) -> usize {
        let mut panicked = 0;
        while let Some(first) = self.first.take() {
            let Registered { call, next } = *first;
            self.first.set(next);
            panicked += usize::from(!call_guarded(|| call(end)));
        }
        panicked
    }
}

/// Calls a callback of the program; false if it panicked.
pub fn call_guarded(call: impl FnOnce()) -> bool {
    let Err(payload) = catch_unwind(AssertUnwindSafe(call)) else { return true };
    // A payload may panic when it is dropped, and so may that one's.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        core::mem::forget(second);
    }
    false
}

impl Registered {
    /// A box for it, allocated from what is in use.
    pub fn new(call: impl FnOnce(HeapEnd) + Send + 'static) -> Box<Self> {
        Box::new(Self { call: Box::new(call), next: None })
    }
}

impl core::fmt::Debug for Callbacks {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("Callbacks")
    }
}
