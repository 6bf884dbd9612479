heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    coroutine_huge_pages = always,
}

fn main() {}
