//! Every strategy through the battery, each on a memory source of its own.

#[macro_use]
#[expect(dead_code, reason = "nothing here needs ranges of another source")]
mod battery;
#[path = "strategies/verified.rs"]
mod verified;

use std::alloc::Layout;

use allocator_api2::alloc::Allocator;
use battery::{Limits, TestSource, allocate, layout};
use heapswitch::SiteSampling;
use heapswitch::allocator::LocalAllocator;
use heapswitch::strategy::bit_set::{BitSetAllocator, Settings};
use heapswitch::strategy::buddy::{BuddyAllocator, LockedBuddyAllocator};
use heapswitch::strategy::bump::BumpAllocator;
use heapswitch::strategy::context::{ContextAllocator, LifetimeHint};
use heapswitch::strategy::free_list::{self, Fit, FreeList, FreeListAllocator};
use heapswitch::strategy::locked::Locked;
use heapswitch::strategy::sites::{self, WithSites};
use heapswitch::strategy::slab::SlabAllocator;
use heapswitch::strategy::sourced::SourcedAllocator;
use heapswitch::strategy::stripes::StripeAllocator;
use heapswitch::strategy::trees::MultipleBinarySearchTreeAllocator;
use verified::Verified;

fn bit_set(source: TestSource, block_bytes: usize) -> BitSetAllocator<TestSource> {
    BitSetAllocator::with_settings(Settings { block_bytes }, source)
}

fn free_list(source: TestSource, fit: Fit) -> FreeListAllocator<TestSource> {
    FreeListAllocator::with_settings(free_list::Settings { fit }, source)
}

/// Of those that serve large requests from ranges of their own, and not each stack, for speed.
fn with_sites(source: TestSource) -> SourcedAllocator<WithSites<FreeList>, TestSource> {
    let settings = sites::Settings { sampling: SiteSampling::EveryNth(61), ..Default::default() };
    SourcedAllocator::with_settings(settings, source)
}

/// What a slab documents that it serves.
fn of_slab() -> Limits {
    Limits { max_align: 32 << 10, max_size: 32 << 10, ..Limits::default() }
}

/// The battery, with the allocator's structures checked after each step.
macro_rules! verified_battery {
    ($name:ident, $make:expr) => {
        verified_battery!($name, $make, Limits::default());
    };
    ($name:ident, $make:expr, $limits:expr) => {
        battery!($name, |source| Verified::new($make(source)), $limits);
    };
}

verified_battery!(bump, BumpAllocator::<TestSource>::new);
verified_battery!(bump_of_zeroed_memory, |source: TestSource| BumpAllocator::new(source.zeroed()));
verified_battery!(bit_set_default, BitSetAllocator::<TestSource>::new);
verified_battery!(bit_set_of_8, |source: TestSource| bit_set(source, 8));
verified_battery!(bit_set_of_16, |source: TestSource| bit_set(source, 16));
verified_battery!(bit_set_of_256, |source: TestSource| bit_set(source, 256));
verified_battery!(bit_set_of_zeroed_memory, |source: TestSource| bit_set(source.zeroed(), 32));
verified_battery!(bit_set_of_4096, |source: TestSource| bit_set(source, 4096));
verified_battery!(trees, MultipleBinarySearchTreeAllocator::<TestSource>::new);
verified_battery!(slab, SlabAllocator::<TestSource>::new, of_slab());
verified_battery!(free_list_first_fit, |source: TestSource| free_list(source, Fit::First));
verified_battery!(free_list_next_fit, |source: TestSource| free_list(source, Fit::Next));
verified_battery!(free_list_best_fit, |source: TestSource| free_list(source, Fit::Best));
verified_battery!(free_list_of_zeroed_memory, |source: TestSource| free_list(
    source.zeroed(),
    Fit::First
));
verified_battery!(buddy, BuddyAllocator::<TestSource>::new);
battery!(buddy_locked, |source| LockedBuddyAllocator::new(BuddyAllocator::new(source)));
verified_battery!(stripes, StripeAllocator::<TestSource>::new);
verified_battery!(context_short, |source: TestSource| ContextAllocator::new(
    LifetimeHint::Short,
    source
));
verified_battery!(context_medium, |source: TestSource| ContextAllocator::new(
    LifetimeHint::Medium,
    source
));
verified_battery!(context_long, |source: TestSource| ContextAllocator::new(
    LifetimeHint::Long,
    source
));
verified_battery!(with_sites, with_sites);
battery!(locked, |source| Locked::new(MultipleBinarySearchTreeAllocator::new(source)));

/// What `SourcedAllocator` promises beyond the trait; one strategy stands for all.
mod sourced {
    use super::*;

