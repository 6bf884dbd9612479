//! Tasks in contexts on tokio's two schedulers and on smol: the one over its budget ends, with the
//! figures, and no other.
#![cfg(not(heapswitch_pass_through))]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use heapswitch::{
    Account, ContextError, CurrentAllocatorInUse, FutureExt, Heap, HeapError, HeapSwitch, current,
    in_child,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const CHUNK: usize = 64 << 10;
const TASKS: usize = if cfg!(heapswitch_tsan) { 60 } else { 300 };

type Sleep = fn() -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request that allocates and awaits; a hostile one never stops. Counts where it went on in
/// another thread than before.
async fn request(is_hostile: bool, step: Sleep, moves: &AtomicUsize) -> usize {
    assert_eq!(current(), CurrentAllocatorInUse::CoroutineLocal);
    let mut rows = Vec::new();
    while is_hostile || rows.len() < 10 {
        rows.push(vec![rows.len() as u8; 10_000]);
        let before = std::thread::current().id();
        step().await;
        let has_moved = std::thread::current().id() != before;
        moves.fetch_add(usize::from(has_moved), Ordering::Relaxed);
        assert_eq!(current(), CurrentAllocatorInUse::CoroutineLocal);
    }
    rows.iter().enumerate().for_each(|(index, row)| assert!(row[9_999] == index as u8));
    rows.iter().map(Vec::len).sum()
}

/// Heaps for so many requests below one account, every hundredth hostile.
fn contexts(group: &Account) -> impl Iterator<Item = (bool, Heap)> {
    (0..TASKS).map(|number| {
        let is_hostile = number % 20 == 7;
        let name = if is_hostile { "hostile" } else { "request" };
        (is_hostile, Heap::builder().name(name).charged_to(group).build().unwrap())
    })
}

fn group() -> Account {
    Account::new("requests").unwrap().with_limit(1 << 30).with_limit_each(8 * CHUNK)
}

/// Each hostile one ended by its budget, each other one served.
fn check(is_hostile: bool, result: Result<usize, ContextError>) {
    match result {
        Ok(bytes) => assert!(!is_hostile && bytes == 100_000),
        Err(ContextError::OverBudget(over)) => {
            assert!(is_hostile, "{over}");
            assert_eq!((over.context.as_str(), over.limit_bytes), ("hostile", 8 * CHUNK));
            assert!((9 * CHUNK..=10 * CHUNK).contains(&over.used_bytes), "{over}");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn tokio_with_many_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).build().unwrap();
    let group = group();
    static MOVES: AtomicUsize = AtomicUsize::new(0);
    let step: Sleep = || Box::pin(tokio::task::yield_now());
    // One round does it, unless the other workers get no processor as long as it takes.
    for round in 0.. {
        let tasks: Vec<_> = contexts(&group)
            .map(|(is_hostile, heap)| {
                let task = heap.wrap(request(is_hostile, step, &MOVES));
                (is_hostile, runtime.spawn(task))
            })
            .collect();
        for (is_hostile, task) in tasks {
            check(is_hostile, runtime.block_on(task).unwrap());
        }
        if MOVES.load(Ordering::Relaxed) != 0 {
            break;
        }
        assert!(round < 100, "no task went from one worker to another");
    }
    drop(runtime);
    heapswitch::flush_foreign_frees();
    assert_eq!(group.usage().committed_bytes, 0, "everything went back");
}

#[test]
fn tokio_with_one_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let group = group();
    static MOVES: AtomicUsize = AtomicUsize::new(0);
    runtime.block_on(async {
        let sleep: Sleep = || Box::pin(tokio::time::sleep(std::time::Duration::from_micros(1)));
        let tasks: Vec<_> = contexts(&group)
            .map(|(is_hostile, heap)| {
                (is_hostile, tokio::spawn(heap.wrap(request(is_hostile, sleep, &MOVES))))
            })
            .collect();
        for (is_hostile, task) in tasks {
            check(is_hostile, task.await.unwrap());
        }
    });
    drop(runtime);
    assert_eq!(MOVES.load(Ordering::Relaxed), 0);
    heapswitch::flush_foreign_frees();
    assert_eq!(group.usage().committed_bytes, 0);
}

