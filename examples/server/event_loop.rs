//! A worker's event loop: accepts connections and resumes the coroutine of each that can go on.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use heapswitch::{Coroutine, CoroutineResult, HeapPool, PooledHeap, StackPool};
use polling::{Event, Events, Poller};

use crate::connection::{Connection, Waits, Wake};
use crate::{Failure, Shared};

/// The listener's key; connections' are above.
const LISTENER: usize = 0;
/// Beyond so many connections a worker accepts no more until one is closed.
const MOST_CONNECTIONS: usize = 4096;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);

/// What closed connections leave for the next ones.
static HEAPS: HeapPool = HeapPool::new().keep_at_most(128);
static STACKS: StackPool = StackPool::new(256 << 10, 128);

/// The loop's end of a connection.
struct Task {
    stream: Rc<TcpStream>,
    coroutine: Coroutine<Wake, Waits, io::Result<()>, PooledHeap<&'static HeapPool>>,
    deadline: Instant,
}

pub(crate) struct EventLoop<'a> {
    shared: &'a Arc<Shared>,
    poller: &'a Poller,
    listener: &'a TcpListener,
    tasks: HashMap<usize, Task>,
    next_key: usize,
    is_accepting: bool,
}

impl<'a> EventLoop<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, number: usize, listener: &'a TcpListener) -> Self {
        Self {
            shared,
            poller: &shared.pollers[number],
            listener,
            tasks: HashMap::new(),
            next_key: LISTENER + 1,
            is_accepting: true,
        }
    }

    /// Serves until the server is stopped.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        // SAFETY: deleted below, before the listener is dropped.
        unsafe { self.poller.add(self.listener, Event::readable(LISTENER)) }?;
        let result = self.serve();
        self.poller.delete(self.listener)?;
        result
    }

    fn serve(&mut self) -> Result<(), Failure> {
        let mut events = Events::new();
        while !self.shared.is_stopping.load(Ordering::Relaxed) {
            events.clear();
            match self.poller.wait(&mut events, Some(TICK)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in events.iter() {
                if event.key == LISTENER {
                    self.is_accepting = false;
                    self.accept();
                } else {
                    self.resume(event.key, Wake::Ready);
                }
            }
            self.end_late();
            if !self.is_accepting && self.tasks.len() < MOST_CONNECTIONS {
                self.poller.modify(self.listener, Event::readable(LISTENER))?;
                self.is_accepting = true;
            }
            if self.shared.requests.load(Ordering::Relaxed) >= self.shared.options.most_requests {
                self.stop();
            }
        }
        let keys: Vec<usize> = self.tasks.keys().copied().collect();
        keys.into_iter().for_each(|key| self.end(key));
        Ok(())
    }

    fn stop(&self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        for poller in &self.shared.pollers {
            // The other workers look within a tick anyway.
            let _ = poller.notify();
        }
    }

    fn accept(&mut self) {
        while self.tasks.len() < MOST_CONNECTIONS {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Err(failure) = self.start(stream) {
                        eprintln!("server: a connection was refused: {failure}");
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Without file descriptors, say: those who wait are accepted after the next
                    // tick.
                    eprintln!("server: a connection could not be accepted: {error}");
                    return;
                }
            }
        }
    }

    fn start(&mut self, stream: TcpStream) -> Result<(), Failure> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let heap = HEAPS.take()?;
        let stream = Rc::new(stream);
        let (shared, its_stream) = (Arc::clone(self.shared), Rc::clone(&stream));
        let coroutine = Coroutine::with_stack(heap, STACKS.take()?, move |yielder, _| {
            Connection::new(&shared, &its_stream, yielder).serve()
        });
        let key = self.next_key;
        self.next_key += 1;
        // SAFETY: deleted in `end`, before the stream is dropped.
        unsafe { self.poller.add(&*stream, Event::none(key)) }?;
        let deadline = Instant::now() + self.shared.options.timeout;
        self.tasks.insert(key, Task { stream, coroutine, deadline });
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        self.resume(key, Wake::Ready);
        Ok(())
    }

    /// Lets a connection go on until it waits again or ends.
    fn resume(&mut self, key: usize, wake: Wake) {
        // A connection that was ended in the same round has no task any more.
        let Some(task) = self.tasks.get_mut(&key) else { return };
        // A panic ends its connection and no other: all that it left half done is the coroutine's
        // own.
        let resumed = catch_unwind(AssertUnwindSafe(|| task.coroutine.resume(wake)));
        let interest = match resumed {
            Ok(Ok(CoroutineResult::Yield(Waits::ToRead))) => Event::readable(key),
            Ok(Ok(CoroutineResult::Yield(Waits::ToWrite))) => Event::writable(key),
            // That a client went away, or was too slow, is no error of ours.
            Ok(Ok(CoroutineResult::Return(_))) | Err(_) => return self.end(key),
            Ok(Err(error)) => {
                eprintln!("server: a connection could not go on: {error}");
                return self.end(key);
            }
        };
        if wake == Wake::Ready {
            task.deadline = Instant::now() + self.shared.options.timeout;
        }
        if let Err(error) = self.poller.modify(&*task.stream, interest) {
            eprintln!("server: a connection cannot be waited for: {error}");
            self.end(key);
        }
    }

    /// Wakes those whose time is up, to say so and return.
    fn end_late(&mut self) {
        let now = Instant::now();
        let late: Vec<usize> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.deadline <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            self.resume(key, Wake::TimedOut);
            // One that waits on nevertheless, to send its answer, gets this chance only.
            if self.tasks.get(&key).is_some_and(|task| task.deadline + TICK * 4 <= now) {
                self.end(key);
            }
        }
    }

    /// Closes a connection; its heap and its stack wait for the next one.
    fn end(&mut self, key: usize) {
        let Some(task) = self.tasks.remove(&key) else { return };
        let _ = self.poller.delete(&*task.stream);
        // A coroutine that still waits is unwound here.
        drop(task.coroutine);
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
