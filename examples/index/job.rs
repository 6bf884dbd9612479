//! The job: workers, one pinned to each processor, and what they made put together.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use heapswitch::{EscapeReport, Heap};

use crate::postings::Index;
use crate::worker;

/// How many words to rank.
const MOST_FREQUENT: usize = 10;

/// Whether each coroutine runs in a heap of its own, or all in their threads' heaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switching {
    On,
    Off,
}

/// What the heaps of coroutines did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Contexts {
    /// The most that each held.
    pub(crate) used_bytes: usize,
    pub(crate) escapees: usize,
    pub(crate) kept_bytes: usize,
    pub(crate) returned_bytes: usize,
    /// The most chunks that the escapees can lie in.
    pub(crate) explained_chunks: usize,
}

/// What a run gives.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) index: Index,
    pub(crate) most_frequent: Vec<(String, u32)>,
    pub(crate) binary_files: usize,
    pub(crate) unreadable: Vec<(PathBuf, io::Error)>,
    pub(crate) contexts: Contexts,
    /// What the index and the workers hold in the workers' own heaps.
    pub(crate) thread_bytes: i64,
    pub(crate) global_bytes: u64,
    pub(crate) duration: Duration,
}

/// Why the job could not be done: the system refused a thread or memory.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// What the workers share.
pub(crate) struct Job {
    pub(crate) paths: Arc<[PathBuf]>,
    pub(crate) switching: Switching,
    /// The first file that no worker has taken.
    pub(crate) next: AtomicUsize,
    pub(crate) finished: AtomicUsize,
}

/// What one worker gives.
#[derive(Default)]
pub(crate) struct Part {
    pub(crate) index: Index,
    pub(crate) binary_files: usize,
    pub(crate) unreadable: Vec<(u32, io::Error)>,
    pub(crate) contexts: Contexts,
    pub(crate) thread_bytes: i64,
}

/// Indexes the files on every processor. The coroutines' heaps are charged to `root`. `progress` is
/// called some ten times a second with how many files are finished.
pub(crate) fn run(
    paths: &Arc<[PathBuf]>,
    switching: Switching,
    root: &Heap,
    mut progress: impl FnMut(usize),
) -> Result<Outcome, Failure> {
    let global_bytes = heapswitch::process_usage().global_bytes;
    let start = Instant::now();
    let (next, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let job = Job { paths: Arc::clone(paths), switching, next, finished };
    let parts = std::thread::scope(|scope| {
        let (ended, all_ended) = mpsc::channel::<()>();
        let mut workers = Vec::new();
        for builder in worker::builders() {
            // A heap may be sent but not shared, so each worker gets a child to charge its files'
            // to.
            let account = Heap::builder().parent(root).build()?;
            let (job, ended) = (&job, ended.clone());
            let body = move || {
                let part = worker::work(job, &account);
                drop(ended);
                part
            };
            workers.push(builder.spawn_scoped(scope, body)?);
        }
        drop(ended);
        while all_ended.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
            progress(job.finished.load(Ordering::Relaxed));
        }
        let joined = workers.into_iter().map(|worker| worker.join());
        let parts =
            joined.map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        parts.collect::<Result<Vec<Part>, _>>()
    })?;
    let mut outcome = merged(parts, paths);
    outcome.rank_words(switching, root)?;
    outcome.duration = start.elapsed();
    outcome.global_bytes = heapswitch::process_usage().global_bytes - global_bytes;
    Ok(outcome)
}

impl Outcome {
    /// Finds the most frequent words. The list of all words goes when the scope's heap is closed;
    /// the few that are kept escape.
    fn rank_words(&mut self, switching: Switching, root: &Heap) -> Result<(), Failure> {
        let rank = || self.index.most_frequent(MOST_FREQUENT);
        if switching == Switching::Off {
            self.most_frequent = rank();
            return Ok(());
        }
        let heap = Heap::builder().parent(root).build()?;
        self.most_frequent = heap.run(rank)?;
        self.contexts.used_bytes += heap.memory_usage()?.peak_committed_bytes;
        // The words themselves may lie in two chunks, their list in a third.
        self.contexts.explained_chunks += 3.min(self.most_frequent.len());
        self.contexts.add_report(heap.close());
        Ok(())
    }
}

impl Contexts {
    /// Adds what a heap gave back, and what not, when it was closed or reset.
    pub(crate) fn add_report(&mut self, report: EscapeReport) {
        self.escapees += report.blocks;
        self.kept_bytes += report.kept_bytes;
        self.returned_bytes += report.returned_bytes;
    }
}

fn merged(mut parts: Vec<Part>, paths: &[PathBuf]) -> Outcome {
    parts.sort_unstable_by_key(|part| std::cmp::Reverse(part.index.words()));
    let mut all = Part::default();
    for part in parts {
        if all.index.words() == 0 {
            all.index = part.index
        } else {
            all.index.absorb(part.index)
        }
        all.binary_files += part.binary_files;
        all.unreadable.extend(part.unreadable);
        all.contexts.used_bytes += part.contexts.used_bytes;
        all.contexts.escapees += part.contexts.escapees;
        all.contexts.kept_bytes += part.contexts.kept_bytes;
        all.contexts.returned_bytes += part.contexts.returned_bytes;
        all.contexts.explained_chunks += part.contexts.explained_chunks;
        all.thread_bytes += part.thread_bytes;
    }
    all.unreadable.sort_unstable_by_key(|(file, _)| *file);
    let path = |(file, error)| (paths[file as usize].clone(), error);
    Outcome {
        index: all.index,
        most_frequent: Vec::new(),
        binary_files: all.binary_files,
        unreadable: all.unreadable.into_iter().map(path).collect(),
        contexts: all.contexts,
        thread_bytes: all.thread_bytes,
        global_bytes: 0,
        duration: Duration::ZERO,
    }
}
