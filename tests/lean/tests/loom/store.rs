//! The pins of a store's blocks. A cell stands for each block's bytes: loom fails where one is
//! written while it is read, or given back twice, or read before it is written.
//!
//! A lane has room for one announcement here, so a second reader in it counts itself.

use heapswitch::sync::lanes::Lanes;
use heapswitch::sync::pins::{Hold, KeyWord, Meaning, Pinned, Pins, Readers};
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
    lanes: Lanes,
    /// The records whose blocks were not given back, for they were announced. In the store that is
    /// noted under its lock.
    withheld: [AtomicBool; 2],
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
            lanes: Lanes::new(),
            withheld: [(); 2].map(|()| AtomicBool::new(false)),
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
        self.records[record].pins.finish();
    }

    fn give_back(&self, record: u32) {
        if self.lanes.announces(record) {
            self.withheld[record as usize].store(true, Ordering::Relaxed);
            return;
        }
        self.set(record as usize, NOTHING);
        self.is_unused.store(record == 0, Ordering::Release);
    }

    /// Gives back what was withheld: called when all readers have ended.
    fn settle(&self) {
        for record in 0..2 {
            if self.withheld[record as usize].load(Ordering::Relaxed) {
                self.give_back(record);
            }
        }
    }

    /// Reads the key in a generation, by a thread of that lane.
    fn read(&self, lane: usize, generation: u32) -> Option<u32> {
        let readers = Readers {
            lanes: &self.lanes,
            lane,
            record: |number: u32| Some(&self.records[number as usize]),
            wait: |_| thread::yield_now(),
            give_back: |number| self.give_back(number),
        };
        let (pin, record) = readers.pin(&self.key, generation)?;
        let value = record.bytes.with(|bytes| {
            // SAFETY: the block is pinned.
            unsafe { *bytes }
        });
        if let Some(number) = pin.end() {
            self.give_back(number);
        }
        Some(value)
    }

    /// Takes the key's meaning away, or gives it another; the old record is disowned.
    fn change(&self, old: Meaning, new: Meaning) -> bool {
        let is_changed = self.key.change(old, new);
        let pins = &self.records[old.record as usize].pins;
        if is_changed && (pins.disown_unheld() || pins.disown()) {
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
        self.rewrite_block(0, value)
    }

    fn rewrite_block(&self, record: u32, value: u32) -> bool {
        let pins = &self.records[record as usize].pins;
        match pins.claim() {
            Ok(()) => {
                let is_read = self.lanes.announces(record);
                if !is_read {
                    self.set(record as usize, value);
                }
                if pins.unclaim() {
                    self.give_back(record);
                }
                !is_read
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

/// Readers, each in its lane, get the bytes whole, or no bytes; then the block goes, once.
fn a_block_goes(lanes: [usize; 2]) {
    model(move || {
        let store = Store::new();
        let readers = lanes.map(|lane| {
            let store = Arc::clone(&store);
            thread::spawn(move || store.read(lane, 1))
        });
        assert!(store.free(0));
        for reader in readers {
            assert!(matches!(reader.join().unwrap(), None | Some(1)));
        }
        store.settle();
        assert_eq!(store.read(1, 1), None);
        assert_eq!(store.records[0].pins.look(), Hold::Gone);
        assert!(store.is_empty(0));
    });
}

#[test]
fn a_block_goes_when_its_readers_have_gone() {
    a_block_goes([1, 2]);
}

/// The last counted reader gives the block back, or leaves it to the announced one.
#[test]
fn a_block_goes_when_counted_readers_have_gone() {
    a_block_goes([1, 1]);
}

/// A block that is moved is not read meanwhile, and one that is read is not moved.
#[test]
fn a_move_and_a_reader_exclude_each_other() {
    model(|| {
        let store = Store::new();
        let reader = Arc::clone(&store);
        let reader = thread::spawn(move || (reader.read(1, 1), reader.read(1, 1)));
        let is_moved = store.rewrite(2);
        let (first, second) = reader.join().unwrap();
        assert!(first.is_some() && first <= second, "{first:?} {second:?}");
        assert_eq!(store.read(2, 1), Some(if is_moved { 2 } else { 1 }));
    });
}

/// The same, where another guard has the lane, so that the reader counts itself.
#[test]
fn a_move_and_a_counted_reader_exclude_each_other() {
    model(|| {
        let store = Store::new();
        let other = store.lanes.announce(1, 1);
        assert!(other.is_some());
        let reader = Arc::clone(&store);
        let reader = thread::spawn(move || (reader.read(1, 1), reader.read(1, 1)));
        let is_moved = store.rewrite(2);
        let (first, second) = reader.join().unwrap();
        assert!(first.is_some() && first <= second, "{first:?} {second:?}");
        assert_eq!(store.read(2, 1), Some(if is_moved { 2 } else { 1 }));
    });
}

/// A block may be moved as soon as it is written, before any key means it.
#[test]
fn a_new_block_is_moved_when_it_is_whole() {
    model(|| {
        let store = Store::new();
        let mover = Arc::clone(&store);
        let mover = thread::spawn(move || mover.rewrite_block(1, 5));
        store.write_block(1, 3);
        let is_moved = mover.join().unwrap();
        store.change(Meaning { generation: 1, record: 0 }, Meaning { generation: 1, record: 1 });
        assert_eq!(store.read(1, 1), Some(if is_moved { 5 } else { 3 }));
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
fn a_record_is_used_again(takes_lane: bool) {
    model(move || {
        let store = Store::new();
        let other = takes_lane.then(|| store.lanes.announce(1, 7));
        assert!(other.is_none_or(|announced| announced.is_some()));
        let reader = Arc::clone(&store);
        let reader = thread::spawn(move || reader.read(1, 1));
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

#[test]
fn a_record_that_was_used_again_is_told() {
    a_record_is_used_again(false);
}

#[test]
fn a_record_that_was_used_again_is_told_by_who_counts() {
    a_record_is_used_again(true);
}
