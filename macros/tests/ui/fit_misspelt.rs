heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    thread = free_list(fit = frist),
}

fn main() {}
