//! The workloads on heapswitch, each request in a pooled heap of its own.

use heapswitch::{HeapPool, HeapSwitch};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

static POOL: HeapPool = HeapPool::new();

fn main() {
    workloads::set_request_scope(|request| {
        let heap = POOL.take().expect("a heap is to be had");
        heap.run(|| {
            let block = Box::new(0_u64);
            assert!(heap.contains((&raw const *block).cast()), "the request's heap does not serve");
            request();
        })
        .expect("the heap is not entered");
    });
    let version = workloads::locked_version("heapswitch");
    workloads::run("context", &version, "0.", |block| GLOBAL.contains(block));
}
