/// The program's allocator: each request is served by the allocator that is current on
/// its thread, the coroutine's, the thread's or the global one.
#[derive(
    ::core::clone::Clone,
    ::core::marker::Copy,
    ::core::fmt::Debug,
    ::core::default::Default
)]
pub(crate) struct GlobalThreadAndCoroutineSwitchableAllocator;

unsafe impl ::heapswitch::__private::Configuration for GlobalThreadAndCoroutineSwitchableAllocator {
    type Coroutine = ::heapswitch::__private::strategy::ContextChoice;
    type Thread = ::heapswitch::__private::strategy::Slab;
    type Global = ::std::alloc::System;
    const COROUTINE: ::heapswitch::__private::StrategySettings<Self::Coroutine> =
        ::heapswitch::__private::settings::context(::heapswitch::__private::LifetimeHint::Short);
    const THREAD: ::heapswitch::__private::StrategySettings<Self::Thread> =
        ::heapswitch::__private::settings::slab();
    const DEFAULT: ::heapswitch::__private::CurrentAllocatorInUse =
        ::heapswitch::__private::CurrentAllocatorInUse::ThreadLocal;
    const SETTINGS: ::heapswitch::__private::Settings = ::heapswitch::__private::Settings::new();
    #[inline]
    fn global() -> &'static Self::Global {
        static HEAPSWITCH_GLOBAL: ::std::alloc::System = ::std::alloc::System;
        &HEAPSWITCH_GLOBAL
    }
}

unsafe impl ::core::alloc::GlobalAlloc for GlobalThreadAndCoroutineSwitchableAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: ::core::alloc::Layout) -> *mut u8 {
        unsafe { ::heapswitch::__private::alloc::<Self>(layout) }
    }
    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: ::core::alloc::Layout) {
        unsafe { ::heapswitch::__private::dealloc::<Self>(ptr, layout) }
    }
    #[inline]
    unsafe fn realloc(
        &self,
        ptr: *mut u8,
        layout: ::core::alloc::Layout,
        new_size: usize
    ) -> *mut u8 {
        unsafe { ::heapswitch::__private::realloc::<Self>(ptr, layout, new_size) }
    }
    #[inline]
    unsafe fn alloc_zeroed(&self, layout: ::core::alloc::Layout) -> *mut u8 {
        unsafe { ::heapswitch::__private::alloc_zeroed::<Self>(layout) }
    }
}

const _: () = {
    #[global_allocator]
    static HEAPSWITCH_INSTALLED: GlobalThreadAndCoroutineSwitchableAllocator =
        GlobalThreadAndCoroutineSwitchableAllocator;
};
