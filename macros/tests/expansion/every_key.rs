/// Mine.
#[derive(
    ::core::clone::Clone,
    ::core::marker::Copy,
    ::core::fmt::Debug,
    ::core::default::Default
)]
pub struct Mine;

unsafe impl ::renamed::__private::Configuration for Mine {
    type Coroutine = ::renamed::__private::strategy::BitSet;
    type Thread = ::renamed::__private::strategy::ContextChoice;
    type Global = Counting<System>;
    const COROUTINE: ::renamed::__private::StrategySettings<Self::Coroutine> =
        ::renamed::__private::settings::bit_set(64);
    const THREAD: ::renamed::__private::StrategySettings<Self::Thread> =
        ::renamed::__private::settings::context(::renamed::__private::LifetimeHint::Long);
    const DEFAULT: ::renamed::__private::CurrentAllocatorInUse =
        ::renamed::__private::CurrentAllocatorInUse::Global;
    const SETTINGS: ::renamed::__private::Settings = ::renamed::__private::Settings::new()
        .with_region_bytes(1073741824)
        .with_coroutine_huge_pages(::renamed::__private::HugePages::Transparent)
        .with_thread_huge_pages(::renamed::__private::HugePages::Never)
        .with_coroutine_placement(::renamed::__private::HeapPlacement::Interleave)
        .with_thread_placement(::renamed::__private::HeapPlacement::Local)
        .with_decay_milliseconds(250)
        .with_purge_thread(true)
        .with_statistics(false)
        .with_call_sites(::renamed::__private::call_sites::ALL);
    #[inline]
    fn global() -> &'static Self::Global {
        static HEAPSWITCH_GLOBAL: Counting<System> = Counting::new(System);
        &HEAPSWITCH_GLOBAL
    }
    #[inline]
    fn coroutine_source()
        -> ::core::option::Option<&'static dyn ::renamed::__private::RegionSource>
    {
        static HEAPSWITCH_SOURCE: ::renamed::__private::sources::Arena =
            ::renamed::__private::sources::arena(
                ::renamed::__private::CurrentAllocatorInUse::CoroutineLocal,
                1048576,
                1073741824
            );
        ::core::option::Option::Some(&HEAPSWITCH_SOURCE)
    }
    #[inline]
    fn thread_source()
        -> ::core::option::Option<&'static dyn ::renamed::__private::RegionSource>
    {
        static HEAPSWITCH_SOURCE: ::renamed::__private::sources::Arena =
            ::renamed::__private::sources::arena(
                ::renamed::__private::CurrentAllocatorInUse::ThreadLocal,
                2097152,
                17179869184
            );
        ::core::option::Option::Some(&HEAPSWITCH_SOURCE)
    }
}

unsafe impl ::core::alloc::GlobalAlloc for Mine {
    #[inline]
    unsafe fn alloc(&self, layout: ::core::alloc::Layout) -> *mut u8 {
        unsafe { ::renamed::__private::alloc::<Self>(layout) }
    }
    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: ::core::alloc::Layout) {
        unsafe { ::renamed::__private::dealloc::<Self>(ptr, layout) }
    }
    #[inline]
    unsafe fn realloc(
        &self,
        ptr: *mut u8,
        layout: ::core::alloc::Layout,
        new_size: usize
    ) -> *mut u8 {
        unsafe { ::renamed::__private::realloc::<Self>(ptr, layout, new_size) }
    }
    #[inline]
    unsafe fn alloc_zeroed(&self, layout: ::core::alloc::Layout) -> *mut u8 {
        unsafe { ::renamed::__private::alloc_zeroed::<Self>(layout) }
    }
}
