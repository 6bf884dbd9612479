//! What every strategy does as the heaps of a program that has it installed by the macro.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc;
use std::thread;

use heapswitch::allocator::LocalAllocator;
use heapswitch::strategy::Strategy;
use heapswitch::{
    Coroutine, CoroutineResult, CurrentAllocatorInUse, Heap, Locked, MemoryMapSource,
    SourcedAllocator, current, owner_of, thread_heap_id, with_global,
};

/// What is installed.
pub(crate) struct Installed {
    /// The strategy's name in reports.
    pub(crate) name: &'static str,
    /// The addresses between two blocks of 264 bytes beside each other, which of the strategies
    /// tells this one.
    pub(crate) stride: usize,
}

/// Addresses of blocks of 264 bytes in the current heap.
fn distances() -> Vec<usize> {
    let blocks: Vec<Box<[u8; 264]>> = (0..40).map(|_| Box::new([7; 264])).collect();
    let mut addresses: Vec<_> = blocks.iter().map(|block| (&raw const **block).addr()).collect();
    addresses.sort_unstable();
    addresses.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// Strings, maps and buffers that grow and go; whether all held what was written to them.
fn works(seed: usize) -> bool {
    let mut words: BTreeMap<usize, String> = BTreeMap::new();
    let mut buffers: VecDeque<Vec<u8>> = VecDeque::new();
    for step in 0..2000 {
        let key = (step * 7919 + seed) % 300;
        let word = words.entry(key).or_default();
        word.push_str(&"w".repeat(key % 40));
        if word.len() > 3000 {
            words.remove(&key);
        }
        let length = 1 << (step % 15);
        buffers.push_back(vec![step as u8; length]);
        if buffers.len() > 20 {
            let buffer = buffers.pop_front().unwrap();
            if buffer.iter().any(|&byte| byte != buffer[0]) {
                return false;
            }
        }
    }
    words.iter().all(|(key, word)| word.len() % (key % 40).max(1) == 0)
        && words.values().all(|word| word.bytes().all(|byte| byte == b'w'))
}

/// The thread's heap has the strategy, and serves.
pub(crate) fn threads_live_on_it(installed: &Installed) {
    assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
    let distances = thread::spawn(distances).join().unwrap();
    let beside = distances.iter().filter(|&&distance| distance == installed.stride).count();
    assert!(beside > 10, "{distances:?}");
    let workers: Vec<_> = (0..3).map(|seed| thread::spawn(move || works(seed))).collect();
    assert!(works(9));
    assert!(workers.into_iter().all(|worker| worker.join().unwrap()));
}

/// Heaps of contexts have it, what outlives them stays valid, and the rest goes back.
pub(crate) fn contexts_live_on_it(installed: &Installed) {
    let heap = Heap::new().unwrap();
    assert_eq!(heap.strategy(), installed.name);
    assert!(heap.run(|| works(1)).unwrap());
    heap.verify().unwrap();
    let kept = heap.run(|| (0..50).map(|n| format!("string {n}")).collect::<Vec<_>>()).unwrap();
    assert!(heap.contains(kept[49].as_ptr()));
    assert_eq!(heap.memory_usage().unwrap().allocated_blocks, 51);
    let report = heap.close();
    assert_eq!(report.blocks, 51);
    assert!(kept.iter().enumerate().all(|(n, text)| *text == format!("string {n}")));
}

/// Coroutines allocate in theirs between switches, and another thread frees what they send.
pub(crate) fn coroutines_live_on_it(installed: &Installed) {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>();
    let freeing = thread::spawn(move || {
        receiver.into_iter().all(|bytes| bytes.iter().all(|&byte| byte == bytes[0]))
    });
    let mut coroutines: Vec<_> = (1..5_usize)
        .map(|number| {
            let sender = sender.clone();
            let body = move |yielder: &heapswitch::Yielder<'_, (), usize>, ()| {
                let mut lengths = Vec::new();
                for round in 0..100_usize {
                    let length = number * (round * 37 % 900 + 1);
                    let bytes = vec![number as u8; length];
                    yielder.suspend(length);
                    lengths.push(bytes.len());
                    if round % 3 == 0 {
                        sender.send(bytes).unwrap();
                    }
                }
                assert!(works(number));
                lengths
            };
            Coroutine::<(), usize, Vec<usize>>::new(Heap::new().unwrap(), body).unwrap()
        })
        .collect();
    drop(sender);
    while coroutines.iter().any(|coroutine| !coroutine.is_done()) {
        for coroutine in coroutines.iter_mut().filter(|coroutine| !coroutine.is_done()) {
            if let CoroutineResult::Return(lengths) = coroutine.resume(()).unwrap() {
                assert_eq!(lengths.len(), 100);
            }
            assert_eq!(current(), CurrentAllocatorInUse::ThreadLocal);
        }
    }
    assert!(freeing.join().unwrap());
    for coroutine in coroutines {
        let heap = coroutine.into_heap();
        assert_eq!(heap.strategy(), installed.name);
        heap.release_unused().unwrap();
        heap.verify().unwrap();
        assert_eq!(heap.close().blocks, 0);
    }
}

