heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    coroutine_placement = interleave,
    coroutine_source = my::ARENA,
    coroutine_huge_pages = transparent,
}

fn main() {}
