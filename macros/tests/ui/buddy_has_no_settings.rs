heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    thread = buddy(block_bytes = 64),
}

fn main() {}
