//! A child heap between its own thread and the one that ends its parent, by the shipped steps of
//! `sync::child`: it is closed once, by one who sees all that was done in it, and what is left of
//! it is freed once.

use heapswitch::sync::child::{self, Dropped};
use heapswitch::sync::runner::Token;
use heapswitch::sync::{Runner, Signals};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::model;

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
        if !child::try_claim(&self.runner, &self.signals) {
            return false;
        }
        let is_last = child::finish(&self.signals, || {
            self.count_entered();
            self.runner.close();
        });
        if is_last {
            self.free();
        }
        true
    }

    /// As who ends the parent.
    fn end_parent(&self) -> bool {
        child::end(|bits| Some(self.signals.raise(bits)), || self.close_if_ended()) == Some(true)
    }

    /// As the owner of its handle: enters it and leaves it.
    fn run(&self) -> bool {
        if child::is_ended(&self.signals) {
            self.close_if_ended();
            return false;
        }
        if !self.runner.try_enter(Token::from_number(0)) {
            return false;
        }
        self.count_entered();
        if child::leave(&self.signals, || self.runner.leave_shared()) {
            self.close_if_ended();
        }
        true
    }

    /// As the owner of its handle, which is dropped.
    fn drop_handle(&self) {
        let try_close = || {
            let is_entered = self.runner.try_enter(Token::from_number(0));
            if is_entered {
                self.count_entered();
                self.runner.close();
            }
            is_entered
        };
        let dropped = child::drop_handle(try_close, |bits| self.signals.raise(bits));
        assert_ne!(dropped, Dropped::Runs, "who closes it has marked it before");
        if matches!(dropped, Dropped::Closed | Dropped::LastOfTwo) {
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
