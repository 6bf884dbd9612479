//! Which slot is taken, and the windows that are sought from slot to slot.

use super::super::plan::Planner;
use super::super::slots::{MOST_LOOKS, Slots};
use super::super::space::Content;
use super::optimum::Numbers;
use super::with_store;

/// Slots of random lengths, of which some, many or none fit: where all that do are looked at, the
/// shortest is found, and else none that is too short.
#[test]
fn the_tightest_slot_is_found_where_not_many_fit() {
    let mut numbers = Numbers(5);
    for _ in 0..50 {
        let mut slots = Slots::new();
        slots.make_room(200).unwrap();
        let (mut start, mut lengths) = (0, Vec::new());
        for _ in 0..200 {
            let length = 1 + numbers.below(90) as u32;
            slots.insert(0, start, length);
            lengths.push(length);
            start += length + 1;
        }
        for wanted in 1..100 {
            let fitting: Vec<u32> =
                lengths.iter().copied().filter(|length| *length >= wanted).collect();
            let found = slots.tight_fit(wanted).map(|slot| slots.get(slot).length);
            let shortest = fitting.iter().min().copied();
            if fitting.len() <= MOST_LOOKS {
                assert_eq!(found, shortest, "{wanted} of {lengths:?}");
            } else {
                let middle = fitting.iter().sum::<u32>() / fitting.len() as u32;
                assert!(found >= shortest && found <= Some(middle), "{wanted}: {found:?}");
            }
        }
    }
}

/// In scattered stores that nobody reads the cheapest window from slot to slot is the one that a
/// look at every block finds.
#[test]
fn windows_between_slots_are_the_cheapest_of_all() {
    let mut numbers = Numbers(9);
    let mut compared = 0;
    for _ in 0..100 {
        with_store(1024, 1, |store| {
            let mut keys = Vec::new();
            while store.usage().free_bytes >= 30 {
                keys.push(store.write(&vec![1; 1 + numbers.below(30)]).unwrap());
            }
            for _ in 0..20 {
                store.free(keys.swap_remove(numbers.below(keys.len()))).unwrap();
            }
            let mut space = store.shared.settled_space();
            let length = 1 + numbers.below(space.free_units as usize) as u32;
            let mut planner = Planner::new(&mut space, &store.shared.tables);
            let by_slots = planner.between_slots(length).unwrap();
            let by_blocks = planner.slots_everywhere(length).unwrap();
            assert_eq!(by_slots[0].cost, by_blocks[0].cost, "{length}");
            assert!(by_slots.is_sorted(), "{by_slots:?}");
            compared += u32::from(by_slots[0].cost > 0);
        });
    }
    assert!(compared > 50, "{compared}");
}

/// Where sizes fall with the addresses the tree is a list; its end is reached all the same.
#[test]
fn the_tightest_slot_of_a_list_is_found() {
    let mut slots = Slots::new();
    slots.make_room(500).unwrap();
    let mut start = 0;
    for length in (1..=500).rev() {
        slots.insert(0, start, length);
        start += length + 1;
    }
    for wanted in 1..=500 {
        let found = slots.tight_fit(wanted).map(|slot| slots.get(slot).length);
        assert_eq!(found, Some(wanted));
    }
    assert_eq!(slots.tight_fit(501), None);
}

/// A search that minds what readers hold has no window across it, and one that does not mind has
/// some that are cheaper for it.
#[test]
fn what_is_read_is_a_wall_or_not() {
    use crate::sync::pins::Hold::Nothing;
    with_store(1024, 1, |store| {
        // What is read is the shortest, so that windows across it are the cheapest.
        let length = |at: usize| if at % 8 == 3 { 8 } else { 16 };
        let keys: Vec<_> = (0..67).map(|at| store.write(&vec![1; length(at)]).unwrap()).collect();
        let guards: Vec<_> = (3..64).step_by(8).map(|at| store.read(keys[at]).unwrap()).collect();
        for at in (2..66).step_by(2) {
            store.free(keys[at]).unwrap();
        }
        let mut space = store.shared.settled_space();
        let mut planner = Planner::new(&mut space, &store.shared.tables);
        let held_in = |planner: &mut Planner<'_>| {
            let windows = planner.near_seeds(32).unwrap();
            assert!(!windows.is_empty());
            let mut held = 0;
            for window in windows {
                let mut span = window.first;
                loop {
                    let is_block = matches!(planner.space.get(span).content, Content::Block(_));
                    held += usize::from(is_block && planner.hold(span) != Some(Nothing));
                    if span == window.last {
                        break;
                    }
                    span = planner.space.after(span).unwrap();
                }
            }
            held
        };
        assert_eq!(held_in(&mut planner), 0);
        planner.is_bold = true;
        assert!(held_in(&mut planner) > 0);
        drop(space);
        drop(guards);
    });
}