#[test]
fn smol_with_many_threads() {
    static MOVES: AtomicUsize = AtomicUsize::new(0);
    let executor = Arc::new(smol::Executor::new());
    let (stop, stopped) = smol::channel::unbounded::<()>();
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (executor, stopped) = (Arc::clone(&executor), stopped.clone());
            std::thread::spawn(move || smol::block_on(executor.run(stopped.recv())))
        })
        .collect();
    let group = group();
    let tasks: Vec<_> = contexts(&group)
        .map(|(is_hostile, heap)| {
            let step: Sleep = || Box::pin(smol::future::yield_now());
            (is_hostile, executor.spawn(heap.wrap(request(is_hostile, step, &MOVES))))
        })
        .collect();
    for (is_hostile, task) in tasks {
        check(is_hostile, smol::block_on(task));
    }
    drop(stop);
    threads.into_iter().for_each(|thread| assert!(thread.join().unwrap().is_err()));
    drop(executor);
    heapswitch::flush_foreign_frees();
    assert_eq!(group.usage().committed_bytes, 0);
}

/// A task gives parts of its work to spawned tasks, blocking threads and plain ones, each in a
/// child of its context: bound by its limits, shown in its accounts, ended with it.
#[test]
fn work_that_is_handed_on_stays_in_the_context() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let heap = Heap::builder().name("query").limit(64 * CHUNK).build().unwrap();
    let account = heap.account_handle();
    let seen = account.clone();
    let query = heap.wrap(async move {
        let part = async {
            tokio::task::yield_now().await;
            vec![1_u8; 2 * CHUNK - 1]
        };
        let spawned = tokio::spawn(part.in_child("spawned").unwrap());
        let blocking = in_child("blocking", || vec![2_u8; 3 * CHUNK - 1]).unwrap();
        let blocking = tokio::task::spawn_blocking(blocking);
        let thread = std::thread::spawn(in_child("thread", || vec![3_u8; CHUNK - 1]).unwrap());
        let parts = [
            spawned.await.unwrap().unwrap(),
            blocking.await.unwrap().unwrap(),
            thread.join().unwrap().unwrap(),
        ];
        assert!(seen.usage().committed_bytes >= 6 * CHUNK, "{:?}", seen.usage());
        assert!(seen.usage().escapees >= 3, "their heaps are closed");
        parts.map(|part| part[0])
    });
    let digits = runtime.block_on(runtime.spawn(query)).unwrap().unwrap();
    assert_eq!(digits, [1, 2, 3]);
    drop(runtime);
    heapswitch::flush_foreign_frees();
    assert_eq!(account.usage().committed_bytes, 0);
}

#[test]
fn a_part_that_takes_too_much_ends_and_the_whole_may_go_on() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let heap = Heap::builder().name("query").limit(64 * CHUNK).build().unwrap();
    let query = heap.wrap(async {
        let greedy = async {
            let mut kept = Vec::new();
            loop {
                kept.push(vec![1_u8; CHUNK]);
                tokio::task::yield_now().await;
            }
        };
        let greedy = tokio::spawn(greedy.in_child("greedy").unwrap());
        let error: ContextError = greedy.await.unwrap().map(|(): ()| ()).unwrap_err();
        let over = error.over_budget().unwrap();
        assert_eq!((over.name.as_str(), over.context.as_str()), ("query", "greedy"));
        tokio::task::yield_now().await;
        "went on"
    });
    assert_eq!(runtime.block_on(runtime.spawn(query)).unwrap().unwrap(), "went on");
}

#[test]
fn a_task_that_ends_ends_what_it_spawned() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let closed = runtime.block_on(async {
        let heap = Heap::builder().name("request").build().unwrap();
        let account = heap.account_handle();
        let request = heap.wrap(async {
            let child = async {
                let _kept = vec![1_u8; CHUNK];
                loop {
                    tokio::task::yield_now().await;
                }
            };
            // In a tuple, for it is awaited outside.
            (tokio::spawn(child.in_child("endless").unwrap()),)
        });
        let (child,) = tokio::spawn(request).await.unwrap().unwrap();
        let ended: Result<(), ContextError> = child.await.unwrap();
        (ended, account)
    });
    assert_eq!(closed.0, Err(ContextError::Heap(HeapError::Closed)));
    drop(runtime);
    heapswitch::flush_foreign_frees();
    assert_eq!(closed.1.usage().committed_bytes, 0);
}