    #[cfg(not(heapswitch_pass_through))] // Records have no memory there.
    #[test]
    fn with_sites_counts_what_is_allocated_by_who_asked() {
        let source = TestSource::new(64 << 20);
        let settings = sites::Settings::<free_list::Settings>::default();
        let allocator = SourcedAllocator::<WithSites<FreeList>, _>::with_settings(settings, source);
        assert!(allocator.site_log().is_none());
        let [small, large] = [100, 1 << 20].map(|size| allocate(&allocator, layout(size, 8), 1));
        let live = || {
            let (mut blocks, mut bytes) = (0, 0);
            allocator.site_log().unwrap().for_each(|site| {
                assert!(cfg!(heapswitch_pass_through) || site.frames.len() > 3);
                blocks += site.blocks;
                bytes += site.bytes;
            });
            let usage = allocator.memory_usage();
            assert_eq!(
                (blocks as usize, bytes as usize),
                (usage.allocated_blocks, usage.allocated_bytes)
            );
            blocks
        };
        assert_eq!(live(), 2);
        let large = battery::resize(&allocator, large, layout(800 << 10, 8), false);
        assert_eq!(live(), 2);
        small.free(&allocator, false);
        assert_eq!(live(), 1);
        large.free(&allocator, true);
        assert_eq!(live(), 0);
    }

    #[test]
    fn takes_nothing_before_the_first_block_and_keeps_one_range_after_the_last() {
        let source = TestSource::new(64 << 20);
        let allocator = bit_set(source.clone(), 32);
        assert_eq!(source.ranges(), 0);
        let sizes = [100, 200_000, 3_000_000, 50];
        let blocks: Vec<_> =
            sizes.iter().map(|&size| allocate(&allocator, layout(size, 8), 1)).collect();
        assert!(source.ranges() >= 2);
        assert_eq!(allocator.memory_usage().committed_bytes, source.taken_bytes());
        blocks.into_iter().for_each(|block| block.free(&allocator, false));
        assert_eq!(source.ranges(), 1);
        allocator.release_unused();
        assert_eq!(source.ranges(), 0);
        let usage = allocator.memory_usage();
        assert_eq!(
            (usage.committed_bytes, usage.allocated_bytes, usage.allocated_blocks),
            (0, 0, 0)
        );
        assert!(usage.peak_committed_bytes >= 3_200_000);
    }

    #[test]
    fn alternating_at_the_edge_of_a_range_does_not_go_to_the_source_each_time() {
        let source = TestSource::new(64 << 20);
        let allocator = bit_set(source.clone(), 32);
        let kept = allocate(&allocator, layout(100, 8), 1);
        allocate(&allocator, layout(1 << 20, 8), 1).free(&allocator, false);
        source.fail_from(1);
        for _ in 0..10 {
            allocate(&allocator, layout(1 << 20, 8), 1).free(&allocator, true);
        }
        kept.free(&allocator, false);
    }

    /// A bump had gone past it, and a slab had it for another size.
    #[test]
    fn what_is_empty_serves_any_request_again() {
        fn fills_twice<A: Allocator>(make: impl Fn(TestSource) -> A) {
            let source = TestSource::new(64 << 10);
            let allocator = make(source.clone());
            for size in [32, 32, 500, 2000, 32] {
                let mut blocks = vec![];
                while let Ok(bytes) = allocator.allocate(layout(size, 8)) {
                    blocks.push(battery::Block::new(bytes, layout(size, 8), 3));
                }
                assert!(blocks.len() * size > 48 << 10, "{} of {size}", blocks.len());
                blocks.into_iter().for_each(|block| block.free(&allocator, false));
            }
        }
        fills_twice(BumpAllocator::new);
        fills_twice(|source| bit_set(source, 32));
        fills_twice(MultipleBinarySearchTreeAllocator::new);
        fills_twice(SlabAllocator::new);
        fills_twice(FreeListAllocator::new);
        fills_twice(BuddyAllocator::new);
        fills_twice(StripeAllocator::new);
    }

    /// The spare stands in the way of a larger range.
    #[test]
    fn what_is_empty_goes_back_before_a_request_is_refused() {
        let source = TestSource::new(1 << 20);
        let allocator = MultipleBinarySearchTreeAllocator::new(source.clone());
        allocate(&allocator, layout(300 << 10, 8), 1).free(&allocator, false);
        assert_eq!(source.ranges(), 1);
        allocate(&allocator, layout(900 << 10, 8), 1).free(&allocator, false);
    }

