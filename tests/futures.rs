//! Futures in heaps, with the allocator installed and executors written for the tests.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use heapswitch::{
    CurrentAllocatorInUse, FutureExt, Heap, HeapError, HeapPool, HeapSwitch, Scope, current,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// Polls until it is done; between polls the thread's own heap must be in use.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
            return output;
        }
    }
}

/// Pending once.
fn yield_now() -> impl Future<Output = ()> {
    let mut was_polled = false;
    poll_fn(move |context| {
        context.waker().wake_by_ref();
        match core::mem::replace(&mut was_polled, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
}

fn address<T>(value: &T) -> *const u8 {
    core::ptr::from_ref(value).cast()
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn every_poll_allocates_in_the_heap_and_nothing_outside_does() {
    let heap = Heap::new().unwrap();
    let task = async {
        let mut blocks = Vec::new();
        for number in 0..10 {
            blocks.push(Box::new(number));
            yield_now().await;
        }
        blocks
    };
    let blocks = block_on(task.in_heap(&heap)).unwrap();
    assert!(blocks.iter().all(|block| heap.contains(address(&**block))));
    let outside = Box::new(1);
    assert!(!heap.contains(address(&*outside)));
}

/// Tells whether its drop ran in the heap.
struct DropsIn(Arc<Mutex<Vec<CurrentAllocatorInUse>>>);

impl Drop for DropsIn {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(current());
    }
}

#[test]
fn the_inner_future_is_dropped_in_its_heap_when_done_and_when_not() {
    for is_awaited in [true, false] {
        let seen = Arc::new(Mutex::new(Vec::with_capacity(2)));
        let token = DropsIn(Arc::clone(&seen));
        let mut future = Box::pin(Heap::new().unwrap().wrap(async move {
            let _token = token;
            if !is_awaited {
                std::future::pending::<()>().await;
            }
        }));
        let poll = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(poll.is_ready(), is_awaited);
        assert_eq!(future.is_done(), is_awaited);
        assert_eq!(seen.lock().unwrap().len(), usize::from(is_awaited), "dropped at once");
        drop(future);
        assert_eq!(*seen.lock().unwrap(), [CurrentAllocatorInUse::CoroutineLocal]);
    }
}

#[test]
fn an_output_outlives_its_heap() {
    let text = block_on(Heap::new().unwrap().wrap(async {
        yield_now().await;
        String::from("made in a heap that is closed")
    }));
    assert_eq!(text.unwrap(), "made in a heap that is closed");
}

#[test]
fn a_panic_leaves_the_heap_and_a_new_poll_finds_it_free() {
    let heap = Heap::new().unwrap();
    let mut calls = 0;
    let mut future = pin!(
        poll_fn(|_| {
            calls += 1;
            assert!(calls != 1, "the first poll panics");
            Poll::Ready(current())
        })
        .in_heap(&heap)
    );
    let context = &mut Context::from_waker(Waker::noop());
    let first = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
    assert!(first.is_err());
    assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
    let second = future.as_mut().poll(context);
    assert_eq!(second, Poll::Ready(Ok(CurrentAllocatorInUse::CoroutineLocal)));
    let third = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
    assert!(third.is_err(), "it was done");
    assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
}

#[test]
fn a_heap_that_runs_already_is_an_error_and_the_body_is_not_called() {
    let heap = Heap::new().unwrap();
    let scope = heap.enter().unwrap();
    let mut was_called = false;
    {
        let mut future = pin!(async { was_called = true }.in_heap(&heap));
        let poll = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(poll, Poll::Ready(Err(HeapError::Running.into())));
    }
    assert!(!was_called);
    assert_eq!(current(), CurrentAllocatorInUse::CoroutineLocal);
    drop(scope);
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn futures_in_heaps_nest_and_interleave() {
    let heaps: Vec<_> = (0..3).map(|_| Heap::new().unwrap()).collect();
    let task = async |index: usize| {
        let outer = Box::new(index);
        let nested = Heap::new().unwrap();
        let inner = async {
            yield_now().await;
            Box::new(index)
        };
        let inner = inner.in_heap(&nested).await.unwrap();
        assert!(nested.contains(address(&*inner)));
        assert!(!nested.contains(address(&*outer)));
        yield_now().await;
        (outer, Box::new(index))
    };
    let mut tasks: Vec<_> =
        heaps.iter().enumerate().map(|(index, heap)| Box::pin(task(index).in_heap(heap))).collect();
    let mut done = Vec::new();
    while done.len() < tasks.len() {
        for (index, task) in tasks.iter_mut().enumerate().filter(|(_, task)| !task.is_done()) {
            let poll = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
            if let Poll::Ready(blocks) = poll {
                done.push((index, blocks.unwrap()));
            }
        }
    }
    for (index, (first, second)) in &done {
        assert!(heaps[*index].contains(address(&**first)));
        assert!(heaps[*index].contains(address(&**second)));
    }
}

/// Threads in an executor.
const THREADS: usize = 3;

/// A queue of tasks for each thread. A task that wakes goes to the thread after its last one.
#[derive(Default)]
struct Executor {
    queues: Mutex<[VecDeque<Arc<Task>>; THREADS]>,
    wakes: Condvar,
    unfinished: AtomicUsize,
}

struct Task {
    future: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    executor: Arc<Executor>,
    is_queued: AtomicBool,
    wakes: AtomicUsize,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            let executor = Arc::clone(&self.executor);
            let thread = self.wakes.fetch_add(1, Ordering::Relaxed) % THREADS;
            executor.queues.lock().unwrap()[thread].push_back(self);
            executor.wakes.notify_all();
        }
    }
}

impl Executor {
    fn spawn(self: &Arc<Self>, future: impl Future<Output = ()> + Send + 'static) {
        self.unfinished.fetch_add(1, Ordering::AcqRel);
        let future = Mutex::new(Some(Box::pin(future) as _));
        let executor = Arc::clone(self);
        let (is_queued, wakes) = (AtomicBool::new(false), AtomicUsize::new(0));
        Arc::new(Task { future, executor, is_queued, wakes }).wake();
    }

    fn next(&self, thread: usize) -> Option<Arc<Task>> {
        let mut queues = self.queues.lock().unwrap();
        loop {
            if let Some(task) = queues[thread].pop_front() {
                return Some(task);
            }
            if self.unfinished.load(Ordering::Acquire) == 0 {
                return None;
            }
            queues = self.wakes.wait(queues).unwrap();
        }
    }

    fn work(&self, thread: usize) {
        while let Some(task) = self.next(thread) {
            task.is_queued.store(false, Ordering::Release);
            let waker = Waker::from(Arc::clone(&task));
            let mut slot = task.future.lock().unwrap();
            let Some(future) = slot.as_mut() else { continue };
            let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
            assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
            if poll.is_ready() {
                *slot = None;
                let _queues = self.queues.lock().unwrap();
                self.unfinished.fetch_sub(1, Ordering::AcqRel);
                self.wakes.notify_all();
            }
        }
    }
}

#[test]
#[cfg_attr(heapswitch_tsan, ignore = "the standard library's waiting is not instrumented")]
fn tasks_in_heaps_move_between_threads() {
    static POOL: HeapPool = HeapPool::new().keep_at_most(32);
    static MOVED: Mutex<Vec<bool>> = Mutex::new(Vec::new());
    let executor = Arc::new(Executor::default());
    for number in 0..100_usize {
        let task = async move {
            let start = std::thread::current().id();
            let mut kept = Vec::new();
            let mut has_moved = false;
            for step in 0..50 {
                kept.push(format!("task {number} step {step}"));
                yield_now().await;
                has_moved |= std::thread::current().id() != start;
                if step % 10 == 9 {
                    kept.drain(..5);
                }
            }
            assert!(kept.iter().all(|text| text.starts_with(&format!("task {number} "))));
            heapswitch::with_thread_local(|| MOVED.lock().unwrap().push(has_moved)).unwrap();
        };
        executor.spawn(async {
            task.in_heap(POOL.take().unwrap()).await.unwrap();
        });
    }
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let executor = &executor;
            scope.spawn(move || executor.work(thread));
        }
    });
    assert_eq!(*MOVED.lock().unwrap(), [true; 100]);
}

