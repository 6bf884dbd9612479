//! The address space: little of it allowed, none to be had, others mapping all the time. Each case
//! in a process of its own.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/hints.rs"]
mod hints;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use heapswitch::sys::fault::{self, Call};
use heapswitch::{Heap, HeapSwitch, process_usage, purge};
use hints::HINTS;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const GIB: u64 = 1 << 30;
const REFUSE: &str = "HEAPSWITCH_TEST_REFUSES";

/// Rounds of work while others map.
const ROUNDS: usize = if cfg!(debug_assertions) { 12 } else { 200 };

/// Has the reservation refused where the environment says so: before anything was allocated.
extern "C" fn constructor() {
    // SAFETY: the name is a C string, and nobody changes the environment yet.
    if !unsafe { libc::getenv(c"HEAPSWITCH_TEST_REFUSES".as_ptr()) }.is_null() {
        fault::fail_from(Call::Map, 1);
        drop(std::hint::black_box(Box::new(1)));
        fault::clear(Call::Map);
    }
}

#[used]
// SAFETY: the section holds pointers to functions that the loader calls in turn.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

/// Runs one of the ignored tests in a process with this limit on address space; what it printed.
fn run_limited(test: &str, limit: Option<u64>, is_refused: bool) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads", "1"]);
    // The C library reserves 64 MiB for each of its arenas: below 2 GiB those alone use all there
    // is, also in a program without this allocator.
    command.env("MALLOC_ARENA_MAX", "2");
    if is_refused {
        command.env(REFUSE, "1");
    }
    if let Some(bytes) = limit {
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
    }
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{test} {limit:?}: {printed}{output:?}");
    printed
}

/// The region's length that a child printed.
fn reserved(printed: &str) -> u64 {
    let figure = printed.split("reserved ").nth(1).unwrap();
    figure.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

/// A little of everything, in every kind of heap.
fn work() {
    let strings = || (0..300).map(|number| "s".repeat(number)).collect::<Vec<_>>();
    let are_right =
        |strings: &[String]| strings.iter().enumerate().all(|(number, text)| text.len() == number);
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let (escapees, large) = heap.run(|| (strings(), vec![1_u8; 1 << 20])).unwrap();
        heap.verify().unwrap();
        drop(heap);
        assert!(are_right(&escapees) && large.iter().all(|&byte| byte == 1));
    }
    let mut vector = strings();
    vector.extend(strings());
    assert!(are_right(&vector[..300]) && are_right(&vector[300..]));
}

const THREADS: usize = 64;

#[test]
#[ignore = "needs a limit: started by the tests of limits"]
fn threads_start_and_allocate() {
    work();
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let builder = thread::Builder::new().stack_size(8 << 20);
            let body = || {
                barrier.wait();
                work();
                barrier.wait();
            };
            if let Err(error) = builder.spawn_scoped(scope, body) {
                // Unwinding would wait for the threads that wait for this one.
                println!("the region left too little for stacks: {error}");
                std::process::exit(1);
            }
        }
    });
    drop(vec![1_u8; 100 << 20]);
    println!("reserved {}", process_usage().region.reserved_bytes);
}

#[test]
#[cfg_attr(
    any(heapswitch_asan, heapswitch_tsan),
    ignore = "the sanitizer's own map exceeds the limit"
)]
fn a_limit_on_address_space_leaves_room_for_threads() {
    for (gibibytes, least) in [(1, 0), (4, GIB / 2), (6, GIB), (64, 8 * GIB)] {
        let printed = run_limited("threads_start_and_allocate", Some(gibibytes * GIB), false);
        let reserved = reserved(&printed);
        println!("{gibibytes} GiB allowed: {reserved} bytes reserved");
        assert!(reserved <= gibibytes * GIB / 4 && reserved >= least, "{reserved}");
    }
    assert_eq!(reserved(&run_limited("threads_start_and_allocate", None, false)), 1 << 40);
}

#[test]
#[ignore = "needs a process without a region: started by the test of that"]
fn everything_comes_from_the_global_allocator() {
    work();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(work);
        }
    });
    let heap = Heap::new().unwrap();
    let text = heap.run(|| "global".to_owned()).unwrap();
    assert!(!heap.contains(text.as_ptr()));
    assert_eq!(heap.close().blocks, 0);
    let usage = process_usage();
    assert!(usage.global_bytes > 10 << 20 && usage.overflow_blocks > 1000, "{usage:?}");
    assert_eq!(purge(), 0);
    println!("reserved {}", usage.region.reserved_bytes);
}

#[test]
#[cfg_attr(
    any(heapswitch_asan, heapswitch_tsan),
    ignore = "the sanitizer's own map exceeds the limit"
)]
fn without_a_region_the_global_allocator_serves_alone() {
    let test = "everything_comes_from_the_global_allocator";
    assert_eq!(reserved(&run_limited(test, None, true)), 0);
    assert_eq!(reserved(&run_limited(test, Some(240 << 20), false)), 0);
}

