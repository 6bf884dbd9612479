//! The system refuses whatever has to do with NUMA, from the process's first allocation on: memory
//! is served all the same. Each case in a process of its own.

use std::process::Command;

use heapswitch::sys::fault::{self, Call};
use heapswitch::{Heap, WorkerBuilder, process_usage, rehome_thread, thread_home};

/// The variable that names the calls.
pub(crate) const REFUSED: &str = "HEAPSWITCH_TEST_REFUSED_CALL";

const CALLS: [(&str, Call); 7] = [
    ("Policy", Call::Policy),
    ("ThreadPolicy", Call::ThreadPolicy),
    ("AskPolicy", Call::AskPolicy),
    ("AskPages", Call::AskPages),
    ("AskNode", Call::AskNode),
    ("Open", Call::Open),
    ("Read", Call::Read),
];

/// Has calls refused where the environment says so: before anything was allocated.
extern "C" fn constructor() {
    // SAFETY: the name is a C string, and nobody changes the environment yet.
    let value = unsafe { libc::getenv(c"HEAPSWITCH_TEST_REFUSED_CALL".as_ptr()) };
    if value.is_null() {
        return;
    }
    // SAFETY: the system's environment is C strings.
    let names = unsafe { core::ffi::CStr::from_ptr(value) }.to_bytes();
    for (name, call) in CALLS {
        if names.split(|&byte| byte == b',').any(|one| one == name.as_bytes()) {
            fault::fail_from(call, 1);
        }
    }
}

#[used]
// SAFETY: the section holds pointers to functions that the loader calls in turn.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

/// Allocates in a thread's heap and in a context.
pub(crate) fn work() {
    let strings = || (0..1000).map(|number| "s".repeat(number % 700)).collect::<Vec<_>>();
    let heap = Heap::new().unwrap();
    let (escaped, large) = heap.run(|| (strings(), vec![1_u8; 1 << 20])).unwrap();
    drop(heap);
    let mine = strings();
    assert!(escaped.iter().chain(&mine).enumerate().all(|(n, s)| s.len() == n % 1000 % 700));
    assert!(large.iter().all(|&byte| byte == 1));
}

#[test]
#[ignore = "needs refusals from the start: run by the test below"]
fn memory_is_served() {
    assert!(std::env::var_os(REFUSED).is_some(), "nothing is refused");
    work();
    for worker in WorkerBuilder::new().spawn_on_each(|_| work()).unwrap() {
        worker.join().unwrap();
    }
    let (home, rehomed) = (thread_home(), rehome_thread());
    println!("home {home:?}, then {rehomed:?}");
    println!("overflow {}", process_usage().overflow_blocks);
    println!("refused {}", process_usage().region.refused_placements);
}

#[test]
fn whatever_is_refused_memory_is_served() {
    let _no_faults = crate::faults::none();
    let all = CALLS.map(|(name, _)| name).join(",");
    let mut cases: Vec<String> = [all.as_str(), "AskPolicy,Open", "AskPolicy", "Policy", "AskNode"]
        .map(str::to_owned)
        .into();
    // A process takes a second on an emulated machine: there only those that differ by nodes.
    if crate::machine::known().is_none() {
        cases.extend(CALLS.map(|(name, _)| name.to_owned()));
    }
    for names in cases {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "refused::memory_is_served", "--ignored", "--nocapture"])
            .env(REFUSED, &names)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{names}: {text}{output:?}");
        assert!(text.contains("1 passed") && text.contains("overflow 0"), "{names}: {text}");
        let has_several = crate::machine::nodes().len() > 1;
        match names.as_str() {
            "Policy" => assert_eq!(text.contains("refused 0"), !has_several, "{names}: {text}"),
            // Where no call tells the nodes, there is one.
            "AskPolicy,Open" => assert!(text.contains("home None"), "{names}: {text}"),
            // Nor where no call tells where a thread runs.
            "AskNode" => assert!(text.contains("home None, then None"), "{names}: {text}"),
            "AskPolicy" => assert_eq!(text.contains("home None"), !has_several, "{names}: {text}"),
            _ => {}
        }
    }
}
