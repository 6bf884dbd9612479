//! Policies: flags, moving, the thread's own, and what the kernel refuses.

use std::thread;

use heapswitch::numa::{NodeNumbers, Outcome, Placement, Policy, Residence};
use heapswitch::sys::fault::{self, Call};
use heapswitch::sys::memory::{self, MapFlags};

use crate::faults;
use crate::machine::{nodes, not_tested};
use crate::oracle::numa_maps;
use crate::ranges::{Touched, node, set};

/// The length of a range in bytes.
const BYTES: usize = 1 << 20;

/// Maps, without a policy, and touches nothing.
fn mapped() -> core::ptr::NonNull<u8> {
    let start = memory::map_anonymous(BYTES, MapFlags::default()).unwrap();
    // SAFETY: mapped just now.
    unsafe { memory::apply_advice(start, BYTES, memory::Advice::NoHugePages) }.unwrap();
    start
}

fn unmap(start: core::ptr::NonNull<u8>) {
    // SAFETY: mapped by `mapped`, and used no more.
    unsafe { memory::unmap(start, BYTES) }.unwrap();
}

#[test]
fn weighted_interleave_or_the_plain_one_is_reported() {
    let _no_faults = faults::none();
    let nodes = set(&nodes());
    let start = mapped();
    let outcome = Placement::new(Policy::WeightedInterleave(nodes)).apply(start, BYTES);
    println!("weighted interleave on this kernel: {outcome:?}");
    let holds = match outcome {
        Outcome::AsAsked => Policy::WeightedInterleave(nodes),
        Outcome::Instead { policy, error } => {
            assert!(error.is_unsupported(), "{error}");
            policy
        }
        Outcome::Refused { error } => return not_tested("weighted interleave", error),
    };
    assert_eq!(Placement::of_range(start).unwrap().policy, holds);
    if outcome != Outcome::AsAsked {
        assert_eq!(holds, Policy::Interleave(nodes));
        // Who wants that policy or none gets none.
        let strict = Placement::strict(Policy::WeightedInterleave(nodes)).apply(start, BYTES);
        assert!(matches!(strict, Outcome::Refused { .. }), "{strict:?}");
    }
    unmap(start);
}

#[test]
fn preferring_many_takes_any_of_them() {
    let _no_faults = faults::none();
    let all = nodes();
    let nodes = set(&all);
    let touched = Touched::new(Placement::new(Policy::PreferredMany(nodes)));
    let Some(maps) = numa_maps(touched.start()) else { return };
    assert!(maps.policy.starts_with("prefer (many):"), "{maps:?}");
    assert!(maps.pages.keys().all(|node| all.contains(node)), "{maps:?}");
}

#[test]
fn pages_that_are_there_are_moved_or_stay() {
    let _no_faults = faults::none();
    let nodes = nodes();
    let &[first, .., last] = nodes.as_slice() else {
        return not_tested("moving pages", "there is one node");
    };
    let touched = Touched::new(Placement::new(Policy::Bind(set(&[first]))));
    let (start, bytes) = (touched.range.start, touched.range.length);
    let to_last = Policy::Bind(set(&[last]));
    let pages = |expected: usize| {
        let residence = Residence::of_range(start, bytes).unwrap();
        assert_eq!(residence.nodes().collect::<Vec<_>>(), [(node(expected), bytes / 4096)]);
        residence.misplaced()
    };
    assert_eq!(Placement::new(to_last).apply(start, bytes), Outcome::AsAsked);
    assert_eq!(pages(first), bytes / 4096, "all of them lie elsewhere than wanted");
    // Strict and not moving: the pages that are there are an error, and the policy holds already.
    let strict = Placement { are_pages_moved: false, ..Placement::strict(to_last) };
    assert!(matches!(strict.apply(start, bytes), Outcome::Refused { .. }));
    let moving = Placement::new(to_last).moving_pages(true);
    assert_eq!(moving.apply(start, bytes), Outcome::AsAsked);
    assert_eq!(pages(last), 0);
    // SAFETY: the range is the test's; what was written is there after the move.
    assert!(unsafe { touched.range.as_slice().as_ref() }.iter().all(|&byte| byte == 1));
}

