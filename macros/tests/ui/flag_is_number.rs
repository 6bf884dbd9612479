heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    install = 0,
}

fn main() {}
