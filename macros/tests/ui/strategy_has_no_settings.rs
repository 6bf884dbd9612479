heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    thread = slab(block_bytes = 32),
}

fn main() {}
