heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    thread_huge_pages = true,
}

fn main() {}
