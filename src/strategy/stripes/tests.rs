//! How stripes are cut and merged.

use super::*;
use crate::strategy::model::{self, Memory, layout};

std::thread_local! {
    /// How many records and nodes of the tree were looked at.
    pub(super) static LOOKS: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
}

#[test]
fn random_operations() {
    model::run::<Stripes>((), &[65_536, 4096, 200_000, 512]);
}

fn with_extent(bytes: usize) -> (Stripes, Memory) {
    let mut stripes = Stripes::new(());
    let memory = Memory::new(&stripes, bytes);
    memory.add_to(&mut stripes);
    (stripes, memory)
}

fn offset(memory: &Memory, block: NonNull<[u8]>) -> usize {
    pointers::distance(memory.extent.start(), block.cast())
}

#[test]
fn sixteen_of_one_size_lie_side_by_side() {
    let (mut stripes, memory) = with_extent(65_536);
    let offsets = |stripes: &mut Stripes, size| {
        [(); 3].map(|()| offset(&memory, stripes.allocate(layout(size, 8)).unwrap()))
    };
    assert_eq!(offsets(&mut stripes, 30), [0, 32, 64]);
    assert_eq!(offsets(&mut stripes, 96), [512, 512 + 96, 512 + 192]);
    assert_eq!(offsets(&mut stripes, 20), [96, 128, 160]);
    let many: Vec<_> = (0..11).map(|_| stripes.allocate(layout(32, 8)).unwrap()).collect();
    assert_eq!(offset(&memory, many[9]), 480);
    assert_eq!(offset(&memory, many[10]), 512 + 16 * 96, "the first stripe is full");
    stripes.verify();
}

#[test]
fn the_block_that_was_freed_last_serves_and_goes_back_with_its_extent() {
    let (mut stripes, memory) = with_extent(65_536);
    let blocks = [(); 4].map(|()| stripes.allocate(layout(64, 8)).unwrap());
    for block in [blocks[2], blocks[1]] {
        // SAFETY: allocated above.
        unsafe {
            block.cast::<u8>().write_bytes(0x5a, 64);
            stripes.deallocate(&memory.extent, block.cast(), layout(50, 32));
            let mut bytes = (0..64).map(|at| pointers::forward(block.cast(), at).read());
            assert!(bytes.all(|byte| byte == 0x5a), "nothing is written to a free block");
        }
        stripes.verify();
    }
    assert_eq!(stripes.last.iter().count(), 1, "the one before is free in the fill map");
    let again = [(); 2].map(|()| stripes.allocate(layout(64, 8)).unwrap());
    assert_eq!(again.map(|block| offset(&memory, block)), [64, 128]);
    stripes.verify();
    for block in blocks {
        // SAFETY: all four are allocated.
        unsafe { stripes.deallocate(&memory.extent, block.cast(), layout(64, 8)) };
    }
    // SAFETY: the extent was added, and no block in it is allocated.
    unsafe { stripes.remove_extent(&memory.extent) };
    assert_eq!((stripes.last.iter().count(), stripes.blanks.count()), (0, Some(0)));
    assert!(stripes.allocate(layout(64, 8)).is_none());
}

#[test]
fn what_empties_merges_and_moves_to_another_size() {
    let (mut stripes, memory) = with_extent(4096);
    let free = |stripes: &mut Stripes, block: NonNull<[u8]>, size| {
        // SAFETY: allocated below with that size.
        unsafe { stripes.deallocate(&memory.extent, block.cast(), layout(size, 8)) };
        stripes.verify();
    };
    let small: Vec<_> = std::iter::from_fn(|| stripes.allocate(layout(32, 8))).collect();
    assert_eq!(small.len(), 128);
    assert!(stripes.allocate(layout(64, 8)).is_none());
    for block in small.into_iter().rev() {
        free(&mut stripes, block, 32);
    }
    let large = stripes.allocate(layout(4096, 8)).expect("a short stripe of one");
    free(&mut stripes, large, 4096);
    assert!(stripes.allocate(layout(4097, 8)).is_none());
}

/// Where no blank has room for sixteen, one has room for fewer.
#[test]
fn the_last_cells_serve_short_stripes() {
    let (mut stripes, memory) = with_extent(16 * 512);
    let blocks: Vec<_> = std::iter::from_fn(|| stripes.allocate(layout(320, 8))).collect();
    // A whole stripe of ten cells, and six of one cell that hold one each.
    assert_eq!(blocks.len(), 16 + 6);
    stripes.verify();
    drop(memory);
}

#[test]
fn the_only_stripe_with_room_is_kept_until_it_is_needed() {
    let (mut stripes, memory) = with_extent(4096);
    let block = stripes.allocate(layout(64, 8)).unwrap();
    // SAFETY: allocated above.
    unsafe { stripes.deallocate(&memory.extent, block.cast(), layout(64, 8)) };
    assert!(stripes.open[1].is_some());
    assert!(stripes.allocate(layout(8192, 8)).is_none());
    assert!(stripes.open[1].is_none());
    assert_eq!(stripes.blanks.count(), Some(1));
    stripes.verify();
}

#[test]
fn large_blocks_grow_into_the_blank_behind() {
    let (mut stripes, memory) = with_extent(65_536);
    let block = stripes.allocate(layout(5000, 8)).unwrap();
    let resized = |stripes: &mut Stripes, old: usize, new: usize| {
        let (old, new) = (layout(old, 8), layout(new, 8));
        // SAFETY: allocated above, with the old size by now.
        let length = unsafe {
            if new.size() > old.size() {
                stripes.grow_in_place(&memory.extent, block.cast(), old, new)
            } else {
                stripes.shrink_in_place(&memory.extent, block.cast(), old, new)
            }
        };
        stripes.verify();
        length
    };
    assert_eq!(resized(&mut stripes, 5000, 20_000), Some(20_480));
    assert_eq!(resized(&mut stripes, 20_000, 6000), Some(6144));
    let neighbour = stripes.allocate(layout(9000, 8)).unwrap();
    assert_eq!(offset(&memory, neighbour), 6144);
    assert_eq!(resized(&mut stripes, 6000, 7000), None);
}
