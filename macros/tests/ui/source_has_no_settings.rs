heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    coroutine_source = memory_map(maximum_bytes = 1 GiB),
}

fn main() {}