/// The global allocator is the strategy behind a lock, and no heap's.
pub(crate) fn the_global_allocator_is_it<S: Strategy>(
    global: &Locked<SourcedAllocator<S, MemoryMapSource>>,
) {
    let (text, thread_text) = (with_global(|| "g".repeat(500)).unwrap(), "t".repeat(500));
    assert!(global.contains(text.as_ptr()));
    assert!(!global.contains(thread_text.as_ptr()));
    assert_eq!(owner_of(text.as_ptr()), None);
    assert_eq!(owner_of(thread_text.as_ptr()), thread_heap_id());
    let workers: Vec<_> =
        (0..3).map(|seed| thread::spawn(move || with_global(|| works(seed)).unwrap())).collect();
    assert!(workers.into_iter().all(|worker| worker.join().unwrap()));
    assert_eq!(text.len() + thread_text.len(), 1000);
    global.lock().verify();
}

/// The whole program: a strategy's threads, contexts and global allocator, and their tests.
/// `stride` is as in [`Installed`].
macro_rules! program {
    ($strategy:ident, $Allocator:ident, $stride:literal) => {
        static SHARED: heapswitch::Locked<heapswitch::$Allocator<heapswitch::MemoryMapSource>> =
            heapswitch::Locked::new(
                heapswitch::$Allocator::new(heapswitch::MemoryMapSource::new()),
            );

        /// The macro wants a type of its own, which is this static's.
        struct Shared;

        // SAFETY: every method is that of the static.
        unsafe impl std::alloc::GlobalAlloc for Shared {
            unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
                // SAFETY: the caller's contract.
                unsafe { SHARED.alloc(layout) }
            }

            unsafe fn dealloc(&self, block: *mut u8, layout: std::alloc::Layout) {
                // SAFETY: the caller's contract.
                unsafe { SHARED.dealloc(block, layout) }
            }
        }

        heapswitch::global_thread_and_coroutine_switchable_allocator! {
            coroutine = $strategy,
            thread = $strategy,
            global = Shared,
        }

        const INSTALLED: installed::Installed =
            installed::Installed { name: stringify!($strategy), stride: $stride };

        #[test]
        fn threads_live_on_it() {
            installed::threads_live_on_it(&INSTALLED);
        }

        #[test]
        fn contexts_live_on_it() {
            installed::contexts_live_on_it(&INSTALLED);
        }

        #[test]
        fn coroutines_live_on_it() {
            installed::coroutines_live_on_it(&INSTALLED);
        }

        #[test]
        fn the_global_allocator_is_it() {
            installed::the_global_allocator_is_it(&SHARED);
        }
    };
}
pub(crate) use program;
