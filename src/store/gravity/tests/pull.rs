//! The gravity between slots, and that compaction starts where it is greatest.

use super::super::plan::Planner;
use super::super::slots::Slots;
use super::super::space::Content;
use super::super::*;
use super::optimum::Numbers;
use super::with_store;

#[test]
fn gravity_is_the_product_of_the_sizes_by_the_square_of_the_distance() {
    let mut slots = Slots::new();
    slots.make_room(4).unwrap();
    // 4 free, 6 not, 6 free, 4 not, 9 free, 1 not, 100 free.
    let [first, second, third, last] =
        [(0, 4), (10, 6), (20, 9), (30, 100)].map(|(start, length)| slots.insert(0, start, length));
    assert_eq!(slots.gravity_of(first), 24.0 / 36.0);
    assert_eq!(slots.gravity_of(second), 54.0 / 16.0);
    assert_eq!(slots.gravity_of(third), 900.0);
    assert_eq!(slots.gravity_of(last), 0.0);
    assert_eq!(slots.strongest().collect::<Vec<_>>(), [third, second, first, last]);
    // What lies between grows when the slot does not touch any more.
    slots.resize(last, 39, 91);
    assert_eq!(slots.gravity_of(third), 9.0 * 91.0 / 100.0);
    slots.remove(second);
    assert_eq!(slots.gravity_of(first), 36.0 / 256.0);
    assert_eq!(slots.strongest().collect::<Vec<_>>(), [third, first, last]);
}

/// Slots of random lengths and distances, some of which change: the strongest are those that a look
/// at all of them finds.
#[test]
fn the_strongest_are_the_strongest_of_all() {
    let mut numbers = Numbers(3);
    for round in 0..20 {
        let mut slots = Slots::new();
        slots.make_room(60).unwrap();
        let (mut start, mut all) = (0, Vec::new());
        for _ in 0..60 {
            start += 1 + numbers.below(30) as u32;
            let length = 1 + numbers.below(50) as u32;
            all.push((slots.insert(0, start, length), start, length));
            start += length;
        }
        slots.strongest().for_each(drop);
        for _ in 0..round {
            let at = numbers.below(all.len());
            if numbers.below(2) == 0 && all.len() > 20 {
                slots.remove(all.remove(at).0);
            } else {
                let (slot, start, length) = &mut all[at];
                *length = 1 + numbers.below(*length as usize) as u32;
                slots.resize(*slot, *start, *length);
            }
        }
        let mut pulls: Vec<f32> = all
            .windows(2)
            .map(|pair| {
                let [(_, start, length), (_, next, next_length)] = *pair else { unreachable!() };
                let distance = (next - start - length) as f32;
                length as f32 * next_length as f32 / (distance * distance)
            })
            .collect();
        pulls.sort_by(|a, b| b.total_cmp(a));
        let found: Vec<f32> = slots.strongest().map(|slot| slots.gravity_of(slot)).collect();
        assert_eq!(found, pulls[..8]);
    }
}

/// Pairs of slots, each with one block of a unit in between and one that is far longer behind:
/// `(first slot, block between, second slot)` in units. The keys of what is between.
fn pairs<S: MemorySource>(store: &GravityStore<S>, pairs: &[(usize, usize, usize)]) -> Vec<Key> {
    let mut freed = Vec::new();
    let mut between = Vec::new();
    for (first, block, second) in pairs {
        freed.push(store.write(&vec![0; *first]).unwrap());
        between.push(store.write(&vec![1; *block]).unwrap());
        freed.push(store.write(&vec![0; *second]).unwrap());
        store.write(&[2; 40]).unwrap();
    }
    let rest = store.usage().free_bytes;
    store.write(&vec![3; rest]).unwrap();
    freed.into_iter().for_each(|key| store.free(key).unwrap());
    between
}

fn address<S: MemorySource>(store: &GravityStore<S>, key: Key) -> usize {
    store.read(key).unwrap().as_ptr().addr()
}

/// 64 / 16 is more than 144 / 64, though the product is less, and moving it costs less as well; and
/// 36 / 16 is as much as that, but what lies between the first of those is longer.
#[test]
fn a_step_moves_what_the_strongest_pull_is_across() {
    with_store(1024, 1, |store| {
        let between = pairs(store, &[(12, 8, 12), (6, 4, 5), (8, 4, 8), (20, 40, 20)]);
        let places = || between.iter().map(|key| address(store, *key)).collect::<Vec<_>>();
        let before = places();
        assert_eq!(store.compact_step(1), 4);
        let after = places();
        let moved: Vec<usize> = (0..4).filter(|at| before[*at] != after[*at]).collect();
        assert_eq!(moved, [2]);
        assert_eq!(after[2], before[2] - 8);
        assert_eq!(store.compact_step(1), 8);
        assert_eq!(places()[0], before[0] - 12);
    });
}

/// Of thirty pairs, more than are asked for at once, the strongest is spanned by a window that is
/// tried, the first one that is tried lies at one of the eight strongest, and the write ends up in
/// the strongest, for which least is moved.
#[test]
fn windows_are_sought_around_the_strongest_pairs() {
    with_store(4096, 1, |store| {
        // The pull falls with the number, but the strongest is that of number 19; number 5 has the
        // largest slot.
        let mut all: Vec<(usize, usize, usize)> = (0..30).map(|n| (20, 8 + n, 20)).collect();
        (all[5].0, all[19].1) = (26, 3);
        let between = pairs(store, &all);
        let place = address(store, between[19]);
        {
            let mut space = store.shared.settled_space();
            let strongest: Vec<u32> = space.slots.strongest().collect();
            let ends = |slot: &u32| {
                let slot = space.slots.get(*slot);
                (slot.span, space.slots.get(slot.next).span)
            };
            let seeds: Vec<(u32, u32)> = strongest.iter().map(ends).collect();
            let block = space.after(seeds[0].0).unwrap();
            assert!(matches!(space.get(block).content, Content::Block(_)));
            assert_eq!(space.get(block).length, 3);
            let windows = Planner::new(&mut space, &store.shared.tables).near_seeds(40).unwrap();
            assert_eq!(windows.len(), 16);
            let is_spanned = |(first, last): (u32, u32)| {
                windows.iter().any(|window| (window.first, window.last) == (first, last))
            };
            assert!(is_spanned(seeds[0]), "{windows:?} {seeds:?}");
            assert_eq!((windows[0].first, windows[0].last, windows[0].cost), {
                let (first, last) = seeds[0];
                (first, last, 3)
            });
        }
        let before = store.usage().moved_bytes;
        let key = store.write(&[9; 40]).unwrap();
        assert_eq!(store.usage().moved_bytes - before, 3);
        assert!(address(store, key).abs_diff(place) <= 20 + 3);
    });
}
