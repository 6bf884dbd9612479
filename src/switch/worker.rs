//! Worker threads, each pinned to a processor, with a heap of its own.
//!
//! A thread's heap is made at its first allocation. A worker is pinned before its body runs, so the
//! memory that its body asks for is first touched, and thereby placed, where it runs.
//!
//! A worker that cannot be pinned never calls its body: starting it is an error that says what was
//! asked. Of workers that are started together either all run or none.
#![forbid(unsafe_code)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle, ScopedJoinHandle};
use std::vec::Vec;

use super::home::rehome_thread;
use super::in_use::CurrentAllocatorInUse;
use super::scope::{Scope, use_allocator};
use crate::sys::SystemError;
use crate::sys::thread::Affinity;

/// How a worker is started.
///
/// ```
/// use heapswitch::{WorkerBuilder, processors};
///
/// # if heapswitch::sys::IS_PASS_THROUGH { return Ok(()); }
/// let first = processors()?[0];
/// let worker = WorkerBuilder::new().name("first").processor(first).spawn(|| 6 * 7)?;
/// assert_eq!(worker.join().unwrap(), 42);
/// # Ok::<(), heapswitch::WorkerError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct WorkerBuilder {
    name: Option<String>,
    processor: Option<usize>,
    stack_bytes: Option<usize>,
    makes_heap: bool,
}

/// Why a worker could not be started. Its body was not called.
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkerError {
    /// The processors that this process may use could not be listed.
    Processors(SystemError),
    /// The system refused to run the thread on the processor.
    Pin {
        /// The processor that was asked for.
        processor: usize,
        /// The system's reason; `None` where the number is beyond what a set can hold (1023).
        error: Option<SystemError>,
    },
    /// The system refused the thread.
    Start(std::io::Error),
}

impl core::fmt::Display for WorkerError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Processors(error) => write!(
                formatter,
                "the processors of this process were to be listed and the system refused ({error})"
            ),
            Self::Pin { processor, error } => {
                write!(formatter, "a worker was to be pinned to processor {processor} and ")?;
                match error {
                    Some(error) => write!(formatter, "the system refused ({error})")?,
                    None => formatter.write_str("no processor has that number")?,
                }
                formatter.write_str("; choose one of `processors()`")
            }
            Self::Start(error) => {
                write!(
                    formatter,
                    "a worker thread was to be started and the system refused: {error}"
                )
            }
        }
    }
}

impl core::error::Error for WorkerError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Processors(error) | Self::Pin { error: Some(error), .. } => Some(error),
            Self::Pin { error: None, .. } => None,
            Self::Start(error) => Some(error),
        }
    }
}

/// The processors that the calling thread may use, in order: those that `taskset`, a container or a
/// control group left it.
///
/// # Errors
/// [`WorkerError::Processors`].
pub fn processors() -> Result<Vec<usize>, WorkerError> {
    let allowed = Affinity::current().map_err(WorkerError::Processors)?;
    Ok(allowed.processors().collect())
}

/// A worker that was started. Dropping it lets the thread go on by itself.
#[derive(Debug)]
pub struct Worker<T> {
    handle: JoinHandle<Option<T>>,
    processor: Option<usize>,
}

/// As [`Worker`], of a [`std::thread::scope`], which joins it at its end at the latest.
#[derive(Debug)]
pub struct ScopedWorker<'scope, T> {
    handle: ScopedJoinHandle<'scope, Option<T>>,
    processor: Option<usize>,
}

/// What a join gives of a worker that never called its body. Those are joined where they are
/// started, so no user sees it.
fn never_ran() -> Box<dyn core::any::Any + Send> {
    Box::new("a worker ended before its body was called")
}

impl<T> Worker<T> {
    /// Waits for the worker to end.
    ///
    /// # Errors
    /// The payload of the panic that ended its body.
    pub fn join(self) -> thread::Result<T> {
        self.handle.join()?.ok_or_else(never_ran)
    }

    /// Whether its body has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Its thread.
    pub fn thread(&self) -> &thread::Thread {
        self.handle.thread()
    }

    /// Where it is pinned.
    pub fn processor(&self) -> Option<usize> {
        self.processor
    }
}

impl<T> ScopedWorker<'_, T> {
    /// Waits for the worker to end.
    ///
    /// # Errors
    /// The payload of the panic that ended its body.
    pub fn join(self) -> thread::Result<T> {
        self.handle.join()?.ok_or_else(never_ran)
    }

    /// Whether its body has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Its thread.
    pub fn thread(&self) -> &thread::Thread {
        self.handle.thread()
    }

    /// Where it is pinned.
    pub fn processor(&self) -> Option<usize> {
        self.processor
    }
}

