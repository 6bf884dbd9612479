heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    coroutine = free_list(fit = worst),
}

fn main() {}
