//! What the settings say of threads' heaps and contexts' is where their pages lie: each value by
//! the environment, and by the macro, in a process of its own.

use std::process::Command;

use heapswitch::numa::{Node, Outcome, Placement, Policy, Residence};
use heapswitch::sys::thread::Affinity;
use heapswitch::{CurrentAllocatorInUse, Heap, process_usage, residence_of};

use crate::confined::{run, this_program};
use crate::faults;
use crate::machine::{nodes, not_tested};
use crate::oracle::all_numa_maps;
use crate::places::{Place, has_several, on, places, strings, two_places};
use crate::ranges::{node, set};
use crate::refused::REFUSED;

mod declared {
    heapswitch::global_thread_and_coroutine_switchable_allocator! {
        pub(super) struct ByTheMacro;
        thread_placement = interleave,
        coroutine_placement = bind,
        thread_huge_pages = never,
        install = false,
    }
}

/// A process where this is set has the allocator that the macro declares above.
const DECLARED: &str = "HEAPSWITCH_TEST_DECLARED";

/// Whoever allocates first installs what it is declared with: here before `main`.
extern "C" fn constructor() {
    // SAFETY: the name is a C string, nobody changes the environment yet, and the block is given
    // back as it was taken.
    unsafe {
        if libc::getenv(c"HEAPSWITCH_TEST_DECLARED".as_ptr()).is_null() {
            return;
        }
        use core::alloc::{GlobalAlloc, Layout};
        let layout = Layout::new::<u64>();
        let block = declared::ByTheMacro.alloc(layout);
        declared::ByTheMacro.dealloc(block, layout);
    }
}

#[used]
// SAFETY: the section holds pointers to functions that the loader calls in turn.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

/// One block that is a run of its own, in bytes.
const LARGE_BYTES: usize = 8 << 20;

/// Short ones beside it.
const STRINGS: usize = 5000;

/// What the values ask the kernel for, of a thread at home on that node.
fn wanted(value: &str, home: Node) -> Policy {
    let all = set(&nodes());
    match value {
        _ if !has_several() => Policy::Default,
        "home" => Policy::Preferred(home),
        "bind" => Policy::Bind(set(&[home.number()])),
        "interleave" => Policy::Interleave(all),
        "weighted_interleave" => Policy::WeightedInterleave(all),
        "local" => Policy::Local,
        "process" => Policy::Default,
        _ => panic!("no placement is called {value}"),
    }
}

/// What holds on this kernel where that is wanted, as it is named in its file.
fn held(policy: Policy) -> String {
    let list = policy.nodes().to_string();
    match policy {
        Policy::WeightedInterleave(_) if lacks_weights() => format!("interleave:{list}"),
        Policy::WeightedInterleave(_) => format!("weighted interleave:{list}"),
        Policy::Interleave(_) => format!("interleave:{list}"),
        Policy::Bind(_) => format!("bind:{list}"),
        Policy::Preferred(_) => format!("prefer:{list}"),
        Policy::Local => "local".to_owned(),
        _ => "default".to_owned(),
    }
}

/// Before Linux 6.9.
fn lacks_weights() -> bool {
    let weighted = Placement::new(Policy::WeightedInterleave(set(&nodes())));
    let guard = weighted.hold_on_thread();
    matches!(guard.outcome(), Outcome::Instead { .. })
}

/// Every page of a heap, and the kernel's own count of a block in it, are where the value says.
#[track_caller]
fn assert_placed(value: &str, home: Node, residence: &Residence, block: &[u8]) {
    let policy = wanted(value, home);
    assert_eq!(residence.policy(), policy, "{value}: {residence}");
    assert_eq!((residence.misplaced(), residence.unknown()), (0, 0), "{value}: {residence}");
    // Memory without a policy may be balanced by the kernel meanwhile, which then tells less of it.
    let is_whole = residence.resident() * 4096 > block.len();
    assert!(is_whole || value == "process", "{value}: {residence}");
    match policy {
        Policy::Interleave(_) | Policy::WeightedInterleave(_) => {
            assert_spread(value, residence);
            let mut of_block = Residence::new();
            of_block.count_slice(block).unwrap();
            assert_spread(value, &of_block);
        }
        // Memory is not kept apart by node: what another thread used may be used again.
        _ if value == "process" => {}
        _ => assert_eq!(residence.on(home), residence.resident(), "{value}: {residence}"),
    }
    let Some(maps) = all_numa_maps() else { return };
    let (_, mapping) = maps.range(..=block.as_ptr().addr()).next_back().unwrap();
    assert_eq!(mapping.policy, held(policy), "{value}: {mapping:?}");
}

