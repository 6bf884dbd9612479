heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    coroutine_source = arena(range_bytes = 96 KiB),
}

fn main() {}
