//! The body of a peer's program.

use std::sync::OnceLock;
use std::thread;
use std::time::Instant;

use crate::{Body, Part, WORKLOADS, Workload};

/// How a program wraps each request of the workload `request`.
static REQUEST_SCOPE: OnceLock<fn(&mut dyn FnMut())> = OnceLock::new();

/// Wraps each request of the workload `request`: for an allocator that gives each a heap of its
/// own.
pub fn set_request_scope(scope: fn(&mut dyn FnMut())) {
    REQUEST_SCOPE.get_or_init(|| scope);
}

pub(crate) fn in_request_scope(request: &mut dyn FnMut()) {
    match REQUEST_SCOPE.get() {
        Some(scope) => scope(request),
        None => request(),
    }
}

impl Workload {
    /// Does it `repeats` times in all, shared out among so many threads; one is the
    /// caller's.
    pub fn run(&self, repeats: usize, threads: usize) {
        let body = match self.body {
            Body::Apart(body) => body,
            Body::Together(body) => return body(repeats, threads),
        };
        let part = |thread| Part { repeats: repeats.div_ceil(threads), thread, threads };
        thread::scope(|scope| {
            for thread in 1..threads {
                scope.spawn(move || body(part(thread)));
            }
            body(part(0));
        });
    }
}

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
    let (mut names, mut is_smoke, mut threads) = (Vec::new(), false, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--smoke" => is_smoke = true,
            "--threads" => {
                let number = arguments.next().and_then(|number| number.parse().ok());
                threads = number.filter(|&number| number > 0).expect("a number of threads");
            }
            _ => names.push(argument),
        }
    }
    for name in &names {
        assert!(WORKLOADS.iter().any(|known| known.name == *name), "no workload `{name}`");
    }
    for workload in WORKLOADS {
        let Workload { name, repeats, .. } = workload;
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let repeats = if is_smoke { repeats.div_ceil(100) } else { *repeats };
        workload.run(repeats.div_ceil(20), threads); // Warms caches and the allocator up.
        let start = Instant::now();
        workload.run(repeats, threads);
        println!("{name} {:.6}", start.elapsed().as_secs_f64());
    }
}