/// How many pages a node gets in turn. A system without weights has one for each.
fn weight(value: &str, node: usize) -> usize {
    let file = format!("/sys/kernel/mm/mempolicy/weighted_interleave/node{node}");
    match std::fs::read_to_string(file) {
        Ok(weight) if value == "weighted_interleave" => weight.trim().parse().unwrap(),
        _ => 1,
    }
}

/// By weights, or evenly, within two percent.
#[track_caller]
fn assert_spread(value: &str, residence: &Residence) {
    let turn: usize = nodes().iter().map(|&node| weight(value, node)).sum();
    for number in nodes() {
        let pages = residence.on(node(number));
        let expected = residence.resident() * weight(value, number) / turn;
        assert!(pages.abs_diff(expected) * 50 <= expected, "{value}, node {number}: {residence}");
    }
}

/// Fills the thread's heap and a context's on one node, and looks where their pages lie.
fn fill_at(place: Place, thread: &str, context: &str) {
    let kept = (strings(STRINGS), vec![1_u8; LARGE_BYTES]);
    let residence = residence_of(CurrentAllocatorInUse::ThreadLocal).unwrap();
    assert_placed(thread, place.home, &residence, &kept.1);
    let heap = Heap::new().unwrap();
    let in_context = heap.run(|| (strings(STRINGS), vec![2_u8; LARGE_BYTES])).unwrap();
    let residence = heap.residence().unwrap();
    assert_placed(context, place.home, &residence, &in_context.1);
    drop((kept, in_context));
}

/// The thread was pinned at `first` and is moved: where new pages come from then.
fn fill_after_a_move(first: Place, other: Place, value: &str) {
    Affinity::of(other.processor).unwrap().apply().unwrap();
    // What was used before has its pages.
    heapswitch::purge();
    let large = vec![3_u8; LARGE_BYTES];
    let mut residence = Residence::new();
    residence.count_slice(&large).unwrap();
    let on = |place: Place| residence.on(place.home);
    match value {
        "home" | "bind" => assert_eq!(on(first), residence.resident(), "{value}: {residence}"),
        "local" | "process" => assert_eq!(on(other), residence.resident(), "{value}: {residence}"),
        _ => assert_spread(value, &residence),
    }
}

#[test]
#[ignore = "needs settings: run by the tests below"]
fn heaps_lie_where_the_settings_say() {
    let value = |variable: &str| std::env::var(variable);
    let (thread, context) = match std::env::var_os(DECLARED) {
        Some(_) => ("interleave".to_owned(), "bind".to_owned()),
        None => (
            value("HEAPSWITCH_THREAD_PLACEMENT").unwrap(),
            value("HEAPSWITCH_COROUTINE_PLACEMENT").unwrap(),
        ),
    };
    let mappings = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let before = mappings();
    // The first place again: there a heap of an ended thread is taken over, and its runs are used.
    for place in places().into_iter().cycle().take(places().len() + 1) {
        let (thread, context) = (thread.clone(), context.clone());
        on(place, move || fill_at(place, &thread, &context));
    }
    if let Some((first, other)) = two_places() {
        let thread = thread.clone();
        on(first, move || fill_after_a_move(first, other, &thread));
    }
    // A policy on each heap would be a mapping for each.
    let more = mappings().saturating_sub(before);
    assert!(more < 100, "{more} more mappings");
    println!("overflow {}", process_usage().overflow_blocks);
    println!("refused {}.", process_usage().region.refused_placements);
}

/// Whether the system has no policies to ask for, which is said.
fn has_no_policies() -> bool {
    let asked = Placement::of_thread();
    if let Err(error) = asked {
        not_tested("placements by settings", error);
    }
    asked.is_err()
}

