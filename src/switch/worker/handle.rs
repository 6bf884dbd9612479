//! The handles of workers that were started.

use std::thread::{self, JoinHandle, ScopedJoinHandle};

use super::start::Place;
use crate::numa::Node;

/// A worker that was started. Dropping it lets the thread go on by itself.
#[derive(Debug)]
pub struct Worker<T> {
    handle: JoinHandle<Option<T>>,
    place: Place,
}

/// As [`Worker`], of a [`std::thread::scope`], which joins it at its end at the latest.
#[derive(Debug)]
pub struct ScopedWorker<'scope, T> {
    handle: ScopedJoinHandle<'scope, Option<T>>,
    place: Place,
}

/// What a join gives of a worker that never called its body. Those are joined where they are
/// started, so no user sees it.
fn never_ran() -> Box<dyn core::any::Any + Send> {
    Box::new("a worker ended before its body was called")
}

impl<T> Worker<T> {
    pub(super) fn new((handle, place): (JoinHandle<Option<T>>, Place)) -> Self {
        Self { handle, place }
    }

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

    /// The processor that it is pinned to; `None` where that is a set of several, or none.
    pub fn processor(&self) -> Option<usize> {
        self.place.processor
    }

    /// The NUMA node that it was started for.
    pub fn node(&self) -> Option<Node> {
        self.place.node
    }
}

impl<'scope, T> ScopedWorker<'scope, T> {
    pub(super) fn new((handle, place): (ScopedJoinHandle<'scope, Option<T>>, Place)) -> Self {
        Self { handle, place }
    }

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

    /// The processor that it is pinned to; `None` where that is a set of several, or none.
    pub fn processor(&self) -> Option<usize> {
        self.place.processor
    }

    /// The NUMA node that it was started for.
    pub fn node(&self) -> Option<Node> {
        self.place.node
    }
}
