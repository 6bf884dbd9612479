heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    /// Four mistakes, and a type that is used below.
    pub struct MyAllocator;
    corutine = bump,
    thread = slob,
    global = std::alloc::System,
    region_bytes = 3 GiB
    default = coroutine
}

fn main() {
    let allocator = MyAllocator;
    let _: (MyAllocator, &dyn std::alloc::GlobalAlloc) = (allocator, &allocator);
}
