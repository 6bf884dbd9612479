//! The same store as one writes it down from its description: one lock around everything, maps of
//! the standard library, and readers that get a copy.
//!
//! It finds the pair of slots with the greatest gravity by looking at all of them, brings it
//! together by moving what lies between, and goes on until the write fits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

pub struct Port {
    inner: Mutex<Inner>,
}

struct Inner {
    memory: Vec<u8>,
    /// Free slots: start to length, and the same by length.
    slots: BTreeMap<usize, usize>,
    by_length: BTreeSet<(usize, usize)>,
    /// Blocks: start to key.
    blocks: BTreeMap<usize, u64>,
    /// Keys to start and length.
    keys: HashMap<u64, (usize, usize)>,
    next_key: u64,
    free: usize,
    moved: u64,
}

impl Port {
    pub fn new(capacity: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                memory: vec![0; capacity],
                slots: BTreeMap::from([(0, capacity)]),
                by_length: BTreeSet::from([(capacity, 0)]),
                blocks: BTreeMap::new(),
                keys: HashMap::new(),
                next_key: 0,
                free: capacity,
                moved: 0,
            }),
        }
    }

    pub fn write(&self, bytes: &[u8]) -> Option<u64> {
        self.inner.lock().unwrap().write(bytes)
    }

    pub fn read(&self, key: u64) -> Option<Vec<u8>> {
        let inner = self.inner.lock().unwrap();
        let &(start, length) = inner.keys.get(&key)?;
        Some(inner.memory[start..start + length].to_vec())
    }

    pub fn free(&self, key: u64) -> bool {
        self.inner.lock().unwrap().free(key)
    }

    pub fn free_bytes(&self) -> usize {
        self.inner.lock().unwrap().free
    }

    pub fn moved_bytes(&self) -> u64 {
        self.inner.lock().unwrap().moved
    }
}

impl Inner {
    fn write(&mut self, bytes: &[u8]) -> Option<u64> {
        let length = bytes.len().max(1);
        if length > self.free {
            return None;
        }
        let (slot, start) = loop {
            match self.by_length.range((length, 0)..).next() {
                Some(&found) => break found,
                None => self.join_strongest_pair(),
            }
        };
        self.take_slot(start, slot);
        if slot > length {
            self.add_slot(start + length, slot - length);
        }
        self.memory[start..start + bytes.len()].copy_from_slice(bytes);
        let key = self.next_key;
        self.next_key += 1;
        self.blocks.insert(start, key);
        self.keys.insert(key, (start, bytes.len()));
        self.free -= length;
        Some(key)
    }

    fn free(&mut self, key: u64) -> bool {
        let Some((start, length)) = self.keys.remove(&key) else { return false };
        self.blocks.remove(&start);
        self.free += length.max(1);
        self.join_slot(start, length.max(1));
        true
    }

    /// Adds a slot, joined with those that it touches.
    fn join_slot(&mut self, mut start: usize, mut length: usize) {
        if let Some((&before, &units)) = self.slots.range(..start).next_back()
            && before + units == start
        {
            self.take_slot(before, units);
            (start, length) = (before, units + length);
        }
        if let Some(&units) = self.slots.get(&(start + length)) {
            self.take_slot(start + length, units);
            length += units;
        }
        self.add_slot(start, length);
    }

    fn add_slot(&mut self, start: usize, length: usize) {
        self.slots.insert(start, length);
        self.by_length.insert((length, start));
    }

    fn take_slot(&mut self, start: usize, length: usize) {
        self.slots.remove(&start);
        self.by_length.remove(&(length, start));
    }

    fn join_strongest_pair(&mut self) {
        let pairs = self.slots.iter().zip(self.slots.iter().skip(1));
        let gravity =
            |((start, length), (next, next_length)): &((&usize, &usize), (&usize, &usize))| {
                let distance = (*next - (*start + *length)) as f64;
                **length as f64 * **next_length as f64 / (distance * distance)
            };
        let strongest = pairs.max_by(|a, b| gravity(a).total_cmp(&gravity(b)));
        let Some(((&start, &length), (&next, _))) = strongest else { return };
        self.take_slot(start, length);
        let between: Vec<(usize, u64)> =
            self.blocks.range(start + length..next).map(|(at, key)| (*at, *key)).collect();
        for (at, key) in between {
            let Some((place, units)) = self.keys.get_mut(&key) else { continue };
            *place = at - length;
            self.memory.copy_within(at..at + *units, at - length);
            self.moved += *units as u64;
            self.blocks.remove(&at);
            self.blocks.insert(at - length, key);
        }
        self.join_slot(next - length, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_bytes_over_compaction() {
        let port = Port::new(1000);
        let keys: Vec<u64> = (0..10).map(|n| port.write(&[n; 100]).unwrap()).collect();
        assert!(port.write(&[0; 1]).is_none());
        for key in keys.iter().step_by(2) {
            assert!(port.free(*key));
        }
        let large = port.write(&[42; 500]).unwrap();
        assert_eq!(port.read(large).unwrap(), [42; 500]);
        for n in (1..10).step_by(2) {
            assert_eq!(port.read(keys[n]).unwrap(), [n as u8; 100]);
        }
        assert_eq!(port.free_bytes(), 0);
        assert!(port.moved_bytes() > 0);
    }
}
