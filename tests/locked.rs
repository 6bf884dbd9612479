//! Each strategy behind a lock as a global allocator: one is really this program's, the others are
//! statics that threads share, and a fork finds none of the locks held.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[cfg(not(heapswitch_tsan))]
#[path = "support/child.rs"]
mod child;

use std::alloc::{GlobalAlloc, Layout};
use std::collections::{BTreeMap, VecDeque};
#[cfg(not(heapswitch_tsan))]
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use heapswitch::{
    ArenaMemorySource, ArenaSettings, BitSetAllocator, BuddyAllocator, BumpAllocator,
    ContextAllocator, FreeListAllocator, LifetimeHint, LocalAllocator, Locked,
    LockedBuddyAllocator, MemoryMapAllocator, MemoryMapSource, MultipleBinarySearchTreeAllocator,
    SlabAllocator, StripeAllocator,
};

#[global_allocator]
static GLOBAL: Locked<MultipleBinarySearchTreeAllocator<MemoryMapSource>> =
    Locked::new(MultipleBinarySearchTreeAllocator::new(maps()));

/// A source of its own for each.
const fn maps() -> MemoryMapSource {
    MemoryMapSource::new()
}

static BUMP: Locked<BumpAllocator<MemoryMapSource>> = Locked::new(BumpAllocator::new(maps()));
static BITS: Locked<BitSetAllocator<MemoryMapSource>> = Locked::new(BitSetAllocator::new(maps()));
static WIDE_BITS: Locked<BitSetAllocator<MemoryMapSource>> =
    Locked::new(BitSetAllocator::with_block_bytes(256, maps()));
static SLAB: Locked<SlabAllocator<MemoryMapSource>> = Locked::new(SlabAllocator::new(maps()));
static FREE_LIST: Locked<FreeListAllocator<MemoryMapSource>> =
    Locked::new(FreeListAllocator::new(maps()));
static BUDDY: LockedBuddyAllocator<MemoryMapSource> =
    LockedBuddyAllocator::new(BuddyAllocator::new(maps()));
static STRIPES: Locked<StripeAllocator<MemoryMapSource>> =
    Locked::new(StripeAllocator::new(maps()));
static CONTEXT: Locked<ContextAllocator<MemoryMapSource>> =
    Locked::new(ContextAllocator::new(LifetimeHint::Long, maps()));
static IN_ARENA: Locked<BitSetAllocator<ArenaMemorySource<MemoryMapSource>>> =
    Locked::new(BitSetAllocator::new(ArenaMemorySource::new(maps(), ArenaSettings::DEFAULT)));
static MAPPINGS: Locked<MemoryMapAllocator> = Locked::new(MemoryMapAllocator::new());

/// All that can be a global allocator here.
fn all() -> [&'static (dyn GlobalAlloc + Sync); 11] {
    [
        &GLOBAL, &BUMP, &BITS, &WIDE_BITS, &SLAB, &FREE_LIST, &BUDDY, &STRIPES, &CONTEXT,
        &IN_ARENA, &MAPPINGS,
    ]
}

/// Allocates, grows, shrinks and frees; whether the blocks held what was written to them.
fn works(global: &dyn GlobalAlloc, mark: u8) -> bool {
    let mut is_right = true;
    let mut blocks = Vec::new();
    for size in (1..2000).step_by(31) {
        let layout = Layout::from_size_align(size, 8).unwrap();
        let target = if size % 2 == 0 { size * 2 } else { size.div_ceil(2) };
        // SAFETY: the size is not zero, and each block is used as far as it reaches.
        unsafe {
            let block = global.alloc(layout);
            assert!(!block.is_null());
            block.write_bytes(mark, size);
            let moved = global.realloc(block, layout, target);
            assert!(!moved.is_null());
            let kept = std::slice::from_raw_parts(moved, size.min(target));
            is_right &= kept.iter().all(|&byte| byte == mark);
            blocks.push((moved, Layout::from_size_align(target, 8).unwrap()));
        }
    }
    for (block, layout) in blocks {
        // SAFETY: allocated above, with that layout at last, and freed once.
        unsafe {
            is_right &= block.read() == mark;
            global.dealloc(block, layout);
        }
    }
    is_right
}

#[test]
fn the_program_lives_on_it() {
    let before = GLOBAL.memory_usage();
    let words: BTreeMap<usize, String> =
        (0..2000).map(|number| (number, "w".repeat(number % 300))).collect();
    assert!(GLOBAL.contains(words[&299].as_ptr()));
    assert!(GLOBAL.memory_usage().allocated_bytes > before.allocated_bytes + 2000 * 100);
    let threads: Vec<_> =
        (0..4).map(|_| thread::spawn(|| "s".repeat(100_000).to_uppercase())).collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap().len() == 100_000));
    assert!(words.iter().all(|(number, word)| word.len() == number % 300));
    drop(words);
    GLOBAL.lock().verify();
}

