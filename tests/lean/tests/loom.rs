//! Models of the lock-free structures, run by loom over the shipped source:
//! `RUSTFLAGS="--cfg loom" cargo test -p heapswitch-lean-tests --release --test loom`.
//!
//! Each line of `loom/weakenings.txt` has the name of something that is wrong where the models are
//! built with `--cfg heapswitch_weaken` and run with `HEAPSWITCH_WEAKEN=name`, and the model that
//! must fail then: that shows that the model sees what the ordering is for. Each model has a line.
#![cfg(loom)]

#[path = "loom/arena.rs"]
mod arena;
#[path = "loom/child.rs"]
mod child;
#[path = "loom/heap.rs"]
mod heap;
#[path = "loom/inspection.rs"]
mod inspection;
#[path = "loom/slots.rs"]
mod slots;
#[path = "loom/store.rs"]
mod store;

/// Runs the model over every execution with at most three preemptions; each more multiplies the
/// time.
fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}
