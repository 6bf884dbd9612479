//! What takes contexts along: coroutines, futures, closures, threads.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use heapswitch::{
    ContextError, Coroutine, CoroutineResult, CurrentAllocatorInUse, FutureExt, Heap, ResumeError,
    WorkerBuilder, in_child, use_allocator,
};

use super::block::Block;
use super::contexts::tolerate;
use super::random::Random;
use super::thread::{Frame, LocalTask, Thread, is_planned, note_disorder, panic_with};
use super::world::{Kept, Task, World, is_child};

/// Why a context was ended.
fn tolerate_end(error: ContextError) {
    match error {
        ContextError::Heap(error) => tolerate(error),
        ContextError::OverBudget(over) => {
            assert!(over.used_bytes > over.limit_bytes, "{over}");
            assert!(over.largest.len() <= 3, "{over}");
        }
        _ => {}
    }
}

pub(crate) fn step(frame: Frame<'_>) {
    let thread = frame.thread;
    // What they run in may be a heap that was left in use.
    note_disorder();
    match thread.random.below(14) {
        0 | 1 => make_coroutine(thread),
        2..5 => resume(thread),
        5 => drop_coroutine(thread),
        6 => make_sent_coroutine(thread),
        7 => resume_sent(thread),
        8 => make_task(thread),
        9 | 10 => poll(thread),
        11 => local_task(thread),
        12 => work(thread),
        _ => spawn(thread),
    }
}

/// A heap that nothing else uses, in which anything may be allocated.
fn own_heap(thread: &Thread) -> Option<Heap> {
    match thread.take_heap().map(Rc::try_unwrap)? {
        Ok(kept) if !kept.refuses => Some(kept.heap),
        Ok(kept) => {
            thread.keep_heap(Rc::new(kept));
            None
        }
        Err(shared) => {
            thread.keep_heap(shared);
            None
        }
    }
}

fn make_coroutine(thread: &Rc<Thread>) {
    let Some(heap) = own_heap(thread) else { return };
    let within = Rc::clone(thread);
    let body = move |yielder: &heapswitch::Yielder<'_, (), ()>, ()| {
        Frame::of_body(&within, yielder).steps();
    };
    let coroutine = Coroutine::<(), (), ()>::new(heap, body).unwrap();
    thread.coroutines.borrow_mut().push(coroutine);
}

fn resume(thread: &Thread) {
    let taken = thread.random.take(&mut thread.coroutines.borrow_mut());
    let Some(mut coroutine) = taken else { return };
    match coroutine.resume(()) {
        Ok(CoroutineResult::Yield(())) => thread.coroutines.borrow_mut().push(coroutine),
        Ok(CoroutineResult::Return(())) => {
            super::heaps::keep(thread, coroutine.into_heap(), (false, true));
        }
        Err(ResumeError { error, .. }) => {
            if let Some(error) = error {
                tolerate_end(error);
            }
            if !coroutine.is_done() && thread.random.once_in(2) {
                thread.coroutines.borrow_mut().push(coroutine);
            }
        }
    }
}

fn drop_coroutine(thread: &Thread) {
    let taken = thread.random.take(&mut thread.coroutines.borrow_mut());
    let Some(coroutine) = taken else { return };
    if thread.random.once_in(2) {
        super::heaps::keep(thread, coroutine.into_heap(), (false, true));
    }
}

/// Blocks that are made, resized, freed, sent: what bodies do that no thread is needed for.
fn work_on(random: &Random, world: &World, own: &mut Vec<Block>) {
    for _ in 0..random.below(12) {
        match random.below(8) {
            0..4 => own.push(Block::make(random).unwrap()),
            4 => drop(random.take(own)),
            5 => own.first_mut().map_or((), |block| block.resize(random)),
            6 => random.take(own).map_or((), |block| world.blocks.put(block)),
            _ => world.blocks.take(random).map_or((), |block| own.push(block)),
        }
    }
    own.iter().for_each(Block::check);
    if random.once_in(40) {
        panic_with(Block::make(random).unwrap());
    }
}

fn make_sent_coroutine(thread: &Thread) {
    let Some(heap) = own_heap(thread) else { return };
    let (random, world) = (thread.random.split(), Arc::clone(&thread.world));
    let body = move |yielder: &heapswitch::Yielder<'_, (), ()>, ()| {
        let mut own = Vec::new();
        for _ in 0..random.below(6) {
            work_on(&random, &world, &mut own);
            yielder.suspend(());
        }
        Block::make(&random).unwrap()
    };
    let coroutine = Coroutine::<(), (), Block>::new(heap, body).unwrap();
    // SAFETY: all that it captures and holds is `Send`, and it is within no scope but its own heap.
    thread.world.coroutines.put(unsafe { coroutine.assume_send() });
}

fn resume_sent(thread: &Thread) {
    let Some(mut coroutine) = thread.world.coroutines.take(&thread.random) else { return };
    match coroutine.resume(()) {
        Ok(CoroutineResult::Yield(())) => thread.world.coroutines.put(coroutine),
        Ok(CoroutineResult::Return(block)) => {
            thread.keep_block(block);
            super::heaps::keep(thread, coroutine.into_heap(), (false, true));
        }
        Err(ResumeError { error, .. }) => error.map_or((), tolerate_end),
    }
}

