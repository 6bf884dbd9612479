//! The system has no memory for what a `GravityStore` notes of blocks: a write fails with an error
//! that says so, freeing never does, and what was written is there.
#![cfg(not(any(heapswitch_pass_through, loom)))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::mem::MaybeUninit;

use heapswitch::BorrowedSliceSource;
use heapswitch::store::gravity::{GravityError, ReplaceError};
use heapswitch::store::{GravitySettings, GravityStore, Key, WriteError};

/// The system's memory, of which the calling thread gets a part only while that is set.
struct Rationed;

thread_local! {
    /// How many allocations more succeed; none of them counts while it is the largest number.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    static REFUSED: Cell<usize> = const { Cell::new(0) };
}

impl Rationed {
    fn is_refused() -> bool {
        match LEFT.get() {
            usize::MAX => false,
            0 => {
                REFUSED.set(REFUSED.get() + 1);
                true
            }
            left => {
                LEFT.set(left - 1);
                false
            }
        }
    }
}

// SAFETY: whatever is given comes from the system's allocator.
unsafe impl GlobalAlloc for Rationed {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Self::is_refused() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract; all blocks are the system's.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if Self::is_refused() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's contract.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static GLOBAL: Rationed = Rationed;

/// Runs `work` with so many allocations; its result, and how many were refused.
fn with_rations<R>(allocations: usize, work: impl FnOnce() -> R) -> (R, usize) {
    REFUSED.set(0);
    LEFT.set(allocations);
    let result = work();
    LEFT.set(usize::MAX);
    (result, REFUSED.get())
}

const CAPACITY: usize = 1 << 14;

fn with_memory(test: impl FnOnce(&BorrowedSliceSource<'_>)) {
    let mut memory = vec![MaybeUninit::uninit(); CAPACITY + 64];
    test(&BorrowedSliceSource::new(&mut memory));
}

fn value(length: usize, number: usize) -> Vec<u8> {
    vec![number as u8; length]
}

#[test]
fn a_store_is_not_made_without_memory() {
    with_memory(|source| {
        let mut made_with = None;
        for allocations in 0..20 {
            let make = || GravityStore::new_in(source, GravitySettings::new(CAPACITY));
            let (store, refused) = with_rations(allocations, make);
            match store {
                Ok(store) => {
                    assert_eq!((refused, store.usage().free_bytes), (0, CAPACITY));
                    made_with = made_with.or(Some(allocations));
                }
                Err(error) => {
                    assert_eq!(error, GravityError::NoMemory { bytes: CAPACITY });
                    assert!(refused > 0 && made_with.is_none());
                }
            }
            assert_eq!(source.free_bytes(), source.usable_bytes(), "the range went back");
        }
        assert!(made_with.is_some_and(|allocations| allocations > 0));
    });
}

/// What the store holds, as it must be.
struct Held<'a> {
    store: GravityStore<&'a BorrowedSliceSource<'a>>,
    live: Vec<(Key, Vec<u8>)>,
}

impl Held<'_> {
    fn check(&self) {
        for (key, bytes) in &self.live {
            assert_eq!(&*self.store.read(*key).unwrap(), &**bytes);
        }
        assert_eq!(self.store.usage().blocks, self.live.len());
    }

    /// Writes and replaces with so many allocations each, as long as they succeed, and then
    /// without end. How often there was no memory.
    fn write(&mut self, lengths: impl Iterator<Item = usize>, allocations: usize) -> usize {
        let mut failed = 0;
        for (number, length) in lengths.enumerate() {
            let bytes = value(length, number);
            let free = self.store.usage().free_bytes;
            let (key, refused) = with_rations(allocations, || self.store.write(&bytes));
            if let Ok(key) = key {
                self.live.push((key, bytes));
                continue;
            }
            assert_eq!(key, Err(WriteError::NoRecords), "{free} are free for {length}");
            assert!(refused > 0);
            failed += 1;
            assert_eq!(self.store.usage().free_bytes, free);
            self.check();
            self.live.push((self.store.write(&bytes).unwrap(), bytes));
        }
        failed
    }
}

/// More and more blocks: whatever allocation of the store's is refused.
#[test]
fn no_memory_for_more_blocks_is_an_error() {
    for allocations in 0..8 {
        with_memory(|source| {
            let store = GravityStore::new_in(source, GravitySettings::new(CAPACITY)).unwrap();
            let mut held = Held { store, live: Vec::new() };
            let failed = held.write((0..900).map(|number| 1 + number % 16), allocations);
            assert!(failed > 0 || allocations > 2, "{allocations}: nothing failed");
            // To free takes none, with readers or without, and so does to replace in place.
            let guards: Vec<_> = held
                .live
                .iter()
                .step_by(5)
                .map(|(key, _)| held.store.read(*key).unwrap())
                .collect();
            let ((), refused) = with_rations(0, || {
                for (key, bytes) in held.live.iter().skip(1).step_by(5) {
                    held.store.replace(*key, bytes).unwrap();
                }
                // Stashes are made of memory too; where there is none, blocks go without them.
                held.live.iter().for_each(|(key, _)| held.store.free(*key).unwrap());
            });
            assert!(refused <= 2 * held.live.len());
            drop(guards);
            held.live.clear();
            held.check();
            assert_eq!(held.store.usage().free_bytes, CAPACITY);
        });
    }
}

/// What fits only where blocks are moved: each allocation of the search for a plan is refused.
#[test]
fn no_memory_for_a_plan_is_an_error() {
    let mut errors = 0;
    for allocations in 0..40 {
        with_memory(|source| {
            let store = GravityStore::new_in(source, GravitySettings::new(CAPACITY)).unwrap();
            let mut held = Held { store, live: Vec::new() };
            held.write((0..512).map(|_| 32), usize::MAX);
            let mut at = 0;
            held.live.retain(|(key, _)| {
                at += 1;
                at % 3 != 0 || held.store.free(*key).is_err()
            });
            let failed = held.write([320, 1000].into_iter(), allocations);
            errors += failed;
            let (key, _) = held.live[0];
            let bytes = value(500, 3);
            let (replaced, refused) = with_rations(allocations, || held.store.replace(key, &bytes));
            match replaced {
                Ok(()) => held.live[0].1 = bytes,
                Err(error) => {
                    assert_eq!(error, ReplaceError::Write(WriteError::NoRecords));
                    assert!(refused > 0);
                }
            }
            held.check();
            // A step moves nothing where there is no memory, and goes on where there is.
            let (moved, refused) = with_rations(allocations, || held.store.compact_step(64));
            assert!(moved > 0 || refused > 0);
            held.check();
            assert!(held.store.compact_step(64) > 0);
            assert!(failed > 0 || allocations > 0);
        });
    }
    assert!(errors > 10, "{errors}");
}
