//! The body of a peer's program.

use std::sync::OnceLock;
use std::thread;
use std::time::Instant;

use crate::measure::{own_kib, processor_seconds};
use crate::{Body, Measured, Part, WORKLOADS, Workload};

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

/// The version of a package as this workspace's lock file has it: for allocators that cannot be
/// asked. What is built with `--locked` is that version.
///
/// # Panics
/// The lock file does not name the package.
pub fn locked_version(package: &str) -> String {
    let lock = include_str!("../../Cargo.lock");
    let after = lock.split_once(&format!("name = \"{package}\"\nversion = \""));
    let (_, after) = after.unwrap_or_else(|| panic!("Cargo.lock does not name {package}"));
    after.split('"').next().unwrap_or_default().to_owned()
}

/// What a program's command line asks for.
struct Wanted {
    names: Vec<String>,
    is_smoke: bool,
    threads: usize,
    times: usize,
}

impl Wanted {
    fn of(mut arguments: impl Iterator<Item = String>) -> Self {
        let mut wanted = Self { names: Vec::new(), is_smoke: false, threads: 1, times: 1 };
        let number_of = |argument: Option<String>| {
            let number = argument.and_then(|number| number.parse().ok());
            number.filter(|&number| number > 0).expect("a number")
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--smoke" => wanted.is_smoke = true,
                "--threads" => wanted.threads = number_of(arguments.next()),
                "--times" => wanted.times = number_of(arguments.next()),
                name => {
                    assert!(WORKLOADS.iter().any(|known| known.name == name), "what is `{name}`?");
                    wanted.names.push(argument);
                }
            }
        }
        wanted
    }
}

/// The body of a peer's program. `version` is what the allocator says of itself, which must begin
/// with `wanted_version`; `owns` says whether a block came from it, asked of the allocator itself.
///
/// It prints a line `allocator NAME VERSION`, then one for each workload: its name, the threads,
/// and what it [took](Measured). The memory is that of the whole process: with several workloads in
/// one run, of all up to there.
///
/// # Panics
/// The program's allocator is not the peer's or not of that version, or an argument names no
/// workload.
pub fn run(peer: &str, version: &str, wanted_version: &str, owns: impl Fn(*const u8) -> bool) {
    for size in [1, 8, 100, 1000, 5000, 100_000] {
        let block = Vec::<u8>::with_capacity(std::hint::black_box(size));
        assert!(owns(block.as_ptr()), "{peer} did not serve a block of {size} bytes");
    }
    assert!(version.starts_with(wanted_version), "{peer} {wanted_version} was wanted: {version}");
    println!("allocator {peer} {version}");
    let Wanted { names, is_smoke, threads, times } = Wanted::of(std::env::args().skip(1));
    for workload in WORKLOADS {
        let Workload { name, repeats, .. } = workload;
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            // Under test, once is enough.
            let (warm_up, repeats) = match is_smoke {
                true => (0, repeats.div_ceil(100)),
                false => (repeats.div_ceil(20), *repeats * times),
            };
            println!("{name} {threads} {}", measured(workload, warm_up, repeats, threads));
        }
    }
}

fn measured(workload: &Workload, warm_up: usize, repeats: usize, threads: usize) -> Measured {
    if warm_up > 0 {
        workload.run(warm_up, threads); // Warms caches and the allocator up.
    }
    let (start, start_seconds) = (Instant::now(), processor_seconds());
    workload.run(repeats, threads);
    let (wall_seconds, end_seconds) = (start.elapsed().as_secs_f64(), processor_seconds());
    Measured {
        wall_seconds,
        processor_seconds: end_seconds - start_seconds,
        peak_kib: own_kib("/proc/self/status", "VmHWM"),
        private_dirty_kib: own_kib("/proc/self/smaps_rollup", "Private_Dirty"),
        lazy_free_kib: own_kib("/proc/self/smaps_rollup", "LazyFree"),
    }
}
