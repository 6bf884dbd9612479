//! A soak: requests without end, each in a heap of its own, of which some leave something behind of
//! every kind that outlives its context in real programs: entries of shared maps, lazies, channels'
//! blocks, panics' payloads, join errors, backtraces, wakers, tasks' cells, timers, what a thread's
//! destructors allocate. Others read, grow and free it. Memory must not creep.
//!
//! `cargo test` runs a short form. Ten million requests, with the figures:
//! `cargo test --release --package heapswitch-async-tests --test soak -- --ignored --nocapture`
#![cfg(not(heapswitch_pass_through))]

#[path = "../../support/memory.rs"]
mod memory;

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use heapswitch::{
    Account, FutureExt, Heap, HeapError, HeapPool, HeapSwitch, LifetimeHint, PooledHeap,
    flush_foreign_frees, purge, reconcile,
};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Sleep;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// Tasks that make requests.
const TASKS: usize = 3;
/// Escapees that are kept at a time, at most; in a short form so many that the first tenth makes
/// them.
const KEPT: usize = 2048;
/// What may be sent and not yet read: how late the reader is must not show.
const UNREAD: usize = 256;
/// One request in so many leaves something.
const ESCAPES_EVERY: usize = 8;
/// And one in so many of those something that is dear to make.
const DEAR_EVERY: usize = 64;
/// Looks at the resident memory in each tenth.
const LOOKS: usize = 40;

/// The text that request `number` makes, and later readers expect.
fn text(number: usize) -> String {
    format!("request {number}, which has gone; ").repeat(number % 7 + 1)
}

/// What outlives its context.
enum Escapee {
    Text(String),
    Lazy(LazyLock<String, Box<dyn FnOnce() -> String + Send>>),
    Payload(Box<dyn Any + Send>),
    JoinError(JoinError),
    Backtrace(Backtrace),
    Waker(Waker, Arc<Woken>),
    Task(JoinHandle<String>),
    Timer(Pin<Box<Sleep>>),
    OfThread(Vec<String>),
}

/// A waker that keeps a text and tells whether it was called.
struct Woken {
    text: String,
    is_woken: AtomicBool,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::Relaxed);
    }
}

/// What is shared by all requests. The map's table grows in whatever context is current.
struct Shared {
    kept: Mutex<HashMap<usize, (usize, Escapee)>>,
    sender: mpsc::Sender<(usize, String)>,
    /// Escapees that are kept at a time.
    most_kept: usize,
    unread: Arc<AtomicUsize>,
    requests: Account,
    pool: Arc<HeapPool>,
    verified: AtomicUsize,
    looks: Mutex<Vec<usize>>,
}

thread_local! {
    /// Its destructor allocates, and gives that to the others.
    static LATE: RefCell<Option<Late>> = const { RefCell::new(None) };
}

struct Late(usize, mpsc::Sender<Vec<String>>);

