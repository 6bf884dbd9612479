//! Accounts: what they count, who may read them, and that they agree with the region and the
//! kernel.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "accounts/counts.rs"]
mod counts;
#[path = "accounts/pictures.rs"]
mod pictures;
#[path = "accounts/process.rs"]
mod process;
#[path = "accounts/refused.rs"]
mod refused;
#[path = "accounts/traps.rs"]
mod traps;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use heapswitch::strategy::slab::Slab;
use heapswitch::{
    Account, ContextError, Heap, HeapSwitch, LifetimeHint, LimitPolicy, MemoryReport, checkpoint,
    process_limit, reconcile, set_process_limit, with_thread_local,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const CHUNK: usize = 64 << 10;
const HINTS: [LifetimeHint; 3] = [LifetimeHint::Short, LifetimeHint::Medium, LifetimeHint::Long];

/// Figures of the whole process: one test at a time.
static PROCESS: Mutex<()> = Mutex::new(());

#[test]
fn figures_are_by_context_and_by_subtree() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    for hint in HINTS {
        let group = Account::new("group").unwrap();
        let parent = Heap::builder().hint(hint).charged_to(&group).build().unwrap();
        let child = Heap::builder().hint(hint).parent(&parent).build().unwrap();
        let large = child.run(|| vec![1_u8; 3 * CHUNK]).unwrap();
        let small = parent.run(|| (0..100).map(|_| Box::new([1_u8; 100])).collect::<Vec<_>>());
        let small = small.unwrap();
        let (above, below) = (parent.account(), child.account());
        assert_eq!((below.committed_bytes, below.own_bytes), (3 * CHUNK, 3 * CHUNK));
        assert_eq!((above.committed_bytes, above.own_bytes), (4 * CHUNK, CHUNK));
        assert_eq!((group.usage().committed_bytes, group.usage().own_bytes), (4 * CHUNK, 0));
        drop(large);
        assert_eq!(group.usage().committed_bytes, 4 * CHUNK, "not handed over yet");
        child.release_unused().unwrap();
        let usage = group.usage();
        assert_eq!((usage.committed_bytes, usage.peak_bytes), (CHUNK, 4 * CHUNK), "{hint:?}");
        assert_eq!((usage.total_bytes, usage.charges), (4 * CHUNK as u64, 2));
        assert_eq!(usage.foreign_frees, 1);
        // Exact when it is idle.
        let counted = parent.account();
        assert_eq!(counted.allocated_blocks, 101);
        assert!((10_000..CHUNK).contains(&counted.allocated_bytes), "{counted:?}");
        parent.close();
        assert_eq!((group.usage().escapees, group.usage().committed_bytes), (101, CHUNK));
        drop(small);
        heapswitch::flush_foreign_frees();
        assert_eq!(group.usage().committed_bytes, 0, "accounts outlive heaps");
    }
}

#[test]
fn counts_of_a_heap_that_runs_elsewhere_lag_by_no_more_than_a_quarter() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let account = heap.account_handle();
        let mut kept = Vec::with_capacity(100_000);
        let scope = heap.enter().unwrap();
        for count in 1..=20_000 {
            kept.push(Box::new([1_u8; 240]));
            if count % 1000 == 0 {
                let asked =
                    || std::thread::scope(|scope| scope.spawn(|| account.usage()).join().unwrap());
                // What the thread's start takes is not this heap's.
                let usage = with_thread_local(asked).unwrap();
                let missing = count - usage.allocated_blocks;
                let bound = usage.own_bytes / 4 / 240 + CHUNK / 240 + 1;
                assert!(usage.allocated_blocks <= count && missing <= bound, "{hint:?} {usage:?}");
            }
        }
        assert_eq!(heap.account().allocated_blocks, 20_000, "{hint:?}, running here");
        drop(scope);
        heap.run(|| kept.truncate(77)).unwrap();
        assert_eq!(heap.account().allocated_blocks, 77, "{hint:?}, idle");
        heap.run(|| kept.clear()).unwrap();
    }
}

