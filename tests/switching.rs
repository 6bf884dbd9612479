//! Switching with the allocator really installed.

use heapswitch::{CurrentAllocatorInUse, Heap, HeapError, HeapSwitch, LifetimeHint};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const HINTS: [LifetimeHint; 3] = [LifetimeHint::Short, LifetimeHint::Medium, LifetimeHint::Long];

#[test]
#[cfg(not(heapswitch_pass_through))]
fn a_scope_allocates_in_its_heap_and_only_there() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let outside = Box::new(1);
        let inside = heap.run(|| Box::new(2)).unwrap();
        let after = Box::new(3);
        assert!(heap.contains((&raw const *inside).cast()));
        assert!(!heap.contains((&raw const *outside).cast()));
        assert!(!heap.contains((&raw const *after).cast()));
        assert_eq!((*outside, *inside, *after), (1, 2, 3));
    }
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn what_outlives_its_heap_stays_valid() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let strings = heap
            .run(|| (0..1000).map(|number| format!("string {number}")).collect::<Vec<_>>())
            .unwrap();
        let report = heap.close();
        assert!(report.blocks >= 1001, "{report:?}");
        for (number, string) in strings.iter().enumerate() {
            assert_eq!(*string, format!("string {number}"));
        }
        drop(strings);
    }
}

#[test]
fn a_closed_heap_gives_everything_back() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        heap.run(|| drop((0..10_000).map(|number| vec![0_u8; number % 3000]).collect::<Vec<_>>()))
            .unwrap();
        heap.verify().unwrap();
        let report = heap.close();
        assert_eq!((report.blocks, report.kept_bytes), (0, 0), "{hint:?}");
    }
}

#[test]
fn frees_from_other_threads_come_back() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let blocks = heap
            .run(|| (1..2000_usize).map(|size| vec![size as u8; size]).collect::<Vec<_>>())
            .unwrap();
        std::thread::spawn(move || {
            for (index, block) in blocks.iter().enumerate() {
                assert!(block.iter().all(|&byte| byte == (index + 1) as u8));
            }
        })
        .join()
        .unwrap();
        heap.release_unused().unwrap();
        heap.verify().unwrap();
        let usage = heap.memory_usage().unwrap();
        assert_eq!(usage.allocated_blocks, 0, "{hint:?} {usage:?}");
        assert_eq!(usage.committed_bytes, 0, "{hint:?} {usage:?}");
    }
}

#[test]
fn entering_twice_is_an_error() {
    let heap = Heap::new().unwrap();
    let scope = heap.enter().unwrap();
    assert_eq!(heap.enter().unwrap_err(), HeapError::Running);
    assert_eq!(heapswitch::current(), CurrentAllocatorInUse::CoroutineLocal);
    drop(scope);
    assert_eq!(heapswitch::current(), CurrentAllocatorInUse::ThreadLocal);
}

#[test]
#[cfg(not(heapswitch_pass_through))]
fn large_blocks_grow_and_move() {
    for hint in HINTS {
        let heap = Heap::with_hint(hint).unwrap();
        let vector = heap
            .run(|| {
                let mut vector = Vec::new();
                for number in 0..1_000_000_u64 {
                    vector.push(number);
                }
                vector
            })
            .unwrap();
        assert!(heap.contains(vector.as_ptr().cast()));
        assert!(vector.iter().enumerate().all(|(index, &number)| index as u64 == number));
        let report = heap.close();
        assert_eq!(report.blocks, 1);
    }
}
