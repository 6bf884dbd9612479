//! System calls, counted by tracing a process: what a start costs, in a process that allocates a
//! little, beside the same process on the system's allocator; and that pooled heaps need none.
#![cfg(not(any(heapswitch_pass_through, loom, heapswitch_asan, heapswitch_tsan)))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use heapswitch::{HeapPool, HeapSwitch, LifetimeHint};

const ALLOCATOR: &str = "HEAPSWITCH_TEST_ALLOCATOR";
/// How often the traced process takes and gives back a pooled heap.
const ROUNDS: &str = "HEAPSWITCH_TEST_ROUNDS";

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
    // SAFETY: as above; what is found is a C string.
    let rounds = unsafe {
        let value = libc::getenv(c"HEAPSWITCH_TEST_ROUNDS".as_ptr());
        if value.is_null() { 0 } else { libc::atoi(value) }
    };
    let is_right = is_right && POOLS.iter().all(|pool| use_pool(pool, rounds));
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(if is_right { 0 } else { 1 }) };
}

static POOLS: [HeapPool; 3] = [
    HeapPool::with_hint(LifetimeHint::Short),
    HeapPool::with_hint(LifetimeHint::Medium),
    HeapPool::with_hint(LifetimeHint::Long),
];

/// Takes a heap, allocates in it, frees some of that and lets the heap go, so often; whether the
/// blocks were the heap's.
fn use_pool(pool: &HeapPool, rounds: i32) -> bool {
    (0..rounds).all(|round| {
        let heap = pool.take().unwrap();
        let text = heap.run(|| (Box::new(round), "p".repeat(5000))).unwrap();
        heap.contains((&raw const *text.0).cast()) && heap.contains(text.1.as_ptr())
    })
}

#[used]
// SAFETY: the section holds pointers to functions that the loader calls in turn.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

/// The system calls of a process with this allocator and so many rounds, the loader's included;
/// `None` where the system forbids to trace.
fn system_calls(allocator: &str, rounds: i32) -> Option<usize> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    // However long it takes, nothing becomes due meanwhile.
    command.env("HEAPSWITCH_DECAY_MILLISECONDS", "3600000");
    command.env(ALLOCATOR, allocator).env(ROUNDS, rounds.to_string());
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
    let Some(system) = system_calls("system", 0) else {
        return println!("not tested here: system calls cannot be traced");
    };
    let ours = system_calls("heapswitch", 0).expect("the first was traced");
    println!("{ours} system calls, and {system} on the system's allocator");
    assert!(system > 10, "{system}: not even a loader");
    assert!(ours > system, "{ours}: the region was not reserved");
    assert!(ours - system <= MORE_AT_MOST, "{ours} system calls, {system} on the system's");
}

#[test]
fn a_pooled_heap_needs_no_system_call() {
    let Some(first) = system_calls("heapswitch", 1) else {
        return println!("not tested here: system calls cannot be traced");
    };
    let many = system_calls("heapswitch", 10_000).expect("the first was traced");
    println!("{first} system calls with one round, {many} with 10,000");
    assert!(first > system_calls("heapswitch", 0).unwrap(), "no heap was made");
    assert_eq!(many, first);
}
