//! No allocator is installed: every entry point works, nothing is routed.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/hints.rs"]
mod hints;

use std::alloc::Layout;
use std::future::Future;
use std::pin::pin;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;

use allocator_api2::alloc::Allocator;
use allocator_api2::vec::Vec as VecIn;
use heapswitch::CurrentAllocatorInUse::{CoroutineLocal, Global, ThreadLocal};
use heapswitch::numa::ProcessorSet;
use heapswitch::{
    Account, ContextError, Coroutine, CoroutineResult, FutureExt, Heap, HeapError, HeapMap,
    HeapPool, InHeap, LifetimeHint, LiveSites, MemoryReport, MemoryUsage, SavedContext,
    SiteSampling, StackPool, Timeline, WorkerBuilder, checkpoint, collect, copy_out, current,
    flush_foreign_frees, in_child, owner_of, pin_thread, process_usage, processors, purge,
    reconcile, rehome_thread, replace_current, residence_of, swap_coroutine_local, thread_heap_id,
    thread_home, usable_size, usage_change, usage_of, use_allocator, with_global, with_outer,
    with_thread_local,
};
use hints::HINTS;

const CHUNK: usize = 64 << 10;

/// Which test gives memory back.
static PURGING: Mutex<()> = Mutex::new(());
static STACKS: StackPool = StackPool::new(64 << 10, 10);

#[test]
fn tells_that_nothing_is_installed() {
    assert!(!heapswitch::is_installed());
}

#[test]
fn scopes_switch_and_route_nothing() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let text = heap.run(|| "the system's".repeat(10)).unwrap();
        assert!(!heap.contains(text.as_ptr()));
        heap.run(|| assert_eq!(current(), CoroutineLocal)).unwrap();
        assert_eq!(heap.memory_usage().unwrap().committed_bytes, 0);
        heap.verify().unwrap();
        assert_eq!(heap.close().blocks, 0);
    }
    assert_eq!(current(), ThreadLocal);
    with_global(|| assert_eq!(current(), Global)).unwrap();
    with_thread_local(|| assert_eq!(current(), ThreadLocal)).unwrap();
    drop(use_allocator(Global).unwrap());
    assert_eq!(replace_current(Global).unwrap(), ThreadLocal);
    assert_eq!(replace_current(ThreadLocal).unwrap(), Global);
    assert!(swap_coroutine_local(Some(Heap::new().unwrap())).unwrap().is_none());
    assert!(swap_coroutine_local(None).unwrap().is_some());
    let (block, change) = usage_change(|| vec![1_u8; 100]);
    assert_eq!((block.len(), change.allocated_blocks), (100, 0));
    for allocator in [CoroutineLocal, ThreadLocal, Global] {
        assert_eq!(usage_of(allocator).allocated_bytes, 0);
    }
    flush_foreign_frees();
    let alone = PURGING.lock().unwrap();
    purge();
    drop(alone);
    assert_eq!(process_usage().global_bytes, 0);
}

#[test]
fn heaps_serve_collections_that_name_them() {
    for hint in HINTS {
        let mut heap = Heap::with_hint(hint).unwrap();
        for _ in 0..3 {
            let mut vector = VecIn::new_in(&heap);
            vector.extend(0..10_000_u64);
            assert!(heap.contains(vector.as_ptr().cast()));
            let scope = heap.enter().unwrap();
            vector.extend(10_000..20_000);
            drop(scope);
            assert!(vector.iter().copied().eq(0..20_000));
            drop(vector);
            assert_eq!(heap.reset().unwrap().blocks, 0);
        }
        heap = thread::spawn(move || {
            let mut vector = VecIn::new_in(&heap);
            vector.extend(0..10_000_u64);
            std::mem::forget(vector);
            heap
        })
        .join()
        .unwrap();
        assert_eq!(heap.reset().unwrap().blocks, 1);
        assert_eq!(heap.close().blocks, 0);
    }
}

fn of(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).unwrap()
}

/// Asserts that a heap has nothing of what was allocated in its scope.
#[track_caller]
fn assert_unrouted(heap: &Heap) {
    assert_eq!(heap.memory_usage().unwrap(), MemoryUsage::default());
    heap.verify().unwrap();
}

