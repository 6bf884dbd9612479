::core::compile_error! { "unknown strategy `slob`; did you mean `slab`?" }

/// The program's allocator: each request is served by the allocator that is current on
/// its thread, the coroutine's, the thread's or the global one.
#[derive(
    ::core::clone::Clone,
    ::core::marker::Copy,
    ::core::fmt::Debug,
    ::core::default::Default
)]
struct Mine;

unsafe impl ::core::alloc::GlobalAlloc for Mine {
    unsafe fn alloc(&self, _: ::core::alloc::Layout) -> *mut u8 {
        ::core::ptr::null_mut()
    }
    unsafe fn dealloc(&self, _: *mut u8, _: ::core::alloc::Layout) {}
}
