heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    coroutine = bit_set(block_bytes = 32, block_bytes = 64),
}

fn main() {}
