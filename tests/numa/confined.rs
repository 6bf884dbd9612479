//! Processes that were confined before they began: by a sandbox that forbids the calls of NUMA, by
//! a memory policy that numactl set, by a limit on address space. Each in a process of its own.

use std::os::unix::process::CommandExt;
use std::process::Command;

use heapswitch::allocator::MemorySource;
use heapswitch::numa::{NodeSet, Outcome, Placement, Policy, Residence};
use heapswitch::source::memory_map::Step;
use heapswitch::sys::SystemError;
use heapswitch::{
    CurrentAllocatorInUse, WorkerBuilder, process_usage, residence_of, thread_home, worker_nodes,
};

use crate::faults;
use crate::machine::{nodes, not_tested};
use crate::places::{has_several, strings};
use crate::ranges::{Touched, node, set};
use crate::refused::work;

const ERROR: &str = "HEAPSWITCH_TEST_SANDBOX_ERROR";

/// Runs one of the ignored tests below by a command that ends in this program; what it printed.
#[track_caller]
pub(crate) fn run(mut command: Command, test: &str) -> String {
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{output:?}");
    text
}

pub(crate) fn this_program() -> std::path::PathBuf {
    std::env::current_exe().unwrap()
}

/// A sandbox, for good: what the kernel refuses from now on.
#[derive(Clone, Copy)]
enum Sandbox {
    /// All calls of NUMA, with this error.
    Forbids(i32),
    /// The policies that a kernel before 5.15 does not know, with the error that it has for those.
    IsOld,
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const END: u32 = libc::BPF_RET | libc::BPF_K;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

/// A line of a filter: how many lines to skip where the comparison holds, and where it does not.
fn line(code: u32, value: u32, skipped: (u8, u8)) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: skipped.0, jf: skipped.1, k: value }
}

impl Sandbox {
    /// What the filter sees begins with the call's number; its parameters follow from byte 16 on.
    fn enter(self) -> std::io::Result<()> {
        let refuse = |error: i32| libc::SECCOMP_RET_ERRNO | error as u32;
        let [bind, set, get, pages] = [
            libc::SYS_mbind,
            libc::SYS_set_mempolicy,
            libc::SYS_get_mempolicy,
            libc::SYS_move_pages,
        ]
        .map(|call| call as u32);
        match self {
            Self::Forbids(error) => enter(&mut [
                line(LOAD, 0, (0, 0)),
                line(EQUAL, bind, (4, 0)),
                line(EQUAL, set, (3, 0)),
                line(EQUAL, get, (2, 0)),
                line(EQUAL, pages, (1, 0)),
                line(END, ALLOW, (0, 0)),
                line(END, refuse(error), (0, 0)),
            ]),
            Self::IsOld => enter(&mut [
                line(LOAD, 0, (0, 0)),
                line(EQUAL, bind, (2, 0)),
                line(EQUAL, set, (4, 0)),
                line(END, ALLOW, (0, 0)),
                // The mode is the third parameter of the one and the first of the other.
                line(LOAD, 32, (0, 0)),
                line(AT_LEAST, 5, (3, 0)),
                line(END, ALLOW, (0, 0)),
                line(LOAD, 16, (0, 0)),
                line(AT_LEAST, 5, (0, 1)),
                line(END, refuse(libc::EINVAL), (0, 0)),
                line(END, ALLOW, (0, 0)),
            ]),
        }
    }

    /// Runs one of the ignored tests below in it; what it printed.
    #[track_caller]
    fn run(self, test: &str) -> String {
        let mut command = Command::new(this_program());
        if let Self::Forbids(error) = self {
            command.env(ERROR, error.to_string());
        }
        // SAFETY: the calls may be made between fork and exec.
        unsafe { command.pre_exec(move || self.enter()) };
        run(command, test)
    }
}

