//! The lengths of blocks, for all layouts to 1 MiB by 4 KiB: they never fall as the size grows, and
//! each maps to itself. So every size from the requested one to the returned length has that
//! length, and a block may be freed with any of them.

use std::alloc::Layout;

use heapswitch::AllocError;
use heapswitch::strategy::Strategy;
use heapswitch::strategy::bit_set::{BitSet, Settings};
use heapswitch::strategy::buddy::Buddy;
use heapswitch::strategy::bump::Bump;
use heapswitch::strategy::free_list::{self, FreeList};
use heapswitch::strategy::slab::{PlainSlab, Slab};
use heapswitch::strategy::stripes::Stripes;
use heapswitch::strategy::trees::MultipleBinarySearchTree;

const LARGEST: usize = 1 << 20;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// Checks every size, or those around each eighth of a power of two where the build is slow.
fn lengths_fit(length_of: impl Fn(Layout) -> Result<usize, AllocError>) {
    let is_checked = |size: usize| {
        let step = (size.next_power_of_two() / 64).max(1);
        !cfg!(debug_assertions) || (size + 2) % step < 5
    };
    for align in (0..=12).map(|shift| 1 << shift) {
        let mut previous = 0;
        let mut is_refused = false;
        for size in (1..=LARGEST).filter(|&size| is_checked(size)) {
            let asked = layout(size, align);
            let Ok(length) = length_of(asked) else {
                is_refused = true;
                continue;
            };
            assert!(!is_refused, "{asked:?} is served, and something smaller is not");
            assert!(length >= size && length >= previous, "{asked:?}: {length} after {previous}");
            if length != previous {
                assert_eq!(length_of(layout(length, align)), Ok(length), "for {asked:?}");
            }
            previous = length;
        }
    }
}

/// Also that what needs no strategy says the same.
fn strategy_fits<S: Strategy>(settings: S::Settings) {
    let strategy = S::new(settings);
    lengths_fit(|layout| strategy.block_length(layout));
    for size in [1, 7, 8, 9, 1000, 1024, 1025, 5000, 32_768, 32_769, LARGEST] {
        for align in [1, 16, 32, 4096, 65_536] {
            let layout = layout(size, align);
            assert_eq!(S::length_with(settings, layout), strategy.block_length(layout));
        }
    }
    let largest = layout(isize::MAX as usize, 1);
    assert!(strategy.block_length(largest).is_err(), "{}", S::NAME);
}

#[test]
fn of_bumps() {
    strategy_fits::<Bump<true>>(());
    strategy_fits::<Bump<false>>(());
}

#[test]
fn of_bit_sets() {
    for block_bytes in [0, 8, 32, 48, 256, 4096, 65_536, 3 << 20] {
        strategy_fits::<BitSet>(Settings { block_bytes });
    }
}

#[test]
fn of_trees() {
    strategy_fits::<MultipleBinarySearchTree>(());
}

#[test]
fn of_free_lists() {
    strategy_fits::<FreeList>(free_list::Settings::default());
}

#[test]
fn of_buddies() {
    strategy_fits::<Buddy>(());
}

#[test]
fn of_stripes() {
    strategy_fits::<Stripes>(());
}

#[test]
fn of_slabs() {
    strategy_fits::<Slab>(());
    strategy_fits::<PlainSlab>(());
}

/// Above 64 bytes, to where blocks are runs of chunks, in each doubling of sizes.
#[test]
fn what_a_slab_rounds_up_is_bounded() {
    let slab = Slab::new(());
    for doubling in (6..15).map(|shift| 1 << shift) {
        let (mut of_request, mut of_block) = (0.0, 0.0);
        for size in doubling + 1..=2 * doubling {
            let length = slab.block_length(layout(size, 8)).unwrap();
            let waste = length - size;
            assert!(
                waste * 5 < length,
                "{size}: {length}, of which a fifth or more is not asked for"
            );
            assert!(waste * 4 < size, "{size}: {length} is a quarter longer or more");
            of_request += waste as f64 / size as f64;
            of_block += waste as f64 / length as f64;
        }
        let [of_request, of_block] = [of_request, of_block].map(|sum| sum / doubling as f64);
        assert!(of_request < 1.0 / 11.0, "{doubling}: {of_request} of what was asked for");
        assert!(of_block < 1.0 / 12.0, "{doubling}: {of_block} of what was given");
    }
}

#[cfg(not(any(heapswitch_pass_through, loom)))]
mod heaps {
    use heapswitch::{Heap, LifetimeHint};

    use super::*;

    #[test]
    fn of_every_kind() {
        for hint in [LifetimeHint::Short, LifetimeHint::Medium, LifetimeHint::Long] {
            let heap = Heap::with_hint(hint).unwrap();
            lengths_fit(|layout| heap.block_length(layout));
        }
        let builder = Heap::builder;
        let heaps = [
            builder().build_kind::<Slab>(()).unwrap(),
            builder().build_kind::<FreeList>(free_list::Settings::default()).unwrap(),
            builder().build_kind::<Buddy>(()).unwrap(),
            builder().build_kind::<Stripes>(()).unwrap(),
        ];
        heaps.iter().for_each(|heap| lengths_fit(|layout| heap.block_length(layout)));
    }

    #[test]
    fn of_large_blocks() {
        for block_bytes in [4096, 32_768, 65_536] {
            let settings = Settings { block_bytes };
            let heap = Heap::builder().build_kind::<BitSet>(settings).unwrap();
            lengths_fit(|layout| heap.block_length(layout));
        }
    }
}
