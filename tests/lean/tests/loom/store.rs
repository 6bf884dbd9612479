//! The pins of a store's blocks. A cell stands for each block's bytes: loom fails where one is
//! written while it is read, or given back twice, or read before it is written.

use heapswitch::sync::pins::{Hold, KeyWord, Meaning, Pinned, Pins, pin_by_key};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::model;

/// What is in a block that nobody has.
const NOTHING: u32 = 0;

struct Record {
    pins: Pins,
    bytes: UnsafeCell<u32>,
}

impl Pinned for Record {
    fn pins(&self) -> &Pins {
        &self.pins
    }
}

struct Store {
    key: KeyWord,
    records: [Record; 2],
    /// Whether record 0 may be used again. In the store that is told under its lock.
    is_unused: AtomicBool,
}

// SAFETY: a block is reached by who pinned or claimed it, which is what the models check.
unsafe impl Sync for Store {}
// SAFETY: as above.
unsafe impl Send for Store {}

impl Store {
    /// With a key, in its first generation, of record 0, whose bytes are 1.
    fn new() -> Arc<Self> {
        let record = || Record { pins: Pins::new(), bytes: UnsafeCell::new(NOTHING) };
        let store = Self {
            key: KeyWord::new(),
            records: [record(), record()],
            is_unused: AtomicBool::new(false),
        };
        store.write_block(0, 1);
        store.key.publish(Meaning { generation: 1, record: 0 });
        Arc::new(store)
    }

    fn set(&self, record: usize, value: u32) {
        self.records[record].bytes.with_mut(|bytes| {
            // SAFETY: the caller has claimed the block, or is the last who held it.
            unsafe { *bytes = value }
        });
    }

    fn write_block(&self, record: usize, value: u32) {
        self.records[record].pins.begin();
        self.set(record, value);
        assert!(!self.records[record].pins.unclaim(), "no key means it yet");
    }

    fn give_back(&self, record: u32) {
        self.set(record as usize, NOTHING);
        self.is_unused.store(record == 0, Ordering::Release);
    }

    /// Reads the key in a generation.
    fn read(&self, generation: u32) -> Option<u32> {
        let find = |number: u32| Some(&self.records[number as usize]);
        let wait = |_| thread::yield_now();
        let give_back = |number| self.give_back(number);
        let (number, record) = pin_by_key(&self.key, generation, find, wait, give_back)?;
        let value = record.bytes.with(|bytes| {
            // SAFETY: the block is pinned.
            unsafe { *bytes }
        });
        if record.pins.unpin() {
            self.give_back(number);
        }
        Some(value)
    }

    /// Takes the key's meaning away, or gives it another; the old record is disowned.
    fn change(&self, old: Meaning, new: Meaning) -> bool {
        let is_changed = self.key.change(old, new);
        if is_changed && self.records[old.record as usize].pins.disown() {
            self.give_back(old.record);
        }
        is_changed
    }

    fn free(&self, record: u32) -> bool {
        let old = Meaning { generation: 1, record };
        self.change(old, Meaning { generation: 2, record: u32::MAX })
    }

    /// Moves the block of record 0, as the compaction does, if nothing holds it.
    fn rewrite(&self, value: u32) -> bool {
        match self.records[0].pins.claim() {
            Ok(()) => {
                self.set(0, value);
                if self.records[0].pins.unclaim() {
                    self.give_back(0);
                }
                true
            }
            Err(hold) => {
                assert_ne!(hold, Hold::Nothing);
                false
            }
        }
    }

    fn is_empty(&self, record: usize) -> bool {
        // SAFETY: called when all threads have ended.
        self.records[record].bytes.with(|bytes| unsafe { *bytes }) == NOTHING
    }
}

/// A reader gets the bytes whole, or no bytes; the last who held the block gives it back, once.
#[test]
fn a_block_goes_when_its_last_reader_has_gone() {
    model(|| {
        let store = Store::new();
        let readers = [(); 2].map(|()| {
            let store = Arc::clone(&store);
            thread::spawn(move || store.read(1))
        });
        assert!(store.free(0));
        for reader in readers {
            assert!(matches!(reader.join().unwrap(), None | Some(1)));
        }
        assert_eq!(store.read(1), None);
        assert_eq!(store.records[0].pins.look(), Hold::Gone);
        assert!(store.is_empty(0));
    });
}

/// A block that is moved is not read meanwhile, and one that is read is not moved.
#[test]
fn a_move_and_a_reader_exclude_each_other() {
    model(|| {
        let store = Store::new();
        let reader = Arc::clone(&store);
        let reader = thread::spawn(move || (reader.read(1), reader.read(1)));
        let is_moved = store.rewrite(2);
        let (first, second) = reader.join().unwrap();
        assert!(first.is_some() && first <= second, "{first:?} {second:?}");
        assert_eq!(store.read(1), Some(if is_moved { 2 } else { 1 }));
    });
}

/// A block that is freed while it is moved is given back by the mover, and not twice.
#[test]
fn a_block_is_freed_under_its_mover() {
    model(|| {
        let store = Store::new();
        let mover = Arc::clone(&store);
        let mover = thread::spawn(move || mover.rewrite(2));
        assert!(store.free(0));
        mover.join().unwrap();
        assert_eq!(store.records[0].pins.look(), Hold::Gone);
        assert!(store.is_empty(0));
    });
}

/// The key gets another record, and the old one goes to another block, while a reader is between
/// reading the key and pinning what it meant: it must not get the other's bytes.
#[test]
fn a_record_that_was_used_again_is_told() {
    model(|| {
        let store = Store::new();
        let reader = Arc::clone(&store);
        let reader = thread::spawn(move || reader.read(1));
        store.write_block(1, 3);
        assert!(
            store
                .change(Meaning { generation: 1, record: 0 }, Meaning { generation: 1, record: 1 })
        );
        // Used for another's block, if it is back already.
        if store.is_unused.load(Ordering::Acquire) {
            store.write_block(0, 9);
        }
        assert!(matches!(reader.join().unwrap(), Some(1 | 3)));
    });
}