fn enter(filter: &mut [libc::sock_filter]) -> std::io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program is valid for reads while the call lasts.
    let is_set = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if is_set { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
#[ignore = "needs a sandbox: run by the test below"]
fn works_in_a_sandbox() {
    let error = SystemError(std::env::var(ERROR).unwrap().parse().unwrap());
    work();
    for worker in WorkerBuilder::new().spawn_on_each_node(|_| work()).unwrap() {
        worker.join().unwrap();
    }
    let first = set(&[0]);
    let touched = Touched::new(Placement::new(Policy::Bind(first)));
    let refusals: Vec<_> = touched.source.refusals().map(|one| (one.step, one.error)).collect();
    assert_eq!(refusals, [(Step::Placement, error)]);
    assert_eq!(touched.source.mapping_count(), 1);
    let refused = Outcome::Refused { error };
    for policy in [Policy::Local, Policy::WeightedInterleave(first), Policy::PreferredMany(first)] {
        let (start, bytes) = (touched.range.start, touched.range.length);
        assert_eq!(Placement::new(policy).apply(start, bytes), refused);
        assert_eq!(Placement::new(policy).hold_on_thread().outcome(), refused);
    }
    assert_eq!(Placement::of_thread(), Err(error));
    assert_eq!(touched.source.residence_of(touched.range).map(|_| ()), Err(error));
    assert_eq!(Residence::of_range(touched.range.start, 1).map(|_| ()), Err(error));
    assert_eq!(residence_of(CurrentAllocatorInUse::ThreadLocal).map(|_| ()), Err(error));
    let usage = process_usage();
    println!("overflow {}, refused {}", usage.overflow_blocks, usage.region.refused_placements);
}

#[test]
fn a_sandbox_that_forbids_numa_costs_the_placement_and_no_more() {
    let _no_faults = faults::none();
    for error in [libc::EPERM, libc::ENOSYS] {
        let text = Sandbox::Forbids(error).run("confined::works_in_a_sandbox");
        assert!(text.contains("overflow 0, "), "{text}");
        // sysfs still tells the nodes, so that heaps ask for them, and it is counted.
        let has_several = worker_nodes().unwrap().len() > 1 && has_several();
        assert_eq!(text.contains("refused 0"), !has_several, "{error}: {text}");
    }
}

#[test]
#[ignore = "needs a sandbox: run by the test below"]
fn older_policies_take_the_place_of_new_ones() {
    let Some(first) = nodes().first().map(|&number| node(number)) else { panic!("no node") };
    let (set, error) = (NodeSet::of(first), SystemError(libc::EINVAL));
    for (policy, older) in [
        (Policy::PreferredMany(set), Policy::Preferred(first)),
        (Policy::WeightedInterleave(set), Policy::Interleave(set)),
    ] {
        let touched = Touched::new(Placement::new(policy));
        let refusals: Vec<_> = touched.source.refusals().map(|one| (one.step, one.error)).collect();
        assert_eq!(refusals, [(Step::Placement, error)]);
        let (start, bytes) = (touched.range.start, touched.range.length);
        assert_eq!(Placement::of_range(start).unwrap().policy, older);
        let instead = Outcome::Instead { policy: older, error };
        assert_eq!(Placement::new(policy).apply(start, bytes), instead);
        assert_eq!(Placement::strict(policy).apply(start, bytes), Outcome::Refused { error });
        let guard = Placement::new(policy).hold_on_thread();
        assert_eq!(guard.outcome(), instead);
        assert_eq!(Placement::of_thread().unwrap().policy, older);
        drop(guard);
        assert_eq!(Placement::of_thread().unwrap().policy, Policy::Default);
    }
    work();
}

#[test]
fn an_older_kernel_takes_the_next_best_policy() {
    let _no_faults = faults::none();
    if Placement::of_thread().is_err() {
        return not_tested("older policies", "the system has no policies");
    }
    Sandbox::IsOld.run("confined::older_policies_take_the_place_of_new_ones");
}

#[test]
#[ignore = "needs a policy or a limit: run by the tests below"]
fn tells_where_memory_is() {
    let kept = (strings(20_000), vec![1_u8; 24 << 20]);
    println!("reserved {}", process_usage().region.reserved_bytes);
    println!("home {:?}", thread_home());
    println!("pages on {}", residence_of(CurrentAllocatorInUse::ThreadLocal).unwrap());
    drop(kept);
}

/// Who starts a program under a policy has decided: its heaps follow, and not their threads.
#[test]
fn the_policy_of_numactl_holds() {
    let _no_faults = faults::none();
    let nodes = nodes();
    let &[.., last] = nodes.as_slice() else { panic!("no node") };
    if Command::new("numactl").arg("--hardware").output().is_err() {
        return not_tested("numactl's policies", "it is not installed");
    }
    if nodes.len() == 1 {
        return not_tested("numactl's policies", "there is one node");
    }
    for (option, expected) in
        [(format!("--membind={last}"), vec![last]), ("--interleave=all".into(), nodes)]
    {
        let mut command = Command::new("numactl");
        command.arg(&option).arg(this_program());
        let text = run(command, "confined::tells_where_memory_is");
        assert!(text.contains("home None"), "{option}: {text}");
        let line = text.lines().find_map(|line| line.split("pages on ").nth(1)).unwrap();
        let on = |node: &str| node.trim().strip_prefix("node ")?.split(':').next()?.parse().ok();
        let found: Vec<usize> = line.split(',').filter_map(on).collect();
        assert_eq!(found, expected, "{option}: {text}");
    }
}

/// Memory is kept apart by node where the region has 512 MiB for each.
#[test]
#[cfg_attr(heapswitch_asan, ignore = "the sanitizer's own map exceeds the limit")]
fn a_small_region_has_no_homes() {
    let _no_faults = faults::none();
    let least = (nodes().len() << 29).next_power_of_two();
    for (reserved, has_homes) in [(least, has_several()), (least / 2, false)] {
        let mut command = Command::new(this_program());
        command.env("MALLOC_ARENA_MAX", "2");
        // A quarter of the address space that is left becomes the region.
        let bytes = reserved as u64 * 5;
        // SAFETY: `setrlimit` may be called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
                match libc::setrlimit(libc::RLIMIT_AS, &raw const limit) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let text = run(command, "confined::tells_where_memory_is");
        assert!(text.contains(&format!("reserved {reserved}\n")), "{reserved}: {text}");
        assert_eq!(text.contains("home None"), !has_homes, "{reserved}: {text}");
    }
}
