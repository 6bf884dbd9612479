//! heapswitch: a global allocator that threads and coroutines switch.
//!
//! What most programs name stands at the root; the modules hold the same and the rest (stores,
//! NUMA nodes, settings of sources, their errors), lowest layer first.
//!
//! - To install the allocator: `global_thread_and_coroutine_switchable_allocator!`, or the
//!   ready-made [`HeapSwitch`].
//! - To give a context a heap of its own: [`Heap`], [`HeapBuilder`], [`Scope`], [`LifetimeHint`].
//!   To use heaps again: [`HeapPool`]. To run futures in them: [`FutureExt`], [`InHeap`];
//!   coroutines: `Coroutine` (feature `corosensei`), or [`SavedContext`] for a runtime of your own;
//!   closures on other threads: [`in_child`]. Threads on processors or NUMA nodes:
//!   [`WorkerBuilder`], [`numa`].
//! - To bound them: [`HeapBuilder::limit`], [`checkpoint`], [`set_process_limit`]. To give memory
//!   back: [`collect`], [`purge`]. Settings, also by environment: [`Settings`].
//! - To see what contexts hold: [`Account`], [`MemoryReport`], and as pictures [`HeapMap`] and
//!   [`Timeline`]; and who asked for it, or for what outlived them: [`SiteSampling`],
//!   [`CallSites`], [`LiveSites`].
//! - To use a strategy by itself, through the trait [`Allocator`]: [`BumpAllocator`],
//!   [`BitSetAllocator`], [`MultipleBinarySearchTreeAllocator`], [`SlabAllocator`], the choice of
//!   the first three by lifetime, [`ContextAllocator`], [`FreeListAllocator`], [`BuddyAllocator`],
//!   [`StripeAllocator`], and [`MemoryMapAllocator`]. [`Locked`] lets threads share one, and
//!   [`StripeSpace`] allocates addresses of anything.
//! - Collections that take an [`Allocator`], a [`Heap`] or any of these: the vectors and boxes of
//!   the crate `allocator-api2`, version 0.2 with its feature `alloc`, and `hashbrown`'s maps with
//!   its feature `allocator-api2`.
//! - To give a strategy memory: [`MemoryMapSource`], [`ArenaMemorySource`],
//!   [`BorrowedSliceSource`], [`FileMemorySource`], or a [`MemorySource`] of your own. To give a
//!   heap memory: [`RegionMapSource`], or an arena on it.
//! - To keep values or bytes by handles instead of addresses: [`OrderedPool`](store::OrderedPool),
//!   whose blocks are sorted without being moved; [`GravityStore`](store::GravityStore), bytes that
//!   it moves to stay compact; see [`store`].
//! - To use an allocator through another's trait: [`AllocatorAdaptor`],
//!   [`GlobalAllocToAllocatorAdaptor`].
//!
//! Linux; elsewhere everything passes through to the global allocator. Features: `macros` (by
//! default), `corosensei`, `metrics`, `tracing`, `symbols`, `nightly`.

#![warn(missing_docs)]
#![cfg_attr(feature = "nightly", feature(allocator_api))]

pub mod adapt;
pub mod allocator;
#[cfg(not(loom))]
pub(crate) mod heap;
pub mod numa;
pub mod pointers;
#[cfg(not(loom))]
pub(crate) mod region;
pub mod source;
pub mod store;
pub mod strategy;
#[cfg(not(loom))]
pub(crate) mod switch;
pub mod sync;
pub mod sys;
pub mod units;

#[cfg(feature = "nightly")]
pub use crate::adapt::{AllocToAllocatorAdaptor, AllocatorToAllocAdaptor};
pub use crate::adapt::{AllocatorAdaptor, GlobalAllocToAllocatorAdaptor, Recorder};
pub use crate::allocator::{
    AllocError, Allocator, LocalAllocator, MemoryRange, MemorySource, MemoryUsage,
    MemoryUsageChange, RegionSource,
};
#[cfg(not(loom))]
pub use crate::heap::{
    Account, AccountId, AccountReport, AccountUsage, CallSite, CallSites, ContextName,
    EscapeReport, HeapEnd, HeapKind, LimitPolicy, Limits, SiteSampling, Subtree, accounts,
    process_limit, set_process_limit,
};
#[cfg(not(loom))]
pub use crate::region::census::Census;
#[cfg(not(loom))]
pub use crate::region::{HugePages as RegionHugePages, KindSettings, RegionUsage};
#[cfg(not(loom))]
pub use crate::source::region_map::RegionMapSource;
pub use crate::source::{
    ArenaMemorySource, ArenaSettings, ArenaSizes, BorrowedSliceSource, FileMemorySource,
    FileSettings, MemoryMapSettings, MemoryMapSource,
};
pub use crate::strategy::bit_set::BitSetAllocator;
pub use crate::strategy::buddy::{BuddyAllocator, LockedBuddyAllocator};
pub use crate::strategy::bump::BumpAllocator;
pub use crate::strategy::context::{ContextAllocator, LifetimeHint};
pub use crate::strategy::free_list::{Fit, FreeListAllocator};
pub use crate::strategy::locked::Locked;
pub use crate::strategy::memory_map::MemoryMapAllocator;
pub use crate::strategy::slab::SlabAllocator;
pub use crate::strategy::sourced::SourcedAllocator;
pub use crate::strategy::stripes::StripeAllocator;
pub use crate::strategy::stripes::checked::StripeError;
pub use crate::strategy::stripes::space::{SpaceError, SpaceSettings, StripeSpace};
pub use crate::strategy::trees::MultipleBinarySearchTreeAllocator;
#[cfg(not(loom))]
pub use crate::switch::*;
#[cfg(all(feature = "macros", not(loom)))]
pub use heapswitch_macros::global_thread_and_coroutine_switchable_allocator;

