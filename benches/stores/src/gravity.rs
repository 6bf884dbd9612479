//! The work that the compacting stores are timed on.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use heapswitch::store::{GravitySettings, GravityStore, Key};

use crate::Numbers;
use crate::port::Port;

/// What is measured.
pub trait Store: Sync {
    type Key: Copy + Send;

    /// A store of so many bytes, in granules of so many where it has such.
    fn with_capacity(bytes: usize, granule_bytes: usize) -> Self;
    fn write(&self, bytes: &[u8]) -> Option<Self::Key>;
    fn free(&self, key: Self::Key) -> bool;
    fn free_bytes(&self) -> usize;
    fn moved_bytes(&self) -> u64;

    /// Shows the bytes of a key.
    fn read(&self, key: Self::Key, look: impl FnOnce(&[u8]) -> u64) -> u64;
}

impl Store for GravityStore {
    type Key = Key;

    fn with_capacity(capacity_bytes: usize, granule_bytes: usize) -> Self {
        let settings = GravitySettings { capacity_bytes, granule_bytes };
        GravityStore::new(settings).expect("there is memory")
    }

    fn write(&self, bytes: &[u8]) -> Option<Key> {
        GravityStore::write(self, bytes).ok()
    }

    fn free(&self, key: Key) -> bool {
        GravityStore::free(self, key).is_ok()
    }

    fn free_bytes(&self) -> usize {
        self.usage().free_bytes
    }

    fn moved_bytes(&self) -> u64 {
        self.usage().moved_bytes
    }

    #[inline]
    fn read(&self, key: Key, look: impl FnOnce(&[u8]) -> u64) -> u64 {
        let bytes = GravityStore::read(self, key).expect("the key is live");
        look(&bytes)
    }
}

impl Store for Port {
    type Key = u64;

    fn with_capacity(bytes: usize, _: usize) -> Self {
        Port::new(bytes)
    }

    fn write(&self, bytes: &[u8]) -> Option<u64> {
        Port::write(self, bytes)
    }

    fn free(&self, key: u64) -> bool {
        Port::free(self, key)
    }

    fn free_bytes(&self) -> usize {
        Port::free_bytes(self)
    }

    fn moved_bytes(&self) -> u64 {
        Port::moved_bytes(self)
    }

    #[inline]
    fn read(&self, key: u64, look: impl FnOnce(&[u8]) -> u64) -> u64 {
        let bytes = Port::read(self, key).expect("the key is live");
        look(&bytes)
    }
}

/// How long values are, in bytes: from, and up to.
#[derive(Clone, Copy, Debug)]
pub struct Lengths(pub usize, pub usize);

impl Lengths {
    pub(crate) fn choose(self, numbers: &mut Numbers) -> usize {
        self.0 + numbers.below(self.1 - self.0)
    }
}

/// A store that is 90 % full, and its keys in equal parts for the threads.
pub struct Filled<S: Store> {
    pub store: S,
    pub keys: Vec<Vec<S::Key>>,
    pub lengths: Lengths,
}

impl<S: Store> Filled<S> {
    /// In granules of 8 bytes.
    pub fn new(capacity: usize, lengths: Lengths, parts: usize) -> Self {
        Self::with_free_part(10, 8, capacity, lengths, parts)
    }

    /// All but the so-manieth part full, in granules of some bytes.
    pub fn with_free_part(
        free_part: usize,
        granule: usize,
        capacity: usize,
        lengths: Lengths,
        parts: usize,
    ) -> Self {
        let store = S::with_capacity(capacity, granule);
        let mut keys = vec![Vec::new(); parts];
        let (mut numbers, bytes) = (Numbers(1), vec![1; lengths.1]);
        for part in (0..parts).cycle() {
            if store.free_bytes() < capacity / free_part {
                break;
            }
            let length = lengths.choose(&mut numbers);
            keys[part].push(store.write(&bytes[..length]).expect("it fits"));
        }
        // Replaced at random once, so that the free space is scattered.
        let mut filled = Self { store, keys, lengths };
        let rounds = filled.keys[0].len();
        filled.replace(rounds);
        filled
    }

    /// Each thread frees one of its keys and writes another value, `count` times; the least time
    /// from the first start to the last end.
    pub fn replace(&mut self, count: usize) -> Duration {
        let (store, lengths) = (&self.store, self.lengths);
        run(&mut self.keys, |keys, numbers| {
            let bytes = vec![2; lengths.1];
            for _ in 0..count {
                let length = lengths.choose(numbers);
                replace_one(store, keys, numbers, &bytes[..length]);
            }
            0
        })
    }

    /// Each thread reads `count` times a key of its own at random.
    pub fn read(&mut self, count: usize, look: impl Fn(&[u8]) -> u64 + Sync) -> Duration {
        let store = &self.store;
        run(&mut self.keys, |keys, numbers| {
            (0..count).map(|_| store.read(keys[numbers.below(keys.len())], &look)).sum()
        })
    }

    /// As `read`, but each tenth time a value is replaced.
    pub fn mixed(&mut self, count: usize, look: impl Fn(&[u8]) -> u64 + Sync) -> Duration {
        let (store, lengths) = (&self.store, self.lengths);
        run(&mut self.keys, |keys, numbers| {
            let bytes = vec![3; lengths.1];
            let mut sum = 0;
            for round in 0..count {
                if round % 10 == 0 {
                    let length = lengths.choose(numbers);
                    replace_one(store, keys, numbers, &bytes[..length]);
                } else {
                    sum += store.read(keys[numbers.below(keys.len())], &look);
                }
            }
            sum
        })
    }
}

/// A value of other length for a random key; if that does not fit, shorter ones are put in, too.
pub(crate) fn replace_one<S: Store>(
    store: &S,
    keys: &mut [S::Key],
    numbers: &mut Numbers,
    bytes: &[u8],
) {
    let which = numbers.below(keys.len());
    assert!(store.free(keys[which]));
    let mut bytes = bytes;
    loop {
        match store.write(bytes) {
            Some(key) => {
                keys[which] = key;
                return;
            }
            // The sizes drift, so the store may be full at times.
            None => bytes = &bytes[..bytes.len() / 2],
        }
    }
}

/// Runs `work` on each part by a thread of its own, all at once.
fn run<K: Send>(
    parts: &mut [Vec<K>],
    work: impl Fn(&mut Vec<K>, &mut Numbers) -> u64 + Sync,
) -> Duration {
    let barrier = Barrier::new(parts.len());
    let times: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..)
            .zip(parts)
            .map(|(seed, keys)| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    let mut numbers = Numbers(seed);
                    barrier.wait();
                    let start = Instant::now();
                    std::hint::black_box(work(keys, &mut numbers));
                    (start, Instant::now())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let start = times.iter().map(|(start, _)| *start).min().unwrap();
    let end = times.iter().map(|(_, end)| *end).max().unwrap();
    end - start
}

/// Looks at every byte.
pub fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

/// Looks at the first and the last byte.
pub fn ends(bytes: &[u8]) -> u64 {
    u64::from(bytes[0]) + u64::from(bytes[bytes.len() - 1])
}
