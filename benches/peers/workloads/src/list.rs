//! The list of workloads, with how often each is repeated and on how many threads it runs.
//!
//! The list was fixed before the allocator was tuned for it. It may be added to; what is in it
//! stays as it is, and every row is published.

use crate::{blocks, collections, interpreter, matcher, programs, real, small, threads};

/// One workload: `repeats` times what it says it does.
#[derive(Clone, Copy)]
pub struct Workload {
    /// As printed, and as asked for on the command line.
    pub name: &'static str,
    /// What it mostly does.
    pub kind: Kind,
    /// How often it is repeated while the clock runs, by all threads together, so that one thread
    /// takes a few tenths of a second.
    pub repeats: usize,
    /// On how many threads it is compared.
    pub threads: &'static [usize],
    /// Does it.
    pub body: Body,
}

/// What a workload mostly does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Allocates and frees small blocks, and little else.
    SmallLoop,
    /// The same between threads.
    SharedLoop,
    /// Passes data between threads, or starts many of them.
    Threads,
    /// Allocates in sizes or orders that are hard to serve.
    Blocks,
    /// Works on data structures as programs do.
    Program,
}

/// How a workload is run on several threads.
#[derive(Clone, Copy)]
pub enum Body {
    /// Each thread runs it on data of its own.
    Apart(fn(Part)),
    /// It starts its threads itself: called with the repeats of all threads together, and the
    /// number of threads.
    Together(fn(usize, usize)),
}

/// One thread's part of a workload.
#[derive(Clone, Copy)]
pub struct Part {
    /// How often this thread repeats it.
    pub repeats: usize,
    /// Which of the threads this is, from 0.
    pub thread: usize,
    /// How many threads run it.
    pub threads: usize,
}

/// All thread counts that any workload is compared on.
pub const THREADS: &[usize] = &[1, 2, 8];

/// Of workloads whose threads work in pairs.
const PAIRED: &[usize] = &[2, 8];

const fn apart(name: &'static str, kind: Kind, repeats: usize, body: fn(Part)) -> Workload {
    Workload { name, kind, repeats, threads: THREADS, body: Body::Apart(body) }
}

const fn together(
    name: &'static str,
    kind: Kind,
    repeats: usize,
    threads: &'static [usize],
    body: fn(usize, usize),
) -> Workload {
    Workload { name, kind, repeats, threads, body: Body::Together(body) }
}

/// All of them, from allocation alone to whole programs.
pub const WORKLOADS: &[Workload] = &[
    apart("pairs", Kind::SmallLoop, 20_000_000, small::pairs),
    apart("lifo", Kind::SmallLoop, 10_000, small::lifo),
    apart("churn", Kind::SmallLoop, 6_000_000, small::churn),
    apart("replace", Kind::SmallLoop, 3_000_000, small::replace),
    apart("millions", Kind::SmallLoop, 1_000_000, small::millions),
    apart("request", Kind::SmallLoop, 1_500, small::request),
    together("foreign", Kind::SharedLoop, 40_000, PAIRED, threads::foreign),
    together("larson", Kind::SharedLoop, 240, THREADS, threads::larson),
    together("exchange", Kind::Threads, 100_000, PAIRED, threads::exchange),
    together("spawn", Kind::Threads, 8_000, THREADS, threads::spawn),
    apart("vectors", Kind::Blocks, 40, blocks::vectors),
    apart("large", Kind::Blocks, 800, blocks::large),
    apart("buffers", Kind::Blocks, 200_000, blocks::buffers),
    apart("phases", Kind::Blocks, 40, blocks::phases),
    apart("tree", Kind::Program, 24, collections::tree),
    apart("json", Kind::Program, 40, collections::json),
    apart("strings", Kind::Program, 8, collections::strings),
    apart("btree", Kind::Program, 8, collections::btree),
    apart("text", Kind::Program, 400, programs::text),
    apart("interpreter", Kind::Program, 40, interpreter::interpreter),
    apart("matcher", Kind::Program, 160, matcher::matcher),
    apart("cache", Kind::Program, 1_000_000, programs::cache),
    apart("sort", Kind::Program, 8, programs::sort),
    apart("graph", Kind::Program, 8, programs::graph),
    apart("events", Kind::Program, 1_000_000, programs::events),
    apart("words", Kind::Program, 8, programs::words),
    together("count", Kind::Program, 8, THREADS, real::count),
    apart("format", Kind::Program, 400, real::format),
    apart("render", Kind::Program, 160, real::render),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn is_loop(workload: &&Workload) -> bool {
        matches!(workload.kind, Kind::SmallLoop | Kind::SharedLoop)
    }

    #[test]
    fn loops_over_small_objects_are_at_most_a_third_of_the_rows() {
        let rows = |workload: &Workload| workload.threads.len();
        let loops: Vec<&Workload> = WORKLOADS.iter().filter(is_loop).collect();
        assert!(3 * loops.len() <= WORKLOADS.len());
        let (loop_rows, all_rows): (usize, usize) =
            (loops.iter().map(|workload| rows(workload)).sum(), WORKLOADS.iter().map(rows).sum());
        assert!(3 * loop_rows <= all_rows);
    }

    #[test]
    fn what_the_threads_do_together_is_what_one_does_to_a_hundredth() {
        for workload in WORKLOADS {
            for &threads in workload.threads {
                assert!(THREADS.contains(&threads));
                let done = workload.repeats.div_ceil(threads) * threads;
                let surplus = done - workload.repeats;
                assert!(100 * surplus <= workload.repeats, "{} {threads}", workload.name);
            }
        }
    }

    #[test]
    fn the_page_names_each_workload_with_its_repeats() {
        let page = include_str!("../../README.md");
        for Workload { name, repeats, .. } in WORKLOADS {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
            let row = row.unwrap_or_else(|| panic!("README.md has no row for `{name}`"));
            assert!(row.contains(&format!("| {repeats} |")), "{row}: not {repeats} repeats");
        }
    }
}
