heapswitch_macros::global_thread_and_coroutine_switchable_allocator! {
    #[cfg(target_os = "linux")]
    pub struct MyAllocator;
}

fn main() {}
