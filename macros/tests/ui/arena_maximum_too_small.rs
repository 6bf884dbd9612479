heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    coroutine_source = arena(maximum_bytes = 1 MiB),
}

fn main() {}