/// The worker's end of its start.
struct Start {
    affinity: Option<(usize, Affinity)>,
    makes_heap: bool,
    report: Sender<Result<(), WorkerError>>,
    go: Receiver<()>,
}

impl Start {
    /// Pins the thread, reports, and waits for the word to go; `None` if that never comes.
    fn run<T>(self, body: impl FnOnce() -> T) -> Option<T> {
        let is_pinned = match self.affinity {
            Some((processor, affinity)) => {
                affinity.apply().map_err(|error| WorkerError::Pin { processor, error: Some(error) })
            }
            None => Ok(()),
        };
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
fn outside_contexts() -> Option<Scope<'static>> {
    use_allocator(CurrentAllocatorInUse::ThreadLocal).ok()
}

/// The starter's end: the thread waits for `go`.
struct Waiting<H> {
    handle: H,
    processor: Option<usize>,
    report: Receiver<Result<(), WorkerError>>,
    go: Sender<()>,
}

impl Waiting<()> {
    fn of<H>(self, handle: H) -> Waiting<H> {
        let Self { handle: (), processor, report, go } = self;
        Waiting { handle, processor, report, go }
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
    fn go(self) -> (H, Option<usize>) {
        let _scope = outside_contexts();
        // A worker whose report was good waits for this word, so it arrives.
        let _ = self.go.send(());
        (self.handle, self.processor)
    }

    /// Makes the worker end without calling its body, and waits for that.
    fn cancel(self, join: impl FnOnce(H)) {
        drop(self.go);
        join(self.handle);
    }

    /// Lets the worker call its body once it is pinned.
    fn finish(self, join: impl FnOnce(H)) -> Result<(H, Option<usize>), WorkerError> {
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
fn start_all<H>(
    starts: impl Iterator<Item = Result<Waiting<H>, WorkerError>>,
    join: impl Fn(H),
) -> Result<Vec<(H, Option<usize>)>, WorkerError> {
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

impl WorkerBuilder {
    /// A worker without a name that runs wherever its starter may.
    pub fn new() -> Self {
        Self::default()
    }

    /// The thread's name. Must not contain a zero byte.
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Pins the thread to a processor, one of [`processors`].
    pub fn processor(self, processor: usize) -> Self {
        Self { processor: Some(processor), ..self }
    }

    /// The length of the thread's stack, in bytes; without it the standard library's 2 MiB.
    pub fn stack_bytes(self, bytes: usize) -> Self {
        Self { stack_bytes: Some(bytes), ..self }
    }

    /// Makes the thread's heap once it is pinned, before the body runs, so that the body's first
    /// allocation need not.
    pub fn make_heap_first(self) -> Self {
        Self { makes_heap: true, ..self }
    }

    /// What `std` needs, the worker's end of the start, and the starter's.
    fn prepare(&self) -> Result<(thread::Builder, Start, Waiting<()>), WorkerError> {
        let affinity = match self.processor {
            Some(processor) => {
                let affinity = Affinity::of(processor);
                let unknown = WorkerError::Pin { processor, error: None };
                Some((processor, affinity.ok_or(unknown)?))
            }
            None => None,
        };
        let mut builder = thread::Builder::new();
        if let Some(name) = &self.name {
            builder = builder.name(name.clone());
        }
        if let Some(bytes) = self.stack_bytes {
            builder = builder.stack_size(bytes);
        }
        let ((report, reported), (go, gone)) = (channel(), channel());
        let start = Start { affinity, makes_heap: self.makes_heap, report, go: gone };
        let waiting = Waiting { handle: (), processor: self.processor, report: reported, go };
        Ok((builder, start, waiting))
    }

    fn start<T, F>(&self, body: F) -> Result<Waiting<JoinHandle<Option<T>>>, WorkerError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let _scope = outside_contexts();
        let (builder, start, waiting) = self.prepare()?;
        let handle = builder.spawn(move || start.run(body)).map_err(WorkerError::Start)?;
        Ok(waiting.of(handle))
    }

    fn start_scoped<'scope, 'env, T, F>(
        &self,
        scope: &'scope thread::Scope<'scope, 'env>,
        body: F,
    ) -> Result<Waiting<ScopedJoinHandle<'scope, Option<T>>>, WorkerError>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        let _scope = outside_contexts();
        let (builder, start, waiting) = self.prepare()?;
        let handle =
            builder.spawn_scoped(scope, move || start.run(body)).map_err(WorkerError::Start)?;
        Ok(waiting.of(handle))
    }

    /// Starts a worker. Returns when it is pinned.
    ///
    /// # Errors
    /// See [`WorkerError`]; `body` is not called then.
    ///
    /// # Panics
    /// As [`std::thread::Builder::spawn`], if the name contains a zero byte.
    pub fn spawn<T, F>(&self, body: F) -> Result<Worker<T>, WorkerError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (handle, processor) = self.start(body)?.finish(|handle| drop(handle.join()))?;
        Ok(Worker { handle, processor })
    }

    /// Starts a worker that may borrow what outlives a [`std::thread::scope`].
    ///
    /// ```
    /// use heapswitch::WorkerBuilder;
    ///
    /// let words = vec!["borrowed", "words"];
    /// let length = std::thread::scope(|scope| {
    ///     let worker = WorkerBuilder::new().spawn_scoped(scope, || words.concat().len())?;
    ///     Ok::<_, heapswitch::WorkerError>(worker.join().unwrap())
    /// })?;
    /// assert_eq!(length, 13);
    /// # Ok::<(), heapswitch::WorkerError>(())
    /// ```
    ///
    /// # Errors
    /// See [`WorkerError`]; `body` is not called then.
    ///
    /// # Panics
    /// As [`std::thread::Builder::spawn_scoped`], if the name contains a zero byte.
    pub fn spawn_scoped<'scope, 'env, T, F>(
        &self,
        scope: &'scope thread::Scope<'scope, 'env>,
        body: F,
    ) -> Result<ScopedWorker<'scope, T>, WorkerError>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        let waiting = self.start_scoped(scope, body)?;
        let (handle, processor) = waiting.finish(|handle| drop(handle.join()))?;
        Ok(ScopedWorker { handle, processor })
    }

