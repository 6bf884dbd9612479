//! The cache that one would write without a store: a map behind a lock. What is found is copied
//! out, for nothing keeps it there once the lock is open.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Cache;

#[derive(Default)]
struct Clock {
    order: VecDeque<u64>,
    used: HashMap<u64, bool>,
    bytes: usize,
}

pub struct MapCache {
    values: Mutex<HashMap<u64, Vec<u8>>>,
    /// Taken after `values`.
    clock: Mutex<Clock>,
    capacity_bytes: usize,
    evictions: AtomicU64,
}

impl MapCache {
    pub fn new(capacity_bytes: usize) -> Self {
        Self {
            values: Mutex::default(),
            clock: Mutex::default(),
            capacity_bytes,
            evictions: AtomicU64::new(0),
        }
    }
}

impl Cache for MapCache {
    fn get(&self, id: u64, check: impl FnOnce(&[u8])) -> bool {
        let value = {
            let values = self.values.lock().unwrap();
            let Some(value) = values.get(&id) else { return false };
            self.clock.lock().unwrap().used.insert(id, true);
            value.clone()
        };
        check(&value);
        true
    }

    fn put(&self, id: u64, value: &[u8]) {
        let mut values = self.values.lock().unwrap();
        let mut clock = self.clock.lock().unwrap();
        while clock.bytes + value.len() > self.capacity_bytes {
            let Some(oldest) = clock.order.pop_front() else { break };
            match clock.used.get_mut(&oldest) {
                Some(was_used) if *was_used => {
                    *was_used = false;
                    clock.order.push_back(oldest);
                }
                _ => {
                    clock.used.remove(&oldest);
                    if let Some(evicted) = values.remove(&oldest) {
                        clock.bytes -= evicted.len();
                        self.evictions.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
        clock.bytes += value.len();
        match values.insert(id, value.to_vec()) {
            None => {
                clock.order.push_back(id);
                clock.used.insert(id, false);
            }
            Some(old) => clock.bytes -= old.len(),
        }
    }

    fn summary(&self) -> (u64, String) {
        (self.evictions.load(Ordering::Relaxed), "nothing is moved".into())
    }
}