#[test]
#[ignore = "maps all over the address space: started by the test of that"]
fn nothing_foreign_lands_in_the_region() {
    static STOP: AtomicBool = AtomicBool::new(false);
    static MAPPED: AtomicUsize = AtomicUsize::new(0);
    let mapper = |seed: usize| {
        move || {
            let mut mapped = Vec::new();
            while !STOP.load(Ordering::Relaxed) {
                let count = MAPPED.fetch_add(1, Ordering::Relaxed);
                let bytes = (1 + (count * 7 + seed) % 100) << [12, 16, 21][count % 3];
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
                // SAFETY: new mappings, unmapped once; nothing is written to them.
                unsafe {
                    let none = std::ptr::null_mut();
                    let start = libc::mmap(none, bytes, libc::PROT_READ, flags, -1, 0);
                    assert_ne!(start, libc::MAP_FAILED);
                    let last = start.cast::<u8>().wrapping_add(bytes - 1);
                    assert!(!GLOBAL.contains(start.cast()) && !GLOBAL.contains(last));
                    mapped.push((start, bytes));
                    if mapped.len() > 50 {
                        let (start, bytes) = mapped.swap_remove(count % 50);
                        libc::munmap(start, bytes);
                    }
                }
            }
        }
    };
    thread::scope(|scope| {
        for seed in 0..2 {
            scope.spawn(mapper(seed));
        }
        for round in 0..ROUNDS {
            work();
            let mut growing = vec![0_u8; 100_000];
            for _ in 0..6 {
                growing.resize(growing.len() * 2, 1);
            }
            if round % 4 == 0 {
                purge();
            }
        }
        STOP.store(true, Ordering::Relaxed);
    });
    println!(
        "{} mappings, reserved {}",
        MAPPED.load(Ordering::Relaxed),
        process_usage().region.reserved_bytes
    );
}

#[test]
fn foreign_mappings_find_no_hole() {
    let printed = run_limited("nothing_foreign_lands_in_the_region", None, false);
    println!("{}", printed.lines().find(|line| line.contains("mappings")).unwrap());
}

/// A figure of `/proc/meminfo`, in bytes.
fn memory_figure(name: &str) -> u64 {
    let figures = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = figures.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let kibibytes: u64 = line.trim_matches([':', ' ', 'k', 'B']).parse().unwrap();
    kibibytes << 10
}

/// Half of what the system may still commit, in heaps of 1 MiB.
fn half_of_what_is_left() -> Vec<(Heap, Vec<u8>)> {
    let left = memory_figure("CommitLimit") - memory_figure("Committed_AS");
    let fill = |_| {
        let heap = Heap::new().unwrap();
        let bytes = heap.run(|| vec![1_u8; 1 << 20]).unwrap();
        assert!(heap.contains(bytes.as_ptr()));
        (heap, bytes)
    };
    (0..left >> 21).map(fill).collect()
}

/// `tests/numa/run` runs it in a virtual machine: the setting is the whole system's. That whole
/// segments go back where it is set, the region's own tests show without it.
#[test]
#[ignore = "needs vm.overcommit_memory = 2, and a machine on which nothing else happens"]
fn commitments_are_few_and_go_back() {
    let setting = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap();
    assert_eq!(setting.trim(), "2", "vm.overcommit_memory");
    work();
    let before = memory_figure("Committed_AS");
    let contexts = half_of_what_is_left();
    let held = memory_figure("Committed_AS") - before;
    let wanted = (contexts.len() as u64) << 20;
    println!("{wanted} bytes wanted, {held} committed");
    assert!(held >= wanted - (32 << 20) && held <= wanted + wanted / 8 + (64 << 20));
    drop(contexts);
    purge();
    let kept = memory_figure("Committed_AS").saturating_sub(before);
    println!("{kept} bytes committed after all was freed");
    assert!(kept <= 64 << 20);
    // What one kind of segments does not need any more another has: the thread's own heap takes
    // more than is left beside what contexts held.
    for _ in 0..3 {
        let contexts = half_of_what_is_left();
        let left = (memory_figure("CommitLimit") - memory_figure("Committed_AS")) >> 20;
        let wanted = left as usize + contexts.len() / 2;
        drop(contexts);
        let blocks: Vec<_> = (0..wanted).map(|_| vec![2_u8; 1 << 20]).collect();
        let served = blocks.iter().filter(|block| GLOBAL.contains(block.as_ptr())).count();
        println!("{served} of {wanted} blocks from the thread's heap, {left} were left");
        assert!(served * 10 >= wanted * 9);
    }
    // To the limit and beyond: errors, no abort, and all is well when some was freed.
    let mut blocks = Vec::new();
    while blocks.try_reserve(1).is_ok() {
        let mut block = Vec::<u8>::new();
        if block.try_reserve_exact(1 << 20).is_err() {
            break;
        }
        blocks.push(block);
    }
    println!("refused after {} MiB", blocks.len());
    blocks.truncate(blocks.len() / 2);
    work();
    drop(blocks);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(work);
        }
    });
}
