heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    region_bytes = 32 MiB,
}

fn main() {}
