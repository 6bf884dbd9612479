heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    global = new_counter(1, 2),
}

fn main() {}
