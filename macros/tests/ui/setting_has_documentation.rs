heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    /// For the requests.
    coroutine = bump,
}

fn main() {}