/// What the macro's expansion names. Not for use by hand.
#[cfg(not(loom))]
#[doc(hidden)]
pub mod __private {
    pub use crate::allocator::RegionSource;
    pub use crate::heap::HeapKind;
    pub use crate::region::HugePages;
    pub use crate::strategy::context::LifetimeHint;
    pub use crate::strategy::free_list::Fit;
    pub use crate::switch::configuration::{Configuration, Settings, start_what_is_set};
    pub use crate::switch::heap_placement::HeapPlacement;
    pub use crate::switch::in_use::CurrentAllocatorInUse;
    pub use crate::switch::route::{alloc, alloc_zeroed, dealloc, realloc};

    /// What `preload/` is made of. Hidden, for its contract is C's: users of the crate allocate
    /// with layouts.
    pub mod malloc {
        pub use crate::switch::malloc::{
            ALIGN_BYTES, LengthUsage, Place, allocate, allocate_zeroed, free, resize, try_bytes,
            usable_size, usage_by_length,
        };
    }

    /// What the macro's key `call_sites` may say.
    pub mod call_sites {
        use crate::heap::SiteSampling;

        /// Nothing is recorded.
        pub const NONE: Option<SiteSampling> = None;

        /// Every block.
        pub const ALL: Option<SiteSampling> = Some(SiteSampling::All);

        /// Some, by bytes.
        pub const SAMPLED: Option<SiteSampling> = Some(SiteSampling::SAMPLED);
    }

    /// The sources that the macro makes.
    pub mod sources {
        pub use crate::switch::sources::{Arena, arena};
    }

    /// The settings of a kind of heap.
    pub type StrategySettings<K> = <K as HeapKind>::Settings;

    /// The kinds of heap, by the names that the macro knows.
    pub mod strategy {
        pub use crate::heap::kind::ContextChoice;
        pub use crate::strategy::bit_set::BitSet;
        pub use crate::strategy::buddy::Buddy;
        pub use crate::strategy::free_list::FreeList;
        pub use crate::strategy::memory_map::MemoryMap;
        pub use crate::strategy::stripes::Stripes;
        pub use crate::strategy::trees::MultipleBinarySearchTree;
        /// The bump strategy as heaps use it.
        pub type Bump = crate::strategy::bump::Bump<true>;
        /// The slab strategy as heaps use it.
        pub type Slab = crate::strategy::slab::Slab;
    }

    /// The kinds' settings.
    pub mod settings {
        use crate::strategy::bit_set;
        use crate::strategy::context::LifetimeHint;
        use crate::strategy::free_list::{self, Fit};

        /// Of the bump strategy.
        pub const fn bump() {}

        /// Of the slab strategy.
        pub const fn slab() {}

        /// Of the buddy system.
        pub const fn buddy() {}

        /// Of the stripes.
        pub const fn stripes() {}

        /// Of the memory map.
        pub const fn memory_map() {}

        /// Of the free list.
        pub const fn free_list(fit: Fit) -> free_list::Settings {
            free_list::Settings { fit }
        }

        /// Of the trees.
        pub const fn trees() {}

        /// Of the bit set.
        pub const fn bit_set(block_bytes: usize) -> bit_set::Settings {
            bit_set::Settings { block_bytes }
        }

        /// Of the choice by lifetime.
        pub const fn context(hint: LifetimeHint) -> LifetimeHint {
            hint
        }
    }
}

/// A ready-made allocator with the macro's defaults.
///
/// ```
/// #[global_allocator]
/// static GLOBAL: heapswitch::HeapSwitch = heapswitch::HeapSwitch;
/// # fn main() {}
/// ```
#[cfg(not(loom))]
#[derive(Clone, Copy, Debug, Default)]
pub struct HeapSwitch;

#[cfg(not(loom))]
impl HeapSwitch {
    /// Whether an address lies in the region, where all heaps are. What does not came from the
    /// global allocator, or is no heap memory at all.
    pub fn contains(&self, address: *const u8) -> bool {
        region::contains(address)
    }
}

// SAFETY: `global` is a static.
#[cfg(not(loom))]
unsafe impl Configuration for HeapSwitch {
    type Coroutine = heap::kind::ContextChoice;
    type Thread = strategy::slab::Slab;
    type Global = std::alloc::System;

    const COROUTINE: LifetimeHint = LifetimeHint::Short;
    const THREAD: () = ();
    const DEFAULT: CurrentAllocatorInUse = CurrentAllocatorInUse::ThreadLocal;
    const SETTINGS: Settings = Settings::new();

    #[inline]
    fn global() -> &'static std::alloc::System {
        static SYSTEM: std::alloc::System = std::alloc::System;
        &SYSTEM
    }
}

// SAFETY: the functions keep the trait's contract: see `switch::route`.
#[cfg(not(loom))]
unsafe impl core::alloc::GlobalAlloc for HeapSwitch {
    #[inline]
    unsafe fn alloc(&self, layout: core::alloc::Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { switch::route::alloc::<Self>(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: core::alloc::Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { switch::route::dealloc::<Self>(block, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: core::alloc::Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { switch::route::alloc_zeroed::<Self>(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: core::alloc::Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { switch::route::realloc::<Self>(block, layout, size) }
    }
}
