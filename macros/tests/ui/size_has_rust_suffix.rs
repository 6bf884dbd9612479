heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    region_bytes = 1099511627776usize,
}

fn main() {}
