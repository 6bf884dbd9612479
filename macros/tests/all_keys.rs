//! Several expansions in one program, of which together every key is written.

#[expect(dead_code, reason = "it has what any expansion may name, and this program's name a part")]
#[expect(unreachable_pub, reason = "it stands in for another crate")]
mod stand_in;

use std::alloc::{GlobalAlloc, Layout, System};
use std::any::TypeId;

use heapswitch_macros::global_thread_and_coroutine_switchable_allocator;
use stand_in::__private::sources::Arena;
use stand_in::__private::strategy::{
    BitSet, Buddy, Bump, ContextChoice, FreeList, MemoryMap, MultipleBinarySearchTree, Slab,
    Stripes,
};
use stand_in::__private::{
    Configuration, CurrentAllocatorInUse, Fit, Given, HeapPlacement, HugePages, LifetimeHint,
    RegionSource, Settings, call_sites,
};

/// An allocator with a state, which no path names as type and value at once.
struct Forwarding<A, const N: usize>(A);

impl<A, const N: usize> Forwarding<A, N> {
    const fn new(allocator: A) -> Self {
        Self(allocator)
    }
}

// SAFETY: forwards.
unsafe impl<A: GlobalAlloc, const N: usize> GlobalAlloc for Forwarding<A, N> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { self.0.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { self.0.dealloc(ptr, layout) }
    }
}

global_thread_and_coroutine_switchable_allocator! {
    /// Every key, in the order of the documentation.
    pub(crate) struct Everything;
    coroutine = bit_set(block_bytes = 64),
    thread = multiple_binary_search_tree,
    global: Forwarding<System, { 1 + 1 }> = Forwarding::<_, 2>::new(System),
    default = global,
    coroutine_source = arena(range_bytes = 64 KiB, maximum_bytes = 1 GiB),
    thread_source = arena,
    install = true,
    region_bytes = 512 MiB,
    coroutine_huge_pages = transparent,
    thread_huge_pages = never,
    coroutine_placement = weighted_interleave,
    thread_placement = bind,
    decay_milliseconds = 250,
    purge_thread = true,
    statistics = true,
    call_sites = sampled,
    crate = crate::stand_in,
}

global_thread_and_coroutine_switchable_allocator! {
    crate = crate::stand_in,
    thread = context(hint = long,),
    install = false,
    coroutine = bump(),
    region_bytes = 1TiB
}

mod private {
    super::global_thread_and_coroutine_switchable_allocator! {
        #[doc = "Another of the same defaults, and visible here only."]
        struct Everything;
        crate = crate::stand_in, install = false, global = std::alloc::System,
        coroutine = bit_set, thread = trees, default = thread, region_bytes = 0x4000_0000,
        coroutine_huge_pages = system,
    }

    pub(super) fn region_bytes() -> usize {
        <Everything as super::Configuration>::SETTINGS.region_bytes
    }

    pub(super) fn coroutine() -> super::Given {
        <Everything as super::Configuration>::COROUTINE.given
    }
}

global_thread_and_coroutine_switchable_allocator! {
    struct Family;
    crate = crate::stand_in, install = false,
    coroutine = free_list(fit = next), thread = stripes,
}

global_thread_and_coroutine_switchable_allocator! {
    struct Buddies;
    crate = crate::stand_in, install = false,
    coroutine = buddy, thread = free_list,
    coroutine_source = memory_map, thread_source = self::own::SOURCE,
}

global_thread_and_coroutine_switchable_allocator! {
    struct Maps;
    crate = crate::stand_in, install = false,
    coroutine = memory_map, coroutine_source = SOURCE,
}

/// A source that the program made.
mod own {
    use super::stand_in::__private::RegionSource;

    pub(super) struct Own;

    impl RegionSource for Own {}

    pub(super) static SOURCE: Own = Own;
}

use own::SOURCE;

type Defaults = GlobalThreadAndCoroutineSwitchableAllocator;

fn is<A: 'static, B: 'static>() -> bool {
    TypeId::of::<A>() == TypeId::of::<B>()
}

