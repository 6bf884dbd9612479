//! Worker threads, each pinned to a processor or to a NUMA node, with a heap of its own there.
//!
//! A worker is pinned, and at home on the node where it then runs, before its body runs: its heap
//! and the contexts that it makes have their memory on that node.
//!
//! A worker that cannot be pinned never calls its body: starting it is an error that says what was
//! asked. Of workers that are started together either all run or none.
#![forbid(unsafe_code)]

mod error;
mod groups;
mod handle;
mod start;

use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle, ScopedJoinHandle};
use std::vec::Vec;

pub use error::WorkerError;
pub use groups::worker_nodes;
pub use handle::{ScopedWorker, Worker};
use start::{Place, Start, Target, Waiting, outside_contexts};

use crate::numa::{Node, ProcessorSet, Topology};
use crate::sys::thread::Affinity;

/// Starts threads that are pinned to processors or a NUMA node, with their heap there.
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
    target: Target,
    node: Option<Node>,
    stack_bytes: Option<usize>,
    makes_heap: bool,
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

/// The processors of a NUMA node that the calling thread may use.
pub(super) fn processors_of(node: Node) -> Result<ProcessorSet, WorkerError> {
    let topology = Topology::of_system().map_err(WorkerError::Topology)?;
    let all = topology.processors_of(node).map_err(WorkerError::Topology)?;
    let usable = all.and(topology.usable_processors());
    if usable.is_empty() { Err(WorkerError::NoProcessor { node }) } else { Ok(usable) }
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
        Self { target: Target::Processor(processor), node: None, ..self }
    }

    /// Confines the thread to these processors, one at least of [`processors`].
    pub fn processors(self, processors: ProcessorSet) -> Self {
        Self { target: Target::Set(Box::new(processors)), node: None, ..self }
    }

    /// Confines the thread to the processors of a NUMA node, those of [`processors`] among them.
    pub fn node(self, node: Node) -> Self {
        Self { target: Target::Anywhere, node: Some(node), ..self }
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
        let (target, node) = (self.target.clone(), self.node);
        let target = match (&target, node) {
            (Target::Anywhere, Some(node)) => Target::Set(Box::new(processors_of(node)?)),
            _ => target,
        };
        target.check()?;
        let mut builder = thread::Builder::new();
        if let Some(name) = &self.name {
            builder = builder.name(name.clone());
        }
        if let Some(bytes) = self.stack_bytes {
            builder = builder.stack_size(bytes);
        }
        let processor = match target {
            Target::Processor(processor) => Some(processor),
            _ => None,
        };
        let ((report, reported), (go, gone)) = (channel(), channel());
        let start = Start { target, makes_heap: self.makes_heap, report, go: gone };
        let place = Place { processor, node };
        Ok((builder, start, Waiting { handle: (), place, report: reported, go }))
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
        Ok(Worker::new(self.start(body)?.finish(|handle| drop(handle.join()))?))
    }

    /// Starts a worker that may borrow what outlives a [`std::thread::scope`].
    ///
    /// ```
    /// use heapswitch::WorkerBuilder;
    ///
    /// let words = vec!["borrowed", "words"];
    /// let count = std::thread::scope(|scope| {
    ///     let worker = WorkerBuilder::new().spawn_scoped(scope, || words.len())?;
    ///     Ok::<usize, heapswitch::WorkerError>(worker.join().unwrap())
    /// })?;
    /// assert_eq!(count, 2);
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
        Ok(ScopedWorker::new(waiting.finish(|handle| drop(handle.join()))?))
    }
}
