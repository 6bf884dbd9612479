//! Before and after `main`: allocation and contexts in constructors that the loader runs, in
//! destructors that run at exit, and heaps that live when the process ends.
#![cfg(not(any(heapswitch_pass_through, loom)))]

use std::cell::RefCell;
use std::process::Command;
use std::sync::Mutex;

use heapswitch::{Heap, Settings, process_usage};

heapswitch::global_thread_and_coroutine_switchable_allocator! {
    coroutine = trees,
    region_bytes = 4 GiB,
}

/// Made before `main`.
static EARLY: Mutex<Vec<(Heap, String)>> = Mutex::new(Vec::new());
const TREES: &str = "trees";
static STRATEGY: Mutex<&str> = Mutex::new("");

extern "C" fn constructor() {
    // The very first request of this program that concerns heaps: nothing may have allocated yet.
    let heap = Heap::new().unwrap();
    *STRATEGY.lock().unwrap() = heap.strategy();
    let text = heap.run(|| "made before main".repeat(10)).unwrap();
    EARLY.lock().unwrap().push((heap, text));
}

#[used]
// SAFETY: the section holds pointers to functions that the loader calls in turn.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

extern "C" fn destructor() {
    // Runs after `main` and the main thread's destructors, with everything still in place.
    let heap = Heap::new().unwrap();
    let text = heap.run(|| "made after main".repeat(10)).unwrap();
    drop(heap);
    assert_eq!(text, "made after main".repeat(10));
    if let Ok(mut early) = EARLY.lock() {
        early.clear();
    }
    let written = b"the end\n";
    // SAFETY: the buffer is valid for its length.
    unsafe { libc::write(1, written.as_ptr().cast(), written.len()) };
}

#[used]
// SAFETY: as above; these are called at exit.
#[unsafe(link_section = ".fini_array")]
static DESTRUCTOR: extern "C" fn() = destructor;

#[test]
fn heaps_made_before_main_are_as_any_other() {
    let early = EARLY.lock().unwrap();
    let (heap, text) = &early[0];
    assert_eq!(*text, "made before main".repeat(10));
    assert!(heap.contains(text.as_ptr()));
    heap.run(|| assert!(heap.contains(vec![1_u8; 10].as_ptr()))).unwrap();
}

#[test]
fn the_configuration_holds_from_the_first_request_on() {
    let usual = Heap::new().unwrap();
    assert_eq!((*STRATEGY.lock().unwrap(), usual.strategy()), (TREES, TREES));
    drop(vec![1]);
    assert_eq!(process_usage().region.reserved_bytes, 4 << 30);
    assert_ne!(Settings::new(), Settings::new().with_region_bytes(4 << 30));
}

/// Ends the process in one way; run in a process of its own by the tests below.
#[test]
#[ignore = "ends the process: started by the tests of exits"]
fn ends() {
    thread_local! {
        static KEPT: RefCell<Vec<(Heap, String)>> = const { RefCell::new(Vec::new()) };
    }
    let heap = Heap::new().unwrap();
    let text = heap.run(|| "kept".repeat(100)).unwrap();
    KEPT.with_borrow_mut(|kept| kept.push((heap, text)));
    let heap = Heap::new().unwrap();
    std::mem::forget(heap.enter().unwrap());
    heapswitch::swap_coroutine_local(None).unwrap_err();
    std::thread::spawn(|| {
        heapswitch::swap_coroutine_local(Some(Heap::new().unwrap())).unwrap();
        loop {
            drop(vec![1_u8; 1000]);
        }
    });
    // On the main thread or not, with heaps entered and another thread that goes on.
    let text = "in the heap that is current at the end".to_owned();
    assert!(heap.contains(text.as_ptr()));
    std::mem::forget(heap);
    std::process::exit(text.len() as i32);
}

fn end_in_child(threads: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ends", "--ignored", "--nocapture", "--test-threads", threads])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(38), "{output:?}");
    assert!(printed.contains("the end"), "{printed}");
}

#[test]
fn a_process_ends_with_heaps_alive_on_the_main_thread() {
    end_in_child("1");
}

#[test]
fn a_process_ends_with_heaps_alive_on_another_thread() {
    end_in_child("2");
}
