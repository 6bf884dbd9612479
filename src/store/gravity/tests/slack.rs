//! Blocks that are longer than their bytes, and what becomes of that.

use std::thread;
use std::time::Duration;

use super::super::stash::Idle;
use super::super::*;
use super::with_store;
use crate::source::BorrowedSliceSource;
use crate::switch::lane::own_lane;

const CAPACITY: usize = 64 << 10;
/// So that a stash keeps one.
const LONG: usize = 2000;
/// What has a sixteenth less finds its block; in granules of 8.
const SHORT: usize = 1888;

type Store<'a> = GravityStore<&'a BorrowedSliceSource<'a>>;

/// Frees a key, and writes less in its place.
fn write_shorter(store: &Store<'_>, key: Key, byte: u8) -> Key {
    let at = store.read(key).unwrap().as_ptr();
    store.free(key).unwrap();
    let key = store.write(&[byte; SHORT]).unwrap();
    assert_eq!(store.read(key).unwrap().as_ptr(), at, "it found the block");
    key
}

/// Fills the store but for `free` bytes, with blocks that no stash has room for first.
fn fill_but(store: &Store<'_>, free: usize) -> Vec<Key> {
    let spare = store.usage().free_bytes - free;
    let keys = (0..spare / 4096).map(|_| store.write(&[7; 4096]).unwrap());
    let mut keys: Vec<Key> = keys.collect();
    let rest = Some(spare % 4096).filter(|rest| *rest > 0);
    keys.extend(rest.map(|rest| store.write(&vec![7; rest]).unwrap()));
    assert_eq!(store.usage().free_bytes, free);
    keys
}

#[test]
fn slack_serves_before_a_write_is_refused() {
    with_store(CAPACITY, 8, |store| {
        let keys: Vec<Key> = (0..4).map(|_| store.write(&[1; LONG]).unwrap()).collect();
        let keys: Vec<Key> = keys.into_iter().map(|key| write_shorter(store, key, 2)).collect();
        assert_eq!(store.usage().free_bytes, CAPACITY - 4 * LONG, "each has slack");
        let guards: Vec<ReadGuard<'_>> = keys.iter().map(|key| store.read(*key).unwrap()).collect();
        fill_but(store, 0);
        // Each slot is as long as a block's slack; what is read is not in the way.
        for _ in 0..4 {
            store.write(&[3; LONG - SHORT]).unwrap();
        }
        let error = WriteError::Full { asked_bytes: 1, free_bytes: 0 };
        assert_eq!(store.write(&[4; 1]), Err(error));
        assert!(guards.iter().all(|guard| **guard == [2; SHORT]));
        drop(guards);
        // A freed block is as long as it is now.
        store.free(keys[0]).unwrap();
        assert!(store.write(&[5; SHORT + 1]).is_err());
        store.write(&[5; SHORT]).unwrap();
        assert!(keys[1..].iter().all(|key| *store.read(*key).unwrap() == [2; SHORT]));
    });
}

#[test]
fn slack_is_taken_back_before_anything_is_moved() {
    with_store(CAPACITY, 8, |store| {
        let first = store.write(&[1; LONG]).unwrap();
        let second = store.write(&[1; LONG]).unwrap();
        let first = write_shorter(store, first, 2);
        // Behind the first block, where its slack is, a slot opens; what is free at the end makes
        // them enough together, without the slack.
        fill_but(store, 200);
        store.free(second).unwrap();
        store.write(&[3; LONG + LONG - SHORT]).unwrap();
        assert_eq!((store.usage().compactions, store.usage().free_bytes), (0, 200));
        assert_eq!(*store.read(first).unwrap(), [2; SHORT]);
    });
}

#[test]
fn what_is_counted_as_read_keeps_its_slack_until_it_is_not() {
    with_store(CAPACITY, 8, |store| {
        let key = store.write(&[1; LONG]).unwrap();
        let key = write_shorter(store, key, 2);
        // More than a lane announces.
        let guards: Vec<ReadGuard<'_>> = (0..80).map(|_| store.read(key).unwrap()).collect();
        fill_but(store, 0);
        let full = WriteError::Full { asked_bytes: LONG - SHORT, free_bytes: 0 };
        assert_eq!(store.write(&[3; LONG - SHORT]), Err(full));
        drop(guards);
        store.write(&[3; LONG - SHORT]).unwrap();
        assert_eq!(*store.read(key).unwrap(), [2; SHORT]);
    });
}

