//! One worker: a ring of coroutines, one a file, each resumed in turn.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::num::NonZero;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use heapswitch::units::CHUNK_BYTES;
use heapswitch::{
    Coroutine, CoroutineStack, CurrentAllocatorInUse, Heap, HeapError, StackPool, WorkerBuilder,
};

use crate::file_task::{self, Content};
use crate::job::{Contexts, Failure, Job, Part, Switching};
use crate::postings::Index;

/// How many files a worker has open at once.
const RING: usize = 8;

static STACKS: StackPool = StackPool::new(256 << 10, 64);

/// For a worker pinned to each processor; where the system cannot pin, as many that are not.
pub(crate) fn builders() -> Vec<WorkerBuilder> {
    let builder = |number| WorkerBuilder::new().name(format!("index-{number}"));
    match heapswitch::processors() {
        Ok(processors) => {
            processors.into_iter().map(|number| builder(number).processor(number)).collect()
        }
        Err(_) => {
            (0..thread::available_parallelism().map_or(1, NonZero::get)).map(builder).collect()
        }
    }
}

/// Indexes files until none is left. Their heaps are children of `account`.
pub(crate) fn work(job: &Job, account: &Heap) -> Result<Part, Failure> {
    let before = heapswitch::usage_of(CurrentAllocatorInUse::ThreadLocal);
    let index = Rc::new(RefCell::new(Index::default()));
    let mut part = Part::default();
    let mut heaps = Heaps { account, spare: Vec::with_capacity(RING) };
    let mut ring = VecDeque::with_capacity(RING);
    loop {
        while ring.len() < RING
            && let Some(file) = take_file(job)
        {
            ring.push_back((file, FileTask::new(job, file, &index, &mut heaps)?));
        }
        let Some((file, mut task)) = ring.pop_front() else { break };
        match task.resume()? {
            None => ring.push_back((file, task)),
            Some(result) => {
                part.contexts.add_result(&result);
                part.add(file, result);
                if let Some(heap) = task.into_heap() {
                    heaps.put(heap, &mut part.contexts)?;
                }
                job.finished.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    heaps.close(&mut part.contexts);
    let after = heapswitch::usage_of(CurrentAllocatorInUse::ThreadLocal);
    part.thread_bytes = after.since(&before).allocated_bytes;
    part.index = index.take();
    Ok(part)
}

/// The number of a file that no worker has taken.
fn take_file(job: &Job) -> Option<u32> {
    // Relaxed: nothing but the number passes between workers.
    let file = job.next.fetch_add(1, Ordering::Relaxed);
    (file < job.paths.len()).then_some(file as u32)
}

type FileResult = io::Result<Content>;

/// A file's coroutine.
enum FileTask {
    /// In a heap of its own.
    Switched(Coroutine<(), (), FileResult>),
    /// In the thread's heap, on the same kind of stack: a bare coroutine, nothing of the switching.
    Bare(corosensei::Coroutine<(), (), FileResult, CoroutineStack>),
}

impl FileTask {
    fn new(
        job: &Job,
        file: u32,
        index: &Rc<RefCell<Index>>,
        heaps: &mut Heaps<'_>,
    ) -> Result<Self, Failure> {
        let (paths, index) = (Arc::clone(&job.paths), Rc::clone(index));
        let body =
            move |pause: &dyn Fn()| file_task::run(&paths[file as usize], file, &index, pause);
        let stack = STACKS.take()?;
        Ok(match job.switching {
            Switching::On => {
                let heap = heaps.take()?;
                Self::Switched(Coroutine::with_stack(heap, stack, move |yielder, ()| {
                    body(&|| yielder.suspend(()))
                }))
            }
            Switching::Off => {
                Self::Bare(corosensei::Coroutine::with_stack(stack, move |yielder, ()| {
                    body(&|| yielder.suspend(()))
                }))
            }
        })
    }

    /// Lets the coroutine run to its next suspension; what its body returned, if it ended.
    fn resume(&mut self) -> Result<Option<FileResult>, Failure> {
        match self {
            Self::Switched(coroutine) => Ok(coroutine.resume(())?.as_return()),
            Self::Bare(coroutine) => Ok(match coroutine.resume(()) {
                corosensei::CoroutineResult::Yield(()) => None,
                corosensei::CoroutineResult::Return(result) => Some(result),
            }),
        }
    }

    /// The heap that it ran in, with what is left in it.
    fn into_heap(self) -> Option<Heap> {
        match self {
            Self::Switched(coroutine) => Some(coroutine.into_heap()),
            Self::Bare(_) => None,
        }
    }
}

/// Heaps that wait to be used again: the chunk that each keeps is still in the processor's cache.
struct Heaps<'a> {
    account: &'a Heap,
    spare: Vec<Heap>,
}

impl Heaps<'_> {
    fn take(&mut self) -> Result<Heap, HeapError> {
        match self.spare.pop() {
            Some(heap) => Ok(heap),
            None => Heap::builder().parent(self.account).build(),
        }
    }

    /// Ends what is in a heap: all its chunks but one go back, and those which escapees pin.
    fn put(&mut self, mut heap: Heap, contexts: &mut Contexts) -> Result<(), HeapError> {
        contexts.used_bytes += heap.memory_usage()?.peak_committed_bytes;
        contexts.add_report(heap.reset()?);
        self.spare.push(heap);
        Ok(())
    }

    fn close(self, contexts: &mut Contexts) {
        self.spare.into_iter().for_each(|heap| contexts.add_report(heap.close()));
    }
}

impl Part {
    fn add(&mut self, file: u32, result: FileResult) {
        match result {
            Ok(Content::Binary) => self.binary_files += 1,
            Ok(Content::Copied | Content::Moved { .. }) => {}
            Err(error) => self.unreadable.push((file, error)),
        }
    }
}

impl Contexts {
    fn add_result(&mut self, result: &FileResult) {
        self.explained_chunks += match result {
            // It may begin anywhere in its first chunk.
            Ok(Content::Moved { bytes }) => bytes.div_ceil(CHUNK_BYTES) + 1,
            // An error may hold a message of its own.
            Err(_) => 1,
            Ok(_) => 0,
        };
    }
}