/// Pending once.
async fn pause() {
    let mut is_first = true;
    poll_fn(|context| {
        context.waker().wake_by_ref();
        if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}

async fn body(random: Random, world: Arc<World>) -> Block {
    let mut own = Vec::new();
    for _ in 0..random.below(6) {
        work_on(&random, &world, &mut own);
        pause().await;
    }
    Block::make(&random).unwrap()
}

fn make_task(thread: &Thread) {
    let (world, random) = (&thread.world, &thread.random);
    let future: super::world::Body = Box::pin(body(random.split(), Arc::clone(world)));
    let task = match random.below(3) {
        0 => match future.in_child("random task") {
            Ok(task) => Task::Own(task),
            Err(error) => return tolerate(error),
        },
        1 => Task::Pooled(future.in_heap(world.pool.take_shared().unwrap())),
        _ => match own_heap(thread) {
            Some(heap) => Task::Own(heap.wrap(future)),
            None => return,
        },
    };
    world.tasks.put(task);
}

fn poll(thread: &Thread) {
    let (world, random) = (&thread.world, &thread.random);
    let Some(mut task) = world.tasks.take(random) else { return };
    let mut context = Context::from_waker(Waker::noop());
    let polled = catch_unwind(AssertUnwindSafe(|| match &mut task {
        Task::Own(task) => Pin::new(task).poll(&mut context),
        Task::Pooled(task) => Pin::new(task).poll(&mut context),
    }));
    match polled {
        Ok(Poll::Pending) if random.once_in(8) => drop(task),
        Ok(Poll::Pending) => world.tasks.put(task),
        Ok(Poll::Ready(Ok(block))) => thread.keep_block(block),
        Ok(Poll::Ready(Err(error))) => {
            // Where its heap runs elsewhere it may be polled again.
            tolerate_end(error);
        }
        Err(payload) if is_planned(&*payload) => {}
        Err(payload) => resume_unwind(payload),
    }
}

/// A future that stays on its thread, and keeps guards across its awaits.
fn local_task(thread: &Rc<Thread>) {
    let taken = thread.random.take(&mut thread.tasks.borrow_mut());
    let task = taken.or_else(|| make_local(thread));
    let Some(mut task) = task else { return };
    match task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => thread.tasks.borrow_mut().push(task),
        Poll::Ready(Ok(())) => {}
        Poll::Ready(Err(error)) => tolerate_end(error),
    }
}

fn make_local(thread: &Rc<Thread>) -> Option<LocalTask> {
    let heap = own_heap(thread)?;
    let within = Rc::clone(thread);
    let future: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
        let mut own = Vec::new();
        for _ in 0..within.random.below(5) {
            let allocator = match within.random.below(2) {
                0 => CurrentAllocatorInUse::Global,
                _ => CurrentAllocatorInUse::ThreadLocal,
            };
            let scope = use_allocator(allocator).unwrap();
            let kept = within.share_heap().filter(|kept| !kept.refuses);
            let inner = kept.as_ref().and_then(|kept| kept.heap.enter().ok());
            work_on(&within.random, &within.world, &mut own);
            pause().await;
            work_on(&within.random, &within.world, &mut own);
            drop(inner);
            drop(scope);
        }
    });
    Some(Box::pin(heap.wrap(future)))
}

/// Closures that take a heap along to whatever thread calls them.
fn work(thread: &Thread) {
    let (world, random) = (&thread.world, &thread.random);
    let (their_world, theirs) = (Arc::clone(world), random.split());
    let body = move || {
        let mut own = Vec::new();
        work_on(&theirs, &their_world, &mut own);
        Block::make(&theirs).unwrap()
    };
    match random.below(4) {
        0 => match in_child("random work", body) {
            Ok(work) => world.work.put(Box::new(work)),
            Err(error) => tolerate(error),
        },
        1 => {
            if let Some(heap) = own_heap(thread) {
                world.work.put(Box::new(heap.wrap_closure(body)));
            }
        }
        _ => {
            let Some(work) = world.work.take(random) else { return };
            match work() {
                Ok(block) => thread.keep_block(block),
                Err(error) => tolerate_end(error),
            }
        }
    }
}

/// A thread that is started, does something, and is waited for, all within a context.
fn spawn(thread: &Thread) {
    if is_child() || !thread.random.once_in(4) {
        return;
    }
    let (world, random) = (Arc::clone(&thread.world), thread.random.split());
    let heap = own_heap(thread);
    let mut builder = WorkerBuilder::new().name("random");
    if random.once_in(2) {
        builder = builder.make_heap_first();
    }
    let worker = builder.spawn(move || {
        let mut own = Vec::new();
        let mut act = || {
            let planned = AssertUnwindSafe(|| work_on(&random, &world, &mut own));
            if let Err(payload) = catch_unwind(planned)
                && !is_planned(&*payload)
            {
                resume_unwind(payload);
            }
        };
        match &heap {
            Some(heap) => heap.run(act).unwrap_or_else(tolerate),
            None => act(),
        }
        let refuses = false;
        let kept = heap.map(|heap| Kept { heap, refuses, spills: true });
        (own, kept)
    });
    let (own, kept) = worker.unwrap().join().unwrap();
    own.into_iter().for_each(|block| thread.keep_block(block));
    if let Some(kept) = kept {
        thread.keep_heap(Rc::new(kept));
    }
}
