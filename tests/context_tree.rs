//! The tree of contexts: children end with their parents, wherever they are; callbacks; copies.
#![cfg(not(any(heapswitch_pass_through, loom)))]

use std::alloc::Layout;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Waker};

use allocator_api2::alloc::Allocator;
use heapswitch::{
    Account, ContextError, FutureExt, Heap, HeapEnd, HeapError, HeapSwitch, LifetimeHint,
    SavedContext, checkpoint, copy_out, in_child, process_usage, swap_coroutine_local, with_outer,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const CHUNK: usize = 64 << 10;
const HINTS: [LifetimeHint; 3] = [LifetimeHint::Short, LifetimeHint::Medium, LifetimeHint::Long];

fn child_of(parent: &Heap, hint: LifetimeHint) -> Heap {
    Heap::builder().hint(hint).parent(parent).name("child").build().unwrap()
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn children_that_do_not_run_are_closed_with_the_parent() {
    for hint in HINTS {
        let parent = Heap::with_hint(hint).unwrap();
        let account = parent.account_handle();
        let mut child = child_of(&parent, hint);
        let grandchild = child_of(&child, hint);
        let kept = grandchild.run(|| String::from("an escapee")).unwrap();
        child.run(|| drop(vec![1; 100])).unwrap();
        assert!(account.usage().committed_bytes >= 2 * CHUNK);
        let report = parent.close();
        assert_eq!((report.closed_children, report.deferred_children), (2, 0), "{hint:?}");
        assert_eq!(account.usage().committed_bytes, CHUNK, "the escapee's chunk stays charged");
        assert_eq!(account.usage().escapees, 1);
        for heap in [&child, &grandchild] {
            assert_eq!(heap.enter().unwrap_err(), HeapError::Closed);
            assert_eq!(heap.memory_usage().unwrap_err(), HeapError::Closed);
            assert_eq!(heap.on_end(|_| ()).unwrap_err(), HeapError::Closed);
        }
        assert_eq!(child.reset().unwrap_err(), HeapError::Closed);
        let refused = swap_coroutine_local(Some(child)).unwrap_err();
        assert_eq!(refused.error, HeapError::Closed);
        assert!(grandchild.contains(kept.as_ptr()));
        assert_eq!(grandchild.close().blocks, 0, "it was closed before");
        drop(refused);
        assert_eq!(kept, "an escapee");
        drop(kept);
        heapswitch::flush_foreign_frees();
        assert_eq!(account.usage().committed_bytes, 0, "{hint:?}: the last free credits all");
    }
}

#[test]
fn a_child_that_runs_is_closed_when_it_is_left() {
    let parent = Heap::new().unwrap();
    let account = parent.account_handle();
    let child = child_of(&parent, LifetimeHint::Short);
    let was_called = Arc::new(AtomicBool::new(false));
    let called = Arc::clone(&was_called);
    child.on_end(move |_| called.store(true, Ordering::Relaxed)).unwrap();
    let scope = child.enter().unwrap();
    let inner = child_of(&child, LifetimeHint::Short);
    let report = parent.close();
    assert_eq!((report.closed_children, report.deferred_children), (1, 1));
    assert_eq!(inner.enter().unwrap_err(), HeapError::Closed);
    let text = String::from("allocated in it still");
    assert!(child.contains(text.as_ptr()) && !was_called.load(Ordering::Relaxed));
    assert_eq!(checkpoint(), Err(HeapError::Closed.into()), "a loop in it is told");
    drop(text);
    drop(scope);
    assert!(was_called.load(Ordering::Relaxed), "its callbacks are called there");
    assert_eq!(child.enter().unwrap_err(), HeapError::Closed);
    assert_eq!(account.usage().committed_bytes, 0);
}

/// Nobody has a handle of it any more: only the thread that runs it knows it still.
#[test]
fn a_child_whose_guard_was_forgotten_is_closed_when_its_entry_goes() {
    let (outer, parent) = (Heap::new().unwrap(), Heap::new().unwrap());
    let account = parent.account_handle();
    let child = child_of(&parent, LifetimeHint::Short);
    let was_called = Arc::new(AtomicBool::new(false));
    let called = Arc::clone(&was_called);
    child.on_end(move |_| called.store(true, Ordering::Relaxed)).unwrap();
    let mut task = pin!(
        async {
            std::mem::forget(child.enter().unwrap());
            drop(Box::new([1_u8; 100]));
            assert_eq!(parent.close().deferred_children, 1);
            std::thread::spawn(move || drop(child)).join().unwrap();
            assert!(!was_called.load(Ordering::Relaxed));
        }
        .in_heap(&outer)
    );
    assert_eq!(poll_once(task.as_mut()), Poll::Ready(Ok(())));
    assert!(was_called.load(Ordering::Relaxed));
    heapswitch::flush_foreign_frees();
    assert_eq!(account.usage().committed_bytes, 0);
    assert_eq!(account.children().count(), 0, "its account is gone with its header");
    assert_eq!(process_usage().leaked_heaps, 0);
}

#[test]
fn a_child_in_a_saved_context_is_closed_when_that_is_discarded() {
    let parent = Heap::new().unwrap();
    let account = parent.account_handle();
    let child = child_of(&parent, LifetimeHint::Short);
    let was_called = Arc::new(AtomicBool::new(false));
    let called = Arc::clone(&was_called);
    child.on_end(move |_| called.store(true, Ordering::Relaxed)).unwrap();
    let mut context = SavedContext::new();
    context.run(|| std::mem::forget(child.enter().unwrap())).unwrap();
    assert_eq!((context.depth(), parent.close().deferred_children), (1, 1));
    assert!(!was_called.load(Ordering::Relaxed));
    context.discard();
    assert!(was_called.load(Ordering::Relaxed));
    assert!(matches!(child.run(|| ()), Err(HeapError::Closed)));
    drop(child);
    assert_eq!(account.children().count(), 0, "its account is gone with its header");
}

/// The account waits in the other thread's list, for the limit: that does not keep the heap open.
#[test]
fn a_child_that_waits_in_another_threads_list_is_closed_when_it_is_left() {
    let parent = Heap::new().unwrap();
    let child = Heap::builder().parent(&parent).soft_limit(1).build().unwrap();
    let was_called = Arc::new(AtomicBool::new(false));
    let called = Arc::clone(&was_called);
    child.on_end(move |_| called.store(true, Ordering::Relaxed)).unwrap();
    let ((handed, taken), (done, wait)) = (channel(), channel::<()>());
    let other = std::thread::spawn(move || {
        let layout = Layout::new::<[u8; 4 * CHUNK]>();
        let block = (&child).allocate(layout).unwrap();
        // SAFETY: the block is of this layout, and is freed once.
        unsafe { (&child).deallocate(block.cast(), layout) };
        handed.send(child).unwrap();
        // It reaches no safe point before it is told to.
        wait.recv().unwrap();
    });
    let child = taken.recv().unwrap();
    let scope = child.enter().unwrap();
    assert_eq!(std::thread::spawn(|| parent.close()).join().unwrap().deferred_children, 1);
    assert!(!was_called.load(Ordering::Relaxed));
    drop(scope);
    assert!(was_called.load(Ordering::Relaxed));
    assert_eq!(child.enter().unwrap_err(), HeapError::Closed);
    done.send(()).unwrap();
    other.join().unwrap();
}

/// What was noted outside the heap is told when it is left next.
#[test]
fn pressure_that_was_noted_outside_is_told_soon() {
    let parent = Heap::new().unwrap();
    let child = Heap::builder().parent(&parent).soft_limit(1).build().unwrap();
    let plain = Heap::builder().soft_limit(1).build().unwrap();
    let layout = Layout::new::<[u8; 4 * CHUNK]>();
    for (heap, is_child) in [(&child, true), (&plain, false)] {
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        let _watch = heap.account_handle().on_pressure(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let block = heap.allocate(layout).unwrap();
        // SAFETY: the block is of this layout, and is freed once.
        unsafe { heap.deallocate(block.cast(), layout) };
        assert_eq!(told.load(Ordering::Relaxed), 0, "not within an allocation");
        heap.run(|| ()).unwrap();
        assert_eq!(told.load(Ordering::Relaxed), 1, "child: {is_child}");
    }
}

/// A child is entered for each allocation through its handle: the parent's end may fall in between.
#[test]
fn a_child_that_is_used_by_its_handle_is_closed_at_the_next_safe_point() {
    const ENOUGH: usize = if cfg!(heapswitch_tsan) { 3 } else { 20 };
    let mut deferred = 0;
    for round in 0.. {
        let parent = Heap::new().unwrap();
        let child = child_of(&parent, LifetimeHint::Medium);
        let was_called = Arc::new(AtomicBool::new(false));
        let called = Arc::clone(&was_called);
        child.on_end(move |_| called.store(true, Ordering::Relaxed)).unwrap();
        let begun = Arc::new(Barrier::new(2));
        let closer = std::thread::spawn({
            let begun = Arc::clone(&begun);
            move || {
                begun.wait();
                parent.close().deferred_children
            }
        });
        let layout = Layout::new::<[u64; 10]>();
        begun.wait();
        while let Ok(block) = (&child).allocate(layout) {
            // SAFETY: the block is of this layout, and is freed once.
            unsafe { (&child).deallocate(block.cast(), layout) };
        }
        deferred += closer.join().unwrap();
        checkpoint().unwrap();
        assert!(was_called.load(Ordering::Relaxed), "round {round}, {deferred} while it was used");
        assert_eq!(child.enter().unwrap_err(), HeapError::Closed);
        if deferred == ENOUGH || round == 20_000 {
            break;
        }
    }
    assert!(deferred != 0);
}

#[test]
fn an_ended_heap_gets_no_children() {
    let parent = Heap::new().unwrap();
    let (child, running) =
        (child_of(&parent, LifetimeHint::Short), child_of(&parent, LifetimeHint::Short));
    let scope = running.enter().unwrap();
    parent.close();
    assert_eq!(Heap::builder().parent(&child).build().unwrap_err(), HeapError::Closed);
    assert_eq!(in_child("part", || ()).err(), Some(HeapError::Closed));
    drop(scope);
    assert_eq!(Heap::builder().parent(&running).build().unwrap_err(), HeapError::Closed);
    // Made while the one above ends on another thread, each ends with it or is refused.
    for _ in 0..20 {
        let parent = Heap::new().unwrap();
        let child = child_of(&parent, LifetimeHint::Short);
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let maker = std::thread::spawn(move || {
            let mut all = Vec::new();
            while all.len() < 500
                && let Ok(heap) = Heap::builder().parent(&child).build()
            {
                all.push(heap);
                count.fetch_add(1, Ordering::Relaxed);
            }
            (all, child)
        });
        while made.load(Ordering::Relaxed) < 10 {
            std::thread::yield_now();
        }
        parent.close();
        let (all, _child) = maker.join().unwrap();
        assert!(all.iter().all(|heap| heap.enter().is_err_and(|why| why == HeapError::Closed)));
    }
}

#[test]
fn a_parent_and_its_children_on_other_threads() {
    const ROUNDS: usize = if cfg!(heapswitch_tsan) { 50 } else { 300 };
    for round in 0..ROUNDS {
        let parent = Heap::new().unwrap();
        let account = parent.account_handle();
        let calls = Arc::new(AtomicUsize::new(0));
        let start = Arc::new(Barrier::new(3));
        let threads: Vec<_> = (0..2)
            .map(|index| {
                let child = child_of(&parent, HINTS[index]);
                let (calls, start) = (Arc::clone(&calls), Arc::clone(&start));
                child
                    .on_end(move |_| {
                        calls.fetch_add(1, Ordering::Relaxed);
                    })
                    .unwrap();
                std::thread::spawn(move || {
                    start.wait();
                    let mut escapees = Vec::new();
                    // Some leave it, enter it and drop it while it is being closed.
                    for _ in 0..(round % 4) * 20 {
                        match child.run(|| Box::new([1_u8; 100])) {
                            Ok(block) => escapees.push(block),
                            Err(error) => assert_eq!(error, HeapError::Closed),
                        }
                    }
                    drop(child);
                    assert!(escapees.iter().all(|block| block[99] == 1));
                })
            })
            .collect();
        start.wait();
        let report = parent.close();
        assert!(report.closed_children + report.deferred_children <= 2);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(calls.load(Ordering::Relaxed), 2, "round {round}");
        assert_eq!(account.usage().committed_bytes, 0, "round {round}");
    }
    assert_eq!(process_usage().leaked_heaps, 0);
}

#[test]
fn callbacks_are_called_newest_first_and_children_first() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |name: &'static str| {
        let order = Arc::clone(&order);
        move |end: HeapEnd| order.lock().unwrap().push((name, end))
    };
    let mut parent = Heap::new().unwrap();
    parent.on_end(note("parent, first")).unwrap();
    parent.on_end(note("parent, second")).unwrap();
    let child = child_of(&parent, LifetimeHint::Short);
    child.on_end(note("child")).unwrap();
    let grandchild = child_of(&child, LifetimeHint::Short);
    grandchild.on_end(note("grandchild")).unwrap();
    let report = parent.reset().unwrap();
    assert_eq!((report.closed_children, report.panicked_callbacks), (2, 0));
    assert_eq!(
        core::mem::take(&mut *order.lock().unwrap()),
        [
            ("grandchild", HeapEnd::Close),
            ("child", HeapEnd::Close),
            ("parent, second", HeapEnd::Reset),
            ("parent, first", HeapEnd::Reset),
        ]
    );
    parent.close();
    assert!(order.lock().unwrap().is_empty(), "each is called once");
}

#[test]
fn a_callback_that_panics_keeps_none_from_being_called() {
    let calls = Arc::new(AtomicUsize::new(0));
    let heap = Heap::new().unwrap();
    for index in 0..4 {
        let calls = Arc::clone(&calls);
        heap.on_end(move |_| {
            calls.fetch_add(1, Ordering::Relaxed);
            assert!(index % 2 == 0, "an odd one");
        })
        .unwrap();
    }
    let report = heap.close();
    assert_eq!((report.panicked_callbacks, calls.load(Ordering::Relaxed)), (2, 4));
}

/// The payload of its panic panics when it is dropped, with another that does so too.
#[test]
fn payloads_that_panic_go_no_further() {
    struct Bomb(usize);
    impl Drop for Bomb {
        fn drop(&mut self) {
            if self.0 != 0 {
                std::panic::panic_any(Bomb(self.0 - 1));
            }
        }
    }
    let heap = Heap::builder().soft_limit(1).build().unwrap();
    heap.on_end(|_| std::panic::panic_any(Bomb(3))).unwrap();
    let watch = heap.account_handle().on_pressure(|_| std::panic::panic_any(Bomb(3)));
    heap.run(|| drop(Box::new([1_u8; 100]))).unwrap();
    assert_eq!(heap.close().panicked_callbacks, 1);
    drop(watch);
}

#[test]
fn callbacks_find_the_heap_whole_and_may_use_others() {
    let heap = Heap::new().unwrap();
    let block = heap.run(|| Box::new(*b"made in the heap")).unwrap();
    let address = block.as_ptr() as usize;
    heap.on_end(move |_| {
        let other = Heap::new().unwrap();
        let copy = other.run(|| block.to_vec()).unwrap();
        assert!(other.contains(copy.as_ptr()) && copy == b"made in the heap");
        drop(block); // Freed before the heap looks for escapees.
    })
    .unwrap();
    assert!(heap.contains(address as *const u8));
    assert_eq!(heap.close().blocks, 0);
    // A heap that was swapped in ends with its slot; its callbacks do not allocate in it.
    let heap = Heap::new().unwrap();
    let id = heap.id();
    let was_called = Arc::new(AtomicBool::new(false));
    let called = Arc::clone(&was_called);
    heap.on_end(move |_| {
        let block = Box::new([1_u8; 64]);
        assert_ne!(heapswitch::owner_of(block.as_ptr()), Some(id));
        called.store(true, Ordering::Relaxed);
    })
    .unwrap();
    heapswitch::with_thread_local(|| {
        swap_coroutine_local(Some(heap)).unwrap();
    })
    .unwrap();
    assert!(was_called.load(Ordering::Relaxed));
}

#[test]
fn a_handle_may_be_dropped_by_a_callback_of_its_own_heap() {
    // So often that what is kept would show beside the records of the other tests' threads.
    const TIMES: usize = 3000;
    let held = process_usage().metadata_bytes;
    for _ in 0..TIMES {
        let parent = Heap::new().unwrap();
        let child = child_of(&parent, LifetimeHint::Short);
        let place = Arc::new(Mutex::new(None));
        let own = Arc::clone(&place);
        child.on_end(move |_| drop(own.lock().unwrap().take())).unwrap();
        let account = parent.account_handle();
        *place.lock().unwrap() = Some(child);
        assert_eq!(parent.close().closed_children, 1);
        assert!(place.lock().unwrap().is_none());
        assert_eq!(account.children().count(), 0, "the child's account is gone with its header");
    }
    // The shortest record is 64 bytes; a header and an account are more than 1000.
    assert!(process_usage().metadata_bytes < held + TIMES * 1000);
}

#[test]
fn a_detached_child_outlives_its_parent_and_stays_charged() {
    let parent = Heap::new().unwrap();
    let account = parent.account_handle();
    let mut child = child_of(&parent, LifetimeHint::Short);
    child.detach().unwrap();
    assert_eq!(parent.close().closed_children, 0);
    let text = child.run(|| String::from("still open")).unwrap();
    assert_eq!(account.usage().committed_bytes, CHUNK);
    drop((text, child));
    assert_eq!(account.usage().committed_bytes, 0);
}

#[test]
fn children_of_what_lives_on_live_on() {
    let ancestor = Heap::new().unwrap();
    let mut detached = Heap::builder().parent(&ancestor).build().unwrap();
    let charged = Heap::builder().charged_to(&ancestor.account_handle()).build().unwrap();
    let below = [&detached, &charged].map(|heap| Heap::builder().parent(heap).build().unwrap());
    let mut ended = Heap::builder().parent(&ancestor).build().unwrap();
    let below_ended = Heap::builder().parent(&ended).build().unwrap();
    detached.detach().unwrap();
    assert_eq!(ended.reset().unwrap().closed_children, 1);
    assert!(matches!(below_ended.run(|| ()), Err(HeapError::Closed)));
    assert_eq!(ancestor.close().closed_children, 1);
    assert!(matches!(ended.run(|| ()), Err(HeapError::Closed)));
    for (heap, child) in [detached, charged].into_iter().zip(below) {
        assert_eq!(child.run(|| vec![1_u8; 100]).unwrap(), [1; 100]);
        assert_eq!(heap.close().closed_children, 1);
        assert!(matches!(child.run(|| ()), Err(HeapError::Closed)));
    }
}

#[test]
fn a_task_in_a_child_ends_with_its_parent() {
    let parent = Heap::builder().name("parent").build().unwrap();
    let dropped = Arc::new(AtomicBool::new(false));
    struct Flag(Arc<AtomicBool>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let flag = Flag(Arc::clone(&dropped));
    let task = async move {
        let _flag = flag;
        let kept = vec![1_u8; 1000];
        poll_fn(|_| Poll::<()>::Pending).await;
        drop(kept);
    };
    let mut task = pin!(parent.run(|| task.in_child("part").unwrap()).unwrap());
    let account = task.heap().account_handle();
    assert_eq!(account.parent(), Some(parent.account_handle()));
    assert!(poll_once(task.as_mut()).is_pending());
    assert_eq!(parent.close().closed_children, 1);
    assert!(!dropped.load(Ordering::Relaxed));
    assert_eq!(poll_once(task.as_mut()), Poll::Ready(Err(ContextError::Heap(HeapError::Closed))));
    assert!(dropped.load(Ordering::Relaxed) && task.is_done());
    heapswitch::flush_foreign_frees();
    assert_eq!(account.usage().committed_bytes, 0);
}

#[test]
fn copies_go_where_they_are_asked_to() {
    let (outer, inner, other) = (Heap::new().unwrap(), Heap::new().unwrap(), Heap::new().unwrap());
    let names = vec![String::from("one"), String::from("two")];
    let owner = |names: &Vec<String>| heapswitch::owner_of(names[1].as_ptr());
    let copied = outer
        .run(|| {
            inner.run(|| {
                let inside = names.clone();
                assert_eq!(owner(&inside), Some(inner.id()));
                assert_eq!(owner(&other.copy_in(&inside).unwrap()), Some(other.id()));
                let _nested = heapswitch::use_allocator(heapswitch::CurrentAllocatorInUse::Global);
                copy_out(&inside).unwrap()
            })
        })
        .unwrap()
        .unwrap();
    assert_eq!((owner(&copied), &copied), (Some(outer.id()), &names));
    let copied = outer.run(|| copy_out(&copied).unwrap()).unwrap();
    assert_eq!(owner(&copied), heapswitch::thread_heap_id());
    assert_eq!(with_outer(|| owner(&copied.clone())).unwrap(), heapswitch::thread_heap_id());
}

#[test]
fn the_tree_is_walked_by_anyone_at_any_time() {
    let root = Account::new("root of the walk").unwrap();
    let (stop, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(2)));
    let walker = std::thread::spawn({
        let (root, stop, begun) = (root.clone(), Arc::clone(&stop), Arc::clone(&begun));
        move || {
            let mut most = root.subtree().count();
            begun.wait();
            while !stop.load(Ordering::Relaxed) {
                most = most.max(root.subtree().count());
                assert!(root.largest(3).len() <= 3);
            }
            most
        }
    });
    begun.wait();
    for _ in 0..200 {
        let parent = Heap::builder().charged_to(&root).name("request").build().unwrap();
        let child = Heap::builder().parent(&parent).name("part").build().unwrap();
        let _block = child.run(|| Box::new(1)).unwrap();
        // The walker may hold on to the one before.
        assert!(matches!(root.named("part").count(), 1 | 2));
        let largest = root.largest(2);
        assert_eq!((largest.len(), largest[0].name.as_str()), (1, "part"));
        assert_eq!(largest[0].parent, Some(parent.account_handle().id()));
    }
    stop.store(true, Ordering::Relaxed);
    assert!((1..=5).contains(&walker.join().unwrap()));
    assert_eq!(root.subtree().count(), 1);
    assert!(heapswitch::accounts().any(|account| account == root));
    assert!(Account::process().is_process() && Account::process().parent().is_none());
    assert_eq!(Account::process().name().as_str(), "process");
}