#[test]
fn coroutines_and_saved_contexts_run() {
    let outer = Heap::new().unwrap();
    let scope = outer.enter().unwrap();
    let mut coroutine = Coroutine::new(Heap::new().unwrap(), |yielder, first: String| {
        let inner = Heap::new().unwrap();
        let scope = inner.enter().unwrap();
        let second = yielder.suspend(first.repeat(2));
        drop(scope);
        assert_unrouted(&inner);
        assert_eq!(current(), CoroutineLocal);
        yielder.suspend(second);
    })
    .unwrap();
    let given = coroutine.resume("a".to_owned()).unwrap();
    assert_eq!(given.as_yield().as_deref(), Some("aa"));
    assert_eq!(coroutine.resume("b".to_owned()).unwrap().as_yield().as_deref(), Some("b"));
    assert_unrouted(coroutine.heap());
    drop(coroutine);
    let mut pool = Coroutine::with_stack(Heap::new().unwrap(), STACKS.take().unwrap(), |_, ()| 7);
    assert_eq!(pool.resume(()).unwrap(), CoroutineResult::<(), i32>::Return(7));
    drop(pool);
    assert_eq!(STACKS.waiting(), 1);
    let (heap, mut context) = (Heap::new().unwrap(), SavedContext::new());
    assert_eq!(context.run_in(&heap, || vec![current(); 3]).unwrap(), [CoroutineLocal; 3]);
    let mark = context.resume_in(&heap).unwrap();
    let within = Heap::new().unwrap();
    let guard = within.enter().unwrap();
    context.suspend(mark);
    assert_eq!(context.depth(), 1);
    context.run(|| assert!(within.enter().is_err())).unwrap();
    std::mem::forget(guard);
    context.discard();
    assert_unrouted(&heap);
    assert_unrouted(&within);
    drop(scope);
    assert_unrouted(&outer);
}

#[test]
fn futures_and_closures_run_in_heaps() {
    let mut context = Context::from_waker(Waker::noop());
    let heap = Heap::new().unwrap();
    let mut polls = 0;
    let text = std::future::poll_fn(move |_| {
        polls += 1;
        assert_eq!(current(), CoroutineLocal);
        if polls < 3 { Poll::Pending } else { Poll::Ready("t".repeat(polls)) }
    });
    let mut future = pin!(text.in_heap(heap));
    for _ in 0..2 {
        assert!(future.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(future.as_mut().poll(&mut context), Poll::Ready(Ok("ttt".to_owned())));
    assert_unrouted(future.heap());
    // An account's cancel ends it, as everywhere.
    let mut cancelled = pin!(InHeap::new(Heap::new().unwrap(), std::future::pending::<()>()));
    assert!(cancelled.as_mut().poll(&mut context).is_pending());
    cancelled.heap().account_handle().cancel();
    assert_eq!(cancelled.poll(&mut context), Poll::Ready(Err(ContextError::Cancelled)));
    let heap = Heap::new().unwrap();
    let part = heap.run(|| in_child("part", || vec![1_u8; 100].len()).unwrap()).unwrap();
    assert_eq!(thread::spawn(part).join().unwrap(), Ok(100));
    let copied = heap.copy_in(&"copied".to_owned()).unwrap();
    assert_eq!(heap.run(|| copy_out(&copied).unwrap()).unwrap(), "copied");
    assert_eq!(heap.run(|| with_outer(current)).unwrap(), Ok(ThreadLocal));
    assert_eq!(heap.wrap_closure(|| vec![2_u8; 10].len())(), Ok(10));
}

#[test]
fn pools_and_workers_work() {
    let pool = Arc::new(HeapPool::new().keep_at_most(20));
    pool.fill(3).unwrap();
    assert_eq!(pool.waiting(), 3);
    for _ in 0..3 {
        let heap = pool.take().unwrap();
        assert_eq!(heap.run(|| "p".repeat(100)).unwrap().len(), 100);
        // What goes by the heap's name is the heap's, and gone with the heap.
        let block = (&*heap).allocate(of(100)).unwrap();
        assert!(heap.contains(block.cast().as_ptr()));
    }
    let shared = pool.take_shared().unwrap();
    let work = move || shared.run(|| vec![1_u8; 1000].len()).unwrap();
    let worker = WorkerBuilder::new().name("worker").make_heap_first().spawn(work).unwrap();
    assert_eq!(worker.join().unwrap(), 1000);
    let all = processors().unwrap();
    for worker in WorkerBuilder::new().spawn_on_each(|processor| vec![processor; 10]).unwrap() {
        assert!(all.contains(&worker.join().unwrap()[9]));
    }
    let one: ProcessorSet = [all[0]].into_iter().collect();
    thread::spawn(move || pin_thread(&one).unwrap().restore().unwrap()).join().unwrap();
    assert!(pool.clear() > 0);
}

/// Blocks that a heap was asked for by its name, and their accounts.
#[test]
fn accounts_count_and_limit_what_names_a_heap() {
    let account = Account::new("uninstalled").unwrap().with_soft_limit(CHUNK);
    let watched = Arc::new(AtomicUsize::new(0));
    let calls = Arc::clone(&watched);
    let watch = account.on_pressure(move |_| {
        calls.fetch_add(1, Ordering::Relaxed);
    });
    let builder = Heap::builder().hint(LifetimeHint::Long).charged_to(&account).name("limited");
    let heap = builder.limit(2 * CHUNK).call_sites(SiteSampling::All).build().unwrap();
    checkpoint().unwrap();
    heap.run(|| {
        drop(vec![1_u8; 100 * CHUNK]);
        checkpoint().unwrap();
    })
    .unwrap();
    let mut text = VecIn::new_in(&heap);
    text.resize(8 * CHUNK, 1_u8);
    let told = heap.run(checkpoint).unwrap().unwrap_err();
    assert_eq!(told.over_budget().unwrap().name.as_str(), "limited");
    assert_eq!(watched.load(Ordering::Relaxed), 1);
    drop(watch);
    let usage = account.usage();
    assert!(usage.committed_bytes >= 8 * CHUNK && usage.own_bytes == 0, "{usage:?}");
    let report = MemoryReport::now();
    assert!(report.by_name().iter().any(|one| one.name.as_str() == "limited"));
    assert!(report.to_json().contains("\"limited\""));
    assert_eq!(MemoryReport::of(&account).accounts.len(), 2);
    assert_eq!(account.largest(1)[0].name.as_str(), "limited");
    let map = HeapMap::now();
    let chunks = map.chunks().iter().filter_map(|chunk| map.account(chunk.account?));
    assert!(chunks.filter(|chunk| chunk.name.as_str() == "limited").count() >= 8);
    assert!(map.to_svg().contains("<svg"));
    let mut timeline = Timeline::of(&account);
    timeline.sample();
    assert!(timeline.samples() == 1 && timeline.peak_bytes() >= 8 * CHUNK);
    let sites = heap.call_sites().unwrap();
    assert!(sites.blocks() == 1 && LiveSites::now().contexts().len() == 1, "{sites}");
    assert!(reconcile().unwrap().accounted_bytes >= 8 * CHUNK);
    drop(text);
    heap.release_unused().unwrap();
    heap.account_handle().cancel();
    assert_eq!(heap.run(checkpoint).unwrap(), Err(ContextError::Cancelled));
    assert_eq!((account.usage().committed_bytes, heap.close().blocks), (0, 0));
}

#[test]
fn addresses_are_known() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let system = heap.run(|| vec![1_u8; 100]).unwrap();
        assert_eq!((owner_of(system.as_ptr()), heap.contains(system.as_ptr())), (None, false));
        let start = NonNull::from(&system[0]);
        // SAFETY: both blocks are allocated with these layouts; the second is freed once.
        unsafe {
            assert_eq!(usable_size(start, Layout::new::<[u8; 100]>()), 100);
            let block = (&heap).allocate(of(100)).unwrap();
            let start = block.cast::<u8>();
            assert_eq!(owner_of(start.as_ptr()), Some(heap.id()));
            assert_eq!(usable_size(start, of(100)), block.len());
            start.write_bytes(1, 100);
            assert!(heap.residence().unwrap().resident() > 0);
            (&heap).deallocate(start, of(100));
        }
    }
    assert_eq!(rehome_thread(), thread_home());
    assert_eq!(thread_heap_id(), None);
    for allocator in [CoroutineLocal, ThreadLocal, Global] {
        assert_eq!(residence_of(allocator).unwrap().resident(), 0);
    }
}

