//! Heaps keep their memory on their node: threads', contexts', also when threads end, move, or free
//! what others made. That of ended threads is in `adoption`.

use std::sync::mpsc::channel;

use heapswitch::numa::{Placement, Policy};
use heapswitch::sys::fault::{self, Call};
use heapswitch::sys::thread::Affinity;
use heapswitch::{
    Heap, KindSettings, RegionHugePages, RegionMapSource, RegionSource, WorkerBuilder,
    process_usage, rehome_thread, thread_home,
};

use crate::faults;
use crate::machine::{known, nodes, not_tested};
use crate::places::{assert_local, has_several, on, places, strings, two_places};
use crate::ranges::{node, set};

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
    // Other tests may have unmapped some meanwhile.
    let more = count().saturating_sub(before);
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

#[test]
fn refused_advice_is_counted_and_memory_is_served() {
    let _alone = faults::alone();
    let settings = KindSettings {
        huge_pages: RegionHugePages::Never,
        is_dumped: false,
        ..KindSettings::new(c"refused-advice")
    };
    let source: &'static RegionMapSource =
        Box::leak(Box::new(RegionMapSource::new(settings).unwrap()));
    let before = process_usage().region.refused_advice;
    fault::fail_from(Call::Advise, 1);
    let heap = Heap::builder().source(source).build().unwrap();
    let kept = heap.run(|| vec![1_u8; 4 << 20]).unwrap();
    let collapsed = source.collapse();
    fault::clear(Call::Advise);
    // On huge pages and on core dumps; the name is not counted.
    assert_eq!(source.refused_advice().map(|(times, _)| times), Some(2));
    assert!(process_usage().region.refused_advice >= before + 2);
    assert!(collapsed.is_err(), "{collapsed:?}");
    assert!(heap.contains(kept.as_ptr()) && kept.iter().all(|&byte| byte == 1));
}
