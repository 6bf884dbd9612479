//! Heaps keep their memory on their node: threads', contexts', also when threads end, move, or free
//! what others made.

use std::sync::mpsc::channel;

use heapswitch::numa::{Node, Placement, Policy, Topology};
use heapswitch::sys::thread::Affinity;
use heapswitch::{
    CurrentAllocatorInUse, Heap, KindSettings, RegionMapSource, RegionSource, WorkerBuilder,
    process_usage, processors, rehome_thread, residence_of, thread_home,
};

use crate::faults;
use crate::machine::{known, nodes, not_tested};
use crate::ranges::{node, set};

/// A processor, and the node that memory of a thread there should lie on.
#[derive(Clone, Copy, Debug)]
struct Place {
    processor: usize,
    home: Node,
}

/// One for each node that has a processor which this process may use.
fn places() -> Vec<Place> {
    let topology = Topology::of_system().unwrap();
    let mut places: Vec<(Node, Place)> = Vec::new();
    for processor in processors().unwrap() {
        let own = topology.node_of(processor).unwrap().unwrap();
        let home = topology.nearest(own, topology.usable_nodes()).unwrap().unwrap();
        if !places.iter().any(|(node, _)| *node == own) {
            places.push((own, Place { processor, home }));
        }
    }
    places.into_iter().map(|(_, place)| place).collect()
}

/// Two places with homes of their own; `None` where there is one.
fn two_places() -> Option<(Place, Place)> {
    let places = places();
    let first = *places.first()?;
    let other = places.into_iter().find(|place| place.home != first.home)?;
    Some((first, other))
}

fn on<T: Send + 'static>(place: Place, body: impl FnOnce() -> T + Send + 'static) -> T {
    WorkerBuilder::new().processor(place.processor).spawn(body).unwrap().join().unwrap()
}

fn strings(count: usize) -> Vec<String> {
    (0..count).map(|number| "x".repeat(number % 500)).collect()
}

/// Every resident page of this thread's heap lies on `home`; how many those are.
#[track_caller]
fn assert_local(home: Node) -> usize {
    let residence = residence_of(CurrentAllocatorInUse::ThreadLocal).unwrap();
    assert_eq!(residence.on(home), residence.resident(), "{residence}, wanted on node {home}");
    assert_eq!((residence.misplaced(), residence.unknown()), (0, 0), "{residence}");
    residence.resident()
}

fn has_several() -> bool {
    nodes().len() > 1
}

#[test]
fn a_workers_heap_lies_on_its_node() {
    let _no_faults = faults::none();
    for place in places() {
        on(place, move || {
            assert_eq!(thread_home(), has_several().then_some(place.home));
            let kept = strings(20_000);
            let large = vec![1_u8; 3 << 20];
            let pages = assert_local(place.home);
            assert!(pages * 4096 > 7 << 20, "{pages}");
            drop((kept, large));
            assert_local(place.home);
        });
    }
}

#[test]
fn heaps_of_ended_threads_are_adopted_on_their_node() {
    let _no_faults = faults::none();
    let places = places();
    // Emulated threads are slow: so many on the largest machine only.
    let threads = if nodes().len() == 4 { 10_000 } else { 500 } / places.len();
    // Threads inherit where their starter is pinned, so none has to wait for another processor.
    let starter = move |place: Place| {
        for number in 0..threads {
            let body = move || {
                let escapes = "left behind".repeat(1 + number % 30);
                let is_looked_at = number % 250 == 249;
                drop(strings(if is_looked_at { 1000 } else { 20 }));
                if is_looked_at {
                    assert_local(place.home);
                }
                escapes
            };
            drop(std::thread::spawn(body).join().unwrap());
        }
    };
    let start = |place: &Place| {
        let place = *place;
        WorkerBuilder::new().processor(place.processor).spawn(move || starter(place)).unwrap()
    };
    let starters: Vec<_> = places.iter().map(start).collect();
    for starter in starters {
        starter.join().unwrap();
    }
    let waiting = process_usage().abandoned_heaps;
    assert!(waiting <= 2 * places.len() + 8, "{waiting} heaps wait: they are not adopted");
}

#[test]
fn a_foreign_free_moves_no_page() {
    let _no_faults = faults::none();
    let Some((first, other)) = two_places() else {
        return not_tested("foreign frees between nodes", "there is one node");
    };
    let (to_other, from_first) = channel::<Vec<String>>();
    let (to_first, from_other) = channel::<()>();
    let owner = move || {
        for _ in 0..20 {
            to_other.send(strings(5000)).unwrap();
            from_other.recv().unwrap();
            assert_local(first.home);
        }
    };
    let owner = WorkerBuilder::new().processor(first.processor).spawn(owner).unwrap();
    let freer = move || {
        let mut mine = Vec::new();
        while let Ok(strings) = from_first.recv() {
            drop(strings);
            mine.push("y".repeat(10_000));
            heapswitch::flush_foreign_frees();
            assert_local(other.home);
            if to_first.send(()).is_err() {
                break;
            }
        }
    };
    let freer = WorkerBuilder::new().processor(other.processor).spawn(freer).unwrap();
    owner.join().unwrap();
    freer.join().unwrap();
}

