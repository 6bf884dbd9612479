//! Workers that are started together: one on each processor, or on each NUMA node.
#![forbid(unsafe_code)]

use std::thread;
use std::vec::Vec;

use super::start::start_all;
use super::{ScopedWorker, Worker, WorkerBuilder, WorkerError, processors, processors_of};
use crate::numa::{Node, ProcessorSet, Topology};

/// The NUMA nodes of which the calling thread may use a processor, in order: where workers can run.
/// With or without memory of their own.
///
/// # Errors
/// [`WorkerError::Topology`].
pub fn worker_nodes() -> Result<Vec<Node>, WorkerError> {
    let topology = Topology::of_system().map_err(WorkerError::Topology)?;
    let mut nodes = Vec::new();
    for node in topology.nodes_with_processors().iter() {
        match processors_of(node) {
            Ok(_) => nodes.push(node),
            Err(WorkerError::NoProcessor { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(nodes)
}

impl WorkerBuilder {
    /// This builder for one of several workers: its name gets a number.
    fn numbered(&self, number: usize) -> Self {
        let name = self.name.as_ref().map(|name| std::format!("{name}-{number}"));
        Self { name, ..self.clone() }
    }

    fn start_on<T, F, P: Copy + Send + 'static>(
        &self,
        places: Vec<P>,
        put: impl Fn(Self, P) -> Self,
        number: impl Fn(P) -> usize,
        body: F,
    ) -> Result<Vec<Worker<T>>, WorkerError>
    where
        F: FnOnce(P) -> T + Clone + Send + 'static,
        T: Send + 'static,
    {
        let starts = places.into_iter().map(|place| {
            let body = body.clone();
            put(self.numbered(number(place)), place).start(move || body(place))
        });
        let workers = start_all(starts, |handle| drop(handle.join()))?;
        Ok(workers.into_iter().map(Worker::new).collect())
    }

    fn start_scoped_on<'scope, 'env, T, F, P: Copy + Send + 'scope>(
        &self,
        scope: &'scope thread::Scope<'scope, 'env>,
        places: Vec<P>,
        put: impl Fn(Self, P) -> Self,
        number: impl Fn(P) -> usize,
        body: F,
    ) -> Result<Vec<ScopedWorker<'scope, T>>, WorkerError>
    where
        F: FnOnce(P) -> T + Clone + Send + 'scope,
        T: Send + 'scope,
    {
        let starts = places.into_iter().map(|place| {
            let body = body.clone();
            put(self.numbered(number(place)), place).start_scoped(scope, move || body(place))
        });
        let workers = start_all(starts, |handle| drop(handle.join()))?;
        Ok(workers.into_iter().map(ScopedWorker::new).collect())
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
        self.start_on(processors()?, Self::processor, |processor| processor, body)
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
        self.start_scoped_on(scope, processors()?, Self::processor, |processor| processor, body)
    }

    /// Starts one worker on each of these processors, otherwise as
    /// [`spawn_on_each`](Self::spawn_on_each). A set is read from a list as `taskset -c` takes it.
    ///
    /// ```
    /// use heapswitch::WorkerBuilder;
    ///
    /// # if heapswitch::sys::IS_PASS_THROUGH { return Ok(()); }
    /// let workers = WorkerBuilder::new().spawn_on_list(&"0".parse()?, |processor| processor)?;
    /// assert_eq!(workers.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`WorkerError`]; no body is called then.
    ///
    /// # Panics
    /// As [`std::thread::Builder::spawn`], if the name contains a zero byte.
    pub fn spawn_on_list<T, F>(
        &self,
        list: &ProcessorSet,
        body: F,
    ) -> Result<Vec<Worker<T>>, WorkerError>
    where
        F: FnOnce(usize) -> T + Clone + Send + 'static,
        T: Send + 'static,
    {
        self.start_on(list.iter().collect(), Self::processor, |processor| processor, body)
    }

    /// As [`spawn_on_list`](Self::spawn_on_list), for bodies that borrow what outlives a
    /// [`std::thread::scope`].
    ///
    /// # Errors
    /// See [`WorkerError`]; no body is called then.
    ///
    /// # Panics
    /// As [`std::thread::Builder::spawn_scoped`], if the name contains a zero byte.
    pub fn spawn_scoped_on_list<'scope, 'env, T, F>(
        &self,
        scope: &'scope thread::Scope<'scope, 'env>,
        list: &ProcessorSet,
        body: F,
    ) -> Result<Vec<ScopedWorker<'scope, T>>, WorkerError>
    where
        F: FnOnce(usize) -> T + Clone + Send + 'scope,
        T: Send + 'scope,
    {
        let list = list.iter().collect();
        self.start_scoped_on(scope, list, Self::processor, |processor| processor, body)
    }

    /// Starts one worker on each of [`worker_nodes`], confined to the node's processors, with its
    /// heap on the node; each calls its own clone of `body` with its node. With the name `web` they
    /// are called `web-0`, `web-1` and so on, by node. All run, or none.
    ///
    /// # Errors
    /// See [`WorkerError`]; no body is called then.
    ///
    /// # Panics
    /// As [`std::thread::Builder::spawn`], if the name contains a zero byte.
    pub fn spawn_on_each_node<T, F>(&self, body: F) -> Result<Vec<Worker<T>>, WorkerError>
    where
        F: FnOnce(Node) -> T + Clone + Send + 'static,
        T: Send + 'static,
    {
        self.start_on(worker_nodes()?, Self::node, Node::number, body)
    }

    /// As [`spawn_on_each_node`](Self::spawn_on_each_node), for bodies that borrow what outlives a
    /// [`std::thread::scope`].
    ///
    /// # Errors
    /// See [`WorkerError`]; no body is called then.
    ///
    /// # Panics
    /// As [`std::thread::Builder::spawn_scoped`], if the name contains a zero byte.
    pub fn spawn_scoped_on_each_node<'scope, 'env, T, F>(
        &self,
        scope: &'scope thread::Scope<'scope, 'env>,
        body: F,
    ) -> Result<Vec<ScopedWorker<'scope, T>>, WorkerError>
    where
        F: FnOnce(Node) -> T + Clone + Send + 'scope,
        T: Send + 'scope,
    {
        self.start_scoped_on(scope, worker_nodes()?, Self::node, Node::number, body)
    }
}
