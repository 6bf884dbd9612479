//! Escapees by call site: who outlives a heap is named by the function that asked for it, and
//! nobody else is.

use std::hint::black_box;
use std::sync::{Barrier, Mutex};
use std::thread;

use heapswitch::strategy::buddy::Buddy;
use heapswitch::strategy::free_list::FreeList;
use heapswitch::strategy::sites::{self, WithSites};
use heapswitch::strategy::slab::Slab;
use heapswitch::strategy::stripes::Stripes;
use heapswitch::{
    Account, CallSites, Coroutine, CoroutineResult, EscapeReport, Heap, LiveSites, SiteSampling,
    flush_foreign_frees, on_escape,
};

use super::hints::HINTS;

#[inline(never)]
fn remember_this(bytes: usize) -> Vec<u8> {
    black_box(vec![1; bytes])
}

#[inline(never)]
fn remember_that(bytes: usize) -> Vec<u8> {
    black_box(vec![2; bytes])
}

#[inline(never)]
fn forget_soon(bytes: usize) {
    drop(black_box(vec![3_u8; bytes]));
}

fn recorded() -> Vec<Heap> {
    let strategy = || sites::Settings { strategy: (), sampling: SiteSampling::All };
    let hinted = |hint| Heap::builder().hint(hint).call_sites(SiteSampling::All).build().unwrap();
    let mut heaps: Vec<Heap> = HINTS.map(hinted).into();
    heaps.extend([
        Heap::builder().build_kind::<WithSites<Slab>>(strategy()).unwrap(),
        Heap::builder().build_kind::<WithSites<Buddy>>(strategy()).unwrap(),
        Heap::builder().build_kind::<WithSites<Stripes>>(strategy()).unwrap(),
        Heap::builder().build_kind::<WithSites<FreeList>>(sites::Settings::default()).unwrap(),
    ]);
    heaps
}

/// The report, which has to name these functions, as the places that asked, in this order.
fn assert_names(sites: &CallSites, functions: &[&str]) {
    let text = sites.to_string();
    let places: Vec<&str> =
        text.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")).collect();
    assert_eq!(places.len(), functions.len(), "{text}");
    for (place, function) in places.iter().zip(functions) {
        assert!(place.contains(function), "{function} is not named by {place:?} in {text}");
        assert!(place.contains("sites.rs:"), "no line in {place:?}");
    }
    assert!(text.lines().count() <= 2 + 8 * functions.len(), "short: {text}");
}

#[test]
fn an_escapee_is_named_by_who_asked_for_it() {
    for heap in recorded() {
        let strategy = heap.strategy();
        assert!(strategy.ends_with(" with sites"), "{strategy}");
        let kept = heap
            .run(|| {
                forget_soon(100);
                // Small ones, one of a run of its own, and one that was moved by growing.
                let mut kept: Vec<Vec<u8>> = (0..5).map(|_| remember_this(100)).collect();
                kept.push(remember_that(200_000));
                forget_soon(300_000);
                kept
            })
            .unwrap();
        let live = heap.call_sites().unwrap();
        let report = heap.close();
        assert_eq!(report.blocks as u64, report.sites.blocks(), "{strategy}");
        assert_eq!(report.sites, live);
        assert_eq!(report.sites.len(), 3, "{strategy}: {}", report.sites);
        assert_names(&report.sites, &["remember_that", "remember_this", "an_escapee_is_named"]);
        let sizes: Vec<_> = report.sites.iter().map(|site| (site.blocks, site.bytes)).collect();
        assert_eq!((sizes[0].0, sizes[1].0, sizes[2].0), (1, 5, 1));
        assert!((200_000..270_000).contains(&sizes[0].1), "{sizes:?}");
        assert!((500..800).contains(&sizes[1].1), "{sizes:?}");
        drop(kept);
    }
}

#[test]
fn what_is_freed_by_anyone_is_not_listed() {
    for heap in recorded() {
        let (first, second, third, kept) = heap
            .run(|| {
                let all = |bytes| (0..40).map(|_| remember_that(bytes)).collect::<Vec<_>>();
                (all(50), all(500), all(40_000), remember_this(64))
            })
            .unwrap();
        // By another thread while the heap is not entered, by this one, and while it is entered
        // elsewhere.
        thread::spawn(move || drop(first)).join().unwrap();
        drop(second);
        let barrier = &Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(move || {
                barrier.wait();
                drop(third);
                flush_foreign_frees();
                barrier.wait();
            });
            heap.run(|| [barrier.wait(), barrier.wait()]).unwrap();
        });
        let report = heap.close();
        assert_eq!(report.blocks, 1);
        let text = report.sites.to_string();
        assert!(!text.contains("remember_that"), "{text}");
        assert!(text.contains("remember_this"), "{text}");
        assert_eq!(report.sites.blocks(), report.blocks as u64, "{text}");
        drop(kept);
    }
}