#[test]
fn every_key_arrives() {
    assert!(is::<<Everything as Configuration>::Coroutine, BitSet>());
    assert_eq!(Everything::COROUTINE.given, Given::BlockBytes(64));
    assert!(is::<<Everything as Configuration>::Thread, MultipleBinarySearchTree>());
    assert_eq!(Everything::THREAD.given, Given::Nothing);
    assert!(is::<<Everything as Configuration>::Global, Forwarding<System, 2>>());
    assert_eq!(Everything::DEFAULT, CurrentAllocatorInUse::Global);
    let settings = Settings::new()
        .with_region_bytes(512 << 20)
        .with_coroutine_huge_pages(HugePages::Transparent)
        .with_thread_huge_pages(HugePages::Never)
        .with_coroutine_placement(HeapPlacement::WeightedInterleave)
        .with_thread_placement(HeapPlacement::Bind)
        .with_decay_milliseconds(250)
        .with_purge_thread(true)
        .with_statistics(true)
        .with_call_sites(call_sites::SAMPLED);
    assert_eq!(Everything::SETTINGS, settings);
}

#[test]
fn keys_stand_in_any_order_and_number() {
    assert!(is::<<Defaults as Configuration>::Coroutine, Bump>());
    assert!(is::<<Defaults as Configuration>::Thread, ContextChoice>());
    assert_eq!(Defaults::THREAD.given, Given::Hint(LifetimeHint::Long));
    assert_eq!(Defaults::SETTINGS.region_bytes, 1 << 40);
    assert_eq!(private::region_bytes(), 1 << 30);
    assert_eq!(private::coroutine(), Given::BlockBytes(32));
    assert!(!is::<<Defaults as Configuration>::Coroutine, Slab>());
}

#[test]
fn every_strategy_arrives() {
    assert!(is::<<Family as Configuration>::Coroutine, FreeList>());
    assert_eq!(Family::COROUTINE.given, Given::Fit(Fit::Next));
    assert!(is::<<Family as Configuration>::Thread, Stripes>());
    assert!(is::<<Buddies as Configuration>::Coroutine, Buddy>());
    assert_eq!(Buddies::THREAD.given, Given::Fit(Fit::Best));
    assert!(is::<<Maps as Configuration>::Coroutine, MemoryMap>());
}

#[test]
fn every_source_arrives() {
    let made = |source: Option<&'static dyn RegionSource>| source.unwrap().made_of();
    let [in_coroutines, in_threads] =
        [CurrentAllocatorInUse::CoroutineLocal, CurrentAllocatorInUse::ThreadLocal];
    let of_coroutines =
        Arena { in_use: in_coroutines, range_bytes: 64 << 10, maximum_bytes: 1 << 30 };
    assert_eq!(made(Everything::coroutine_source()), Some(of_coroutines));
    let of_threads = Arena { in_use: in_threads, range_bytes: 1 << 20, maximum_bytes: 16 << 30 };
    assert_eq!(made(Everything::thread_source()), Some(of_threads));
    assert!(Buddies::coroutine_source().is_none() && made(Buddies::thread_source()).is_none());
    assert!(made(Maps::coroutine_source()).is_none() && Maps::thread_source().is_none());
    assert!(Defaults::coroutine_source().is_none() && Defaults::thread_source().is_none());
}

#[test]
fn the_four_functions_forward() {
    let layout = Layout::from_size_align(1000, 64).unwrap();
    // SAFETY: the layout has a size, and each block is used as long as it was asked for.
    unsafe {
        let block = Everything.alloc(layout);
        block.write_bytes(7, 1000);
        let block = Everything.realloc(block, layout, 5000);
        assert_eq!((block.addr() % 64, block.read(), block.add(999).read()), (0, 7, 7));
        Everything.dealloc(block, Layout::from_size_align(5000, 64).unwrap());
        let block = Everything.alloc_zeroed(layout);
        assert!((0..1000).all(|i| block.add(i).read() == 0));
        Everything.dealloc(block, layout);
    }
}
