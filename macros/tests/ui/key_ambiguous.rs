heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    huge_pages = never,
}

fn main() {}
