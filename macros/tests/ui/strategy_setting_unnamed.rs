heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    coroutine = bit_set(32),
}

fn main() {}
