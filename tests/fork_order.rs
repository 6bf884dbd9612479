//! A program whose first use of the crate is a source that takes part in forks: the locks that lie
//! below that source's are still taken after it.
//! Not under ThreadSanitizer, which cannot follow a fork of a process with threads.
#![cfg(not(any(heapswitch_pass_through, heapswitch_tsan, loom)))]

#[path = "support/child.rs"]
mod child;

use std::alloc::Layout;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use child::in_child;
use heapswitch::{
    ArenaMemorySource, ArenaSettings, ArenaSizes, Heap, KindSettings, MemorySource,
    RegionHugePages, RegionMapSource,
};

const FORKS: usize = if cfg!(debug_assertions) { 100 } else { 300 };

/// Every block is a range of its own, so that each take and give-back reaches the region.
static ARENA: LazyLock<ArenaMemorySource<RegionMapSource>> = LazyLock::new(|| {
    let settings = KindSettings {
        placement: heapswitch::numa::Placement::DEFAULT,
        huge_pages: RegionHugePages::System,
        name: c"order",
        is_dumped: true,
    };
    let sizes =
        ArenaSizes { block_bytes: 64 << 10, range_bytes: 64 << 10, maximum_bytes: 64 << 20 };
    let source = RegionMapSource::new(settings).unwrap();
    ArenaMemorySource::new(source, ArenaSettings::new(sizes).unwrap())
});

fn take_and_give_back() {
    let block = ARENA.take(Layout::from_size_align(64 << 10, 64 << 10).unwrap()).unwrap();
    // SAFETY: taken above.
    unsafe { ARENA.give_back(block) };
    ARENA.release_unused();
}

#[test]
fn a_source_that_was_first_does_not_turn_the_order_round() {
    static STOP: AtomicBool = AtomicBool::new(false);
    // SAFETY: ends a process that hangs.
    unsafe { libc::alarm(100) };
    ARENA.protect_fork().unwrap();
    let heap = Heap::new().unwrap();
    drop(heap.enter().unwrap());
    let threads: Vec<_> = (0..2)
        .map(|_| {
            thread::spawn(|| {
                while !STOP.load(Ordering::Relaxed) {
                    take_and_give_back();
                }
            })
        })
        .collect();
    for _ in 0..FORKS {
        in_child(|| {
            take_and_give_back();
            heap.run(|| ()).is_ok()
        });
    }
    STOP.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    // SAFETY: no memory is involved.
    unsafe { libc::alarm(0) };
}
