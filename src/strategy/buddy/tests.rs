//! How blocks are split and merged.

use super::*;
use crate::strategy::model::{self, Memory, layout};

#[test]
fn random_operations() {
    model::run::<Buddy>((), &[65_536, 4096, 200_000, 32]);
}

fn with_extent(bytes: usize) -> (Buddy, Memory) {
    let mut buddy = Buddy::new(());
    let memory = Memory::new(&buddy, bytes);
    memory.add_to(&mut buddy);
    (buddy, memory)
}

#[test]
fn the_least_block_is_32_bytes_and_any_other_a_power_of_two() {
    let buddy = Buddy::new(());
    for (size, align, length) in
        [(1, 1, 32), (32, 1, 32), (33, 1, 64), (65, 8, 128), (10, 256, 256), (4097, 1, 8192)]
    {
        assert_eq!(buddy.block_length(layout(size, align)), Ok(length));
    }
}

/// One block of each order beside the least block: the halves that were put aside.
#[test]
fn splitting_puts_one_half_of_each_order_aside() {
    let (mut buddy, memory) = with_extent(CHUNK_BYTES);
    let least = buddy.allocate(layout(1, 1)).unwrap();
    buddy.verify();
    let orders = MIN_ORDER..CHUNK_BYTES.ilog2() as usize;
    assert_eq!(buddy.lists.count(), Ok(orders.len()));
    for order in orders {
        let half = buddy.allocate(layout(1 << order, 1)).unwrap();
        assert_eq!(half.addr().get(), least.addr().get() + (1 << order));
    }
    assert!(buddy.allocate(layout(1, 1)).is_none());
    drop(memory);
}

/// Whatever order they are freed in, the buddies become the extent again.
#[test]
fn everything_merges() {
    let (mut buddy, memory) = with_extent(CHUNK_BYTES);
    let mut blocks: Vec<_> = std::iter::from_fn(|| buddy.allocate(layout(300, 8))).collect();
    assert_eq!(blocks.len(), 128);
    for step in (0..128).rev() {
        let block = blocks.swap_remove(step * 37 % blocks.len());
        // SAFETY: allocated above.
        unsafe { buddy.deallocate(&memory.extent, block.cast(), layout(300, 8)) };
        buddy.verify();
    }
    let whole = buddy.allocate(layout(CHUNK_BYTES, 1)).unwrap();
    assert_eq!(whole.cast::<u8>(), memory.extent.start());
}

/// What was freed last waits, and is found where nothing else fits.
#[test]
fn a_block_that_waits_is_merged_where_it_is_needed() {
    let (mut buddy, memory) = with_extent(4096);
    let small = [(); 2].map(|()| buddy.allocate(layout(1024, 8)).unwrap());
    for block in small {
        // SAFETY: allocated above.
        unsafe { buddy.deallocate(&memory.extent, block.cast(), layout(1024, 8)) };
    }
    assert!(buddy.waiting.iter().any(Option::is_some));
    assert!(buddy.allocate(layout(4096, 8)).is_some());
}

#[test]
fn growing_takes_the_buddies_above_or_nothing() {
    let (mut buddy, memory) = with_extent(4096);
    let first = buddy.allocate(layout(64, 8)).unwrap();
    let second = buddy.allocate(layout(512, 8)).unwrap();
    let grow = |buddy: &mut Buddy, block: NonNull<[u8]>, from: usize, to: usize| {
        // SAFETY: allocated above, with a size of that block.
        let grown = unsafe {
            buddy.grow_in_place(&memory.extent, block.cast(), layout(from, 8), layout(to, 8))
        };
        buddy.verify();
        grown
    };
    assert_eq!(grow(&mut buddy, first, 64, 256), Some(256));
    assert_eq!(grow(&mut buddy, first, 256, 1024), None, "the second block is in the way");
    assert_eq!(grow(&mut buddy, second, 512, 1024), None, "it is an upper half");
    // SAFETY: allocated above.
    let shrunk = unsafe {
        buddy.shrink_in_place(&memory.extent, first.cast(), layout(256, 8), layout(60, 8))
    };
    assert_eq!(shrunk, Some(64));
    buddy.verify();
    assert_eq!(grow(&mut buddy, first, 64, 512), Some(512));
}
