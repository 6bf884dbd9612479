// A stand-in for the runtime, for the crate root of tests and of the documentation's examples. It
// has the names that an expansion uses, and serves every request from the global allocator.

#[doc(hidden)]
pub mod __private {
    use core::alloc::{GlobalAlloc, Layout};
    use core::marker::PhantomData;
    use core::sync::atomic::{AtomicUsize, Ordering};

    /// Calls of the four functions below, of all types together.
    pub static CALLS: AtomicUsize = AtomicUsize::new(0);

    /// # Safety
    /// None: nothing here rests on it.
    pub unsafe trait Configuration: Sized + 'static {
        type Coroutine: strategy::Strategy;
        type Thread: strategy::Strategy;
        type Global: GlobalAlloc + 'static;
        const COROUTINE: StrategySettings<Self::Coroutine>;
        const THREAD: StrategySettings<Self::Thread>;
        const DEFAULT: CurrentAllocatorInUse;
        const SETTINGS: Settings;
        fn global() -> &'static Self::Global;
        fn coroutine_source() -> Option<&'static dyn RegionSource> {
            None
        }
        fn thread_source() -> Option<&'static dyn RegionSource> {
            None
        }
    }

    #[diagnostic::on_unimplemented(
        message = "heaps cannot be on `{Self}`: its memory lies outside the region",
        label = "no `RegionSource`",
        note = "write a `RegionMapSource`, or an `ArenaMemorySource` over one; in the macro also \
                `memory_map` or `arena`"
    )]
    pub trait RegionSource: Sync {
        /// Its sizes, where the macro made it.
        fn made_of(&self) -> Option<sources::Arena> {
            None
        }
    }

    pub mod sources {
        use super::{CurrentAllocatorInUse, RegionSource};

        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct Arena {
            pub in_use: CurrentAllocatorInUse,
            pub range_bytes: usize,
            pub maximum_bytes: usize,
        }

        impl RegionSource for Arena {
            fn made_of(&self) -> Option<Arena> {
                Some(*self)
            }
        }

        pub const fn arena(
            in_use: CurrentAllocatorInUse,
            range_bytes: usize,
            maximum_bytes: usize,
        ) -> Arena {
            Arena { in_use, range_bytes, maximum_bytes }
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub enum CurrentAllocatorInUse {
        CoroutineLocal,
        ThreadLocal,
        Global,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub enum LifetimeHint {
        Short,
        Medium,
        Long,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub enum Fit {
        First,
        Next,
        Best,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub enum HugePages {
        System,
        Never,
        Transparent,
        Grown,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub enum HeapPlacement {
        Home,
        Bind,
        Interleave,
        WeightedInterleave,
        Local,
        Process,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct Settings {
        pub region_bytes: usize,
        pub coroutine_huge_pages: HugePages,
        pub thread_huge_pages: HugePages,
        pub coroutine_placement: HeapPlacement,
        pub thread_placement: HeapPlacement,
        pub decay_milliseconds: u64,
        pub purge_thread: bool,
        pub statistics: bool,
        pub call_sites: Option<u32>,
    }

    impl Settings {
        pub const fn new() -> Self {
            Self {
                region_bytes: 1 << 40,
                coroutine_huge_pages: HugePages::Never,
                thread_huge_pages: HugePages::Grown,
                coroutine_placement: HeapPlacement::Home,
                thread_placement: HeapPlacement::Home,
                decay_milliseconds: 1000,
                purge_thread: false,
                statistics: false,
                call_sites: call_sites::NONE,
            }
        }
        pub const fn with_region_bytes(mut self, bytes: usize) -> Self {
            self.region_bytes = bytes;
            self
        }
        pub const fn with_coroutine_huge_pages(mut self, pages: HugePages) -> Self {
            self.coroutine_huge_pages = pages;
            self
        }
        pub const fn with_thread_huge_pages(mut self, pages: HugePages) -> Self {
            self.thread_huge_pages = pages;
            self
        }
        pub const fn with_coroutine_placement(mut self, placement: HeapPlacement) -> Self {
            self.coroutine_placement = placement;
            self
        }
        pub const fn with_thread_placement(mut self, placement: HeapPlacement) -> Self {
            self.thread_placement = placement;
            self
        }
        pub const fn with_decay_milliseconds(mut self, milliseconds: u64) -> Self {
            self.decay_milliseconds = milliseconds;
            self
        }
        pub const fn with_purge_thread(mut self, is_wanted: bool) -> Self {
            self.purge_thread = is_wanted;
            self
        }
        pub const fn with_statistics(mut self, is_wanted: bool) -> Self {
            self.statistics = is_wanted;
            self
        }
        pub const fn with_call_sites(mut self, call_sites: Option<u32>) -> Self {
            self.call_sites = call_sites;
            self
        }
    }

    /// The words of `call_sites`.
    pub mod call_sites {
        pub const NONE: Option<u32> = None;
        pub const ALL: Option<u32> = Some(1);
        pub const SAMPLED: Option<u32> = Some(2);
    }

    /// What a constructor was given.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub enum Given {
        Nothing,
        BlockBytes(usize),
        Hint(LifetimeHint),
        Fit(Fit),
    }

    pub struct StrategySettings<S> {
        pub given: Given,
        pub strategy: PhantomData<fn() -> S>,
    }

    pub mod strategy {
        pub trait Strategy {}
        macro_rules! strategies {
            ($($name:ident)*) => {$(
                pub enum $name {}
                impl Strategy for $name {}
            )*};
        }
        strategies!(
            Bump BitSet MultipleBinarySearchTree ContextChoice Slab FreeList Buddy Stripes MemoryMap
        );
    }

    pub mod settings {
        use super::strategy::*;
        use super::{Fit, Given, LifetimeHint, PhantomData, StrategySettings};

        const fn given<S>(given: Given) -> StrategySettings<S> {
            StrategySettings { given, strategy: PhantomData }
        }
        pub const fn bump() -> StrategySettings<Bump> {
            given(Given::Nothing)
        }
        pub const fn bit_set(block_bytes: usize) -> StrategySettings<BitSet> {
            given(Given::BlockBytes(block_bytes))
        }
        pub const fn trees() -> StrategySettings<MultipleBinarySearchTree> {
            given(Given::Nothing)
        }
        pub const fn context(hint: LifetimeHint) -> StrategySettings<ContextChoice> {
            given(Given::Hint(hint))
        }
        pub const fn slab() -> StrategySettings<Slab> {
            given(Given::Nothing)
        }
        pub const fn free_list(fit: Fit) -> StrategySettings<FreeList> {
            given(Given::Fit(fit))
        }
        pub const fn buddy() -> StrategySettings<Buddy> {
            given(Given::Nothing)
        }
        pub const fn stripes() -> StrategySettings<Stripes> {
            given(Given::Nothing)
        }
        pub const fn memory_map() -> StrategySettings<MemoryMap> {
            given(Given::Nothing)
        }
    }

    /// # Safety
    /// As [`GlobalAlloc::alloc`].
    pub unsafe fn alloc<C: Configuration>(layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { C::global().alloc(layout) }
    }
    /// # Safety
    /// As [`GlobalAlloc::dealloc`].
    pub unsafe fn dealloc<C: Configuration>(ptr: *mut u8, layout: Layout) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { C::global().dealloc(ptr, layout) }
    }
    /// # Safety
    /// As [`GlobalAlloc::realloc`].
    pub unsafe fn realloc<C: Configuration>(
        ptr: *mut u8,
        layout: Layout,
        new_size: usize,
    ) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { C::global().realloc(ptr, layout, new_size) }
    }
    /// # Safety
    /// As [`GlobalAlloc::alloc_zeroed`].
    pub unsafe fn alloc_zeroed<C: Configuration>(layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { C::global().alloc_zeroed(layout) }
    }
}