impl Drop for Late {
    fn drop(&mut self) {
        // Nobody listens where the test has failed.
        let _ = self.1.send(vec![text(self.0), text(self.0)]);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

static ACCOUNT: OnceLock<Account> = OnceLock::new();

/// The two forms share account and process.
static ALONE: Mutex<()> = Mutex::new(());

fn make_heap() -> Result<Heap, HeapError> {
    Heap::builder().name("pooled").charged_to(ACCOUNT.get().unwrap()).build()
}

/// A request's heap: of the pool, or one of its own, of each strategy.
enum OneHeap {
    Pooled(PooledHeap<Arc<HeapPool>>),
    Own(Heap),
}

impl std::borrow::Borrow<Heap> for OneHeap {
    fn borrow(&self) -> &Heap {
        match self {
            Self::Pooled(heap) => heap,
            Self::Own(heap) => heap,
        }
    }
}

fn heap_for(shared: &Shared, number: usize) -> OneHeap {
    let hint = match number % 5 {
        0 => LifetimeHint::Short,
        1 => LifetimeHint::Medium,
        2 => LifetimeHint::Long,
        _ => return OneHeap::Pooled(shared.pool.take_shared().unwrap()),
    };
    let heap = Heap::builder().name("own").hint(hint).charged_to(&shared.requests);
    OneHeap::Own(heap.limit(16 << 20).build().unwrap())
}

/// What every request does: makes some and drops it.
fn work(number: usize) -> usize {
    let rows: Vec<String> = (0..number % 16 + 4).map(text).collect();
    rows.iter().map(String::len).sum()
}

/// Dear to make: a panic, a task that panics, a backtrace, a thread.
async fn make_dear(number: usize, which: usize) -> Escapee {
    match which % 4 {
        0 => {
            let caught =
                catch_unwind(AssertUnwindSafe(|| resume_unwind(Box::new(text(number))))).map(drop);
            Escapee::Payload(caught.unwrap_err())
        }
        1 => {
            let failed = tokio::spawn(async move { resume_unwind(Box::new(text(number))) });
            Escapee::JoinError(failed.await.unwrap_err())
        }
        2 => Escapee::Backtrace(Backtrace::force_capture()),
        _ => {
            let (sender, receiver) = mpsc::channel();
            let thread = std::thread::spawn(move || {
                LATE.set(Some(Late(number, sender)));
                Heap::new().unwrap().run(|| text(number).len()).unwrap()
            });
            assert_eq!(thread.join().unwrap(), text(number).len());
            Escapee::OfThread(receiver.recv().unwrap())
        }
    }
}

fn make(number: usize, which: usize) -> Escapee {
    match which % 5 {
        0 => Escapee::Text(text(number)),
        1 => Escapee::Lazy(LazyLock::new(Box::new(move || text(number)))),
        2 => {
            let woken = Arc::new(Woken { text: text(number), is_woken: AtomicBool::new(false) });
            Escapee::Waker(Waker::from(Arc::clone(&woken)), woken)
        }
        3 => Escapee::Task(tokio::spawn(async move {
            let made = text(number);
            tokio::task::yield_now().await;
            made
        })),
        _ => {
            let mut timer = Box::pin(tokio::time::sleep(Duration::from_millis(1)));
            // Polled once, so that the driver knows it.
            let _ = timer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            Escapee::Timer(timer)
        }
    }
}

/// Reads an escapee, in whatever context, and frees it there.
async fn verify(number: usize, escapee: Escapee) {
    match escapee {
        Escapee::Text(mut kept) => {
            // Grown by somebody else than who made it.
            kept.push_str(&text(number));
            assert_eq!(kept, text(number).repeat(2));
        }
        Escapee::Lazy(kept) => assert_eq!(*kept, text(number)),
        Escapee::Payload(kept) => assert_eq!(*kept.downcast::<String>().unwrap(), text(number)),
        Escapee::JoinError(kept) => {
            assert_eq!(*kept.into_panic().downcast::<String>().unwrap(), text(number));
        }
        Escapee::Backtrace(kept) => {
            assert_eq!(kept.status(), std::backtrace::BacktraceStatus::Captured);
        }
        Escapee::Waker(waker, woken) => {
            waker.wake();
            assert!(woken.is_woken.load(Ordering::Relaxed));
            assert_eq!(woken.text, text(number));
        }
        Escapee::Task(task) => assert_eq!(task.await.unwrap(), text(number)),
        Escapee::Timer(timer) => timer.await,
        Escapee::OfThread(kept) => assert_eq!(kept, [text(number), text(number)]),
    }
}

/// One request, in its heap.
async fn request(shared: Arc<Shared>, number: usize) {
    let sum = work(number);
    if !number.is_multiple_of(ESCAPES_EVERY) {
        assert!(sum > 0);
        return;
    }
    let which = number / ESCAPES_EVERY;
    let escapee = match which.is_multiple_of(DEAR_EVERY) {
        true => make_dear(number, which / DEAR_EVERY).await,
        false => make(number, which),
    };
    while shared.unread.load(Ordering::Relaxed) >= UNREAD {
        tokio::task::yield_now().await;
    }
    shared.unread.fetch_add(1, Ordering::Relaxed);
    shared.sender.send((number, text(number))).unwrap();
    let old = locked(&shared.kept).insert(which % shared.most_kept, (number, escapee));
    if let Some((number, escapee)) = old {
        verify(number, escapee).await;
        shared.verified.fetch_add(1, Ordering::Relaxed);
    }
}

/// The requests of one task in one tenth: cheap ones run as closures, the others as futures.
async fn requests(shared: Arc<Shared>, numbers: std::ops::Range<usize>, task: usize) {
    let look_every = (numbers.len() / LOOKS).max(1);
    for (count, number) in numbers.enumerate() {
        let heap = heap_for(&shared, number);
        if number.is_multiple_of(ESCAPES_EVERY) {
            request(Arc::clone(&shared), number).in_heap(heap).await.unwrap();
        } else {
            let heap: &Heap = std::borrow::Borrow::borrow(&heap);
            assert!(heap.run(|| work(number)).unwrap() > 0);
        }
        if task == 0 && count % look_every == 0 {
            // What is free is no matter of what outlives its context.
            purge();
            locked(&shared.looks).push(memory::resident_bytes());
        }
        if count % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    flush_foreign_frees();
}

/// Reads what the requests send, and frees it on a thread of its own.
fn reader(
    receiver: mpsc::Receiver<(usize, String)>,
    unread: Arc<AtomicUsize>,
) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut count = 0;
        for (number, made) in receiver {
            assert_eq!(made, text(number));
            drop(made);
            unread.fetch_sub(1, Ordering::Relaxed);
            count += 1;
        }
        count
    })
}

