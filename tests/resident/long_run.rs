//! A long run: threads that come and go, and sizes whose mix changes, over a live set that stays.
//!
//! The full length, a billion operations over a million births of threads and a hundred changes of
//! the mix: `cargo test --release --test resident -- --ignored full_length --nocapture`.
//! `HEAPSWITCH_TEST_LONG_RUN` divides both, for less time.

use std::thread;

use heapswitch::purge;

use crate::memory::resident_bytes;
use crate::mix::{self, Random};

/// Threads at a time. Each replaces blocks of a set of its own, then hands it to another.
const LINES: usize = 2;

/// Blocks of a set.
const SET: usize = 2000;

/// The run's parts, and the mixes of each. Each part has the same mixes, so that parts compare.
const PARTS: usize = 10;
const MIXES: usize = 10;

/// How long a run is.
#[derive(Clone, Copy, Debug)]
struct Length {
    operations: usize,
    births: usize,
    /// One block in so many is never freed: to see that the figures tell.
    leaked_in: usize,
}

type Set = Vec<Box<[u8]>>;

/// A size by one of the mixes: narrow or wide, small or large.
fn size(mix: usize, random: &mut Random) -> usize {
    let least = 8 << (mix % 5);
    match mix / 5 {
        0 => least + random.below(least * 8),
        _ => least + random.below(least).pow(2) / least + random.below(2048),
    }
}

fn replace(set: &mut Set, mix: usize, seed: u64, length: Length) {
    let mut random = Random::new(seed);
    for operation in 0..length.operations / length.births {
        let at = random.below(set.len());
        let new = mix::block(size(mix, &mut random));
        let old = std::mem::replace(&mut set[at], new);
        if (operation + 1) % length.leaked_in == 0 {
            std::mem::forget(old);
        }
    }
}

/// The mean of resident memory in each part, in bytes.
fn resident_by_part(length: Length) -> Vec<usize> {
    let mut sets: Vec<Set> = vec![(0..SET).map(|_| mix::block(64)).collect(); LINES];
    let births_a_mix = length.births / PARTS / MIXES;
    let mut seed = 0;
    let part = |_| {
        let resident = (0..MIXES).map(|mix| {
            for _ in (0..births_a_mix).step_by(LINES) {
                thread::scope(|scope| {
                    let start = |set| {
                        seed += 1;
                        let seed = seed;
                        scope.spawn(move || replace(set, mix, seed, length))
                    };
                    let threads: Vec<_> = sets.iter_mut().map(start).collect();
                    // Joined, or the next ones may start before these have handed their heaps on.
                    threads.into_iter().for_each(|thread| thread.join().unwrap());
                });
                // The next thread of each line frees what one of another line made.
                sets.rotate_left(1);
            }
            // What lies free is measured elsewhere, and depends on the clock.
            purge();
            resident_bytes()
        });
        resident.sum::<usize>() / MIXES
    };
    (0..PARTS).map(part).collect()
}

/// The last part's resident memory, as a part of the second's: in the first all is warmed up.
fn growth(length: Length) -> f64 {
    let resident = resident_by_part(length);
    println!("{length:?}: resident by part {resident:?}");
    resident[PARTS - 1] as f64 / resident[1] as f64
}

/// Of the full length; and of the short one, in which a few thousand blocks are replaced a few
/// times in each part, so that parts differ by chance.
const MOST_GROWTH: f64 = 1.02;
const MOST_GROWTH_SHORT: f64 = 1.05;

const SHORT: Length = Length { operations: 1_800_000, births: 1800, leaked_in: usize::MAX };

/// The kernel makes no huge pages for the process meanwhile. When it makes one of pages that are
/// there already depends on its clock, and may add 2 MiB that hold no block: more than what is
/// looked for in a short run. The full one is as programs are.
struct WithoutHugePages;

impl WithoutHugePages {
    fn new() -> Self {
        Self::set(true);
        Self
    }

    fn set(is_on: bool) {
        // SAFETY: changes a flag of the process, and reads no memory.
        let result =
            unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(is_on), 0, 0, 0) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for WithoutHugePages {
    fn drop(&mut self) {
        Self::set(false);
    }
}

#[test]
fn a_long_run_does_not_grow() {
    let _alone = crate::alone();
    let _small = WithoutHugePages::new();
    let growth = growth(SHORT);
    assert!(growth <= MOST_GROWTH_SHORT, "{growth}");
}

#[test]
fn a_leak_of_a_block_in_twenty_would_be_seen() {
    let _alone = crate::alone();
    let _small = WithoutHugePages::new();
    let (operations, births) = (SHORT.operations / 9, SHORT.births / 9);
    let growth = growth(Length { operations, births, leaked_in: 20 });
    assert!(growth > MOST_GROWTH_SHORT, "{growth}");
}

#[test]
#[ignore = "takes many minutes"]
fn full_length() {
    let _alone = crate::alone();
    let divisor = std::env::var("HEAPSWITCH_TEST_LONG_RUN").map_or(1, |text| text.parse().unwrap());
    let length =
        Length { operations: 1_000_000_000 / divisor, births: 1_000_000 / divisor, ..SHORT };
    let growth = growth(length);
    assert!(growth <= MOST_GROWTH, "{growth}");
}