    /// This builder for one of several workers: its name gets the processor's number.
    fn for_processor(&self, processor: usize) -> Self {
        let name = self.name.as_ref().map(|name| std::format!("{name}-{processor}"));
        Self { name, processor: Some(processor), ..self.clone() }
    }

    /// Starts one worker on each of [`processors`]; each calls its own clone of `body` with its
    /// processor. With the name `web` they are called `web-0`, `web-1` and so on. All run, or none.
    ///
    /// ```
    /// use heapswitch::WorkerBuilder;
    ///
    /// # if heapswitch::sys::IS_PASS_THROUGH { return Ok(()); }
    /// for worker in WorkerBuilder::new().spawn_on_each(|processor| processor)? {
    ///     assert_eq!(worker.processor(), Some(worker.join().unwrap()));
    /// }
    /// # Ok::<(), heapswitch::WorkerError>(())
    /// ```
    ///
    /// # Errors
    /// See [`WorkerError`]; no body is called then.
    ///
    /// # Panics
    /// As [`std::thread::Builder::spawn`], if the name contains a zero byte.
    pub fn spawn_on_each<T, F>(&self, body: F) -> Result<Vec<Worker<T>>, WorkerError>
    where
        F: FnOnce(usize) -> T + Clone + Send + 'static,
        T: Send + 'static,
    {
        let starts = processors()?.into_iter().map(|processor| {
            let body = body.clone();
            self.for_processor(processor).start(move || body(processor))
        });
        let workers = start_all(starts, |handle| drop(handle.join()))?;
        let worker = |(handle, processor)| Worker { handle, processor };
        Ok(workers.into_iter().map(worker).collect())
    }

    /// As [`spawn_on_each`](Self::spawn_on_each), for bodies that borrow what outlives a
    /// [`std::thread::scope`].
    ///
    /// # Errors
    /// See [`WorkerError`]; no body is called then.
    ///
    /// # Panics
    /// As [`std::thread::Builder::spawn_scoped`], if the name contains a zero byte.
    pub fn spawn_scoped_on_each<'scope, 'env, T, F>(
        &self,
        scope: &'scope thread::Scope<'scope, 'env>,
        body: F,
    ) -> Result<Vec<ScopedWorker<'scope, T>>, WorkerError>
    where
        F: FnOnce(usize) -> T + Clone + Send + 'scope,
        T: Send + 'scope,
    {
        let starts = processors()?.into_iter().map(|processor| {
            let body = body.clone();
            self.for_processor(processor).start_scoped(scope, move || body(processor))
        });
        let workers = start_all(starts, |handle| drop(handle.join()))?;
        let worker = |(handle, processor)| ScopedWorker { handle, processor };
        Ok(workers.into_iter().map(worker).collect())
    }
}