fn mean(looks: &[usize]) -> f64 {
    looks.iter().sum::<usize>() as f64 / looks.len() as f64
}

/// Every chunk that a heap holds is some account's.
#[track_caller]
fn assert_reconciled() {
    let found = reconcile().unwrap();
    assert_eq!(found.account_difference_bytes(), 0, "{found:?}");
}

/// So many requests. What is resident in the last tenth, by the second.
fn soak(count: usize) -> f64 {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_time().build().unwrap();
    let _alone = locked(&ALONE);
    let requests_account = ACCOUNT.get_or_init(|| Account::new("soak").unwrap()).clone();
    let (sender, receiver) = mpsc::channel();
    let unread = Arc::new(AtomicUsize::new(0));
    let reader = reader(receiver, Arc::clone(&unread));
    let shared = Arc::new(Shared {
        kept: Mutex::new(HashMap::new()),
        sender,
        most_kept: KEPT.min(count / 10 / ESCAPES_EVERY / 2),
        unread,
        requests: requests_account.clone(),
        pool: Arc::new(HeapPool::with_maker(make_heap)),
        verified: AtomicUsize::new(0),
        looks: Mutex::new(Vec::with_capacity(LOOKS + 2)),
    });
    let mut means = Vec::new();
    for tenth in 0..10 {
        let share = count / 10 / TASKS;
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let start = (tenth * TASKS + task) * share;
                runtime.spawn(requests(Arc::clone(&shared), start..start + share, task))
            })
            .collect();
        tasks.into_iter().for_each(|task| runtime.block_on(task).unwrap());
        means.push(mean(&std::mem::take(&mut *locked(&shared.looks))));
        println!("tenth {tenth}: {:.0} KiB resident", means[tenth] / 1024.0);
    }
    let escaped = (0..10 * TASKS * (count / 10 / TASKS)).step_by(ESCAPES_EVERY).count();
    let kept = std::mem::take(&mut *locked(&shared.kept));
    let total = shared.verified.load(Ordering::Relaxed) + kept.len();
    assert_eq!(total, escaped, "every escapee was read, or is kept");
    runtime.block_on(async {
        for (number, escapee) in kept.into_values() {
            verify(number, escapee).await;
        }
    });
    drop(Arc::into_inner(shared).expect("the tasks have ended"));
    assert_eq!(reader.join().unwrap(), escaped);
    drop(runtime);
    flush_foreign_frees();
    assert_reconciled();
    let usage = requests_account.usage();
    assert_eq!(usage.committed_bytes, 0, "the last escapee took the last chunk along: {usage:?}");
    assert!(usage.escapees >= escaped as u64, "{usage:?}");
    purge();
    means[9] / means[1]
}

#[test]
fn forty_thousand_requests_leave_nothing() {
    let ratio = soak(if cfg!(debug_assertions) { 40_000 } else { 400_000 });
    assert!(ratio <= 1.02, "{ratio}");
}

#[test]
#[ignore = "takes minutes"]
fn ten_million_requests_leave_nothing() {
    let ratio = soak(10_000_000);
    println!("the last tenth by the second: {ratio:.4}");
    assert!(ratio <= 1.02, "{ratio}");
}
