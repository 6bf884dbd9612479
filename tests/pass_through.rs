//! Passing through to the declared global allocator, as on systems other than Linux: the same API,
//! and every block from the global allocator.
#![cfg(heapswitch_pass_through)]

use allocator_api2::vec::Vec as VecIn;
use heapswitch::sys::IS_PASS_THROUGH;
use heapswitch::{
    FutureExt, Heap, HeapPool, HeapSwitch, WorkerBuilder, WorkerError, process_usage, processors,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

#[test]
fn heaps_are_entered_and_hold_nothing() {
    assert!(IS_PASS_THROUGH);
    let heap = Heap::new().unwrap();
    let before = process_usage().global_bytes;
    let block = heap.run(|| vec![7_u8; 100_000]).unwrap();
    assert!(process_usage().global_bytes >= before + 100_000);
    assert!(!heap.contains(block.as_ptr()));
    assert_eq!(process_usage().region.reserved_bytes, 0);
    assert_eq!(heap.close().blocks, 0);
    assert!(block.iter().all(|&byte| byte == 7));
}

#[test]
fn a_heap_named_as_allocator_is_served_by_the_global_one() {
    let heap = Heap::new().unwrap();
    let mut numbers = VecIn::new_in(&heap);
    numbers.extend(0..10_000_u64);
    assert!(numbers.iter().enumerate().all(|(index, &number)| index as u64 == number));
}

#[test]
fn pools_futures_and_threads_work_and_pinning_is_refused() {
    let pool = HeapPool::new();
    let texts: Vec<_> =
        (0..10).map(|n| pool.take().unwrap().run(|| n.to_string()).unwrap()).collect();
    assert_eq!(texts.concat(), "0123456789");
    drop(async {}.in_heap(pool.take().unwrap()));
    let worker = WorkerBuilder::new().spawn(|| Heap::new().unwrap().run(|| 5).unwrap());
    assert_eq!(worker.unwrap().join().unwrap(), 5);
    assert!(matches!(processors(), Err(WorkerError::Processors(_))));
    let pinned = WorkerBuilder::new().processor(0).spawn(|| ());
    assert!(matches!(pinned, Err(WorkerError::Pin { processor: 0, .. })));
}
