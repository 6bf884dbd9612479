//! Writers in a store that is 90 % full or more, beside guards that are kept: what fits in what is
//! free is written, or the error says how much guards pin.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::super::*;
use super::threads::{bytes, check, join, next};
use super::with_store;
use crate::source::BorrowedSliceSource;
// The standard library's waits where ThreadSanitizer does not see it.
use crate::sys::lock::Lock;

type Store<'a> = GravityStore<&'a BorrowedSliceSource<'a>>;

const CAPACITY: usize = 1 << 13;
const GRANULE: usize = 8;
const PLACES: usize = 96;
const WRITERS: usize = 2;
/// The longest value: all that is free at 90 % fill.
const LONGEST: usize = CAPACITY / 10;

/// What one place of the table holds: a value's key, number and length.
type Place = Lock<Option<(Key, u32, usize)>>;

/// A table of values. Each place is changed by one writer; anybody reads it.
struct Table {
    places: Vec<Place>,
    /// What is free for sure, as the writers account for it: less than the store has. Who takes a
    /// part of it has a write that fits.
    budget: AtomicUsize,
    refused: AtomicUsize,
}

fn rounded(length: usize) -> usize {
    length.next_multiple_of(GRANULE)
}

impl Table {
    fn new() -> Self {
        let places = (0..PLACES).map(|_| Lock::new(None)).collect();
        Self { places, budget: AtomicUsize::new(CAPACITY), refused: AtomicUsize::new(0) }
    }

    /// Sets apart what a value takes, if so much is free.
    fn take(&self, length: usize) -> bool {
        let less = |budget: usize| budget.checked_sub(rounded(length));
        self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn put_back(&self, length: usize) {
        self.budget.fetch_add(rounded(length), Ordering::Relaxed);
    }

    /// Frees what is in a place of the writer's, and writes another value if there is room.
    fn change(
        &self,
        store: &Store<'_>,
        writer: usize,
        number: u32,
        seed: &mut u32,
        check_pinned: impl Fn(usize),
    ) {
        let which = next(seed) as usize % (PLACES / WRITERS) * WRITERS + writer;
        let mut place = self.places[which].lock();
        // It is not read here, for that would be a guard that the other writers meet.
        if let Some((key, _, length)) = place.take() {
            store.free(key).unwrap();
            self.put_back(length);
        }
        let most = if next(seed).is_multiple_of(8) { LONGEST } else { 200 };
        let length = 6 + next(seed) as usize % (most - 6);
        if !self.take(length) {
            return;
        }
        match store.write(&bytes(which as u8, number, length)) {
            Ok(key) => *place = Some((key, number, length)),
            Err(WriteError::Pinned { asked_bytes, pinned_bytes, .. }) => {
                assert_eq!(asked_bytes, length);
                check_pinned(pinned_bytes);
                self.refused.fetch_add(1, Ordering::Relaxed);
                self.put_back(length);
            }
            Err(error) => panic!("it fits: {error}"),
        }
    }

    /// All writers change so many places each; what an error says of pins is checked.
    fn change_all(
        &self,
        store: &Store<'_>,
        count: u32,
        seed: u32,
        check_pinned: impl Fn(usize) + Sync,
    ) {
        thread::scope(|scope| {
            let writers: [_; WRITERS] = core::array::from_fn(|writer| {
                let check_pinned = &check_pinned;
                scope.spawn(move || {
                    let mut seed = seed + writer as u32;
                    for number in 0..count {
                        self.change(store, writer, number, &mut seed, check_pinned);
                    }
                })
            });
            writers.into_iter().for_each(join);
        });
    }

    /// Reads everything. Nothing else may be going on.
    fn check(&self, store: &Store<'_>) {
        store.verify();
        for (which, place) in self.places.iter().enumerate() {
            if let Some((key, number, length)) = *place.lock() {
                let guard = store.read(key).unwrap();
                assert_eq!((check(&guard, which as u8), guard.len()), (number, length));
            }
        }
    }

    /// A guard of what is in a place, and what is to be read there.
    fn read<'a>(&self, store: &'a Store<'_>, which: usize) -> Option<(ReadGuard<'a>, u32)> {
        let place = self.places[which].lock();
        place.map(|(key, number, _)| (store.read(key).unwrap(), number))
    }
}

/// Tells the readers to end, also when something failed.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn no_pins(pinned: usize) {
    panic!("refused for {pinned} bytes of guards that are not there");
}

/// Writers beside guards that stay for their whole turn, so that it is known what is pinned: an
/// error says exactly that. In turns without guards there is none.
#[test]
fn what_fits_is_written_or_the_error_says_what_is_pinned() {
    const TURNS: u32 = 16;
    with_store(CAPACITY, GRANULE, |store| {
        let table = Table::new();
        table.change_all(store, 300, 1, no_pins);
        let mut seed = 5;
        for turn in 0..TURNS {
            let guards: Vec<_> = (0..2 + turn % 8)
                .filter_map(|_| table.read(store, next(&mut seed) as usize % PLACES))
                .collect();
            let mut held: Vec<_> =
                guards.iter().map(|(guard, _)| (guard.as_ptr(), rounded(guard.len()))).collect();
            held.sort_unstable();
            held.dedup();
            let held: usize = held.iter().map(|(_, bytes)| bytes).sum();
            table.change_all(store, 150, 100 + turn, |pinned| assert_eq!(pinned, held));
            for (guard, number) in &guards {
                assert_eq!(check(guard, guard[0]), *number);
            }
            drop(guards);
            table.change_all(store, 80, 200 + turn, no_pins);
            table.check(store);
        }
        let usage = store.usage();
        assert!(usage.compactions > 100, "nothing was in the way: {usage:?}");
        assert!(table.refused.into_inner() > 0, "no guard was in the way");
        assert!(usage.free_bytes <= CAPACITY / 5, "{usage:?}");
    });
}

/// As above, beside threads that read all the time and keep some guards a while.
#[test]
fn readers_come_and_go_beside_writers_of_a_full_store() {
    const READERS: u32 = 2;
    const KEPT: usize = 3;
    with_store(CAPACITY, GRANULE, |store| {
        let table = Table::new();
        table.change_all(store, 300, 1, no_pins);
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS)
                .map(|reader| {
                    let (table, is_done) = (&table, &is_done);
                    scope.spawn(move || {
                        let (mut seed, mut kept) = (reader + 50, Vec::new());
                        while !is_done.load(Ordering::Relaxed) {
                            let which = next(&mut seed) as usize % PLACES;
                            let Some(read) = table.read(store, which) else { continue };
                            assert_eq!(check(&read.0, which as u8), read.1);
                            kept.push(read);
                            if kept.len() == KEPT {
                                thread::yield_now();
                                let (guard, number) = kept.remove(0);
                                assert_eq!(check(&guard, guard[0]), number);
                            }
                        }
                    })
                })
                .collect();
            let most = READERS as usize * KEPT * rounded(LONGEST);
            let done = Done(&is_done);
            table.change_all(store, 1200, 9, |pinned| assert!(pinned > 0 && pinned <= most));
            drop(done);
            readers.into_iter().for_each(join);
        });
        table.check(store);
        table.change_all(store, 300, 77, no_pins);
        assert!(store.usage().compactions > 100);
    });
}
