heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    thread_placement = 1,
}

fn main() {}