#[test]
fn the_process_has_a_limit_above_all_others() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let heap = Heap::builder().limit(CHUNK).build().unwrap();
    assert_eq!(process_limit(), None);
    let held = Account::process().usage().committed_bytes;
    set_process_limit(Some(held + 64 * CHUNK));
    let is_refused = heap.run(|| Vec::<u8>::new().try_reserve_exact(128 * CHUNK).is_err());
    let is_granted = heap.run(|| Vec::<u8>::new().try_reserve_exact(16 * CHUNK).is_ok());
    // Threads' heaps too.
    let is_refused_here = black_box(Vec::<u8>::new()).try_reserve_exact(128 * CHUNK).is_err();
    set_process_limit(None);
    assert!(is_refused.unwrap() && is_granted.unwrap() && is_refused_here);
    assert!(black_box(Vec::<u8>::new()).try_reserve_exact(128 * CHUNK).is_ok());
}

#[test]
fn figures_can_be_printed() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let heap = Heap::builder().limit(8 * CHUNK).build().unwrap();
    let kept = heap.run(|| vec![1_u8; 3 * CHUNK]).unwrap();
    let held = heap.account().committed_bytes;
    assert!(held >= 3 * CHUNK);
    let text = format!("{held} bytes held, {held} at most, of {}; escaped blocks: 0", 8 * CHUNK);
    assert_eq!(heap.account().to_string(), text);
    let report = heap.close();
    let (kept_bytes, returned) = (report.kept_bytes, report.returned_bytes);
    let text = format!(
        "escaped blocks: 1, of {} bytes, which keep {kept_bytes} bytes; {returned} bytes went back",
        3 * CHUNK
    );
    assert_eq!(report.to_string(), text);
    assert_eq!(kept.len(), 3 * CHUNK);
    let nothing = Heap::new().unwrap().close().to_string();
    assert!(nothing.starts_with("nothing escaped; "), "{nothing}");
}

#[test]
fn a_report_is_json_and_sums_by_name() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let group = Account::new("group \"of\" tests\n").unwrap().with_limit(1 << 30);
    let make = |name: &str| Heap::builder().name(name).charged_to(&group).build().unwrap();
    let heaps = [make("many"), make("many"), make("one")];
    let kept: Vec<_> = heaps
        .iter()
        .zip([1, 2, 5])
        .map(|(heap, chunks)| heap.run(|| vec![1_u8; chunks * CHUNK]))
        .collect();
    let report = MemoryReport::of(&group);
    assert_eq!(report.accounts.len(), 4);
    let named = report.by_name();
    let sums: Vec<_> = named
        .iter()
        .map(|one| (one.name.as_str(), one.accounts, one.usage.own_bytes / CHUNK))
        .collect();
    assert_eq!(sums, [("one", 1, 5), ("many", 2, 3), ("group \"of\" tests\n", 1, 0)]);
    assert_eq!(report.largest(1)[0].name.as_str(), "one");
    let json = report.to_json();
    let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
    let accounts = parsed["accounts"].as_array().unwrap();
    assert_eq!(accounts[0]["name"], "group \"of\" tests\n");
    assert_eq!(accounts[0]["committed_bytes"], 8 * CHUNK);
    assert_eq!(accounts[0]["hard_limit_bytes"], 1 << 30);
    assert!(accounts[0]["soft_limit_bytes"].is_null() && accounts[0]["is_over_budget"] == false);
    assert_eq!(accounts[1]["parent"], accounts[0]["id"]);
    let taken = parsed["process"]["region_taken_bytes"].as_u64().unwrap();
    assert!(taken >= 8 * CHUNK as u64);
    assert!(parsed["process"]["region_peak_bytes"].as_u64().unwrap() >= taken);
    let lines = report.to_string();
    let table: Vec<&str> = lines.lines().skip(1).collect();
    assert_eq!(table[0], "      held       peak  allocated  escaped accounts  name");
    assert!(
        table[1].starts_with("   320 KiB    320 KiB    320 KiB        0        1  one"),
        "{lines}"
    );
    assert!(
        table[2].starts_with("   192 KiB") && table[2].ends_with("0        2  many"),
        "{lines}"
    );
    assert!(table[3].ends_with("  group \"of\" tests "), "a name is one line: {lines}");
    assert_eq!(table.len(), 4, "{lines}");
    let first = report.accounts[0].to_string();
    assert!(first.starts_with("group \"of\" tests  (account "), "{first}");
    assert!(first.contains(": 524288 bytes held, 524288 at most, of 1073741824;"), "{first}");
    let all = MemoryReport::now();
    assert!(all.accounts.len() > 4 && all.accounts[0].parent.is_none());
    assert!(all.accounts.iter().any(|one| one.name.as_str() == "thread"), "threads' heaps too");
    drop(kept);
}

