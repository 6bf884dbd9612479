heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    coroutine = bit_set(block_bytes = 48),
}

fn main() {}
