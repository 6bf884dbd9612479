heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    region_bytes = 3 GiB,
}

fn main() {}
