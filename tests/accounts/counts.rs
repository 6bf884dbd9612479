//! Blocks are counted where a report asks: exactly in heaps that nobody runs, within bounds in
//! those that run elsewhere, and whatever their owners do meanwhile.

use std::alloc::Layout;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, PoisonError};
use std::thread;

use heapswitch::strategy::buddy::Buddy;
use heapswitch::strategy::free_list::FreeList;
use heapswitch::strategy::slab::Slab;
use heapswitch::sys::fault::{self, Call};
use heapswitch::{Account, Heap, HeapPool, MemoryReport, SavedContext};

use super::{HINTS, PROCESS};

type Blocks = Vec<Box<[u8; 100]>>;

fn blocks(count: usize) -> Blocks {
    (0..count).map(|_| Box::new([1_u8; 100])).collect()
}

/// A heap of each strategy, below one account, each named for its place here.
fn heaps(group: &Account) -> Vec<Heap> {
    let builder = |name| Heap::builder().name(name).charged_to(group);
    let mut heaps: Vec<_> = HINTS
        .into_iter()
        .zip(["hint 0", "hint 1", "hint 2"])
        .map(|(hint, name)| builder(name).hint(hint).build().unwrap())
        .collect();
    heaps.push(builder("slab").build_kind::<Slab>(()).unwrap());
    heaps.push(builder("buddy").build_kind::<Buddy>(()).unwrap());
    heaps.push(builder("free list").build_kind::<FreeList>(Default::default()).unwrap());
    heaps
}

/// As another thread sees it.
fn elsewhere(account: &Account) -> (usize, usize) {
    thread::scope(|scope| scope.spawn(|| counted(account)).join().unwrap())
}

fn counted(account: &Account) -> (usize, usize) {
    let usage = account.usage();
    (usage.allocated_blocks, usage.allocated_bytes)
}

#[test]
fn a_report_counts_what_nobody_runs() {
    let _process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let group = Account::new("counted").unwrap();
    let heaps = heaps(&group);
    let mut kept = Vec::new();
    for (heap, count) in heaps.iter().zip([10, 20, 30, 40, 50, 60]) {
        kept.push(heap.run(|| blocks(count)).unwrap());
        // The list itself is a block.
        let list = heap.block_length(Layout::array::<Box<[u8; 100]>>(count).unwrap()).unwrap();
        let length = heap.block_length(Layout::new::<[u8; 100]>()).unwrap();
        let expected = (count + 1, count * length + list);
        assert_eq!(heap.memory_usage().unwrap().allocated_bytes, expected.1);
        let account = heap.account_handle();
        // By who has the account, there and here.
        assert_eq!(elsewhere(&account), expected);
        // Freed within, and asked at once.
        heap.run(|| kept.last_mut().unwrap().truncate(count / 2)).unwrap();
        let usage = account.report().usage;
        let half = (count / 2 + 1, count / 2 * length + list);
        assert_eq!((usage.allocated_blocks, usage.allocated_bytes), half, "{}", heap.strategy());
        assert_eq!(account.usage(), usage);
    }
    // By subtree and by name.
    let report = MemoryReport::of(&group);
    for (one, count) in report.accounts.iter().skip(1).zip([30, 25, 20, 15, 10, 5]) {
        assert_eq!(one.usage.allocated_blocks, count + 1, "{one:?}");
    }
    let named = report.by_name();
    let slab = named.iter().find(|one| one.name.as_str() == "slab").unwrap();
    assert_eq!(slab.usage.allocated_blocks, 21);
    assert_eq!(group.largest(9).len(), 6);
    let largest = group.largest(9).iter().map(|one| one.usage.allocated_blocks).sum::<usize>();
    assert_eq!(largest, 5 + 10 + 15 + 20 + 25 + 30 + 6);
}