#[test]
fn a_write_waits_for_the_slack_of_what_is_being_copied() {
    with_store(CAPACITY, 8, |store| {
        let key = store.write(&[1; LONG]).unwrap();
        store.free(key).unwrap();
        thread::scope(|scope| {
            let mut writer = None;
            let pause = || {
                fill_but(store, 0);
                let other = scope.spawn(|| store.write(&[3; LONG - SHORT]));
                // It waits as the one who moves blocks, or else has failed.
                while !store.shared.has_mover() && !other.is_finished() {
                    thread::yield_now();
                }
                thread::sleep(Duration::from_millis(5));
                writer = Some(other);
            };
            let key = store.shared.write_pausing(&[2; SHORT], pause).unwrap();
            let other = writer.unwrap().join().unwrap().unwrap();
            assert_eq!(*store.read(key).unwrap(), [2; SHORT]);
            assert_eq!(*store.read(other).unwrap(), [3; LONG - SHORT]);
        });
    });
}

#[test]
fn a_write_does_not_wait_for_the_slack_of_a_copy_for_ever() {
    with_store(CAPACITY, 8, |store| {
        let key = store.write(&[1; LONG]).unwrap();
        store.free(key).unwrap();
        let pause = || {
            fill_but(store, 0);
            // The copy ends after this.
            let full = WriteError::Full { asked_bytes: LONG - SHORT, free_bytes: 0 };
            assert_eq!(store.write(&[3; LONG - SHORT]), Err(full));
        };
        store.shared.write_pausing(&[2; SHORT], pause).unwrap();
        store.write(&[3; LONG - SHORT]).unwrap();
    });
}

#[test]
fn what_is_freed_and_still_read_gives_its_slack() {
    with_store(CAPACITY, 8, |store| {
        let key = store.write(&[1; LONG]).unwrap();
        let key = write_shorter(store, key, 2);
        let guard = store.read(key).unwrap();
        fill_but(store, 0);
        store.free(key).unwrap();
        store.write(&[3; LONG - SHORT]).unwrap();
        assert_eq!((store.usage().free_bytes, store.usage().withheld_bytes), (0, SHORT));
        assert_eq!(*guard, [2; SHORT]);
        drop(guard);
        assert_eq!((store.usage().free_bytes, store.usage().withheld_bytes), (SHORT, 0));
    });
}

#[test]
fn where_little_is_free_blocks_have_no_slack() {
    with_store(CAPACITY, 8, |store| {
        let key = store.write(&[1; LONG]).unwrap();
        fill_but(store, CAPACITY / 16 - 2 * LONG);
        // Asking what is free takes what waits from the stash, too: so nobody asks from here on.
        store.free(key).unwrap();
        store.write(&[2; SHORT]).unwrap();
        assert_eq!(store.usage().free_bytes, CAPACITY / 16 - LONG - SHORT);
    });
}

#[test]
fn a_long_write_leaves_the_others_in_the_stash() {
    with_store(CAPACITY, 8, |store| {
        // One behind the other, each freed: the last one has a slot behind it.
        let keys: Vec<Key> = (0..4).map(|_| store.write(&[1; 400]).unwrap()).collect();
        let at = store.read(keys[3]).unwrap().as_ptr();
        let slot = store.usage().free_bytes;
        keys.iter().for_each(|key| store.free(*key).unwrap());
        let long = store.write(&vec![2; slot + 400]).unwrap();
        assert_eq!(store.read(long).unwrap().as_ptr(), at);
        let stashed = || store.shared.stashes.remove_that(own_lane(), |_| true);
        let waiting: Vec<Idle> = core::iter::from_fn(stashed).collect();
        assert_eq!(waiting.iter().map(|idle| idle.units).collect::<Vec<_>>(), [50; 3]);
        for idle in waiting {
            assert!(store.shared.stashes.put(own_lane(), idle, NONE));
        }
        // The rest is full, so these are from there.
        for _ in 0..3 {
            store.write(&[3; 400]).unwrap();
        }
        assert_eq!((store.usage().compactions, store.usage().free_bytes), (0, 0));
    });
}
