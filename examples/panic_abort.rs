//! Coroutines in a program without unwinding.
//!
//! Built with `panic = "abort"` it runs to its end like any other. What would have to unwind ends
//! it instead, by SIGABRT: a panic in a coroutine (`panic`), and dropping one that is suspended
//! (`drop`).
//!
//! ```console
//! cargo rustc --example panic_abort --features corosensei -- -C panic=abort
//! target/debug/examples/panic_abort [panic|drop]
//! ```

use heapswitch::{Coroutine, Heap, HeapSwitch};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

fn counter(steps: u32) -> Coroutine<(), String, u32> {
    Coroutine::new(Heap::new().expect("a heap"), move |yielder, ()| {
        for step in 0..steps {
            yielder.suspend(format!("step {step}"));
        }
        assert!(steps != 13, "unlucky");
        steps
    })
    .expect("a stack")
}

fn main() {
    let mode = std::env::args().nth(1).unwrap_or_default();
    let mut finished = counter(3);
    let mut texts = Vec::new();
    while let Some(text) = finished.resume(()).expect("its heap is free").as_yield() {
        texts.push(text);
    }
    drop(finished);
    assert_eq!(texts, ["step 0", "step 1", "step 2"]);
    drop(counter(1)); // Never resumed: nothing to unwind.
    println!("ran; unwinding is {}", if cfg!(panic = "abort") { "off" } else { "on" });

    let mut other = counter(if mode == "panic" { 13 } else { 1 });
    match mode.as_str() {
        "panic" => while other.resume(()).expect("its heap is free").as_yield().is_some() {},
        "drop" => {
            other.resume(()).expect("its heap is free");
            drop(other);
        }
        _ => {
            other.resume(()).expect("its heap is free");
            std::mem::forget(other); // Suspended for good: its stack and heap stay.
        }
    }
}