#[test]
fn a_block_that_is_resized_keeps_its_site_or_gets_a_new_one() {
    for heap in recorded() {
        let (mut grown, mut moved) =
            heap.run(|| (remember_this(100_000), remember_this(10))).unwrap();
        heap.run(|| {
            grown.reserve_exact(400_000);
            moved.reserve_exact(5000);
            grown.shrink_to(150_000);
        })
        .unwrap();
        let (bytes, blocks) = {
            let sites = heap.call_sites().unwrap();
            (sites.bytes(), sites.blocks())
        };
        let usage = heap.memory_usage().unwrap();
        assert_eq!(blocks, usage.allocated_blocks as u64, "{}", heap.strategy());
        assert!(bytes >= 155_000, "{}: {bytes}", heap.strategy());
        drop((grown, moved));
        assert!(heap.close().sites.is_empty());
    }
}

#[test]
fn two_contexts_at_once_are_told_apart() {
    let [one, two] = ["first context", "second context"]
        .map(|name| Heap::builder().name(name).call_sites(SiteSampling::All).build().unwrap());
    let first = thread::spawn(move || (one.run(|| remember_this(1000)).unwrap(), one));
    let second = thread::spawn(move || {
        let last = || (0..100).map(|_| remember_that(1000)).fold(Vec::new(), |_, last| last);
        (two.run(last).unwrap(), two)
    });
    let ((kept, one), (also, two)) = (first.join().unwrap(), second.join().unwrap());
    // Nested: what is asked for in the inner one is the inner one's.
    let nested = one.run(|| two.run(|| remember_that(2000)).unwrap()).unwrap();
    let live = LiveSites::now();
    let of = |heap: &Heap| {
        let id = heap.account_handle().id();
        live.contexts().iter().find(|context| context.account == id).unwrap().clone()
    };
    assert_eq!((of(&one).name.as_str(), of(&one).sites.len()), ("first context", 1));
    assert_eq!((of(&two).name.as_str(), of(&two).sites.len()), ("second context", 2));
    let folded = live.to_folded();
    let stack = |name: &str| folded.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!((stack("first context;"), stack("second context;")), (1, 2), "{folded}");
    let line = folded.lines().find(|line| line.starts_with("first context;")).unwrap();
    assert!(line.ends_with("sites::remember_this 1000"), "{line}");
    assert_names(&one.close().sites, &["remember_this"]);
    assert_names(&two.close().sites, &["remember_that", "remember_that"]);
    let ended = LiveSites::now().to_folded();
    assert!(!ended.contains("first context"), "closed ones are not live: {ended}");
    drop((kept, also, nested));
}

#[test]
fn sampled_sites_are_estimates() {
    let samplings = [SiteSampling::EveryNth(7), SiteSampling::EveryBytes(1000)];
    for (sampling, hint) in samplings.into_iter().zip(HINTS) {
        let heap = Heap::builder().hint(hint).call_sites(sampling).build().unwrap();
        let (kept, freed) = heap
            .run(|| {
                let mut kept = Vec::with_capacity(6000);
                let mut freed = Vec::with_capacity(6000);
                for _ in 0..6000 {
                    kept.push(remember_this(96));
                    freed.push(remember_that(96));
                }
                (kept, freed)
            })
            .unwrap();
        heap.run(|| drop(freed)).unwrap();
        let sites = heap.close().sites;
        let site = sites.iter().find(|site| site.recorded_blocks > 100).unwrap();
        assert!(site.recorded_blocks < 1500, "{sampling:?}: {site:?}");
        assert!((5000..7000).contains(&site.blocks), "{sampling:?}: {site:?}");
        assert!((500_000..650_000).contains(&site.bytes), "{sampling:?}: {site:?}");
        let text = sites.to_string();
        assert!(text.contains("remember_this") && text.contains("estimated from"), "{text}");
        assert!(!text.contains("remember_that"), "{text}");
        drop(kept);
    }
}

#[test]
fn escapees_are_charged_after_the_close_and_the_report_stays() {
    let group = Account::new("group").unwrap();
    let builder = Heap::builder().charged_to(&group).call_sites(SiteSampling::All);
    let heap = builder.build().unwrap();
    let kept = heap.run(|| (remember_this(10_000), remember_that(100_000))).unwrap();
    let report = heap.close();
    assert_eq!((report.blocks, group.usage().escapees), (2, 2));
    assert_eq!(group.usage().committed_bytes, report.kept_bytes);
    let text = report.sites.to_string();
    drop(kept);
    flush_foreign_frees();
    assert_eq!(group.usage().committed_bytes, 0);
    assert_eq!(report.sites.to_string(), text);
    assert_names(&report.sites, &["remember_that", "remember_this"]);
}

#[test]
fn a_reset_tells_what_outlives_it_and_begins_anew() {
    let mut heap = Heap::builder().call_sites(SiteSampling::All).build().unwrap();
    for _ in 0..3 {
        let kept = heap.run(|| remember_this(100)).unwrap();
        let report = heap.reset().unwrap();
        assert_names(&report.sites, &["remember_this"]);
        drop(kept);
        heap.run(|| forget_soon(100)).unwrap();
        assert!(heap.reset().unwrap().sites.is_empty());
    }
}

