heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    thread_source = file,
}

fn main() {}
