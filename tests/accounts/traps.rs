//! Traps for whoever counts: records in users' contexts, calls that the optimiser removes, sizes
//! that are added as one thing and subtracted as another.

use std::alloc::Layout;
use std::hint::black_box;

use heapswitch::strategy::slab::Slab;
use heapswitch::{
    Account, CurrentAllocatorInUse, Heap, MemoryReport, MemoryUsage, checkpoint, usage_of,
    with_global,
};

use crate::{CHUNK, HINTS, PROCESS};

/// What is in the context that is current.
fn inside() -> MemoryUsage {
    usage_of(CurrentAllocatorInUse::CoroutineLocal)
}

/// Enters one more heap at each level: beyond the eighth, entries need memory of their own.
fn enter_deep(levels: usize) {
    if levels > 0 {
        let heap = Heap::new().unwrap();
        heap.run(|| enter_deep(levels - 1)).unwrap();
    }
}

#[test]
fn records_never_lie_in_a_context() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let watched = Account::new("watched").unwrap();
        let (over, blocks) = heap
            .run(|| {
                let mine = black_box(Box::new([1_u8; 100]));
                let before = inside();
                assert_eq!(before.allocated_blocks, 1);
                enter_deep(40);
                let text = mine[0];
                let call = move || assert_eq!(text, 1);
                // Each with records: headers, accounts, callbacks, chunks, extents' bit maps.
                let children = [(); 20].map(|()| {
                    let child = Heap::builder().name("child").parent_current().limit(CHUNK);
                    let child = child.build().unwrap();
                    child.on_end(move |_| call()).unwrap();
                    child
                });
                let accounts = [(); 20].map(|()| watched.child("below").unwrap());
                let watches = [(); 20].map(|()| watched.on_pressure(move |_| call()));
                let report = MemoryReport::now();
                let json = report.to_json();
                // Freed elsewhere, in batches: what waits lies in the freed memory alone.
                children.iter().for_each(|child| drop(child.run(|| vec![2_u8; 1000]).unwrap()));
                let over = children[0].run(|| {
                    let _much = vec![3_u8; 4 * CHUNK];
                    checkpoint().unwrap_err()
                });
                assert_eq!(inside().allocated_blocks, before.allocated_blocks, "{hint:?}");
                assert!(!heap.contains(json.as_ptr()));
                drop((children, accounts, watches));
                (over.unwrap(), inside().allocated_blocks)
            })
            .unwrap();
        assert_eq!(blocks, 1, "{hint:?}: the caller's own block");
        let told = over.over_budget().unwrap();
        assert!(!heap.contains(std::ptr::from_ref(told).cast()), "the error is outside too");
        assert_eq!(heap.close().blocks, 0);
    }
}

/// An optimiser may remove a pair of calls that it sees whole; a count of calls would differ.
#[test]
#[cfg_attr(heapswitch_asan, ignore = "what was freed waits in quarantine there, and counts")]
fn counts_are_the_same_where_the_optimiser_removes_pairs() {
    for heap in heaps() {
        let pairs = |is_seen: bool| {
            heap.run(|| {
                for number in 0..10_000_u64 {
                    let pair = Box::new([number; 6]);
                    drop(if is_seen { pair } else { black_box(pair) });
                }
            })
            .unwrap();
            heap.memory_usage().unwrap()
        };
        let kept = heap.run(|| black_box(Box::new([1_u64; 6]))).unwrap();
        for is_seen in [true, false, true] {
            let usage = pairs(is_seen);
            assert_eq!(usage.allocated_blocks, 1, "{} {is_seen}", heap.strategy());
            let layout = Layout::for_value(&*kept);
            assert_eq!(usage.allocated_bytes, heap.block_length(layout).unwrap());
        }
        drop(kept);
        assert_eq!(heap.close().blocks, 0);
    }
}

fn heaps() -> [Heap; 4] {
    let slab = Heap::builder().build_kind::<Slab>(()).unwrap();
    let [short, medium, long] = HINTS.map(|hint| Heap::with_hint(hint).unwrap());
    [short, medium, long, slab]
}

/// Sizes that no class has exactly, grown and shrunk where they stand and moved: what is counted is
/// what the blocks are long, at any time, and nothing in the end.
#[test]
fn what_is_added_is_what_is_subtracted() {
    for heap in heaps() {
        let lengths = |blocks: &[Vec<u8>]| -> usize {
            let layout = |block: &Vec<u8>| Layout::array::<u8>(block.capacity()).unwrap();
            blocks.iter().map(|block| heap.block_length(layout(block)).unwrap()).sum()
        };
        let counted = |what: &str, expected: usize| {
            let counted = heap.memory_usage().unwrap().allocated_bytes;
            assert_eq!(counted, expected, "{}, {what}", heap.strategy());
        };
        let mut blocks: Vec<Vec<u8>> = Vec::with_capacity(300);
        heap.run(|| blocks.extend((1..200).map(|number| Vec::with_capacity(number * 13 + 1))))
            .unwrap();
        heap.run(|| blocks.extend((1..8).map(|number| Vec::with_capacity(number * 40_001))))
            .unwrap();
        counted("made", lengths(&blocks));
        for (index, block) in blocks.iter_mut().enumerate() {
            heap.run(|| match index % 3 {
                0 => block.reserve_exact(block.capacity() + 7),
                1 => block.shrink_to(block.capacity() * 2 / 3),
                _ => block.reserve_exact(block.capacity() * 2 / 3),
            })
            .unwrap();
        }
        counted("resized", lengths(&blocks));
        let rest = blocks.split_off(100);
        heap.run(|| drop(rest)).unwrap();
        counted("some freed", lengths(&blocks));
        // By whoever does not run the heap.
        drop(blocks);
        heap.release_unused().unwrap();
        counted("all freed", 0);
    }
}

/// The same of the global allocator's counts.
#[test]
fn the_global_allocators_counts_do_not_drift() {
    let _process = PROCESS.lock().unwrap_or_else(|error| error.into_inner());
    let live = || {
        let usage = usage_of(CurrentAllocatorInUse::Global);
        (usage.allocated_bytes, usage.allocated_blocks)
    };
    let before = live();
    with_global(|| {
        let mut blocks: Vec<Vec<u8>> = (1..100).map(|n| vec![0; n * 17]).collect();
        for block in &mut blocks {
            block.reserve_exact(block.len() + 3);
            block.truncate(5);
            block.shrink_to_fit();
        }
        let bytes = blocks.iter().map(Vec::capacity).sum::<usize>()
            + blocks.capacity() * size_of::<Vec<u8>>();
        assert_eq!((live().0 - before.0, live().1 - before.1), (bytes, 100));
    })
    .unwrap();
    assert_eq!(live(), before);
}
