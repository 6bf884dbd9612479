//! A heap between those who enter it, who close it, and one who looks into it while nobody runs it:
//! by the shipped `Inspection` and `Runner`. Loom fails where two threads reach what belongs to the
//! runner without an order between them.

use heapswitch::sync::runner::Token;
use heapswitch::sync::{AtomicPtr, Runner, inspection};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::Ordering;
use loom::thread;
use std::ptr::NonNull;

use crate::model;

struct Heap {
    runner: Runner,
    /// What belongs to the runner.
    entered: UnsafeCell<u32>,
    /// The header's memory: read by who looks, written by who frees it.
    memory: UnsafeCell<u32>,
}

/// The heap, and the account's pointer to it.
struct Account {
    heap: Heap,
    place: AtomicPtr<Heap>,
}

// SAFETY: cells are reached by whom the protocols let, which is what the models check.
unsafe impl Sync for Account {}
// SAFETY: as above.
unsafe impl Send for Account {}

impl Account {
    fn new(runner: Runner) -> Arc<Self> {
        let heap = Heap { runner, entered: UnsafeCell::new(0), memory: UnsafeCell::new(0) };
        let account = Arc::new(Self { heap, place: AtomicPtr::new(std::ptr::null_mut()) });
        let heap = std::ptr::from_ref(&account.heap).cast_mut();
        account.place.store(heap, Ordering::Relaxed);
        account
    }

    /// As who enters the heap and leaves it.
    fn run(&self, leave: impl FnOnce(&Runner)) {
        let (runner, token) = (&self.heap.runner, Token::from_number(0));
        let is_entered = runner.try_enter_idle(token) || runner.try_enter(token);
        assert!(is_entered, "nobody else enters it");
        self.use_contents();
        leave(&self.heap.runner);
    }

    fn use_contents(&self) {
        self.heap.entered.with_mut(|count| {
            // SAFETY: the caller runs the heap, or keeps everybody out.
            unsafe { *count += 1 }
        });
    }

    /// As who enters the heap, closes it and frees its memory.
    fn close(&self) {
        let runner = &self.heap.runner;
        assert!(runner.try_enter(Token::from_number(0)), "nobody else enters it");
        self.use_contents();
        runner.close();
        inspection::all().remove(&self.place, NonNull::from(&self.heap), runner);
        self.heap.memory.with_mut(|memory| {
            // SAFETY: nobody finds the heap any more, which is what the models check.
            unsafe { *memory += 1 }
        });
    }

    /// As who looks at this one alone.
    fn look(&self) -> bool {
        let all = inspection::all();
        assert!(all.begin(|| true), "the words themselves are the barrier here");
        let is_idle = self.look_once();
        all.end();
        is_idle
    }

    /// Whether nobody ran it.
    fn look_once(&self) -> bool {
        let runner_of = |heap: NonNull<Heap>| {
            // SAFETY: of a field that starts the record; nothing is read.
            NonNull::from(unsafe { &heap.as_ref().runner })
        };
        let use_it = |heap: NonNull<Heap>, is_idle: bool| {
            // SAFETY: the heap is kept while it is looked at.
            let heap = unsafe { heap.as_ref() };
            heap.memory.with(|memory| {
                // SAFETY: as above.
                assert_eq!(unsafe { *memory }, 0)
            });
            if is_idle {
                self.use_contents();
            }
            is_idle
        };
        // SAFETY: the callers have begun, and end later; one thread of a model looks. The record
        // outlives the model; that it is not used after `remove` is checked.
        unsafe { inspection::all().look(&self.place, runner_of, use_it) == Some(true) }
    }
}

fn look_beside(runner: fn() -> Runner, act: fn(&Account)) {
    model(move || {
        let account = Account::new(runner());
        let own = Arc::clone(&account);
        let own = thread::spawn(move || act(&own));
        account.look();
        own.join().unwrap();
    });
}

/// What is looked at is not entered meanwhile, and who enters it next sees what was done.
#[test]
fn nobody_enters_what_is_looked_at() {
    look_beside(Runner::new, |account| {
        account.run(Runner::leave);
        account.run(Runner::leave);
    });
}

/// The same of what others may claim.
#[test]
fn nobody_claims_what_is_looked_at() {
    look_beside(Runner::new_shared, |account| account.run(Runner::leave_shared));
}

/// What was found is not freed before that was said.
#[test]
fn what_is_looked_at_is_freed_later() {
    look_beside(Runner::new, Account::close);
}

/// What nobody runs is seen to be so: otherwise no heap would ever be counted.
#[test]
fn what_nobody_runs_is_looked_at() {
    model(|| {
        let account = Account::new(Runner::new());
        let own = Arc::clone(&account);
        thread::spawn(move || own.run(Runner::leave)).join().unwrap();
        assert!(account.look());
    });
}

/// One after the other is looked at: who waits for the first may see the second in its place.
#[test]
fn several_are_looked_at_in_a_row() {
    model(|| {
        let accounts = [Account::new(Runner::new()), Account::new(Runner::new())];
        let first = Arc::clone(&accounts[0]);
        let own = thread::spawn(move || first.run(Runner::leave));
        let all = inspection::all();
        assert!(all.begin(|| true));
        for account in &accounts {
            account.look_once();
        }
        all.end();
        own.join().unwrap();
    });
}