#[test]
fn a_bound_heap_lies_on_its_node() {
    let _no_faults = faults::none();
    for number in nodes() {
        let bind = Placement::new(Policy::Bind(set(&[number])));
        let settings = KindSettings { placement: bind, ..KindSettings::new(c"bound") };
        let source = RegionMapSource::new(settings).unwrap();
        let heap = Heap::builder().source(Box::leak(Box::new(source))).build().unwrap();
        let kept = heap.run(|| (strings(20_000), vec![1_u8; 1 << 20])).unwrap();
        let residence = heap.residence().unwrap();
        if let Some((_, error)) = source.refused_placements() {
            not_tested("a bound heap", error);
            continue;
        }
        assert!(residence.resident() * 4096 > 5 << 20, "{residence}");
        assert_eq!(residence.on(node(number)), residence.resident(), "{residence}");
        assert_eq!((residence.policy(), residence.misplaced()), (bind.policy, 0));
        let of_source = source.residence().unwrap();
        assert!(of_source.resident() >= residence.resident());
        assert_eq!(of_source.misplaced(), 0);
        drop(kept);
    }
}

#[test]
fn a_context_keeps_its_node_when_it_moves() {
    let _no_faults = faults::none();
    let Some((first, other)) = two_places() else {
        assert_eq!(process_usage().region.away_runs, 0);
        return not_tested("contexts between nodes", "there is one node");
    };
    let heap = on(first, || {
        let heap = Heap::new().unwrap();
        heap.run(|| std::mem::forget(strings(1000))).unwrap();
        heap
    });
    let before = process_usage().region.away_runs;
    let heap = on(other, move || {
        heap.run(|| std::mem::forget(strings(5000))).unwrap();
        heap
    });
    let residence = heap.residence().unwrap();
    assert_eq!(residence.on(first.home), residence.resident(), "{residence}");
    assert_eq!(residence.policy(), Policy::Preferred(first.home));
    let away = process_usage().region.away_runs - before;
    let runs = residence.resident() * 4096 / (64 << 10);
    assert!(away as usize * 2 > runs, "{away} of about {runs} runs were taken away from home");
    // SAFETY: what was forgotten is not used any more, and nobody freed a part of it.
    unsafe { heap.discard_unchecked() };
}

#[test]
fn a_thread_that_was_moved_is_noticed_and_may_follow() {
    let _no_faults = faults::none();
    let Some((first, other)) = two_places() else {
        assert_eq!((thread_home(), rehome_thread()), (None, None));
        assert_eq!(process_usage().moved_threads, 0);
        return not_tested("moved threads", "there is one node");
    };
    on(first, move || {
        let kept = strings(5000);
        let before = process_usage().moved_threads;
        // What the scheduler does to a thread that is not pinned.
        Affinity::of(other.processor).unwrap().apply().unwrap();
        let more = strings(5000);
        assert!(process_usage().moved_threads > before, "it was not noticed");
        assert_eq!(thread_home(), Some(first.home));
        assert_local(first.home);
        assert_eq!(rehome_thread(), Some(other.home));
        let new = strings(5000);
        assert_local(other.home);
        assert_eq!(thread_home(), Some(other.home));
        // The old heap's blocks are valid, and freeing them is foreign now.
        assert!(
            kept.iter()
                .chain(&more)
                .chain(&new)
                .enumerate()
                .all(|(n, s)| s.len() == n % 5000 % 500)
        );
        drop((kept, more));
        assert_local(other.home);
    });
}

#[test]
fn mappings_stay_few() {
    let _no_faults = faults::none();
    let count = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let before = count();
    for place in places() {
        on(place, || {
            let heaps: Vec<Heap> = (0..2000).map(|_| Heap::new().unwrap()).collect();
            let text = |heap: &Heap| heap.run(|| "z".repeat(3000)).unwrap();
            let texts: Vec<String> = heaps.iter().map(text).collect();
            drop((heaps, texts));
        });
    }
    let more = count() - before;
    // A policy on each of these heaps would be a mapping for each.
    assert!(more < 100, "{more} more mappings");
}

#[test]
fn a_processor_without_memory_uses_the_nearest() {
    let _no_faults = faults::none();
    if known().is_none_or(|machine| machine.nodes != [0, 2]) {
        return not_tested("a node without memory", "every node has some");
    }
    let homes: Vec<usize> = places().iter().map(|place| place.home.number()).collect();
    assert_eq!(homes, [0, 2]);
    // `a_workers_heap_lies_on_its_node` went there, too.
    on(places()[1], || assert_eq!(thread_home(), Some(node(2))));
}

#[test]
fn sources_tell_what_they_were_asked_for() {
    let _no_faults = faults::none();
    let placement = Placement::new(Policy::Interleave(set(&nodes())));
    let settings = KindSettings { placement, ..KindSettings::new(c"interleaved") };
    let source: &'static RegionMapSource =
        Box::leak(Box::new(RegionMapSource::new(settings).unwrap()));
    let as_source: &dyn RegionSource = source;
    assert_eq!(as_source.placement(), placement);
    let heap = Heap::builder().source(source).build().unwrap();
    heap.run(|| drop(vec![1_u8; 8 << 20])).unwrap();
    let residence = source.residence().unwrap();
    let even = residence.resident() / nodes().len();
    for (node, pages) in residence.nodes() {
        // Huge pages are interleaved as a whole.
        assert!(pages.abs_diff(even) <= even * 2 / 100 + 512, "node {node}: {residence}");
    }
}