#[test]
fn accounts_of_one_name_below_each_other_count_once() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let group = Account::new("group").unwrap();
    let limited = || Heap::builder().name("part").limit(4 * CHUNK).policy(LimitPolicy::Spill);
    let part = limited().charged_to(&group).build().unwrap();
    let between = Heap::builder().name("between").parent(&part).build().unwrap();
    let parts = [
        limited().parent(&part).build().unwrap(),
        limited().parent(&between).build().unwrap(),
        limited().charged_to(&group).build().unwrap(),
    ];
    let mut survivors = Vec::new();
    for heap in [&part].into_iter().chain(&parts) {
        let kept = heap.run(|| Box::new([1_u8; 1000])).unwrap();
        // Freed by another, and served by the thread's heap.
        drop(heap.run(|| (Box::new([2_u8; 1000]), vec![3_u8; 5 * CHUNK])).unwrap());
        heap.memory_usage().unwrap();
        survivors.push(kept);
    }
    parts.into_iter().for_each(|heap| drop(heap.close()));
    let named = MemoryReport::of(&group).by_name();
    let (sum, all) = (named.iter().find(|one| one.name.as_str() == "part").unwrap(), group.usage());
    assert_eq!(all.spilled_bytes, 4 * 5 * CHUNK as u64, "{all:?}");
    let figures = |usage: heapswitch::AccountUsage| {
        let counts = (usage.charges, usage.foreign_frees, usage.escapees);
        (usage.committed_bytes, usage.total_bytes, usage.spilled_bytes, counts)
    };
    assert_eq!(figures(sum.usage), figures(all));
    assert_eq!((sum.accounts, sum.usage.charges, sum.usage.escapees), (4, 4, 3));
    assert!(sum.usage.foreign_frees >= 3, "{all:?}");
    drop((survivors, part));
}

#[test]
fn accounts_the_chunk_table_and_the_kernel_agree() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    // Enough that what the test runner's threads do meanwhile is less than a hundredth.
    let heaps = [
        Heap::with_hint(LifetimeHint::Short).unwrap(),
        Heap::with_hint(LifetimeHint::Medium).unwrap(),
        Heap::with_hint(LifetimeHint::Long).unwrap(),
        Heap::builder().build_kind::<Slab>(()).unwrap(),
    ];
    let mut kept: Vec<_> = heaps
        .iter()
        .map(|heap| heap.run(|| (0..10_000).map(|_| vec![1_u8; 1000]).collect::<Vec<_>>()))
        .map(Result::unwrap)
        .collect();
    // Some of it is free in heaps, and some in the region.
    for (heap, blocks) in heaps.iter().zip(&mut kept) {
        heap.run(|| blocks.truncate(7_000)).unwrap();
        heap.memory_usage().unwrap();
    }
    let found = reconcile().expect("there is a region");
    let shown = found.to_string();
    assert!(shown.contains("; accounts and table differ by "), "{shown}");
    let census = found.census;
    assert!(found.accounted_bytes > 30 << 20, "{found:?}");
    assert!(found.account_difference_bytes() * 100 <= found.accounted_bytes, "{found:?}");
    assert!(found.kernel_difference_bytes() * 100 <= census.kernel_bytes, "{found:?}");
    // No block is longer than a quarter more than asked, and the process has little else.
    let blocks = kept.iter().map(Vec::len).sum::<usize>() * 1000;
    let data = blocks..blocks / 4 * 5 + (4 << 20);
    assert!(data.contains(&found.data_bytes) && found.free_in_heaps_bytes > 0, "{found:?}");
    assert_eq!(found.data_bytes + found.free_in_heaps_bytes, found.accounted_bytes);
    assert!(census.held_resident_bytes >= 28_000_000, "{found:?}");
    drop((kept, heaps));
    let after = reconcile().unwrap();
    assert!(after.accounted_bytes + (28 << 20) < found.accounted_bytes, "{after:?}");
    assert!(after.kernel_difference_bytes() * 100 <= after.census.kernel_bytes, "{after:?}");
}

