heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    placement = interleave,
}

fn main() {}
