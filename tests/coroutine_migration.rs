//! Coroutines that change threads while they are suspended. To be run with fat LTO, too, which lets
//! the compiler see, and keep, what it would otherwise have to load anew after a switch: `cargo
//! test --profile lto --test coroutine_migration`.
#![cfg(not(heapswitch_pass_through))]

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use heapswitch::{
    Account, Coroutine, CurrentAllocatorInUse, Heap, HeapPool, HeapSwitch, LifetimeHint,
    SendCoroutine, StackPool, Yielder, current, use_allocator,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

static STACKS: StackPool = StackPool::new(64 << 10, 100);

const HINTS: [LifetimeHint; 3] = [LifetimeHint::Short, LifetimeHint::Medium, LifetimeHint::Long];
const THREADS: usize = 4;
const COROUTINES: usize = 300;
const ROUNDS: u64 = 40;

type Task = SendCoroutine<u64, (usize, usize), u64>;

fn is_in(heap: &Heap, address: usize) -> bool {
    heap.contains(core::ptr::without_provenance(address))
}

/// Suspends at the base, and within one and two scopes, with blocks made in each.
fn task(hint: LifetimeHint) -> Task {
    let heap = Heap::with_hint(hint).unwrap();
    let coroutine = Coroutine::with_stack(heap, STACKS.take().unwrap(), |yielder, first: u64| {
        let mut sum = first;
        let inner = Heap::new().unwrap();
        let mut strings = Vec::with_capacity(8);
        for round in 0..ROUNDS {
            let text = format!("round {round}");
            sum += yielder.suspend((text.as_ptr().addr(), 0));
            strings.push(text);
            {
                let _scope = inner.enter().unwrap();
                let block = Box::new(round);
                assert!(inner.contains((&raw const *block).cast()));
                sum += yielder.suspend((0, (&raw const *block).addr()));
                let _global = use_allocator(CurrentAllocatorInUse::Global).unwrap();
                let elsewhere = Box::new(round);
                sum += yielder.suspend((0, 0));
                assert!(!inner.contains((&raw const *elsewhere).cast()));
                assert_eq!(current(), CurrentAllocatorInUse::Global);
                assert_eq!((*block, *elsewhere), (round, round));
            }
            assert_eq!(current(), CurrentAllocatorInUse::CoroutineLocal);
            if strings.len() == 8 {
                strings.clear();
            }
        }
        sum
    });
    // SAFETY: what the body holds when it is suspended is `Send` but for the guards; it uses no
    // thread-local variable; its inner heap is its own.
    unsafe { coroutine.assume_send() }
}

/// Resumes what comes in once, and hands it on.
fn work(
    inbox: mpsc::Receiver<(Task, u64)>,
    next: mpsc::Sender<(Task, u64)>,
    done: mpsc::Sender<u64>,
) {
    while let Ok((mut task, sum)) = inbox.recv() {
        let mine = Box::new([sum; 20]);
        match task.resume(1).unwrap() {
            heapswitch::CoroutineResult::Yield((at_base, in_scope)) => {
                assert!(at_base == 0 || is_in(task.heap(), at_base));
                assert!(in_scope == 0 || !is_in(task.heap(), in_scope));
                assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
                assert!(!is_in(task.heap(), mine.as_ptr().addr()));
                let _ = next.send((task, sum + 1));
            }
            heapswitch::CoroutineResult::Return(total) => {
                assert_eq!(total, sum + 1);
                let heap = task.into_heap();
                heap.verify().unwrap();
                assert_eq!(heap.close().blocks, 0);
                done.send(total).unwrap();
            }
        }
    }
}

#[test]
fn around_a_ring_of_threads() {
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::channel()).unzip();
    let (done, all_done) = mpsc::channel();
    let threads: Vec<_> = inboxes
        .into_iter()
        .enumerate()
        .map(|(index, inbox)| {
            let next = senders[(index + 1) % THREADS].clone();
            let done = done.clone();
            thread::spawn(move || work(inbox, next, done))
        })
        .collect();
    for index in 0..COROUTINES {
        senders[index % THREADS].send((task(HINTS[index % 3]), 0)).unwrap();
    }
    for _ in 0..COROUTINES {
        assert_eq!(all_done.recv().unwrap(), 3 * ROUNDS + 1);
    }
    // The ring holds its senders itself; the threads wait for ever, and end with the process.
    drop((senders, threads));
}

#[test]
fn dropped_on_another_thread_it_unwinds_there() {
    for hint in HINTS {
        for resumes in 0..7 {
            let mut task = task(hint);
            for _ in 0..resumes {
                task.resume(1).unwrap();
            }
            thread::spawn(move || {
                drop(task);
                assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
            })
            .join()
            .unwrap();
        }
    }
}

#[test]
fn the_memory_stays_where_it_was() {
    let mut task = task(LifetimeHint::Short);
    let address = task.resume(1).unwrap().as_yield().unwrap().0;
    let chunks = task.heap().memory_usage().unwrap().committed_bytes;
    thread::spawn(move || {
        assert!(is_in(task.heap(), address));
        assert_eq!(task.heap().memory_usage().unwrap().committed_bytes, chunks);
        let task = task.into_local();
        assert!(is_in(&task.into_heap(), address));
    })
    .join()
    .unwrap();
}

