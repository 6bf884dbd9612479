//! Several threads on one store.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::super::*;
use super::with_store;

/// Bytes from which can be told whether they belong together.
pub(super) fn bytes(owner: u8, number: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![owner ^ number as u8; length.max(6)];
    bytes[0] = owner;
    bytes[1..5].copy_from_slice(&number.to_le_bytes());
    bytes
}

pub(super) fn check(found: &[u8], owner: u8) -> u32 {
    assert_eq!(found[0], owner);
    let number = u32::from_le_bytes(found[1..5].try_into().expect("four bytes"));
    assert!(found[5..].iter().all(|byte| *byte == owner ^ number as u8), "torn");
    number
}

/// Waits by the call that ThreadSanitizer knows: how a scope waits it cannot see.
pub(super) fn join(thread: thread::ScopedJoinHandle<'_, ()>) {
    thread.join().expect("the thread's own assertions hold");
}

pub(super) fn next(seed: &mut u32) -> u32 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *seed >> 8
}

/// Each thread writes, replaces and frees its own; all read each other's. A thread's numbers only
/// rise, so whoever reads a key again must not find an older value.
#[test]
fn threads_read_whole_values_and_the_newest() {
    const ROUNDS: u32 = 800;
    with_store(1 << 12, 8, |store| {
        let shared: Vec<Key> =
            (0..4_u8).map(|owner| store.write(&bytes(owner, 0, 100)).unwrap()).collect();
        let refused = AtomicUsize::new(0);
        thread::scope(|scope| {
            let threads = [0, 1, 2, 3_u8].map(|owner| {
                let (shared, refused) = (&shared, &refused);
                scope.spawn(move || {
                    let mut seed = u32::from(owner) + 1;
                    let mut own = Vec::new();
                    let mut seen = [0; 4];
                    let mut held = Vec::new();
                    for round in 1..=ROUNDS {
                        let length = 6 + next(&mut seed) as usize % 400;
                        let value = bytes(owner, round, length);
                        match store.replace(shared[usize::from(owner)], &value) {
                            Ok(()) => {}
                            Err(ReplaceError::Write(_)) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => panic!("{error}"),
                        }
                        match store.write(&value) {
                            Ok(key) => own.push(key),
                            Err(_) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        if own.len() > 8 || (round % 3 == 0 && !own.is_empty()) {
                            let key = own.swap_remove(next(&mut seed) as usize % own.len());
                            check(&store.read(key).unwrap(), owner);
                            store.free(key).unwrap();
                            assert!(store.read(key).is_err());
                        }
                        let other = next(&mut seed) as usize % 4;
                        let guard = store.read(shared[other]).unwrap();
                        let number = check(&guard, other as u8);
                        assert!(number >= seen[other], "an older value came back");
                        seen[other] = number;
                        held.push((guard, number));
                        if held.len() > 3 {
                            let (guard, number) = held.swap_remove(0);
                            assert_eq!(check(&guard, guard[0]), number);
                        }
                    }
                    drop(held);
                    for key in own {
                        store.free(key).unwrap();
                    }
                })
            });
            threads.into_iter().for_each(join);
        });
        let usage = store.usage();
        assert_eq!((usage.blocks, usage.withheld_bytes), (4, 0));
        assert!(usage.compactions > 0, "nothing was moved: {usage:?}");
        println!("{usage:?}, refused {}", refused.load(Ordering::Relaxed));
    });
}

/// One writer has reserved its block and is stopped in its copy. Another meanwhile writes, reads,
/// replaces and frees, and moves blocks for a write that finds no slot.
#[test]
fn a_writer_does_not_wait_for_another_one() {
    const PATIENCE: Duration = Duration::from_secs(20);
    with_store(1 << 10, 8, |store| {
        let keys: Vec<Key> =
            (0..8_u8).map(|owner| store.write(&bytes(owner, 0, 96)).unwrap()).collect();
        let (tell, told) = mpsc::channel();
        let (release, released) = mpsc::channel();
        thread::scope(|scope| {
            let tell_stopped = tell.clone();
            let stopped = scope.spawn(move || {
                let pause = || {
                    tell_stopped.send("stopped").unwrap();
                    released.recv_timeout(PATIENCE).unwrap();
                };
                let key = store.shared.write_pausing(&bytes(9, 9, 64), pause).unwrap();
                assert_eq!(check(&store.read(key).unwrap(), 9), 9);
            });
            assert_eq!(told.recv_timeout(PATIENCE), Ok("stopped"));
            let keys = &keys;
            let other = scope.spawn(move || {
                for number in 1..50 {
                    let key = store.write(&bytes(20, number, 40)).unwrap();
                    assert_eq!(check(&store.read(key).unwrap(), 20), number);
                    store.replace(key, &bytes(20, number + 1, 56)).unwrap();
                    store.free(key).unwrap();
                }
                // 1024 - 8 * 96 - 64 and two of 96 are free, but not in one piece.
                store.free(keys[1]).unwrap();
                store.free(keys[3]).unwrap();
                let before = store.usage();
                assert!(before.largest_slot_bytes < 320, "{before:?}");
                store.write(&[1; 320]).unwrap();
                assert!(store.usage().moved_bytes > before.moved_bytes);
                tell.send("finished").unwrap();
            });
            let finished = told.recv_timeout(PATIENCE);
            release.send(()).unwrap();
            assert_eq!(finished, Ok("finished"), "it waited for a copy elsewhere");
            join(other);
            join(stopped);
        });
        for owner in [0, 2, 4, 5, 6, 7_u8] {
            check(&store.read(keys[usize::from(owner)]).unwrap(), owner);
        }
    });
}

/// A mover that is disturbed again and again lets the others rest; they go on when it is done.
#[test]
fn who_moves_lets_others_rest() {
    with_store(64, 8, |store| {
        let keys: Vec<Key> = (0..8_u8).map(|n| store.write(&[n; 8]).unwrap()).collect();
        keys.iter().step_by(2).for_each(|key| store.free(*key).unwrap());
        // All the blocks that are left are just being copied to, so nothing can move.
        let records = [1, 3, 5, 7].map(|n| store.shared.record(keys[n]).unwrap());
        records.iter().for_each(|(record, _)| record.pins.claim().unwrap());
        let freed = AtomicBool::new(false);
        thread::scope(|scope| {
            let mover = scope.spawn(|| assert!(store.write(&[9; 32]).is_ok()));
            while !store.shared.wants_rest.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            let other = scope.spawn(|| {
                store.free(keys[1]).unwrap();
                freed.store(true, Ordering::Relaxed);
            });
            thread::sleep(Duration::from_millis(20));
            let has_begun = freed.load(Ordering::Relaxed);
            // Reading goes on: here of a key that there is none of.
            assert!(store.read(keys[0]).is_err());
            records.iter().for_each(|(record, number)| store.shared.end_copy(record, *number));
            join(mover);
            join(other);
            assert!(!has_begun, "it began while others were to rest");
        });
        assert!(!store.shared.wants_rest.load(Ordering::Relaxed));
        assert_eq!((store.usage().free_bytes, store.usage().blocks), (8, 4));
    });
}

/// Two threads free and replace one key at once: one of them frees it, nothing is left.
#[test]
fn a_key_is_freed_once() {
    with_store(1 << 12, 8, |store| {
        for round in 0..500 {
            let key = store.write(&bytes(1, 1, 40)).unwrap();
            let freed = AtomicUsize::new(0);
            thread::scope(|scope| {
                let threads = [(); 2].map(|()| {
                    scope.spawn(|| {
                        let _ = store.replace(key, &bytes(1, 2, 40 + round % 50));
                        freed.fetch_add(usize::from(store.free(key).is_ok()), Ordering::Relaxed);
                    })
                });
                if let Ok(guard) = store.read(key) {
                    check(&guard, 1);
                }
                threads.into_iter().for_each(join);
            });
            assert_eq!(freed.load(Ordering::Relaxed), 1);
            assert_eq!(store.usage().blocks, 0);
        }
    });
}

/// Freed blocks wait in stashes, and writes of the same length take them from there; whoever needs
/// the room gets it nonetheless, and the sums are right.
#[test]
fn freed_blocks_wait_for_writes_of_their_length() {
    const CAPACITY: usize = 1 << 16;
    with_store(CAPACITY, 8, |store| {
        thread::scope(|scope| {
            let threads = [0, 1, 2_u8].map(|owner| {
                scope.spawn(move || {
                    let mut seed = u32::from(owner) + 7;
                    let mut own = Vec::new();
                    for round in 0..600 {
                        // Of a few lengths, up to what a stash keeps.
                        let length = 40 + 8 * (next(&mut seed) as usize % 12);
                        own.push((store.write(&bytes(owner, round, length)).unwrap(), round));
                        let which = next(&mut seed) as usize % own.len();
                        let (key, number) = own[which];
                        let guard = store.read(key).unwrap();
                        assert_eq!(check(&guard, owner), number);
                        if own.len() > 30 || round % 2 == 0 {
                            store.free(own.swap_remove(which).0).unwrap();
                            assert!(store.read(key).is_err());
                            // Freed while it is read: nobody may have it yet.
                            assert_eq!(check(&guard, owner), number);
                        }
                    }
                    own.into_iter().for_each(|(key, _)| store.free(key).unwrap());
                })
            });
            threads.into_iter().for_each(join);
        });
        let key = store.write(&[1; CAPACITY]).unwrap();
        assert_eq!((store.usage().free_bytes, store.usage().blocks), (0, 1));
        store.free(key).unwrap();
    });
}

/// More guards than a lane announces, dropped by another thread than read them.
#[test]
fn guards_end_anywhere() {
    with_store(1 << 12, 8, |store| {
        let keys: Vec<Key> =
            (0..30_u8).map(|owner| store.write(&bytes(owner, 1, 64)).unwrap()).collect();
        let guards: Vec<ReadGuard<'_>> =
            keys.iter().chain(&keys).map(|key| store.read(*key).unwrap()).collect();
        for key in &keys {
            store.free(*key).unwrap();
        }
        assert_eq!(store.usage().withheld_bytes, 30 * 64);
        thread::scope(|scope| {
            join(scope.spawn(move || {
                for (guard, owner) in guards.iter().zip((0..30).chain(0..30)) {
                    assert_eq!(check(guard, owner), 1);
                }
            }));
        });
        let usage = store.usage();
        assert_eq!((usage.withheld_bytes, usage.blocks, usage.slots), (0, 0, 1));
    });
}

/// What was freed under a copy is not withheld by readers: a write waits for the copy's end, and
/// does not blame a guard.
#[test]
fn a_write_waits_for_what_was_freed_under_a_copy() {
    with_store(64, 8, |store| {
        let kept = store.write(&[2; 8]).unwrap();
        let key = store.write(&[1; 40]).unwrap();
        let guard = store.read(kept).unwrap();
        let (record, number) = store.shared.record(key).unwrap();
        record.pins.claim().unwrap();
        store.free(key).unwrap();
        assert_eq!(store.usage().withheld_bytes, 40);
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let is_done = &is_done;
            let writer = scope.spawn(move || {
                let written = store.write(&[3; 48]);
                is_done.store(true, Ordering::Relaxed);
                written.map(|_| ()).unwrap();
            });
            // The copy ends when the writer waits, or has failed already.
            while !store.shared.has_mover() && !is_done.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            store.shared.end_copy(record, number);
            join(writer);
        });
        assert_eq!((&*guard, store.usage().blocks), (&[2; 8][..], 2));
    });
}

/// What is freed is a block or free at any moment: no more blocks are seen than live.
#[test]
fn what_overflows_a_stash_is_nowhere_never() {
    const BLOCKS: usize = 6000;
    with_store(1 << 16, 8, |store| {
        let keys: Vec<Key> = (0..BLOCKS).map(|_| store.write(&[1; 8]).unwrap()).collect();
        let live = AtomicUsize::new(BLOCKS);
        thread::scope(|scope| {
            let live = &live;
            let thread = scope.spawn(move || {
                for key in keys {
                    store.free(key).unwrap();
                    live.fetch_sub(1, Ordering::Release);
                }
            });
            let mut seen = BLOCKS;
            while seen > 100 {
                let now = live.load(Ordering::Acquire);
                // A stash has to be full again.
                if now + 80 < seen || now == 0 {
                    seen = now;
                    let usage = store.usage();
                    assert!(usage.blocks <= now, "{} blocks of {now}", usage.blocks);
                    assert!(usage.free_bytes >= (1 << 16) - 8 * now, "{usage:?}, {now}");
                }
            }
            join(thread);
        });
        assert_eq!(store.usage().free_bytes, 1 << 16);
    });
}