/// A heap that another thread runs gets its blocks back from here, and is reset.
#[test]
fn others_free_and_a_reset_finds_it() {
    for hint in HINTS {
        let (to_here, from_there) = mpsc::channel();
        let (to_there, from_here) = mpsc::channel::<()>();
        let other = thread::spawn(move || {
            let heap = Heap::with_hint(hint).unwrap();
            let blocks: Vec<usize> = (0..1000)
                .map(|_| (&heap).allocate(of(500)).unwrap().cast::<u8>().expose_provenance().get())
                .collect();
            // It runs here for as long as the thread does.
            std::mem::forget(heap.enter().unwrap());
            to_here.send((heap, blocks)).unwrap();
            from_here.recv().unwrap();
        });
        let (mut heap, blocks) = from_there.recv().unwrap();
        assert_eq!(heap.reset().unwrap_err(), HeapError::Running);
        let free = |heap: &Heap, addresses: &[usize]| {
            for &address in addresses {
                let block = NonNull::new(std::ptr::with_exposed_provenance_mut(address)).unwrap();
                // SAFETY: allocated by the heap with that layout, and freed once.
                unsafe { heap.deallocate(block, of(500)) };
            }
        };
        let (left, freed) = blocks.split_at(3);
        free(&heap, freed);
        to_there.send(()).unwrap();
        other.join().unwrap();
        assert_eq!(heap.reset().unwrap().blocks, 3, "{hint:?}");
        assert_unrouted(&heap);
        free(&heap, left);
        flush_foreign_frees();
        assert_eq!(heap.account().committed_bytes, 0, "{hint:?}");
        assert_eq!(heap.close().blocks, 0);
    }
    // What went back lies in the region's lists until somebody takes it from there.
    let _alone = PURGING.lock().unwrap();
    let heap = Heap::new().unwrap();
    drop(VecIn::<u64, _>::with_capacity_in(1000, &heap));
    drop(heap);
    collect();
    assert!(purge() > 0);
}
