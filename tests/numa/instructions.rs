//! What NUMA, accounts and limits cost where memory is handed out and taken back: not an
//! instruction.
//! A process is traced step by step: as it is, where no call tells it that there are several nodes,
//! and with limits on its context and above it.
#![cfg(all(target_arch = "x86_64", not(heapswitch_asan)))]

use std::os::unix::process::CommandExt;
use std::process::Command;

use heapswitch::numa::ProcessorSet;
use heapswitch::sys::fault::{self, Call};
use heapswitch::{Account, Heap, HeapError, pin_thread, processors, thread_home};

use crate::faults;
use crate::machine::not_tested;
use crate::places::has_several;

const COUNTED: &str = "HEAPSWITCH_TEST_COUNTED";

/// Blocks that are allocated and freed between two marks.
const PAIRS: usize = 8;

/// The most instructions of a pair, optimized, with the loop and the writing of 48 bytes. 45 and 77
/// were counted: a load and a branch more on either way would be too many.
const MOST_IN_THREAD: usize = 46;
const MOST_IN_CONTEXT: usize = 78;

/// What the process that is traced ends with.
const HAS_HOME: i32 = 2;
const HAS_NONE: i32 = 3;
const NO_HEAP: i32 = 4;

/// Stops for the tracer.
fn mark() {
    // SAFETY: a traced process stops here and goes on as if nothing had been.
    unsafe { core::arch::asm!("int3") };
}

#[inline(never)]
fn pairs(count: usize) {
    for number in 0..count as u64 {
        drop(std::hint::black_box(Box::new([number; 6])));
    }
}

/// A context with a limit, below accounts with limits, and a child of a heap.
fn limited_heap() -> Result<Heap, HeapError> {
    let group = Account::new("group")?.with_limit(1 << 30).with_soft_limit(1 << 29);
    let parent = Heap::builder().name("parent").charged_to(&group).limit(32 << 20).build()?;
    let heap = Heap::builder().name("child").parent(&parent).limit(16 << 20).build();
    core::mem::forget(parent);
    heap
}

/// Is the program that is traced, where the environment says so.
extern "C" fn constructor() {
    // SAFETY: the name is a C string, and nobody changes the environment yet.
    let value = unsafe { libc::getenv(c"HEAPSWITCH_TEST_COUNTED".as_ptr()) };
    if value.is_null() {
        return;
    }
    // SAFETY: the system's environment is C strings.
    let value = unsafe { core::ffi::CStr::from_ptr(value) };
    if value == c"one node" {
        fault::fail_from(Call::AskPolicy, 1);
        fault::fail_from(Call::Open, 1);
    }
    pairs(1000);
    let heap = if value == c"limits" { limited_heap() } else { Heap::new() };
    let Ok(heap) = heap else {
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(NO_HEAP) }
    };
    let _ = heap.run(|| pairs(PAIRS));
    mark();
    pairs(PAIRS);
    mark();
    let _ = heap.run(|| {
        mark();
        pairs(PAIRS);
        mark();
    });
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(if thread_home().is_some() { HAS_HOME } else { HAS_NONE }) };
}

#[used]
// SAFETY: the section holds pointers to functions that the loader calls in turn.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

/// How often the child stopped step by step before its next mark.
///
/// # Safety
/// The child is stopped, at a mark, and this thread its tracer.
unsafe fn steps_to_mark(child: i32) -> usize {
    let mut steps = 0;
    loop {
        let (mut status, mut stop) = (0, std::mem::MaybeUninit::<libc::siginfo_t>::zeroed());
        // SAFETY: the caller's contract; zeros are a valid `siginfo_t`.
        let reason = unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_SINGLESTEP, child, 0, 0), 0);
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            assert!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP);
            assert_eq!(libc::ptrace(libc::PTRACE_GETSIGINFO, child, 0, &raw mut stop), 0);
            stop.assume_init().si_code
        };
        if reason != libc::TRAP_TRACE {
            return steps;
        }
        steps += 1;
    }
}

/// The instructions of the pairs in the thread's heap, and in a context; `None` where the system
/// forbids to trace. And what the process ended with.
fn counted(case: &str) -> Option<([usize; 2], i32)> {
    // The tracer and what it traces take turns: on one processor that is far quicker.
    let first = ProcessorSet::from_iter(processors().unwrap().into_iter().take(1));
    let _pinned = pin_thread(&first).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(COUNTED, case);
    // SAFETY: `ptrace` may be called between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let child = command.spawn().ok()?.id() as i32;
    // SAFETY: the child is ours and this thread its tracer.
    unsafe {
        let go_on = || {
            let mut status = 0;
            assert_eq!(libc::ptrace(libc::PTRACE_CONT, child, 0, 0), 0);
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            status
        };
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        assert!(libc::WIFSTOPPED(go_on()), "it never came to the first mark");
        let in_thread = steps_to_mark(child);
        assert!(libc::WIFSTOPPED(go_on()), "it never came to the third mark");
        let in_context = steps_to_mark(child);
        let status = go_on();
        assert!(libc::WIFEXITED(status), "{status}");
        Some(([in_thread, in_context], libc::WEXITSTATUS(status)))
    }
}

#[test]
fn several_nodes_cost_no_instruction_where_memory_is_handed_out() {
    let _no_faults = faults::none();
    let Some((one, end)) = counted("one node") else {
        return not_tested("instructions", "the system forbids to trace");
    };
    assert_eq!(end, HAS_NONE);
    let (all, end) = counted("all nodes").expect("the first was traced");
    assert_eq!(end, if has_several() { HAS_HOME } else { HAS_NONE });
    let [in_thread, in_context] = all.map(|steps| steps as f64 / PAIRS as f64);
    println!("instructions of a pair: {in_thread} in a thread's heap, {in_context} in a context");
    assert_eq!(all, one, "with several nodes, and with one");
    assert!(one.iter().all(|&steps| steps > PAIRS * 10), "{one:?}: it was not traced");
    if !cfg!(any(debug_assertions, heapswitch_check)) {
        assert!(one[0] <= PAIRS * MOST_IN_THREAD, "{one:?}");
        assert!(one[1] <= PAIRS * MOST_IN_CONTEXT, "{one:?}");
    }
}

#[test]
fn limits_cost_no_instruction_where_memory_is_handed_out() {
    let _no_faults = faults::none();
    let Some(([_, without], _)) = counted("all nodes") else {
        return not_tested("instructions", "the system forbids to trace");
    };
    let ([_, with], end) = counted("limits").expect("the first was traced");
    assert!(end == HAS_HOME || end == HAS_NONE, "{end}");
    assert!(without > PAIRS * 10, "{without}: it was not traced");
    assert_eq!(with, without, "in a context with limits, and in one without");
}
