heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    global = counting::Counter::new(),
}

fn main() {}