#[test]
fn unrecorded_heaps_tell_no_sites() {
    let heap = Heap::new().unwrap();
    let kept = heap.run(|| remember_this(100)).unwrap();
    assert!(heap.call_sites().unwrap().is_empty());
    let report = heap.close();
    assert_eq!((report.blocks, report.sites.len()), (1, 0));
    assert_eq!(report.sites.to_string(), "no call sites\n");
    drop(kept);
}

/// Nobody asks a heap that is dropped for its report. A panic of who is told ends nothing.
#[test]
fn who_wants_to_know_is_told_also_of_dropped_heaps() {
    static TOLD: Mutex<Vec<(String, usize, String)>> = Mutex::new(Vec::new());
    fn tell(account: &Account, report: &EscapeReport) {
        let told = (account.name().to_string(), report.blocks, report.sites.to_string());
        TOLD.lock().unwrap().push(told);
        assert!(!["dropped", "reset"].contains(&account.name().as_str()), "who is told panics");
    }
    on_escape(tell);
    let heap = Heap::builder().name("dropped").call_sites(SiteSampling::All).build().unwrap();
    let kept = heap.run(|| remember_this(100)).unwrap();
    drop(heap);
    drop(Heap::builder().name("clean").call_sites(SiteSampling::All).build().unwrap());
    let mut heap = Heap::builder().name("reset").call_sites(SiteSampling::All).build().unwrap();
    let also = heap.run(|| remember_this(100)).unwrap();
    heap.reset().unwrap();
    heap.reset().unwrap();
    assert_eq!(heap.run(|| [7].to_vec()).unwrap(), [7]);
    let told = TOLD.lock().unwrap().clone();
    for name in ["dropped", "reset"] {
        let of_name: Vec<_> = told.iter().filter(|told| told.0 == name).collect();
        let [(_, blocks, text)] = of_name[..] else { panic!("{name}, once: {of_name:?}") };
        assert!(*blocks == 1 && text.contains("remember_this"), "{text}");
    }
    assert!(!told.iter().any(|(name, ..)| name == "clean"));
    drop((kept, also));
}

/// Whoever reads stops nobody, and sees sums that were true at some time.
#[test]
fn live_sites_are_read_while_the_heap_runs() {
    /// Those of two rounds; under AddressSanitizer 64 more wait in quarantine.
    const MOST: u64 = if cfg!(heapswitch_asan) { 202 + 64 } else { 202 };
    let heap = Heap::builder().name("busy").call_sites(SiteSampling::All).build().unwrap();
    let id = heap.account_handle().id();
    let (made, seen) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        let (made, seen) = (&made, &seen);
        let work = scope.spawn(move || {
            heap.run(|| {
                let first = remember_this(64);
                made.wait();
                seen.wait();
                drop(first);
                for round in 0..200 {
                    let kept: Vec<_> = (0..round).map(|_| remember_this(64)).collect();
                    black_box(kept);
                }
            })
            .unwrap();
            heap
        });
        made.wait();
        let live = LiveSites::now();
        let busy = live.contexts().iter().find(|context| context.account == id);
        assert!(busy.is_some_and(|context| context.sites.blocks() >= 1));
        seen.wait();
        while !work.is_finished() {
            let live = LiveSites::now();
            let busy = live.contexts().iter().find(|context| context.account == id);
            let blocks = busy.map_or(0, |context| context.sites.blocks());
            assert!(blocks <= MOST, "{blocks}");
        }
        assert!(work.join().unwrap().close().sites.is_empty());
    });
}

/// The unwinder reads a coroutine's stack as any other, and the heap that is recorded is whichever
/// one is current.
#[test]
fn coroutines_are_told_too() {
    let heap = Heap::builder().call_sites(SiteSampling::All).build().unwrap();
    let mut kept = heap.run(|| Vec::with_capacity(10)).unwrap();
    let mut coroutine = Coroutine::<(), Vec<u8>, ()>::new(heap, |yielder, ()| {
        // Hidden from the compiler, which makes three call sites of a loop that it unrolls.
        for _ in 0..black_box(3) {
            yielder.suspend(remember_that(100));
        }
    })
    .unwrap();
    for _ in 0..3 {
        match coroutine.resume(()).unwrap() {
            CoroutineResult::Yield(value) => kept.push(value),
            CoroutineResult::Return(()) => panic!("it yields three times"),
        }
    }
    let live = LiveSites::now();
    let sites = live.contexts().iter().map(|context| context.sites.to_string());
    let text = sites.filter(|text| text.contains("coroutines_are_told_too")).collect::<String>();
    assert!(text.contains("in 3 blocks: escaping::sites::remember_that"), "{text}");
    drop((coroutine, kept));
}
