//! Budgets: what a context gets above its limit, when it is ended, and what its neighbours notice.
#![cfg(not(any(heapswitch_pass_through, loom)))]
#![expect(clippy::vec_box, reason = "each box is a block that is allocated and freed")]

use std::alloc::{GlobalAlloc, Layout};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use heapswitch::{
    Account, ContextError, FutureExt, Heap, HeapPool, HeapSwitch, LifetimeHint, LimitPolicy,
    Limits, PassedLimit, checkpoint, swap_coroutine_local,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const CHUNK: usize = 64 << 10;
const HINTS: [LifetimeHint; 3] = [LifetimeHint::Short, LifetimeHint::Medium, LifetimeHint::Long];

/// Blocks of a kilobyte that stay allocated.
fn kilobytes(count: usize) -> Vec<Box<[u8; 1024]>> {
    (0..count).map(|_| Box::new([1; 1024])).collect()
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

async fn yield_now() {
    let mut was_polled = false;
    poll_fn(|_| {
        if core::mem::replace(&mut was_polled, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[test]
fn a_limit_is_whole_chunks_and_inherited() {
    let group = Account::new("group").unwrap().with_limit(1 << 20).with_limit_each(CHUNK + 1);
    let heap = Heap::builder().charged_to(&group).build().unwrap();
    assert_eq!(heap.account().hard_limit_bytes, Some(2 * CHUNK));
    let own = Heap::builder().charged_to(&group).limit(1).build().unwrap();
    assert_eq!(own.account().hard_limit_bytes, Some(CHUNK));
    assert_eq!(heap.account_handle().parent(), Some(group.clone()));
    assert!(heap.account_handle().is_within(&group));
    assert_eq!(Heap::new().unwrap().account().hard_limit_bytes, None);
}

#[test]
fn a_loop_over_its_budget_is_ended_at_its_checkpoint() {
    for hint in HINTS {
        let heap = Heap::builder().name("loop").hint(hint).limit(4 * CHUNK).build().unwrap();
        let mut kept = Vec::with_capacity(10_000);
        let error = heap
            .run(|| {
                loop {
                    kept.push(Box::new([1_u8; 1024]));
                    if let Err(error) = checkpoint() {
                        break error;
                    }
                }
            })
            .unwrap();
        let over = error.over_budget().expect("it is over its budget");
        assert_eq!(over.limit_bytes, 4 * CHUNK);
        assert_eq!(over.used_bytes, 5 * CHUNK, "{hint:?}: the chunk above the limit ends it");
        assert_eq!((over.name.as_str(), over.context.as_str()), ("loop", "loop"));
        assert_eq!(over.largest.len(), 1);
        assert_eq!(over.largest[0].bytes, 5 * CHUNK);
        assert!(!heap.contains(over.largest.as_ptr().cast()), "told outside the context");
        // It stays over, so it is told again; with the memory gone it may go on.
        assert!(heap.run(checkpoint).unwrap().is_err());
        heap.run(|| kept.clear()).unwrap();
        heap.release_unused().unwrap();
        assert_eq!(heap.run(checkpoint).unwrap(), Ok(()), "{hint:?}");
    }
}

#[test]
fn within_the_reserve_a_context_that_comes_back_goes_on_and_beyond_it_does_not() {
    let heap = Heap::builder().limit(20 * CHUNK).build().unwrap();
    heap.run(|| {
        drop(Vec::<u8>::with_capacity(22 * CHUNK - 1));
        assert_eq!(checkpoint(), Ok(()), "22 chunks are the limit and its tenth");
        drop(Vec::<u8>::with_capacity(23 * CHUNK - 1));
        let error = checkpoint().unwrap_err();
        assert_eq!(error.over_budget().unwrap().used_bytes, 23 * CHUNK);
        assert_eq!(checkpoint(), Ok(()), "told once");
    })
    .unwrap();
    let account = heap.account();
    assert_eq!((account.overdrafts, account.overdraft_peak_bytes), (2, 3 * CHUNK));
    assert_eq!((account.overdraft_bytes, account.is_over_budget), (0, false));
}

#[test]
fn what_is_unused_goes_back_before_a_limit_is_overdrawn() {
    let heap = Heap::builder().hint(LifetimeHint::Medium).limit(4 * CHUNK).build().unwrap();
    heap.run(|| {
        drop(kilobytes(60));
        // The chunk that is kept for reuse would be the fifth.
        let large = Vec::<u8>::with_capacity(4 * CHUNK);
        assert_eq!(checkpoint(), Ok(()));
        drop(large);
    })
    .unwrap();
    assert_eq!(heap.account().overdrafts, 0);
}

/// A block of all but one of a limit's five chunks grows by the last, which holds nothing any more.
/// Whether it grew where it stands: the chunk behind it may be another test's.
fn grows_by_the_last_chunk(heap: &Heap, is_freed_here: bool) -> bool {
    let mut large = heap.run(|| vec![1_u8; 4 * CHUNK]).unwrap();
    let small = heap.run(|| kilobytes(60)).unwrap();
    if is_freed_here {
        heap.run(|| drop(small)).unwrap();
    } else {
        std::thread::spawn(move || drop(small)).join().unwrap();
    }
    let place = large.as_ptr();
    let grown = heap.run(|| large.try_reserve_exact(CHUNK));
    let is_in_place = grown.unwrap().is_ok() && large.as_ptr() == place;
    if is_in_place {
        assert_eq!(heap.run(checkpoint).unwrap(), Ok(()));
        assert_eq!((heap.account().overdrafts, heap.account().own_bytes), (0, 5 * CHUNK));
    }
    is_in_place
}

#[test]
fn what_is_unused_goes_back_before_a_block_grows_over_a_limit() {
    for hint in [LifetimeHint::Medium, LifetimeHint::Long] {
        for policy in [LimitPolicy::Overdraft, LimitPolicy::Fail, LimitPolicy::Spill] {
            for is_freed_here in [true, false] {
                // Where one could not grow is filled, so that the next one stands elsewhere.
                let mut filled = Vec::new();
                let grew = (0..100).any(|_| {
                    let heap = Heap::builder().hint(hint).limit(5 * CHUNK).policy(policy);
                    let did_grow = grows_by_the_last_chunk(&heap.build().unwrap(), is_freed_here);
                    let filler = Heap::with_hint(hint).unwrap();
                    filled.push(filler.run(|| Vec::<u8>::with_capacity(4 * CHUNK)).unwrap());
                    did_grow
                });
                assert!(grew, "{hint:?} {policy:?}, freed here: {is_freed_here}");
            }
        }
    }
}

#[test]
fn fail_gives_null_to_those_who_ask_for_it() {
    for hint in HINTS {
        let heap =
            Heap::builder().hint(hint).limit(4 * CHUNK).policy(LimitPolicy::Fail).build().unwrap();
        heap.run(|| {
            let mut bytes = Vec::<u8>::new();
            bytes.try_reserve_exact(2 * CHUNK).unwrap();
            assert!(bytes.try_reserve_exact(8 * CHUNK).is_err(), "{hint:?}: growing");
            assert!(Vec::<u8>::new().try_reserve_exact(3 * CHUNK).is_err(), "{hint:?}");
            assert!(Vec::<u8>::new().try_reserve_exact(1 << 40).is_err(), "{hint:?}");
            assert_eq!(checkpoint(), Ok(()));
            drop(bytes);
            Vec::<u8>::new().try_reserve_exact(3 * CHUNK).unwrap();
        })
        .unwrap();
        let account = heap.account();
        assert!(account.refusals >= 2, "{hint:?}: {account:?}");
        assert!(account.peak_bytes <= 4 * CHUNK, "{hint:?}: refusals are not counted as held");
        assert_eq!(account.overdrafts, 0);
    }
}

#[test]
fn spill_takes_the_threads_heap_and_counts() {
    let heap = Heap::builder().limit(4 * CHUNK).policy(LimitPolicy::Spill).build().unwrap();
    let kept = heap.run(|| kilobytes(1000)).unwrap();
    assert!(heap.account().committed_bytes <= 4 * CHUNK);
    let spilled = kept.iter().filter(|block| !heap.contains(block.as_ptr())).count();
    assert!(spilled > 700, "{spilled}");
    assert!(heap.account().spilled_bytes >= spilled as u64 * 1024);
    let thread = heapswitch::thread_heap_id();
    let last = kept.last().unwrap();
    assert_eq!(heapswitch::owner_of(last.as_ptr()), thread, "the thread's heap serves");
    assert_eq!(heap.run(checkpoint).unwrap(), Ok(()));
    // A block grows out of the heap.
    let mut text = heap.run(|| vec![7_u8; 100]).unwrap();
    heap.run(|| text.resize(10 * CHUNK, 8)).unwrap();
    assert!(!heap.contains(text.as_ptr()) && text[99] == 7 && text[100] == 8);
}

#[test]
fn what_spilled_is_counted_as_it_grows() {
    for hint in HINTS {
        let heap = Heap::builder().hint(hint).limit(4 * CHUNK).policy(LimitPolicy::Spill);
        let heap = heap.build().unwrap();
        let mut outside = vec![1_u8; 5 * CHUNK];
        heap.run(|| outside.reserve_exact(10 * CHUNK)).unwrap();
        assert_eq!(heap.account().spilled_bytes, 0, "{hint:?}: nothing spilled yet");
        let mut spilled = heap.run(|| vec![1_u8; 5 * CHUNK]).unwrap();
        assert_eq!(heap.account().spilled_bytes, 5 * CHUNK as u64);
        for chunks in [6, 8, 100, 1000] {
            heap.run(|| spilled.reserve_exact(chunks * CHUNK - spilled.len())).unwrap();
            assert_eq!(heap.account().spilled_bytes, (chunks * CHUNK) as u64, "{hint:?}");
            assert!(!heap.contains(spilled.as_ptr()));
        }
        heap.run(|| spilled.shrink_to(6 * CHUNK)).unwrap();
        spilled.reserve_exact(50 * CHUNK);
        assert_eq!(heap.account().spilled_bytes, 1000 * CHUNK as u64, "not in the context");
    }
}

#[test]
fn a_limit_above_binds_all_below_together() {
    let group = Account::new("group").unwrap().with_limit(10 * CHUNK);
    let make = |name| Heap::builder().name(name).charged_to(&group).build().unwrap();
    let (large, small) = (make("large"), make("small"));
    let kept = large.run(|| Vec::<u8>::with_capacity(9 * CHUNK - 1)).unwrap();
    assert_eq!(large.run(checkpoint).unwrap(), Ok(()));
    let over = small.run(|| {
        let _kept = Vec::<u8>::with_capacity(2 * CHUNK - 1);
        checkpoint().unwrap_err()
    });
    let over = over.unwrap();
    let over = over.over_budget().unwrap();
    assert_eq!((over.name.as_str(), over.context.as_str()), ("group", "small"));
    assert_eq!((over.used_bytes, over.limit_bytes), (11 * CHUNK, 10 * CHUNK));
    let named: Vec<_> = over.largest.iter().map(|one| (one.name.as_str(), one.bytes)).collect();
    assert_eq!(named, [("large", 9 * CHUNK), ("small", 2 * CHUNK)]);
    let text = over.to_string();
    assert!(text.contains("`small` was ended") && text.contains("`large` 589824"), "{text}");
    assert_eq!(large.run(checkpoint).unwrap(), Ok(()), "it is not the one that went above");
    drop(kept);
}

#[test]
fn soft_limits_call_once_each_time_and_at_safe_points() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let group = Account::new("group").unwrap().with_soft_limit(2 * CHUNK);
    let seen = Arc::clone(&calls);
    let watch = group.on_pressure(move |pressure| {
        assert_eq!(heapswitch::current(), heapswitch::CurrentAllocatorInUse::ThreadLocal);
        seen.lock().unwrap().push((pressure.limit, pressure.account.usage.committed_bytes));
    });
    let panics = group.on_pressure(|_| panic!("a callback that panics"));
    let heap = Heap::builder().charged_to(&group).build().unwrap();
    let mut kept = Vec::new();
    heap.run(|| {
        kept.push(Vec::<u8>::with_capacity(3 * CHUNK - 1));
        kept.push(Vec::<u8>::with_capacity(3 * CHUNK - 1));
        assert!(calls.lock().unwrap().is_empty(), "nothing is called in the allocator");
    })
    .unwrap();
    let first = calls.lock().unwrap().drain(..).collect::<Vec<_>>();
    assert!(first.len() == 1 && first[0].0 == PassedLimit::Soft && first[0].1 >= 6 * CHUNK);
    heap.run(|| kept.push(Vec::with_capacity(CHUNK))).unwrap();
    assert_eq!(calls.lock().unwrap().len(), 0, "once for each time");
    heap.run(|| kept.clear()).unwrap();
    heap.release_unused().unwrap();
    heap.run(|| {
        let _again = Vec::<u8>::with_capacity(3 * CHUNK - 1);
        assert_eq!(checkpoint(), Ok(()));
        assert_eq!(calls.lock().unwrap().len(), 1, "a checkpoint is a safe point");
    })
    .unwrap();
    drop((watch, panics));
    heap.run(|| drop(Vec::<u8>::with_capacity(3 * CHUNK - 1))).unwrap();
    assert_eq!(calls.lock().unwrap().len(), 1, "not registered any more");
}

#[test]
fn the_callback_may_give_back_enough_to_go_on() {
    let cache = Arc::new(Mutex::new(Vec::new()));
    let heap = Heap::builder().hint(LifetimeHint::Long).limit(5 * CHUNK).build().unwrap();
    heap.run(|| cache.lock().unwrap().push(vec![1_u8; 3 * CHUNK])).unwrap();
    let reclaimed = Arc::clone(&cache);
    let _watch = heap.account_handle().on_pressure(move |pressure| {
        assert_eq!(pressure.limit, PassedLimit::Hard);
        reclaimed.lock().unwrap().clear();
    });
    heap.run(|| {
        let _more = vec![1_u8; 2 * CHUNK];
        assert_eq!(checkpoint(), Ok(()));
    })
    .unwrap();
}

/// Small blocks: what held them counts as given back as well.
#[test]
fn the_callback_may_give_back_enough_for_a_task_to_go_on() {
    let cache = Arc::new(Mutex::new(Vec::new()));
    let heap = Heap::builder().hint(LifetimeHint::Long).limit(5 * CHUNK).build().unwrap();
    heap.run(|| *cache.lock().unwrap() = kilobytes(180)).unwrap();
    let reclaimed = Arc::clone(&cache);
    let _watch = heap.account_handle().on_pressure(move |_| reclaimed.lock().unwrap().clear());
    let mut task = pin!(
        async {
            let more = vec![1_u8; 3 * CHUNK - 1];
            yield_now().await;
            more.len()
        }
        .in_heap(&heap)
    );
    assert_eq!(poll_once(task.as_mut()), Poll::Pending, "it goes on");
    assert!(cache.lock().unwrap().is_empty());
    assert_eq!(poll_once(task.as_mut()), Poll::Ready(Ok(3 * CHUNK - 1)));
}

/// A callback that takes memory below the account that it is told of passes the limit once more.
#[test]
fn a_callback_that_takes_memory_itself_is_not_called_within_itself() {
    let account = |name| Account::new(name).unwrap();
    let (group, other) = (account("group").with_limit(CHUNK), account("other").with_soft_limit(1));
    let calls = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let (below, elsewhere) = (group.clone(), other.clone());
    let counted = Arc::clone(&calls);
    let take = |account: &Account| {
        let heap = Heap::builder().charged_to(account).build().unwrap();
        heap.run(|| drop(vec![0_u8; 4 * CHUNK])).unwrap();
    };
    let _watch = group.on_pressure(move |_| {
        if counted.0.fetch_add(1, Ordering::Relaxed) < 20 {
            take(&below);
            take(&elsewhere);
        }
    });
    let counted = Arc::clone(&calls);
    let _other = other.on_pressure(move |_| {
        counted.1.fetch_add(1, Ordering::Relaxed);
    });
    take(&group);
    assert_eq!(calls.0.load(Ordering::Relaxed), 1);
    assert_eq!(calls.1.load(Ordering::Relaxed), 1, "of others it tells");
    take(&group);
    assert_eq!(calls.0.load(Ordering::Relaxed), 2, "and again the next time");
}

#[test]
fn a_callback_that_swaps_is_not_called_within_itself_either() {
    let group = Account::new("swapping").unwrap().with_limit(CHUNK);
    let (watched, calls) = (group.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    let watch = group.on_pressure(move |_| {
        if counted.fetch_add(1, Ordering::Relaxed) < 100 {
            drop(swap_coroutine_local(None).unwrap());
            let heap = Heap::builder().charged_to(&watched).build().unwrap();
            heap.run(|| drop(kilobytes(1000))).unwrap();
        }
    });
    let heap = Heap::builder().charged_to(&group).build().unwrap();
    drop(heap.run(|| kilobytes(1000)).unwrap());
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    drop((watch, heap));
}

#[test]
fn who_only_passed_a_soft_limit_is_not_ended_for_a_neighbour() {
    let group = Account::new("group").unwrap().with_limit(8 * CHUNK);
    let make = || Heap::builder().charged_to(&group).soft_limit(CHUNK).build().unwrap();
    let (greedy, polite) = (make(), make());
    let goes_on = polite.run(|| {
        let mine = kilobytes(200);
        let much = greedy.run(|| kilobytes(1000)).unwrap();
        assert!(group.usage().overdraft_bytes > 0);
        drop((mine, much));
        checkpoint()
    });
    assert_eq!(goes_on.unwrap(), Ok(()));
    assert!(greedy.run(checkpoint).unwrap().is_err(), "it is the one that took it");
}

#[test]
fn limits_are_suspended_while_unwinding() {
    struct Reporting;
    impl Drop for Reporting {
        fn drop(&mut self) {
            assert!(std::thread::panicking());
            let report = vec![1_u8; 10 * CHUNK];
            assert!(report.capacity() >= 10 * CHUNK);
        }
    }
    let heap = Heap::builder().limit(4 * CHUNK).policy(LimitPolicy::Fail).build().unwrap();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        heap.run(|| {
            let _reporting = Reporting;
            panic!("in a context");
        })
    }));
    assert!(caught.is_err());
    assert_eq!(heap.run(checkpoint).unwrap(), Ok(()));
    assert!(heap.run(|| Vec::<u8>::new().try_reserve_exact(10 * CHUNK)).unwrap().is_err());
}

/// The block behind one waits for a request of its own length, and there is no room for another.
#[test]
fn what_is_full_grows_a_block_over_one_that_waits() {
    let build = Heap::builder().hint(LifetimeHint::Long).limit(4 * CHUNK);
    let heap = build.policy(LimitPolicy::Fail).build().unwrap();
    let layout = Layout::from_size_align(64, 8).unwrap();
    let mut blocks = Vec::with_capacity(4 * CHUNK / 64);
    // SAFETY: the layout is not empty, and two neighbours of those that are allocated are used.
    heap.run(|| unsafe {
        let new = || Some(GLOBAL.alloc(layout)).filter(|block| !block.is_null());
        blocks.extend(std::iter::from_fn(new).take(blocks.capacity()));
        let middle = blocks.len() / 2 + 5;
        let [first, behind] = [blocks[middle], blocks[middle + 1]];
        assert_eq!(first.wrapping_add(64), behind);
        GLOBAL.dealloc(behind, layout);
        assert_eq!(GLOBAL.realloc(first, layout, 128), first);
    })
    .unwrap();
}

#[test]
fn a_task_over_its_budget_ends_at_its_next_await_and_is_dropped_in_its_heap() {
    struct InHeap(Arc<AtomicUsize>);
    impl Drop for InHeap {
        fn drop(&mut self) {
            let in_use = heapswitch::current();
            assert_eq!(in_use, heapswitch::CurrentAllocatorInUse::CoroutineLocal);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (drops, went_on) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let guard = InHeap(Arc::clone(&drops));
    let heap = Heap::builder().name("hostile").limit(4 * CHUNK).build().unwrap();
    let account = heap.account_handle();
    let mut task = pin!(heap.wrap(async {
        let _guard = guard;
        let mut kept = Vec::new();
        loop {
            kept.push(kilobytes(50));
            went_on.fetch_add(1, Ordering::Relaxed);
            yield_now().await;
        }
    }));
    let error = loop {
        if let Poll::Ready(done) = poll_once(task.as_mut()) {
            break done.map(|_: ()| ()).unwrap_err();
        }
    };
    assert!((4..=6).contains(&went_on.load(Ordering::Relaxed)), "{went_on:?}");
    let over = error.over_budget().unwrap();
    assert_eq!((over.context.as_str(), over.account), ("hostile", account.id()));
    assert!(task.is_done());
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    task.heap().release_unused().unwrap();
    assert_eq!(account.usage().committed_bytes, 0, "nothing escaped");
    // A task that is done gives its output, over its budget or not.
    let heap = Heap::builder().limit(CHUNK).build().unwrap();
    let mut task = pin!(heap.wrap(async { kilobytes(1000).len() }));
    assert_eq!(poll_once(task.as_mut()), Poll::Ready(Ok(1000)));
}

#[test]
fn cancelling_ends_all_below_at_their_next_poll() {
    let group = Account::new("group").unwrap();
    let heap = Heap::builder().charged_to(&group).build().unwrap();
    let other = Heap::new().unwrap();
    let polls = AtomicUsize::new(0);
    let mut task = pin!(
        poll_fn(|_| {
            polls.fetch_add(1, Ordering::Relaxed);
            Poll::<()>::Pending
        })
        .in_heap(&heap)
    );
    assert!(poll_once(task.as_mut()).is_pending());
    group.cancel();
    assert_eq!(poll_once(task.as_mut()), Poll::Ready(Err(ContextError::Cancelled)));
    assert_eq!(polls.load(Ordering::Relaxed), 1, "it is not polled again");
    assert_eq!(other.run(checkpoint).unwrap(), Ok(()));
    assert_eq!(heap.run(checkpoint).unwrap(), Ok(()), "told once");
    assert!(!group.usage().is_over_budget, "there is no context to end");
}

/// Cancelling wakes nobody. Who wants that keeps the waker, at no cost to other tasks.
#[test]
fn a_task_that_waits_is_woken_by_who_cancelled_it() {
    /// Its task's last waker, kept outside of the task's context.
    #[derive(Default)]
    struct Waiting(Mutex<Option<Waker>>);
    impl Waiting {
        fn is_here<F: Future>(&self, future: F) -> impl Future<Output = F::Output> {
            let mut future = Box::pin(future);
            poll_fn(move |context| {
                self.0.lock().unwrap().replace(context.waker().clone());
                future.as_mut().poll(context)
            })
        }
        fn cancel(&self, account: &Account) {
            account.cancel();
            self.0.lock().unwrap().take().into_iter().for_each(Waker::wake);
        }
    }
    struct Wakes(AtomicUsize);
    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let wakes = Arc::new(Wakes(AtomicUsize::new(0)));
    let heap = Heap::builder().limit(2 << 20).build().unwrap();
    let (account, waiting) = (heap.account_handle(), Waiting::default());
    let mut task = pin!(waiting.is_here(heap.wrap(async {
        let _kept = vec![1_u8; 1 << 20];
        std::future::pending::<()>().await;
    })));
    let waker = Waker::from(Arc::clone(&wakes));
    let mut context = Context::from_waker(&waker);
    assert!(task.as_mut().poll(&mut context).is_pending());
    account.cancel();
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "that wakes nobody");
    assert!(account.usage().committed_bytes >= 1 << 20);
    waiting.cancel(&account);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    assert_eq!(task.as_mut().poll(&mut context), Poll::Ready(Err(ContextError::Cancelled)));
    assert!(account.usage().committed_bytes < 1 << 20, "what it held went back");
}

#[test]
fn cancelling_passes_over_heaps_that_wait_in_a_pool() {
    static GROUP: OnceLock<Account> = OnceLock::new();
    static POOL: HeapPool =
        HeapPool::with_maker(|| Heap::builder().charged_to(GROUP.get().unwrap()).build());
    let group = GROUP.get_or_init(|| Account::new("pooled").unwrap());
    // One in the thread's slot, the others on the list.
    POOL.fill(4).unwrap();
    group.cancel();
    let heaps: Vec<_> = (0..4).map(|_| POOL.take().unwrap()).collect();
    for heap in &heaps {
        let mut task = pin!(async { 1 }.in_heap(&**heap));
        assert_eq!(poll_once(task.as_mut()), Poll::Ready(Ok(1)));
    }
    group.cancel();
    for heap in &heaps {
        let mut task = pin!(async { 1 }.in_heap(&**heap));
        assert_eq!(poll_once(task.as_mut()), Poll::Ready(Err(ContextError::Cancelled)));
    }
}

/// What an earlier request took through the same heap is no later one's.
#[test]
fn the_figures_of_a_pooled_heap_are_those_of_its_last_request() {
    static GROUP: OnceLock<Account> = OnceLock::new();
    static POOL: HeapPool = HeapPool::with_maker(|| {
        Heap::builder().charged_to(GROUP.get().unwrap()).name("request").limit(20 * CHUNK).build()
    });
    let group = GROUP.get_or_init(|| Account::new("group").unwrap().with_limit(30 * CHUNK));
    let end_of = |chunks: usize| {
        let heap = POOL.take().unwrap();
        let (error, account) = heap
            .run(|| {
                drop(Vec::<u8>::with_capacity(chunks * CHUNK - 1));
                (checkpoint().unwrap_err(), heap.account_handle())
            })
            .unwrap();
        let over = error.over_budget().unwrap();
        ((over.name.to_string(), over.used_bytes / CHUNK), account)
    };
    let (first, account) = end_of(29);
    assert_eq!(first, ("request".to_owned(), 29));
    assert_eq!(end_of(23), (("request".to_owned(), 23), account.clone()), "the same heap");
    assert_eq!(account.usage().overdrafts, 2, "as counts go, those stay");
    // This one stays below its own limit, and takes the group above its.
    let other = Heap::builder().charged_to(group).build().unwrap();
    let kept = other.run(|| Vec::<u8>::with_capacity(20 * CHUNK - 1)).unwrap();
    assert_eq!(end_of(15), (("group".to_owned(), 35), account));
    drop(kept);
}

#[test]
fn a_reset_forgives() {
    let mut heap = Heap::builder().limit(CHUNK).build().unwrap();
    heap.run(|| drop(vec![0_u8; 20 * CHUNK])).unwrap();
    assert!(heap.account().is_over_budget);
    heap.reset().unwrap();
    assert!(!heap.account().is_over_budget);
    assert_eq!(heap.run(checkpoint).unwrap(), Ok(()));
}

#[test]
fn limits_may_change_at_any_time() {
    let heap = Heap::new().unwrap();
    let account = heap.account_handle();
    let kept = heap.run(|| kilobytes(200)).unwrap();
    account.set_limits(Limits { hard_bytes: Some(CHUNK), ..Limits::default() });
    assert_eq!(heap.run(checkpoint).unwrap(), Ok(()), "from the next charge on");
    let more = heap.run(|| kilobytes(100)).unwrap();
    assert!(heap.run(checkpoint).unwrap().is_err());
    account.set_limits(Limits::default());
    assert_eq!(heap.run(checkpoint).unwrap(), Ok(()));
    drop((kept, more));
}