#[test]
fn heaps_are_placed_by_the_environment() {
    let _no_faults = faults::none();
    if has_no_policies() {
        return;
    }
    for value in ["home", "bind", "interleave", "weighted_interleave", "local", "process"] {
        let mut command = Command::new(this_program());
        command.env("HEAPSWITCH_THREAD_PLACEMENT", value);
        command.env("HEAPSWITCH_COROUTINE_PLACEMENT", value);
        // So that pages can be counted.
        command.env("HEAPSWITCH_THREAD_HUGE_PAGES", "never");
        let text = run(command, "settings::heaps_lie_where_the_settings_say");
        assert!(text.contains("overflow 0\n"), "{value}: {text}");
        let is_replaced = value == "weighted_interleave" && has_several() && lacks_weights();
        assert_eq!(text.contains("refused 0."), !is_replaced, "{value}: {text}");
        if value.contains("interleave") {
            let told =
                if is_replaced { "plain interleaving instead, and counted" } else { "taken" };
            println!("{} of heaps on this kernel: {told}", value.replace('_', " "));
        }
    }
}

#[test]
fn heaps_are_placed_by_the_macro() {
    let _no_faults = faults::none();
    if has_no_policies() {
        return;
    }
    let mut command = Command::new(this_program());
    command.env(DECLARED, "1");
    let text = run(command, "settings::heaps_lie_where_the_settings_say");
    assert!(text.contains("overflow 0\nrefused 0.\n"), "{text}");
}

#[test]
fn a_kernel_that_refuses_the_setting_costs_the_placement_and_no_more() {
    let _no_faults = faults::none();
    for value in ["bind", "weighted_interleave"] {
        let mut command = Command::new(this_program());
        command.env(REFUSED, "Policy").env("HEAPSWITCH_THREAD_PLACEMENT", value);
        let text = run(command, "refused::memory_is_served");
        assert!(text.contains("overflow 0"), "{value}: {text}");
        assert_eq!(text.contains("refused 0"), !has_several(), "{value}: {text}");
    }
}

/// The policy of whoever touches a page first, where the kernel is to be asked for none.
#[test]
#[ignore = "needs a setting: run by the test below"]
fn follows_the_threads_policy() {
    for number in nodes() {
        let body = move || {
            let bind = Placement::new(Policy::Bind(set(&[number])));
            let guard = bind.hold_on_thread();
            assert_eq!(guard.outcome(), Outcome::AsAsked);
            let heap = Heap::new().unwrap();
            let large = [vec![1_u8; LARGE_BYTES], heap.run(|| vec![1_u8; LARGE_BYTES]).unwrap()];
            for block in &large {
                let mut residence = Residence::new();
                residence.count_slice(block).unwrap();
                assert_eq!(residence.on(node(number)), residence.resident(), "{residence}");
            }
            // So that the next thread does not get these pages.
            drop(large);
            drop(heap);
            heapswitch::purge();
        };
        std::thread::spawn(body).join().unwrap();
    }
}

#[test]
fn the_processs_policy_can_be_what_holds() {
    let _no_faults = faults::none();
    if has_no_policies() {
        return;
    }
    let mut command = Command::new(this_program());
    command.env("HEAPSWITCH_THREAD_PLACEMENT", "process");
    command.env("HEAPSWITCH_COROUTINE_PLACEMENT", "process");
    // A huge page may be there already, of a neighbour that another thread touched.
    command.env("HEAPSWITCH_THREAD_HUGE_PAGES", "never");
    run(command, "settings::follows_the_threads_policy");
}

/// Who starts a program under a policy stands above the settings, too.
#[test]
fn numactl_stands_above_the_settings() {
    let _no_faults = faults::none();
    let nodes = nodes();
    if nodes.len() == 1 || Command::new("numactl").arg("--hardware").output().is_err() {
        return not_tested("settings under numactl", "it needs numactl and several nodes");
    }
    let last = nodes.last().unwrap();
    let mut command = Command::new("numactl");
    command.arg(format!("--membind={last}")).arg(this_program());
    command.env("HEAPSWITCH_THREAD_PLACEMENT", "interleave");
    let text = run(command, "confined::tells_where_memory_is");
    let line = text.lines().find_map(|line| line.split("pages on ").nth(1)).unwrap();
    assert!(line.starts_with(&format!("node {last}:")), "{text}");
    assert!(!line.contains(", node "), "{text}");
}
