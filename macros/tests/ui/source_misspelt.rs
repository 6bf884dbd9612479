heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    coroutine_source = arean,
}

fn main() {}
