//! Random programs over the whole safe API: whatever they do, no block's contents change, nothing
//! aborts, and when all is freed nothing is left.
//!
//! `HEAPSWITCH_RANDOM_PROGRAMS=FIRST,COUNT,STEPS` runs other seeds, and tells each on the standard
//! error before it begins.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[cfg(not(heapswitch_tsan))]
#[path = "support/child.rs"]
mod child;
#[path = "random_programs/mod.rs"]
mod program;

use program::{Baseline, run, warm_up};

heapswitch::global_thread_and_coroutine_switchable_allocator!();

/// Seeds and steps that the environment asks for.
fn asked() -> Option<[u64; 3]> {
    let asked = std::env::var("HEAPSWITCH_RANDOM_PROGRAMS").ok()?;
    let numbers: Vec<u64> = asked.split(',').map(|number| number.parse().unwrap()).collect();
    Some(numbers.try_into().unwrap())
}

#[test]
fn nothing_breaks_and_nothing_is_lost() {
    let asked = asked();
    let [first, count, steps] = asked.unwrap_or([1, 40, 250]);
    warm_up();
    run(0, steps as usize);
    for seed in first..first + count {
        if asked.is_some() {
            use std::io::Write;
            writeln!(std::io::stderr(), "program {seed}").unwrap();
        }
        let before = Baseline::now();
        run(seed, steps as usize);
        before.compare(seed);
    }
}