/// What the records say that they hold, beside the pages of them that the kernel has in memory.
#[test]
fn records_agree_with_the_kernel() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let figures = || {
        let resident = reconcile().expect("there is a region").census.metadata_resident_bytes;
        (heapswitch::process_usage().metadata_bytes, resident)
    };
    let before = figures();
    // Each is a header and an account, which are written when they are made.
    let heaps: Vec<_> = (0..20_000).map(|_| Heap::new().unwrap()).collect();
    let after = figures();
    let (held, resident) = (after.0 - before.0, after.1 - before.1);
    assert!(held > 8 << 20, "{held}");
    // What was free in records before, and pages of which a record has a part.
    assert!(held.abs_diff(resident) <= held / 100 + (256 << 10), "{held} {resident}");
    drop(heaps);
    assert!(figures().0 < before.0 + held / 100, "{:?} {before:?}", figures());
}

#[test]
fn policies_are_inherited_with_the_limits() {
    let group = Account::new("group").unwrap().with_policy(LimitPolicy::Spill);
    group.set_limits_each(heapswitch::Limits {
        soft_bytes: Some(CHUNK),
        hard_bytes: Some(2 * CHUNK),
        policy: LimitPolicy::Fail,
    });
    let limits = group.child("below").unwrap().limits();
    assert_eq!(limits.policy, LimitPolicy::Fail);
    assert_eq!((limits.soft_bytes, limits.hard_bytes), (Some(CHUNK), Some(2 * CHUNK)));
    let heap = Heap::builder().charged_to(&group).policy(LimitPolicy::Overdraft).build().unwrap();
    assert_eq!(heap.account_handle().limits().policy, LimitPolicy::Overdraft);
    assert_eq!(heap.account_handle().limits().hard_bytes, Some(2 * CHUNK));
}

/// Ends those who run until it is set, also when the test panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whoever is over a budget is told who holds most, each figure as it was when it was read.
#[test]
fn the_largest_are_in_order_while_they_change() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let group = Account::new("group").unwrap().with_limit(CHUNK);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let ends = Ends(&is_over);
        for chunks in [3, 20] {
            let (group, is_over) = (&group, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let heap = Heap::builder().charged_to(group).build().unwrap();
                    heap.run(|| drop(vec![1_u8; chunks * CHUNK])).unwrap();
                }
            });
        }
        let heap = Heap::builder().charged_to(&group).build().unwrap();
        let out_of_order = (0..20_000).any(|_| {
            let ended = heap.run(|| (vec![1_u8; 5 * CHUNK], checkpoint()).1).unwrap();
            let Err(ContextError::OverBudget(over)) = ended else { return false };
            let is_ordered = over.largest.is_sorted_by_key(|one| core::cmp::Reverse(one.bytes));
            !is_ordered || over.largest.iter().any(|one| one.bytes == 0)
        });
        drop(ends);
        assert!(!out_of_order);
    });
}

/// Panics when it is dropped.
struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        // Without the hook: what prints a backtrace keeps memory that other tests would count.
        std::panic::resume_unwind(Box::new("dropped with the callback that had it"));
    }
}

#[test]
fn a_callback_may_drop_its_own_watch_and_that_may_panic() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let group = Account::new("watched").unwrap().with_soft_limit(CHUNK);
    let watch = Arc::new(Mutex::new(None));
    let (own, captured) = (Arc::clone(&watch), PanicsWhenDropped);
    *watch.lock().unwrap() = Some(group.on_pressure(move |_| {
        let _captured = &captured;
        drop(own.lock().unwrap().take());
    }));
    let heap = Heap::builder().charged_to(&group).build().unwrap();
    assert_eq!(heap.run(|| vec![1_u8; 3 * CHUNK].len()).unwrap(), 3 * CHUNK);
    assert!(watch.lock().unwrap().is_none(), "the callback was called");
}
