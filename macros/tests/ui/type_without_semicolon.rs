heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    pub struct MyAllocator,
    thread = slab,
}

fn main() {}
