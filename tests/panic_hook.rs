//! What a panic hook keeps is not the context's that panics.
#![cfg(not(any(heapswitch_pass_through, loom)))]

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::Mutex;

use heapswitch::CurrentAllocatorInUse::ThreadLocal;
use heapswitch::{Account, EscapeReport, Heap, HeapSwitch, current, run_panic_hook_outside};

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
    assert_eq!(KEPT.lock().unwrap().len(), 1, "the hook before is called");
}
