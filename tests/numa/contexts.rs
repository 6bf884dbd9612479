//! Contexts of pinned workers: their memory comes from segments of the worker's node, and stays
//! there when a coroutine moves to another.

use heapswitch::numa::{Node, Placement, Policy, Residence};
use heapswitch::{
    ArenaMemorySource, ArenaSettings, Coroutine, CoroutineResult, Heap, KindSettings,
    RegionHugePages, RegionMapSource, SendCoroutine,
};

use crate::faults;
use crate::machine::{nodes, not_tested};
use crate::oracle::all_numa_maps;
use crate::places::{on, places, strings};
use crate::ranges::{node, set};

type Task = SendCoroutine<(), (), usize>;

/// Fills its heap, suspends, and fills as much again wherever it is resumed.
fn task() -> Task {
    let coroutine = Coroutine::new(Heap::new().unwrap(), |yielder, ()| {
        let first = (strings(5000), vec![1_u8; 1 << 20]);
        yielder.suspend(());
        let second = (strings(5000), vec![2_u8; 1 << 20]);
        yielder.suspend(());
        assert!(first.1.iter().all(|&byte| byte == 1) && second.1.iter().all(|&byte| byte == 2));
        first.0.len() + second.0.len()
    });
    // SAFETY: across its suspensions the body keeps vectors, and nothing of the thread.
    unsafe { coroutine.unwrap().assume_send() }
}

/// All of at least so many pages lie on the node, where its segments are wanted.
#[track_caller]
fn assert_on(home: Node, residence: &Residence, at_least: usize) {
    assert!(residence.resident() >= at_least, "{residence}");
    assert_eq!(residence.on(home), residence.resident(), "{residence}, wanted on node {home}");
    assert_eq!((residence.misplaced(), residence.unknown()), (0, 0), "{residence}");
    if nodes().len() > 1 {
        assert_eq!(residence.policy(), Policy::Preferred(home));
    }
}

/// Pages that each half of a task fills at least.
const HALF: usize = (1 << 20) / 4096 + 5000 * 249 / 4096;

#[test]
fn a_coroutine_of_a_worker_has_its_heap_there_and_keeps_it() {
    let _no_faults = faults::none();
    let places = places();
    let begin = |place: &_| {
        let begin = || {
            let mut task = task();
            assert_eq!(task.resume(()).unwrap(), CoroutineResult::Yield(()));
            (task.heap().residence().unwrap(), task)
        };
        let (residence, task) = on(*place, begin);
        assert_on(place.home, &residence, HALF);
        (*place, task)
    };
    let tasks: Vec<_> = places.iter().map(begin).collect();
    for (index, (begun, mut task)) in tasks.into_iter().enumerate() {
        let next = places[(index + 1) % places.len()];
        let go_on = move || {
            assert_eq!(task.resume(()).unwrap(), CoroutineResult::Yield(()));
            assert_on(begun.home, &task.heap().residence().unwrap(), 2 * HALF);
            // What is made here meanwhile is at home here.
            let mut other = self::task();
            other.resume(()).unwrap();
            assert_on(next.home, &other.heap().residence().unwrap(), HALF);
            for task in [&mut task, &mut other] {
                if task.resume(()).unwrap() == CoroutineResult::Yield(()) {
                    task.resume(()).unwrap();
                }
            }
        };
        on(next, go_on);
    }
}

#[test]
fn the_kernel_lists_the_segments_of_each_node() {
    let _no_faults = faults::none();
    if nodes().len() == 1 {
        return not_tested("segments by node", "there is one node");
    }
    for place in places() {
        let (task, addresses) = on(place, || {
            let mut task = task();
            task.resume(()).unwrap();
            let heap = task.heap();
            let addresses: Vec<_> = (0..4).map(|_| heap.run(|| vec![3_u8; 1 << 20])).collect();
            (task, addresses)
        });
        let Some(maps) = all_numa_maps() else { return };
        for block in addresses {
            let block = block.unwrap();
            let address = block.as_ptr().addr();
            let (_, mapping) = maps.range(..=address).next_back().unwrap();
            assert_eq!(mapping.policy, format!("prefer:{}", place.home), "{mapping:?}");
            let nodes: Vec<_> = mapping.pages.keys().copied().collect();
            assert_eq!(nodes, [place.home.number()], "{mapping:?}");
        }
        drop(task);
    }
}

type RegionArena = ArenaMemorySource<RegionMapSource>;

/// An arena of chunks, placed so.
fn arena(policy: Policy) -> &'static RegionArena {
    let settings = KindSettings {
        placement: Placement::new(policy),
        huge_pages: RegionHugePages::Never,
        ..KindSettings::new(c"arena-of-contexts")
    };
    let source = RegionMapSource::new(settings).unwrap();
    Box::leak(Box::new(ArenaMemorySource::new(source, ArenaSettings::DEFAULT)))
}

/// A coroutine that fills its heap on the arena and suspends.
fn filled_on(arena: &'static RegionArena) -> SendCoroutine<(), (), usize> {
    let heap = Heap::builder().source(arena).build().unwrap();
    let coroutine = Coroutine::new(heap, |yielder, ()| {
        let kept = strings(20_000);
        yielder.suspend(());
        kept.len()
    });
    // SAFETY: across its suspension the body keeps vectors, and nothing of the thread.
    let mut coroutine = unsafe { coroutine.unwrap().assume_send() };
    assert_eq!(coroutine.resume(()).unwrap(), CoroutineResult::Yield(()));
    coroutine
}

#[test]
fn contexts_on_an_arena_lie_where_it_is_bound() {
    let _no_faults = faults::none();
    for number in nodes() {
        let policy = Policy::Bind(set(&[number]));
        let arena = arena(policy);
        // A worker of every node, also of others than the arena's.
        let tasks: Vec<_> = places().into_iter().map(|at| on(at, || filled_on(arena))).collect();
        let whole = match arena.residence() {
            Ok(residence) => residence,
            Err(error) => return not_tested("arenas of contexts", error),
        };
        for residence in tasks.iter().map(|task| task.heap().residence().unwrap()).chain([whole]) {
            assert!(residence.resident() * 4096 > 4 << 20, "{residence}");
            assert_eq!(residence.policy(), policy);
            assert_eq!(residence.on(node(number)), residence.resident(), "{residence}");
        }
        for mut task in tasks {
            assert_eq!(task.resume(()).unwrap(), CoroutineResult::Return(20_000));
        }
    }
}

#[test]
fn contexts_on_an_interleaved_arena_are_spread_evenly() {
    let _no_faults = faults::none();
    let policy = Policy::Interleave(set(&nodes()));
    let arena = arena(policy);
    let tasks: Vec<_> = (0..4).map(|_| filled_on(arena)).collect();
    let residence = match arena.residence() {
        Ok(residence) => residence,
        Err(error) => return not_tested("an interleaved arena", error),
    };
    assert!(residence.resident() * 4096 > 16 << 20, "{residence}");
    assert_eq!((residence.policy(), residence.misplaced()), (policy, 0));
    let even = residence.resident() / nodes().len();
    for number in nodes() {
        let pages = residence.on(node(number));
        assert!(pages.abs_diff(even) * 50 <= even, "node {number}: {residence}");
    }
    drop(tasks);
}