#[test]
fn what_is_in_a_heap_is_sent_where_its_future_is() {
    fn assert_send<T: Send>(_: &T) {}
    static POOL: HeapPool = HeapPool::new();
    assert_send(&Heap::new().unwrap().wrap(async {}));
    assert_send(&async {}.in_heap(POOL.take().unwrap()));
}

#[test]
#[cfg_attr(heapswitch_check, ignore = "the check build stops the process")]
#[cfg(not(heapswitch_pass_through))]
fn a_guard_kept_across_an_await_ends_with_the_poll() {
    let (heap, other) = (Heap::new().unwrap(), Heap::new().unwrap());
    block_on(
        async {
            let guard = other.enter().unwrap();
            assert!(other.contains(address(&*Box::new(1))));
            yield_now().await;
            assert!(heap.contains(address(&*Box::new(1))), "the next poll begins in the heap");
            let again = other.enter().unwrap();
            drop(guard);
            assert!(other.contains(address(&*Box::new(1))), "a stale guard ends nothing");
            drop(again);
            assert!(heap.contains(address(&*Box::new(1))));
        }
        .in_heap(&heap),
    )
    .unwrap();
    assert!(!heap.contains(address(&*Box::new(1))));
    drop((heap.enter().unwrap(), other.enter().unwrap()));
}

#[test]
#[cfg_attr(heapswitch_check, ignore = "the check build stops the process")]
#[cfg(not(heapswitch_pass_through))]
fn a_guard_that_escapes_its_future_ends_nothing_elsewhere() {
    let (heap, other, third) = (Heap::new().unwrap(), Heap::new().unwrap(), Heap::new().unwrap());
    let escaped: Rc<RefCell<Option<Scope<'_>>>> = Rc::default();
    block_on(
        async {
            *escaped.borrow_mut() = Some(other.enter().unwrap());
            yield_now().await;
        }
        .in_heap(&heap),
    )
    .unwrap();
    let first = heap.enter().unwrap();
    let second = third.enter().unwrap();
    escaped.borrow_mut().take();
    assert!(third.contains(address(&*Box::new(1))));
    drop(second);
    assert!(heap.contains(address(&*Box::new(1))));
    drop(first);
    assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
}
