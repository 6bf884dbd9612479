//! What the peers are timed on: each workload is one function, its size a constant beside it.
//!
//! A peer's program sets its global allocator and calls [`run`], which asserts that this allocator
//! really serves, runs the workloads named on the command line (all, if none is) and prints a line
//! `workload seconds` for each.

mod collections;
mod random;
mod small;

use std::sync::OnceLock;
use std::time::Instant;

/// How a program wraps each request of the workload `request`.
static REQUEST_SCOPE: OnceLock<fn(&mut dyn FnMut())> = OnceLock::new();

/// Wraps each request of the workload `request`: for an allocator that gives each a heap of its
/// own.
pub fn set_request_scope(scope: fn(&mut dyn FnMut())) {
    REQUEST_SCOPE.get_or_init(|| scope);
}

fn in_request_scope(request: &mut dyn FnMut()) {
    match REQUEST_SCOPE.get() {
        Some(scope) => scope(request),
        None => request(),
    }
}

/// One workload: `repeats` times what it says it does.
#[derive(Clone, Copy)]
pub struct Workload {
    /// As printed, and as asked for on the command line.
    pub name: &'static str,
    /// How often it is repeated while the clock runs, so that it takes a few tenths of a second.
    pub repeats: usize,
    /// Does it that often.
    pub run: fn(repeats: usize),
}

/// All of them, from allocation alone to whole data structures.
pub const WORKLOADS: &[Workload] = &[
    Workload { name: "pairs", repeats: 20_000_000, run: small::pairs },
    Workload { name: "lifo", repeats: 10_000, run: small::lifo },
    Workload { name: "churn", repeats: 6_000_000, run: small::churn },
    Workload { name: "replace", repeats: 3_000_000, run: small::replace },
    Workload { name: "request", repeats: 1_500, run: small::request },
    Workload { name: "foreign", repeats: 40_000, run: small::foreign },
    Workload { name: "vectors", repeats: 40, run: collections::vectors },
    Workload { name: "tree", repeats: 24, run: collections::tree },
    Workload { name: "json", repeats: 40, run: collections::json },
    Workload { name: "strings", repeats: 8, run: collections::strings },
    Workload { name: "btree", repeats: 8, run: collections::btree },
];

/// The body of a peer's program. `owns` says whether a block came from the peer's allocator, asked
/// of the allocator itself.
///
/// # Panics
/// The program's allocator is not the peer's, or an argument names no workload.
pub fn run(peer: &str, owns: impl Fn(*const u8) -> bool) {
    for size in [1, 8, 100, 1000, 5000, 100_000] {
        let block = Vec::<u8>::with_capacity(std::hint::black_box(size));
        assert!(owns(block.as_ptr()), "{peer} did not serve a block of {size} bytes");
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_smoke = arguments.iter().any(|argument| argument == "--smoke");
    let names: Vec<&String> = arguments.iter().filter(|name| !name.starts_with("--")).collect();
    for name in &names {
        assert!(WORKLOADS.iter().any(|known| known.name == **name), "no workload `{name}`");
    }
    for Workload { name, repeats, run } in WORKLOADS {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let repeats = if is_smoke { repeats.div_ceil(100) } else { *repeats };
        run(repeats.div_ceil(20)); // Warms caches and the allocator up.
        let start = Instant::now();
        run(repeats);
        println!("{name} {:.6}", start.elapsed().as_secs_f64());
    }
}
