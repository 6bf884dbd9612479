//! What a panic hook keeps is not the context's that panics.
#![cfg(not(any(heapswitch_pass_through, loom)))]

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use heapswitch::CurrentAllocatorInUse::ThreadLocal;
use heapswitch::{
    Account, EscapeReport, Heap, HeapSwitch, checkpoint, current, run_panic_hook_outside,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// As the symbols that are kept where backtraces are printed.
static KEPT: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn panic_in_a_heap(above: &Account) -> EscapeReport {
    let heap = Heap::builder().charged_to(above).build().unwrap();
    let run = AssertUnwindSafe(|| heap.run(|| -> () { panic!("number {}", KEPT.is_poisoned()) }));
    let payload = catch_unwind(run).unwrap_err();
    assert_eq!(payload.downcast_ref::<String>().unwrap(), "number false");
    drop(payload);
    assert_eq!(current(), ThreadLocal);
    heap.close()
}

/// In a hook a panic ends the process, and the code that panics may hold what a callback takes.
fn callbacks_wait_until_the_hook_has_ended() {
    static CALLS: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let calls = || CALLS.each_ref().map(|calls| calls.load(Ordering::Relaxed));
    let above = Account::new("watched").unwrap().with_soft_limit(1 << 20);
    let _watch = above.on_pressure(|_| {
        CALLS[usize::from(thread::panicking())].fetch_add(1, Ordering::Relaxed);
    });
    let heap = Heap::builder().charged_to(&above).build().unwrap();
    let passes_and_panics = AssertUnwindSafe(|| {
        let mut bytes = allocator_api2::vec::Vec::<u8, &Heap>::new_in(&heap);
        bytes.resize(4 << 20, 1);
        assert!(bytes.is_empty(), "over its limit");
    });
    assert!(catch_unwind(passes_and_panics).is_err());
    assert_eq!(calls(), [0, 0]);
    checkpoint().unwrap();
    assert_eq!(calls(), [1, 0]);
}

#[test]
fn what_a_hook_keeps_lies_outside_of_the_context() {
    set_hook(Box::new(|panic| KEPT.lock().unwrap().push(panic.to_string())));
    let above = Account::new("above").unwrap();
    let report = panic_in_a_heap(&above);
    assert!(report.blocks > 0 && above.usage().committed_bytes > 0, "{report:?}");
    KEPT.lock().unwrap().clear();
    *KEPT.lock().unwrap() = Vec::new();

    run_panic_hook_outside();
    let report = panic_in_a_heap(&above);
    assert_eq!((report.blocks, above.usage().committed_bytes), (0, 0), "{report:?}");
    // Not within the assertion, whose panic would have the hook wait for the lock.
    let kept = KEPT.lock().unwrap().len();
    assert_eq!(kept, 1, "the hook before is called");
    callbacks_wait_until_the_hook_has_ended();
}