#[test]
fn relative_nodes_count_those_that_are_allowed() {
    let _no_faults = faults::none();
    let nodes = nodes();
    let relative = Placement::new(Policy::Bind(set(&[nodes.len() - 1])));
    let touched = Touched::new(relative.numbers(NodeNumbers::Relative));
    if let Some(refusal) = touched.source.refusals().next() {
        return not_tested("relative nodes", refusal);
    }
    let Some(maps) = numa_maps(touched.start()) else { return };
    // The last node of the cpuset, whatever its number.
    assert_eq!(maps.pages.keys().collect::<Vec<_>>(), [nodes.last().unwrap()]);
    assert!(maps.policy.contains("=relative"), "{maps:?}");
}

#[test]
fn static_nodes_keep_their_numbers() {
    let _no_faults = faults::none();
    for number in nodes() {
        let placement = Placement::new(Policy::Bind(set(&[number]))).numbers(NodeNumbers::Static);
        let touched = Touched::new(placement);
        if let Some(refusal) = touched.source.refusals().next() {
            return not_tested("static nodes", refusal);
        }
        assert_eq!(Placement::of_range(touched.range.start), Ok(placement));
        let Some(maps) = numa_maps(touched.start()) else { return };
        assert_eq!(maps.pages.keys().collect::<Vec<_>>(), [&number]);
    }
}

#[test]
fn a_threads_policy_holds_until_its_guard_goes() {
    let _no_faults = faults::none();
    for number in nodes() {
        let body = move || {
            let before = Placement::of_thread().unwrap();
            let outer = Placement::new(Policy::Bind(set(&[number]))).hold_on_thread();
            if let Outcome::Refused { error } = outer.outcome() {
                return not_tested("a thread's policy", error);
            }
            let start = mapped();
            // SAFETY: mapped just now.
            unsafe { start.write_bytes(1, BYTES) };
            let mut residence = Residence::wanted(Policy::Bind(set(&[number])));
            residence.count_range(start, BYTES).unwrap();
            assert_eq!((residence.on(node(number)), residence.misplaced()), (BYTES / 4096, 0));
            let inner = Placement::new(Policy::Local).hold_on_thread();
            assert_eq!(Placement::of_thread().unwrap().policy, Policy::Local);
            inner.restore().unwrap();
            assert_eq!(Placement::of_thread().unwrap().policy, Policy::Bind(set(&[number])));
            drop(outer);
            assert_eq!(Placement::of_thread().unwrap(), before);
            unmap(start);
        };
        thread::spawn(body).join().unwrap();
    }
}

#[test]
fn what_the_kernel_refuses_of_a_thread_is_reported() {
    let _alone = faults::alone();
    let local = Placement::new(Policy::Local);
    fault::fail_from(Call::ThreadPolicy, 1);
    let guard = local.hold_on_thread();
    assert!(matches!(guard.outcome(), Outcome::Refused { .. }), "{guard:?}");
    fault::clear(Call::ThreadPolicy);
    // Nothing was changed, so nothing is restored.
    guard.restore().unwrap();
    fault::fail_from(Call::AskPolicy, 1);
    assert!(Placement::of_thread().is_err());
    let guard = local.hold_on_thread();
    fault::clear(Call::AskPolicy);
    if guard.outcome() == Outcome::AsAsked {
        fault::fail_from(Call::ThreadPolicy, 1);
        assert!(guard.restore().is_err(), "the system refused to restore it");
        fault::clear(Call::ThreadPolicy);
        let default = Placement::strict(Policy::Default).hold_on_thread();
        assert_eq!(default.outcome(), Outcome::AsAsked);
        std::mem::forget(default);
    }
}
