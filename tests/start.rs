//! What a start costs: the system calls of a process that allocates a little, beside those of the
//! same process on the system's allocator. Counted by tracing it.
#![cfg(not(any(heapswitch_pass_through, loom, heapswitch_asan, heapswitch_tsan)))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use heapswitch::HeapSwitch;

const ALLOCATOR: &str = "HEAPSWITCH_TEST_ALLOCATOR";

/// More system calls than on the system's allocator, at most.
const MORE_AT_MOST: usize = 20;

/// Whether the process is the one to be compared with.
static IS_SYSTEM: AtomicBool = AtomicBool::new(false);

/// One of the two: chosen before anything is allocated.
struct Either;

// SAFETY: forwards to one allocator from the first allocation to the last.
unsafe impl GlobalAlloc for Either {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe {
            if IS_SYSTEM.load(Ordering::Relaxed) {
                System.alloc(layout)
            } else {
                HeapSwitch.alloc(layout)
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe {
            if IS_SYSTEM.load(Ordering::Relaxed) {
                System.dealloc(block, layout)
            } else {
                HeapSwitch.dealloc(block, layout)
            }
        }
    }
}

#[global_allocator]
static GLOBAL: Either = Either;

/// Is the program that is traced, where the environment says so.
extern "C" fn constructor() {
    // SAFETY: the name is a C string, and nobody changes the environment yet.
    let value = unsafe { libc::getenv(c"HEAPSWITCH_TEST_ALLOCATOR".as_ptr()) };
    if value.is_null() {
        return;
    }
    // SAFETY: the system's environment is C strings.
    let name = unsafe { core::ffi::CStr::from_ptr(value) };
    IS_SYSTEM.store(name == c"system", Ordering::Relaxed);
    let strings: Vec<String> = (0..1000).map(|number| "x".repeat(number % 100)).collect();
    let is_right = strings.iter().enumerate().all(|(n, text)| text.len() == n % 100);
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(if is_right { 0 } else { 1 }) };
}

#[used]
// SAFETY: the section holds pointers to functions that the loader calls in turn.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

/// The system calls of a process with this allocator, the loader's included; `None` where the
/// system forbids to trace.
fn system_calls(allocator: &str) -> Option<usize> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ALLOCATOR, allocator);
    // SAFETY: `ptrace` may be called between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let child = command.spawn().ok()?.id() as i32;
    let mut stops = 0;
    // SAFETY: the child is ours and this thread its tracer.
    unsafe {
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        let marked = libc::PTRACE_O_TRACESYSGOOD;
        assert_eq!(libc::ptrace(libc::PTRACE_SETOPTIONS, child, 0, marked), 0);
        while !libc::WIFEXITED(status) {
            assert!(libc::WIFSTOPPED(status), "{status}");
            stops += usize::from(libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80);
            assert_eq!(libc::ptrace(libc::PTRACE_SYSCALL, child, 0, 0), 0);
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        }
        assert_eq!(libc::WEXITSTATUS(status), 0);
    }
    // Each call stops twice, the one that ends the process once.
    Some(stops.div_ceil(2))
}

#[test]
fn a_start_needs_few_more_system_calls() {
    let Some(system) = system_calls("system") else {
        return println!("not tested here: system calls cannot be traced");
    };
    let ours = system_calls("heapswitch").expect("the first was traced");
    println!("{ours} system calls, and {system} on the system's allocator");
    assert!(system > 10, "{system}: not even a loader");
    assert!(ours > system, "{ours}: the region was not reserved");
    assert!(ours - system <= MORE_AT_MOST, "{ours} system calls, {system} on the system's");
}