    /// Large blocks of a free list are ranges, which go back at once, also from between others.
    #[test]
    fn large_blocks_have_ranges_of_their_own() {
        let source = TestSource::new(16 << 20);
        let mut allocator = free_list(source.clone(), Fit::First);
        let small = allocate(&allocator, layout(100, 8), 1);
        assert_eq!(source.ranges(), 1);
        let large = [150_000, 1 << 20, 200_000]
            .map(|size| allocate(&allocator, layout(size, 4096), size as u8));
        assert_eq!(source.ranges(), 4);
        assert_eq!(allocator.memory_usage().allocated_blocks, 4);
        let [first, second, third] = large;
        second.free(&allocator, true);
        assert_eq!(source.ranges(), 3);
        let third = battery::resize(&allocator, third, layout(150_000, 4096), false);
        assert_eq!(source.ranges(), 3);
        let third = battery::resize(&allocator, third, layout(2000, 4096), false);
        assert_eq!(source.ranges(), 2, "it is small now");
        assert!(allocator.contains(first.start().as_ptr()));
        allocator.visit_idle(&mut |_| {});
        first.free(&allocator, false);
        third.free(&allocator, false);
        small.free(&allocator, false);
        let usage = allocator.memory_usage();
        assert_eq!((usage.allocated_bytes, usage.allocated_blocks), (0, 0));
        assert!(usage.peak_committed_bytes > 1_350_000);
        assert_eq!(usage.committed_bytes, source.taken_bytes());
    }

    /// Each of 40 size classes has ranges of its own: none may be half of what is held.
    #[test]
    fn a_slab_of_every_size_holds_little() {
        let source = TestSource::new(64 << 20);
        let allocator = SlabAllocator::new(source.clone());
        let blocks: Vec<_> = (3..=15)
            .flat_map(|shift| [4, 5, 6, 7].map(|quarter| (quarter << shift) >> 2))
            .filter(|&size| size <= 32 << 10)
            .map(|size| allocate(&allocator, layout(size, 1), 1))
            .collect();
        assert!(source.taken_bytes() <= (64 * blocks.len()) << 10, "{}", source.taken_bytes());
        allocator.verify();
        blocks.into_iter().for_each(|block| block.free(&allocator, false));
    }

    #[test]
    fn works_on_a_small_source_to_its_last_bytes() {
        for bytes in [2048, 4096, 10_000, 65_536, 70_000] {
            let source = TestSource::new(bytes);
            let allocator = bit_set(source.clone(), 32);
            let mut blocks = vec![];
            while let Ok(bytes) = allocator.allocate(layout(64, 8)) {
                blocks.push(battery::Block::new(bytes, layout(64, 8), 7));
            }
            assert!(blocks.len() * 64 > (bytes - 1500) / 10 * 9, "{} of {bytes}", blocks.len());
            allocator.verify();
            blocks.into_iter().for_each(|block| block.free(&allocator, false));
        }
    }

    #[test]
    fn contains_exactly_its_own_memory() {
        let allocator = bit_set(TestSource::new(1 << 20), 32);
        let block = allocate(&allocator, layout(100, 8), 1);
        let outside = 0u8;
        assert!(allocator.contains(block.start().as_ptr()));
        assert!(!allocator.contains(&outside));
        assert!(!allocator.contains(std::ptr::null()));
        block.free(&allocator, false);
    }

    #[test]
    fn block_length_is_what_is_returned() {
        let allocator = bit_set(TestSource::new(16 << 20), 32);
        for size in (0..5000).step_by(7) {
            for align in [1, 16, 64, 4096] {
                let block = allocate(&allocator, layout(size, align), 1);
                assert_eq!(allocator.block_length(block.layout), Ok(block.bytes.len()));
                block.free(&allocator, false);
            }
        }
        let never = Layout::from_size_align(isize::MAX as usize, 1).unwrap();
        assert!(allocator.block_length(never).is_err());
    }

    #[test]
    fn idle_ranges_are_whole_pages_without_a_block() {
        let mut allocator = bit_set(TestSource::new(64 << 20), 32);
        let blocks: Vec<_> =
            (0..200).map(|seed| allocate(&allocator, layout(3000, 8), seed)).collect();
        let (kept, freed): (Vec<_>, Vec<_>) =
            blocks.into_iter().enumerate().partition(|(index, _)| index / 10 % 2 == 0);
        freed.into_iter().for_each(|(_, block)| block.free(&allocator, false));
        let mut bytes = 0;
        allocator.visit_idle(&mut |mut range| {
            assert_eq!(range.cast::<u8>().addr().get() % 4096, 0);
            assert_eq!(range.len() % 4096, 0);
            bytes += range.len();
            // SAFETY: the range is idle: its contents may be lost.
            unsafe { range.as_mut() }.fill(0);
        });
        assert!(bytes > 100 * 3000 / 2);
        allocator.verify();
        kept.into_iter().for_each(|(_, block)| block.free(&allocator, false));
        allocator.verify();
    }
}