#[test]
fn what_is_put_aside_pooled_or_ended_is_counted() {
    let _process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let heap = Heap::new().unwrap();
    let account = heap.account_handle();
    let mut aside = SavedContext::new();
    let mark = aside.resume().unwrap();
    std::mem::forget(heap.enter().unwrap());
    let kept = blocks(7);
    assert_eq!(account.usage().allocated_blocks, 8, "running here");
    aside.suspend(mark);
    // Bound to this thread, and run by nobody.
    assert_eq!(elsewhere(&account).0, 8);
    let mark = aside.resume().unwrap();
    drop(kept);
    aside.suspend(mark);
    assert_eq!(elsewhere(&account).0, 0);
    aside.discard();

    let pool = HeapPool::new();
    let pooled = pool.take().unwrap();
    let account = pooled.account_handle();
    let escaped = pooled.run(|| blocks(3)).unwrap();
    assert_eq!(account.usage().allocated_blocks, 4);
    drop(pooled);
    assert_eq!(account.usage().allocated_blocks, 0, "its successor is empty, or it is gone");
    drop(escaped);

    let parent = Heap::new().unwrap();
    let child = Heap::builder().parent(&parent).build().unwrap();
    let account = child.account_handle();
    let escaped = child.run(|| blocks(3)).unwrap();
    assert_eq!(account.usage().allocated_blocks, 4, "one that others may claim");
    drop(parent);
    assert_eq!((account.usage().allocated_blocks, account.usage().escapees), (0, 4));
    drop((escaped, child));
}

#[test]
fn a_threads_heap_is_counted_up_to_its_magazines() {
    let _process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    const BLOCKS: usize = 50_000;
    let step = Barrier::new(2);
    let most = thread::scope(|scope| {
        scope.spawn(|| {
            let kept = blocks(BLOCKS);
            step.wait();
            // Asked for elsewhere.
            step.wait();
            drop(kept);
        });
        step.wait();
        let process = Account::process();
        let most = process.children().map(|one| counted(&one)).max();
        step.wait();
        most.unwrap()
    });
    // What magazines hold: 32 KiB of each of the lengths that were used, a few.
    let (blocks, bytes) = (BLOCKS..BLOCKS + 6000, BLOCKS * 100..BLOCKS * 128 + (1 << 20));
    assert!(blocks.contains(&most.0) && bytes.contains(&most.1), "{most:?}");
}

#[test]
fn without_the_barrier_what_was_counted_last_stands() {
    let _process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let heap = Heap::new().unwrap();
    let account = heap.account_handle();
    let kept = heap.run(|| blocks(5)).unwrap();
    assert_eq!(account.usage().allocated_blocks, 6);
    let more = heap.run(|| blocks(5)).unwrap();
    assert_eq!(account.last_usage().allocated_blocks, 6, "asks nobody");
    fault::fail_from(Call::Barrier, 1);
    let refused = account.usage().allocated_blocks;
    // Who has the handle needs none.
    let by_handle = heap.account().allocated_blocks;
    fault::clear(Call::Barrier);
    assert_eq!((refused, by_handle, account.usage().allocated_blocks), (6, 12, 12));
    drop((kept, more));
}

/// Enters, leaves, resets, closes and makes heaps, until told to stop.
fn work(group: &Account, is_done: &AtomicBool) {
    let mut round = 0_usize;
    while !is_done.load(Ordering::Relaxed) {
        let mut heap = match round % 4 {
            0 => Heap::builder().charged_to(group).build_kind::<Slab>(()).unwrap(),
            hint => Heap::builder().charged_to(group).hint(HINTS[hint - 1]).build().unwrap(),
        };
        let parent = Heap::builder().charged_to(group).build().unwrap();
        let child = Heap::builder().parent(&parent).build().unwrap();
        for count in 0..20 {
            let escaped = heap.run(|| blocks(count)).unwrap();
            let inner = child.run(|| blocks(count)).unwrap();
            if count % 3 == 0 {
                heap.reset().unwrap();
            }
            drop((escaped, inner));
        }
        drop(parent);
        heap.verify().unwrap();
        round += 1;
    }
}

#[test]
fn heaps_are_counted_whatever_their_owners_do() {
    let _process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let (group, is_done) = (Account::new("busy").unwrap(), AtomicBool::new(false));
    let idle = Heap::builder().charged_to(&group).name("idle").build().unwrap();
    let kept = idle.run(|| blocks(30)).unwrap();
    thread::scope(|scope| {
        let workers = [(); 2].map(|()| scope.spawn(|| work(&group, &is_done)));
        for _ in 0..400 {
            let report = MemoryReport::of(&group);
            let named = report.by_name();
            let idle = named.iter().find(|one| one.name.as_str() == "idle").unwrap();
            assert_eq!(idle.usage.allocated_blocks, 31);
        }
        is_done.store(true, Ordering::Relaxed);
        // Not by the scope's end alone, which ThreadSanitizer does not see.
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
    drop(kept);
    heapswitch::flush_foreign_frees();
    assert!(idle.release_unused().unwrap() > 0);
    assert_eq!(group.usage().committed_bytes, 0, "all went back");
}