#[test]
fn rayon_works_in_children_and_in_pooled_heaps() {
    let heap = Heap::builder().name("sum").build().unwrap();
    let account = heap.account_handle();
    let (left, right) = heap
        .run(|| {
            let part = |range: std::ops::Range<u64>| {
                in_child("part", move || range.map(|n| vec![n; 100][99]).sum::<u64>()).unwrap()
            };
            rayon::join(part(0..1000), part(1000..2000))
        })
        .unwrap();
    assert_eq!(left.unwrap() + right.unwrap(), 1_999_000);
    assert!(account.usage().total_bytes >= 2 * CHUNK as u64);
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    static POOL: heapswitch::HeapPool = heapswitch::HeapPool::new();
    rayon::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|_| {
                let heap = POOL.take().unwrap();
                let block = heap.run(|| Box::new([1_u8; 100])).unwrap();
                assert!(heap.contains(block.as_ptr()));
                CALLS.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(CALLS.load(Ordering::Relaxed), 100);
}

/// What a panicking task leaves is allocated in its context and read when that has gone.
#[test]
fn join_errors_and_backtraces_outlive_their_context() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let watch = Account::new("watch").unwrap();
    for round in 0..20_usize {
        let text = move || format!("round {round} ").repeat(50);
        let heap = Heap::builder().charged_to(&watch).build().unwrap();
        let task = heap.wrap(async move {
            tokio::task::yield_now().await;
            let trace = std::backtrace::Backtrace::force_capture();
            let part = tokio::spawn(async move { std::panic::resume_unwind(Box::new(text())) });
            let error = part.await.unwrap_err();
            (trace, error, tokio::spawn(async move { std::panic::resume_unwind(Box::new(text())) }))
        });
        let (trace, error, second) = runtime.block_on(runtime.spawn(task)).unwrap().unwrap();
        let second = runtime.block_on(second).unwrap_err();
        // The heap is closed; others write where its chunks were.
        let others: Vec<_> = (0..64).map(|_| Heap::new().unwrap()).collect();
        let filled: Vec<_> =
            others.iter().map(|heap| heap.run(|| vec![0xAA_u8; CHUNK / 2]).unwrap()).collect();
        for error in [error, second] {
            assert_eq!(*error.into_panic().downcast::<String>().unwrap(), text());
        }
        assert!(round > 0 || trace.to_string().contains("join_errors_and_backtraces"), "{trace}");
        drop((filled, trace));
    }
    drop(runtime);
    heapswitch::flush_foreign_frees();
    assert_eq!(watch.usage().committed_bytes, 0);
    assert!(watch.usage().escapees >= 20);
}

/// Wakers, tasks' cells, timers and channels' blocks that one context makes are used and freed in
/// another one, and by the driver, when the first has gone.
#[test]
fn wakers_cells_and_timers_pass_from_context_to_context() {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_time().build().unwrap();
    let watch = Account::new("watch").unwrap();
    let heap = || Heap::builder().charged_to(&watch).build().unwrap();
    runtime.block_on(async {
        for round in 0..50_usize {
            let text = move || format!("round {round} ").repeat(50);
            let (to_first, from_second) = tokio::sync::oneshot::channel::<String>();
            let made = tokio::spawn(heap().wrap(async move {
                // Its cell lies in the context, and waits there for the second one's word.
                let cell = tokio::spawn(async move { from_second.await.unwrap() + &text() });
                let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<String>();
                (0..40).for_each(|_| sender.send(text()).unwrap());
                let mut timer = Box::pin(tokio::time::sleep(std::time::Duration::from_millis(1)));
                // Polled, so that the driver has this task's waker.
                std::future::poll_fn(|context| {
                    let _ = timer.as_mut().poll(context);
                    std::task::Poll::Ready(())
                })
                .await;
                (cell, sender, receiver, timer)
            }));
            let (cell, sender, mut receiver, timer) = made.await.unwrap().unwrap();
            let used = tokio::spawn(heap().wrap(async move {
                (0..40).for_each(|_| sender.send(text()).unwrap());
                drop(sender);
                to_first.send(text()).unwrap();
                timer.await;
                while let Some(sent) = receiver.recv().await {
                    assert_eq!(sent, text());
                }
                assert_eq!(cell.await.unwrap(), text() + &text());
            }));
            used.await.unwrap().unwrap();
        }
    });
    drop(runtime);
    heapswitch::flush_foreign_frees();
    assert_eq!(watch.usage().committed_bytes, 0);
    assert!(watch.usage().escapees >= 50);
}
