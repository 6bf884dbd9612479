//! The workloads on heapswitch, in the thread's own heap.

use heapswitch::HeapSwitch;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

fn main() {
    workloads::run("heapswitch", |block| GLOBAL.contains(block));
}
