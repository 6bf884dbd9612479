//! A heap is run by one thread at a time.

use heapswitch::Heap;

fn main() {
    let heap = Heap::new().unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| heap.run(|| ()));
    });
}