#[test]
fn threads_share_each() {
    for global in all() {
        thread::scope(|scope| {
            for thread in 1..=4 {
                scope.spawn(move || {
                    assert!((0..10).all(|round| works(global, thread * 16 + round)));
                });
            }
        });
    }
    for usage in [BUMP.memory_usage(), SLAB.memory_usage(), IN_ARENA.memory_usage()] {
        assert!(usage.peak_committed_bytes > 0);
    }
    for usage in [FREE_LIST.memory_usage(), BUDDY.memory_usage(), STRIPES.memory_usage()] {
        assert!(usage.peak_committed_bytes > 0);
    }
    let byte = Layout::new::<u8>();
    let lengths = [BUMP.block_length(byte), BITS.block_length(byte), WIDE_BITS.block_length(byte)];
    assert_eq!(lengths, [Ok(8), Ok(32), Ok(256)]);
    assert_eq!(CONTEXT.lock().strategy(), "trees");
}

/// One block after the other goes from thread to thread, which checks what stands in it, and frees
/// it or keeps it for a while: blocks of both are split from and merged with each other's.
#[test]
fn two_threads_share_the_buddies() {
    static SHARED: LockedBuddyAllocator<MemoryMapSource> =
        LockedBuddyAllocator::new(BuddyAllocator::new(maps()));
    struct Sent(*mut u8, Layout, u8);
    // SAFETY: whoever has it has the block.
    unsafe impl Send for Sent {}
    fn check_and_free(Sent(block, layout, mark): Sent) {
        // SAFETY: the block is allocated with the layout, was filled, and is freed once.
        unsafe {
            let bytes = std::slice::from_raw_parts(block, layout.size());
            assert!(bytes.iter().all(|&byte| byte == mark), "{layout:?} of {mark}");
            SHARED.dealloc(block, layout);
        }
    }
    fn work(mark: u8, sender: &mpsc::SyncSender<Sent>, receiver: &mpsc::Receiver<Sent>) {
        let mut kept = VecDeque::new();
        for step in 0..4000_usize {
            let size = 1 + (step * 7919 + usize::from(mark)) % (32 << (step % 8));
            let layout = Layout::from_size_align(size, 1 << (step % 7)).unwrap();
            // SAFETY: the size is not zero, and the block that long.
            unsafe {
                let block = SHARED.alloc(layout);
                assert!(!block.is_null() && block.addr().is_multiple_of(layout.align()));
                block.write_bytes(mark, size);
                kept.push_back(Sent(block, layout, mark));
            }
            if step % 3 == 0
                && let Some(sent) = kept.pop_front()
                && let Err(mpsc::TrySendError::Full(sent)) = sender.try_send(sent)
            {
                kept.push_back(sent);
            }
            while let Ok(received) = receiver.try_recv() {
                kept.push_back(received);
            }
            if kept.len() > 100 {
                kept.drain(..70).for_each(check_and_free);
            }
        }
        kept.into_iter().for_each(check_and_free);
    }
    let ((to_second, from_first), (to_first, from_second)) =
        (mpsc::sync_channel(64), mpsc::sync_channel(64));
    let first = thread::spawn(move || {
        work(1, &to_second, &from_second);
        // What the other has still to send.
        drop(to_second);
        from_second.into_iter().for_each(check_and_free);
    });
    work(2, &to_first, &from_first);
    drop(to_first);
    from_first.into_iter().for_each(check_and_free);
    first.join().unwrap();
    SHARED.lock().verify();
    let usage = SHARED.memory_usage();
    assert_eq!((usage.allocated_blocks, usage.allocated_bytes), (0, 0));
}

/// Not under ThreadSanitizer, which cannot follow a fork of a process with threads.
#[test]
#[cfg(not(heapswitch_tsan))]
fn a_forked_child_finds_no_lock_held() {
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    struct Over;
    impl Drop for Over {
        fn drop(&mut self) {
            IS_OVER.store(true, Ordering::Relaxed);
        }
    }
    let protected: [&'static (dyn GlobalAlloc + Sync); 8] =
        [&GLOBAL, &BUMP, &BITS, &SLAB, &FREE_LIST, &BUDDY, &STRIPES, &CONTEXT];
    GLOBAL.protect_fork().unwrap();
    BUMP.protect_fork().unwrap();
    BITS.protect_fork().unwrap();
    SLAB.protect_fork().unwrap();
    FREE_LIST.protect_fork().unwrap();
    BUDDY.protect_fork().unwrap();
    STRIPES.protect_fork().unwrap();
    CONTEXT.protect_fork().unwrap();
    thread::scope(|scope| {
        for mark in 1..3 {
            scope.spawn(move || {
                while !IS_OVER.load(Ordering::Relaxed) {
                    assert!(protected.into_iter().all(|global| works(global, mark)));
                }
            });
        }
        // Ends the threads also where a child fails.
        let _over = Over;
        for _ in 0..30 {
            child::in_child(|| protected.into_iter().all(|global| works(global, 9)));
        }
    });
}
