//! How a worker starts: it is pinned, tells its starter, and waits for the word to go.

use std::sync::mpsc::{Receiver, Sender};
use std::vec::Vec;

use super::super::home::rehome_thread;
use super::super::in_use::CurrentAllocatorInUse;
use super::super::scope::{Scope, use_allocator};
use super::WorkerError;
use crate::numa::{Node, ProcessorSet};
use crate::sys::thread::Affinity;

/// Where a worker was put.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub(super) processor: Option<usize>,
    pub(super) node: Option<Node>,
}

/// What a worker's thread is confined to.
#[derive(Clone, Debug, Default)]
pub(super) enum Target {
    /// Wherever its starter may run.
    #[default]
    Anywhere,
    /// One processor.
    Processor(usize),
    /// Several, boxed for their size.
    Set(Box<ProcessorSet>),
}

impl Target {
    /// Whether the processors have numbers that a set can hold.
    pub(super) fn check(&self) -> Result<(), WorkerError> {
        match *self {
            Self::Processor(processor) if Affinity::of(processor).is_none() => {
                Err(WorkerError::Pin { processor, error: None })
            }
            _ => Ok(()),
        }
    }

    /// Confines this thread.
    pub(super) fn pin(&self) -> Result<(), WorkerError> {
        match self {
            Self::Anywhere => Ok(()),
            Self::Processor(processor) => {
                let processor = *processor;
                let unknown = WorkerError::Pin { processor, error: None };
                let refused = |error| WorkerError::Pin { processor, error: Some(error) };
                Affinity::of(processor).ok_or(unknown)?.apply().map_err(refused)
            }
            Self::Set(processors) => processors
                .affinity()
                .apply()
                .map_err(|error| WorkerError::PinToSet { processors: processors.clone(), error }),
        }
    }
}

/// The worker's end of its start.
pub(super) struct Start {
    pub(super) target: Target,
    pub(super) makes_heap: bool,
    pub(super) report: Sender<Result<(), WorkerError>>,
    pub(super) go: Receiver<()>,
}

impl Start {
    /// Pins the thread, reports, and waits for the word to go; `None` if that never comes.
    pub(super) fn run<T>(self, body: impl FnOnce() -> T) -> Option<T> {
        let is_pinned = self.target.pin();
        // What the thread's start allocated before may have given it a heap elsewhere.
        rehome_thread();
        if self.makes_heap {
            drop(core::hint::black_box(Box::new(0_u64)));
        }
        self.report.send(is_pinned).ok()?;
        drop(self.report);
        self.go.recv().ok()?;
        drop(self.go);
        Some(body())
    }
}

/// What starting allocates lives as long as the worker, or is kept for the starter's next wait: it
/// must not pin the context that happens to be current.
pub(super) fn outside_contexts() -> Option<Scope<'static>> {
    use_allocator(CurrentAllocatorInUse::ThreadLocal).ok()
}

/// The starter's end: the thread waits for `go`.
pub(super) struct Waiting<H> {
    pub(super) handle: H,
    pub(super) place: Place,
    pub(super) report: Receiver<Result<(), WorkerError>>,
    pub(super) go: Sender<()>,
}

impl Waiting<()> {
    pub(super) fn of<H>(self, handle: H) -> Waiting<H> {
        let Self { handle: (), place, report, go } = self;
        Waiting { handle, place, report, go }
    }
}

impl<H> Waiting<H> {
    /// Waits until the worker is pinned.
    fn check(&self) -> Result<(), WorkerError> {
        let _scope = outside_contexts();
        // A thread that ended without a report was killed by a panic of the standard library's own.
        let lost = || WorkerError::Start(std::io::ErrorKind::BrokenPipe.into());
        self.report.recv().unwrap_or_else(|_| Err(lost()))
    }

    /// Lets the worker call its body.
    fn go(self) -> (H, Place) {
        let _scope = outside_contexts();
        // A worker whose report was good waits for this word, so it arrives.
        let _ = self.go.send(());
        (self.handle, self.place)
    }

    /// Makes the worker end without calling its body, and waits for that.
    fn cancel(self, join: impl FnOnce(H)) {
        drop(self.go);
        join(self.handle);
    }

    /// Lets the worker call its body once it is pinned.
    pub(super) fn finish(self, join: impl FnOnce(H)) -> Result<(H, Place), WorkerError> {
        match self.check() {
            Ok(()) => Ok(self.go()),
            Err(error) => {
                self.cancel(join);
                Err(error)
            }
        }
    }
}

/// Starts each, then lets all go; if one cannot be started, none.
pub(super) fn start_all<H>(
    starts: impl Iterator<Item = Result<Waiting<H>, WorkerError>>,
    join: impl Fn(H),
) -> Result<Vec<(H, Place)>, WorkerError> {
    let mut waiting = Vec::new();
    let mut failure = None;
    for start in starts {
        match start {
            Ok(worker) => waiting.push(worker),
            Err(error) => failure = Some(error),
        }
        if failure.is_some() {
            break;
        }
    }
    if failure.is_none() {
        failure = waiting.iter().find_map(|worker| worker.check().err());
    }
    match failure {
        None => Ok(waiting.into_iter().map(Waiting::go).collect()),
        Some(error) => {
            waiting.into_iter().for_each(|worker| worker.cancel(&join));
            Err(error)
        }
    }
}
