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

#[derive(Default)]
struct Part {
    values: HashMap<u64, Value>,
    /// The order in which the clock's hand comes by.
    clock: VecDeque<u64>,
}

struct Value {
    key: Key,
    was_used: bool,
}

impl Part {
    /// Takes out the next value that was not used since the hand came by.
    fn evict(&mut self) -> Option<Key> {
        while let Some(id) = self.clock.pop_front() {
            if let Entry::Occupied(mut entry) = self.values.entry(id) {
                if !entry.get().was_used {
                    return Some(entry.remove().key);
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
    hand: AtomicUsize,
    evictions: AtomicU64,
}

impl<S: MemorySource> StoreCache<S> {
    pub fn new_in(source: S, capacity_bytes: usize) -> Self {
        let store = GravityStore::new_in(source, GravitySettings::new(capacity_bytes));
        Self {
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
            if let Some(key) = evicted {
                self.evictions.fetch_add(1, Ordering::Relaxed);
                // Whoever reads it still has its bytes; their space is free after that.
                return self.store.free(key).is_ok();
            }
        }
        false
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
        let key = loop {
            // In a store that is full to the brim each write would have to move much.
            let usage = self.store.usage();
            let is_tight = usage.free_bytes < usage.capacity_bytes / 16 + value.len();
            if is_tight && self.evict() {
                continue;
            }
            match self.store.write(value) {
                Ok(key) => break key,
                Err(_) if self.evict() => {}
                Err(error) => panic!("{error}"),
            }
        };
        let mut part = self.part(id).lock().unwrap();
        let new = Value { key, was_used: false };
        match part.values.insert(id, new) {
            None => part.clock.push_back(id),
            Some(old) => {
                drop(part);
                // Another thread put it in as well.
                let _ = self.store.free(old.key);
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
