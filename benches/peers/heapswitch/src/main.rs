//! The workloads on heapswitch, in the thread's own heap.

use heapswitch::HeapSwitch;

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

fn main() {
    let version = workloads::locked_version("heapswitch");
    workloads::run("heapswitch", &version, "0.", |block| GLOBAL.contains(block));
}
