//! Slots beside a list: together they hold a bounded number, and what is put there is seen whole.

use heapswitch::sync::slots::{Placement, Slots};
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;
use std::ptr::NonNull;

use crate::model;

/// As a pool does it, with what is surplus dropped.
struct Pool {
    slots: Slots<UnsafeCell<u32>>,
    list: Mutex<usize>,
    items: [UnsafeCell<u32>; 2],
    most: usize,
}

// SAFETY: cells are reached by whom the slots let, which is what the models check.
unsafe impl Sync for Pool {}
// SAFETY: as above.
unsafe impl Send for Pool {}

impl Pool {
    fn new(most: usize) -> Arc<Self> {
        let items = [0, 1].map(UnsafeCell::new);
        Arc::new(Self { slots: Slots::new(), list: Mutex::new(0), items, most })
    }

    fn put(&self, slot: usize) -> Placement {
        let placement = self.slots.put(slot, NonNull::from(&self.items[slot]), self.most);
        if placement == Placement::Doubtful {
            let list = self.list.lock().unwrap();
            if *list + self.slots.count() > self.most {
                self.slots.take(slot);
            }
        }
        placement
    }

    fn put_listed(&self) {
        let mut list = self.list.lock().unwrap();
        if self.slots.lets_list_hold(*list + 1, self.most) {
            *list += 1;
        } else {
            self.slots.set_listed(*list);
        }
    }

    fn waiting(&self) -> usize {
        self.slots.count() + *self.list.lock().unwrap()
    }
}

/// The last one is put into a slot and on the list at once.
#[test]
fn no_more_wait_than_may() {
    model(|| {
        let pool = Pool::new(1);
        let other = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.put_listed())
        };
        pool.put(0);
        other.join().unwrap();
        assert!(pool.waiting() <= 1);
    });
}

/// A slot that was used before, and beside which the list was full: two slots are in use.
#[test]
fn no_more_wait_than_may_where_slots_were_used() {
    model(|| {
        let pool = Pool::new(2);
        assert_eq!(pool.put(0), Placement::Placed);
        let other = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                pool.put_listed();
                pool.put_listed();
            })
        };
        pool.slots.take(0);
        pool.put(1);
        other.join().unwrap();
        assert!(pool.waiting() <= 2);
    });
}

/// What one thread wrote before it put, the next one reads that takes.
#[test]
fn what_is_taken_is_seen_as_it_was_put() {
    model(|| {
        let pool = Pool::new(2);
        let other = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                let write = |value: *mut u32| {
                    // SAFETY: it was not put yet.
                    unsafe { value.write(7) };
                };
                pool.items[0].with_mut(write);
                pool.put(0);
            })
        };
        let item = loop {
            match pool.slots.take(0) {
                Some(item) => break item,
                None => thread::yield_now(),
            }
        };
        let read = |value: *const u32| {
            // SAFETY: it was taken.
            unsafe { value.read() }
        };
        // SAFETY: it lies in the pool.
        assert_eq!(unsafe { item.as_ref() }.with(read), 7);
        other.join().unwrap();
    });
}
