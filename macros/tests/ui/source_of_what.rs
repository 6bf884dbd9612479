heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    source = arena,
}

fn main() {}
