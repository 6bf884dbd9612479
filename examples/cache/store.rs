//! The cache on a `GravityStore`: the store is the bound, and tells when something has to go. A
//! sixteenth of it is kept free, so that little has to be moved.
//!
//! Which key a number has, and who was used since the hand of the clock last passed, is kept in
//! parts, each behind a lock of its own that is never held while bytes are copied or looked at.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use heapswitch::MemorySource;
use heapswitch::store::{GravitySettings, GravityStore, Key};

use crate::Cache;

const PARTS: usize = 16;

/// What values take a multiple of in a store with the usual settings.
const GRANULE_BYTES: usize = 8;

#[derive(Default)]
struct Part {
    values: HashMap<u64, Value>,
    /// The order in which the clock's hand comes by.
    clock: VecDeque<u64>,
}

struct Value {
    key: Key,
    /// In whole granules.
    bytes: usize,
    was_used: bool,
}

impl Part {
    /// Takes out the next value that was not used since the hand came by.
    fn evict(&mut self) -> Option<Value> {
        while let Some(id) = self.clock.pop_front() {
            if let Entry::Occupied(mut entry) = self.values.entry(id) {
                if !entry.get().was_used {
                    return Some(entry.remove());
                }
                entry.get_mut().was_used = false;
                self.clock.push_back(id);
            }
        }
        None
    }
}

pub struct StoreCache<S: MemorySource> {
    store: GravityStore<S>,
    parts: [Mutex<Part>; PARTS],
    capacity_bytes: usize,
    /// What the values take: asked for each one that is put in, so not of the store, whose answer
    /// takes its lock.
    used_bytes: AtomicUsize,
    hand: AtomicUsize,
    evictions: AtomicU64,
}

impl<S: MemorySource> StoreCache<S> {
    pub fn new_in(source: S, capacity_bytes: usize) -> Self {
        let store = GravityStore::new_in(source, GravitySettings::new(capacity_bytes));
        Self {
            capacity_bytes,
            used_bytes: AtomicUsize::new(0),
            store: store.expect("there is memory for the cache"),
            parts: Default::default(),
            hand: AtomicUsize::new(0),
            evictions: AtomicU64::new(0),
        }
    }

    fn part(&self, id: u64) -> &Mutex<Part> {
        &self.parts[(id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as usize]
    }

    /// Makes room; false if there is nothing left to evict.
    fn evict(&self) -> bool {
        for _ in 0..PARTS {
            let part = self.hand.fetch_add(1, Ordering::Relaxed) % PARTS;
            let evicted = self.parts[part].lock().unwrap().evict();
            if let Some(value) = evicted {
                self.evictions.fetch_add(1, Ordering::Relaxed);
                return self.free(&value);
            }
        }
        false
    }

    /// Frees a value that was taken out. Whoever reads it still has its bytes; their space is free
    /// after that.
    fn free(&self, value: &Value) -> bool {
        self.used_bytes.fetch_sub(value.bytes, Ordering::Relaxed);
        self.store.free(value.key).is_ok()
    }
}

impl<S: MemorySource> Cache for StoreCache<S> {
    fn get(&self, id: u64, check: impl FnOnce(&[u8])) -> bool {
        let key = {
            let mut part = self.part(id).lock().unwrap();
            let Some(value) = part.values.get_mut(&id) else { return false };
            value.was_used = true;
            value.key
        };
        // It may have been evicted meanwhile: then the key is refused.
        let Ok(bytes) = self.store.read(key) else { return false };
        check(&bytes);
        true
    }

    fn put(&self, id: u64, value: &[u8]) {
        let bytes = value.len().next_multiple_of(GRANULE_BYTES);
        let key = loop {
            // In a store that is full to the brim each write would have to move much.
            let used = self.used_bytes.load(Ordering::Relaxed) + bytes;
            if used > self.capacity_bytes / 16 * 15 && self.evict() {
                continue;
            }
            match self.store.write(value) {
                Ok(key) => break key,
                Err(_) if self.evict() => {}
                Err(error) => panic!("{error}"),
            }
        };
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut part = self.part(id).lock().unwrap();
        let new = Value { key, bytes, was_used: false };
        match part.values.insert(id, new) {
            None => part.clock.push_back(id),
            Some(old) => {
                drop(part);
                // Another thread put it in as well.
                self.free(&old);
            }
        }
    }

    fn summary(&self) -> (u64, String) {
        let usage = self.store.usage();
        let moved = usage.moved_bytes as f64 / usage.written_bytes.max(1) as f64;
        let evictions = self.evictions.load(Ordering::Relaxed);
        (evictions, format!("{moved:.4} bytes moved for each written"))
    }
}
