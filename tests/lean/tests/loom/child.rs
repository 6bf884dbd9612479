//! A child heap between its own thread and the one that ends its parent, from the shipped `Runner`
//! and `Signals`: it is closed once, by one who sees all that was done in it, and what is left of
//! it is freed once.

use heapswitch::sync::runner::Token;
use heapswitch::sync::{Runner, Signals};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::model;

const CLOSE: u64 = 1;
const CLOSED: u64 = 2;
const HANDLE_GONE: u64 = 4;

struct Child {
    runner: Runner,
    signals: Signals,
    /// What belongs to the runner: how often it was entered.
    entered: UnsafeCell<u32>,
    /// How often its header was freed. A cell: whoever frees it has it alone.
    freed: UnsafeCell<u32>,
}

// SAFETY: cells are reached by whom the protocols let, which is what the models check.
unsafe impl Sync for Child {}
// SAFETY: as above.
unsafe impl Send for Child {}

impl Child {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            runner: Runner::new_shared(),
            signals: Signals::new(),
            entered: UnsafeCell::new(0),
            freed: UnsafeCell::new(0),
        })
    }

    fn count_entered(&self) -> u32 {
        self.entered.with_mut(|count| {
            // SAFETY: the caller runs the heap.
            unsafe {
                *count += 1;
                *count
            }
        })
    }

    /// Every use of the header happened before.
    fn free(&self) {
        self.count_entered();
        self.freed.with_mut(|count| {
            // SAFETY: only one thread comes here, which is what the models check.
            unsafe { *count += 1 }
        });
    }

    fn close_if_ended(&self) -> bool {
        if self.signals.get() & CLOSE == 0 || !self.runner.try_claim(Token::CLOSER) {
            return false;
        }
        self.count_entered();
        self.runner.close();
        if self.signals.raise(CLOSED) & HANDLE_GONE != 0 {
            self.free();
        }
        true
    }

    /// As who ends the parent.
    fn end_parent(&self) -> bool {
        self.signals.raise(CLOSE);
        self.close_if_ended()
    }

    /// As the owner of its handle: enters it and leaves it.
    fn run(&self) -> bool {
        if self.signals.get() & CLOSE != 0 {
            self.close_if_ended();
            return false;
        }
        if !self.runner.try_enter(Token::from_number(0)) {
            return false;
        }
        self.count_entered();
        self.runner.leave_shared();
        if self.signals.raise(0) & CLOSE != 0 {
            self.close_if_ended();
        }
        true
    }

    /// As the owner of its handle, which is dropped.
    fn drop_handle(&self) {
        if self.runner.try_enter(Token::from_number(0)) {
            self.count_entered();
            self.runner.close();
            self.free();
        } else if self.signals.raise(HANDLE_GONE) & CLOSED != 0 {
            self.free();
        }
    }
}

/// Left and asked to close at once: one of the two closes it, before the handle does anything more.
#[test]
fn a_child_that_is_left_is_closed() {
    model(|| {
        let child = Child::new();
        let own = Arc::clone(&child);
        let own = thread::spawn(move || own.run());
        child.end_parent();
        own.join().unwrap();
        assert!(child.runner.is_closed(), "nobody closed it");
    });
}

/// Its handle is dropped while its parent ends: it is closed and freed once, by whoever it is.
#[test]
fn a_child_is_freed_once() {
    model(|| {
        let child = Child::new();
        let own = Arc::clone(&child);
        let own = thread::spawn(move || {
            own.run();
            own.drop_handle();
        });
        child.end_parent();
        own.join().unwrap();
        assert!(child.runner.is_closed());
        // SAFETY: the other thread has ended.
        let freed = child.freed.with(|count| unsafe { *count });
        assert_eq!(freed, 1);
    });
}
