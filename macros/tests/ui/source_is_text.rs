heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    thread_source = "arena",
}

fn main() {}