/// A pool's heap goes back to it from wherever its coroutine ends.
#[test]
fn the_heap_of_a_pool_goes_along_and_back() {
    for resumes in 0..3 {
        let heaps = Arc::new(HeapPool::new());
        let heap = heaps.take_shared().unwrap();
        let coroutine = Coroutine::with_stack(heap, STACKS.take().unwrap(), |yielder, ()| {
            let text = String::from("on its stack");
            yielder.suspend(());
            text.len()
        });
        // SAFETY: on its stack are a string and the yielder.
        let mut coroutine = unsafe { coroutine.assume_send() };
        for _ in 0..resumes {
            let resumed = || coroutine.resume(()).map(|_| coroutine).unwrap();
            coroutine = thread::scope(|scope| scope.spawn(resumed).join().unwrap());
        }
        assert_eq!(heaps.waiting(), 0);
        thread::spawn(move || drop(coroutine)).join().unwrap();
        assert_eq!(heaps.waiting(), 1, "after {resumes}");
        assert_eq!(Arc::strong_count(&heaps), 1);
    }
}

/// As a runtime's own `yield_now` does, which knows what runs: the callback is called between the
/// body's own steps.
#[test]
fn a_callback_that_suspends_may_return_on_another_thread() {
    static RUNNING: AtomicPtr<Yielder<'static, (), ()>> = AtomicPtr::new(core::ptr::null_mut());
    let account = Account::new("limited").unwrap().with_soft_limit(256 << 10);
    let _watch = account.on_pressure(|_| {
        // SAFETY: the coroutine is running, and so is its yielder.
        unsafe { (*RUNNING.load(Ordering::Relaxed)).suspend(()) };
    });
    let charged = account.clone();
    let body = move |yielder: &Yielder<'_, (), ()>, ()| {
        RUNNING.store(core::ptr::from_ref(yielder).cast_mut().cast(), Ordering::Relaxed);
        for _ in 0..3 {
            let heap = Heap::builder().charged_to(&charged).build().unwrap();
            let block = heap.run(|| vec![1_u8; 1 << 20]).unwrap();
            assert_eq!(block.len(), 1 << 20);
        }
    };
    let coroutine = Coroutine::new(Heap::new().unwrap(), body).unwrap();
    // SAFETY: it holds heaps and blocks when it is suspended, and uses no thread-local variable.
    let mut coroutine = unsafe { coroutine.assume_send() };
    let mut resumes = 0;
    while !coroutine.is_done() {
        // So long a stack goes back to the system at the thread's end, its thread-locals with it.
        let thread = thread::Builder::new().stack_size(64 << 20).spawn(move || {
            coroutine.resume(()).unwrap();
            coroutine
        });
        coroutine = thread.unwrap().join().unwrap();
        resumes += 1;
        // A new thread would have its thread-locals at the same place.
        if !coroutine.is_done() {
            coroutine.resume(()).unwrap();
            resumes += 1;
        }
    }
    assert_eq!(resumes, 4, "each heap passed the limit");
}

/// A heap is closed, or reset, in a coroutine that its callback suspends, and that goes on
/// elsewhere while the first thread frees what escaped: that one does not run the heap any more.
#[test]
fn an_end_that_is_suspended_may_go_on_on_another_thread() {
    static RESUMED: AtomicBool = AtomicBool::new(false);
    static FREED: AtomicUsize = AtomicUsize::new(0);
    const BLOCKS: usize = 3000;
    for round in 0..60 {
        let hint = HINTS[round % 3];
        let (give, escaped) = mpsc::channel::<Vec<Box<[u8; 48]>>>();
        let body = move |yielder: &Yielder<'_, (), ()>, ()| {
            let mut heap = Heap::with_hint(hint).unwrap();
            let blocks = heap.run(|| (0..BLOCKS).map(|_| Box::new([7; 48])).collect()).unwrap();
            give.send(blocks).unwrap();
            let yielder = AtomicPtr::new(core::ptr::from_ref(yielder).cast_mut().cast());
            let suspend = move |_| {
                let yielder: *const Yielder<'static, (), ()> = yielder.load(Ordering::Relaxed);
                // SAFETY: the coroutine is running, and so is its yielder.
                unsafe { (*yielder).suspend(()) };
                RESUMED.store(true, Ordering::Release);
                while FREED.load(Ordering::Acquire) < 10 {
                    thread::yield_now();
                }
            };
            heap.on_end(suspend).unwrap();
            if round % 2 == 0 {
                heap.close();
            } else {
                heap.reset().unwrap();
                assert_eq!(heap.run(|| vec![1_u8; 100]).unwrap().len(), 100);
                heap.verify().unwrap();
            }
        };
        let coroutine = Coroutine::new(Heap::new().unwrap(), body).unwrap();
        // SAFETY: it holds a heap when it is suspended, and uses no thread-local variable; nobody
        // else frees in that until it was resumed.
        let mut coroutine = unsafe { coroutine.assume_send() };
        coroutine.resume(()).unwrap();
        let escaped = escaped.recv().unwrap();
        RESUMED.store(false, Ordering::Relaxed);
        FREED.store(0, Ordering::Relaxed);
        let elsewhere = thread::spawn(move || {
            coroutine.resume(()).unwrap();
            assert!(coroutine.is_done());
        });
        while !RESUMED.load(Ordering::Acquire) {
            thread::yield_now();
        }
        for block in escaped {
            drop(block);
            FREED.fetch_add(1, Ordering::Release);
        }
        elsewhere.join().unwrap();
    }
}
