//! Where holes are and which of them are taken.

use super::*;
use crate::strategy::model::{self, Memory, layout};

#[test]
fn random_operations_with_each_fit() {
    for fit in [Fit::First, Fit::Next, Fit::Best] {
        model::run::<FreeList>(Settings { fit }, &[4096, 65_536, 10_000, 16]);
    }
}

/// An extent with holes of 4, 2, 3, and 100 granules, in this order, each behind one block.
fn with_holes(fit: Fit) -> (FreeList, Memory, Vec<usize>) {
    let mut list = FreeList::new(Settings { fit });
    let memory = Memory::new(&list, 16 * (4 + 1 + 2 + 1 + 3 + 1 + 100));
    memory.add_to(&mut list);
    let mut starts = vec![];
    let mut holes = vec![];
    for granules in [4, 2, 3] {
        holes.push((list.allocate(layout(granules * 16, 8)).unwrap(), granules));
        starts.push(pointers::distance(memory.extent.start(), holes[holes.len() - 1].0.cast()));
        list.allocate(layout(16, 8)).unwrap();
    }
    for (block, granules) in holes {
        // SAFETY: allocated above.
        unsafe { list.deallocate(&memory.extent, block.cast(), layout(granules * 16, 8)) };
    }
    // As when a search found nothing: or the holes of just the length would be taken first.
    list.flush();
    starts.push(16 * 12);
    (list, memory, starts)
}

fn taken(list: &mut FreeList, memory: &Memory, size: usize) -> usize {
    let block = list.allocate(layout(size, 8)).unwrap();
    list.verify();
    pointers::distance(memory.extent.start(), block.cast())
}

#[test]
fn first_fit_takes_the_first() {
    let (mut list, memory, starts) = with_holes(Fit::First);
    assert_eq!(taken(&mut list, &memory, 30), starts[0]);
    assert_eq!(taken(&mut list, &memory, 30), starts[0] + 32);
    assert_eq!(taken(&mut list, &memory, 40), starts[2]);
    assert_eq!(taken(&mut list, &memory, 30), starts[1]);
    assert_eq!(taken(&mut list, &memory, 16), starts[3]);
}

#[test]
fn next_fit_goes_on() {
    let (mut list, memory, starts) = with_holes(Fit::Next);
    assert_eq!(taken(&mut list, &memory, 40), starts[3]);
    assert_eq!(taken(&mut list, &memory, 16), starts[3] + 48);
    assert_eq!(taken(&mut list, &memory, 16 * 96), starts[3] + 64);
    assert_eq!(taken(&mut list, &memory, 16), starts[0]);
    assert_eq!(taken(&mut list, &memory, 16), starts[0] + 16);
}

#[test]
fn best_fit_takes_the_shortest() {
    let (mut list, memory, starts) = with_holes(Fit::Best);
    assert_eq!(taken(&mut list, &memory, 30), starts[1]);
    assert_eq!(taken(&mut list, &memory, 33), starts[2]);
    assert_eq!(taken(&mut list, &memory, 8), starts[0]);
    assert_eq!(taken(&mut list, &memory, 80), starts[3]);
}

/// Whatever order neighbours are freed in, they become one hole.
#[test]
fn neighbours_are_joined_on_both_sides() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut list = FreeList::new(Settings::default());
        let memory = Memory::new(&list, 48 * 3);
        memory.add_to(&mut list);
        let blocks = [(); 3].map(|()| list.allocate(layout(48, 8)).unwrap());
        assert!(list.allocate(layout(1, 1)).is_none());
        for index in order {
            // SAFETY: allocated above.
            unsafe { list.deallocate(&memory.extent, blocks[index].cast(), layout(48, 8)) };
            list.verify();
        }
        assert_eq!(taken(&mut list, &memory, 144), 0);
    }
}

/// The least hole is 16 bytes, and serves.
#[test]
fn a_block_is_16_bytes_without_a_header() {
    let mut list = FreeList::new(Settings::default());
    let memory = Memory::new(&list, 4096);
    memory.add_to(&mut list);
    let mut blocks: Vec<_> = std::iter::from_fn(|| list.allocate(layout(16, 16))).collect();
    assert_eq!(blocks.len(), 256);
    let freed = blocks.swap_remove(77);
    // SAFETY: allocated above.
    unsafe { list.deallocate(&memory.extent, freed.cast(), layout(16, 16)) };
    assert_eq!(list.allocate(layout(9, 1)), Some(freed));
}

/// A freed block serves its length first, and joins its neighbours before a request is refused.
#[test]
fn what_waits_joins_when_nothing_else_serves() {
    for fit in [Fit::First, Fit::Next, Fit::Best] {
        let mut list = FreeList::new(Settings { fit });
        let memory = Memory::new(&list, 64 * 3);
        memory.add_to(&mut list);
        let blocks = [(); 3].map(|()| list.allocate(layout(64, 8)).unwrap());
        for block in blocks {
            // SAFETY: allocated above.
            unsafe { list.deallocate(&memory.extent, block.cast(), layout(64, 8)) };
        }
        list.verify();
        assert_eq!(list.allocate(layout(60, 8)), Some(blocks[2]), "the one that was freed last");
        assert!(!list.quick.is_empty());
        assert_eq!(taken(&mut list, &memory, 128), 0);
        assert!(list.quick.is_empty() && list.allocate(layout(1, 1)).is_none());
    }
}

/// Among holes of one class the one that fits is found, however many there are.
#[test]
fn best_fit_finds_the_only_long_one_of_a_class() {
    let mut list = FreeList::new(Settings { fit: Fit::Best });
    let memory = Memory::new(&list, 16 * 41 * 66 * 3);
    memory.add_to(&mut list);
    let lengths: Vec<usize> = (0..40).map(|index| 16 * if index == 3 { 67 } else { 65 }).collect();
    let blocks: Vec<_> = lengths
        .iter()
        .map(|&length| {
            let block = list.allocate(layout(length, 8)).unwrap();
            list.allocate(layout(16, 8)).unwrap();
            block
        })
        .collect();
    while list.allocate(layout(16 * 100, 8)).is_some() {}
    while list.allocate(layout(16, 8)).is_some() {}
    for (&block, &length) in blocks.iter().zip(&lengths) {
        // SAFETY: allocated above.
        unsafe { list.deallocate(&memory.extent, block.cast(), layout(length, 8)) };
    }
    list.verify();
    assert_eq!(
        list.allocate(layout(16 * 66, 8)).map(|found| found.cast()),
        Some(blocks[3].cast::<u8>())
    );
    assert!(list.allocate(layout(16 * 66, 8)).is_none());
    assert!(list.allocate(layout(16 * 65, 8)).is_some());
}

/// What waits does not count, and the last block's end is told once.
#[test]
fn it_counts_what_is_allocated() {
    let mut list = FreeList::new(Settings::default());
    let memory = Memory::new(&list, 64 << 10);
    memory.add_to(&mut list);
    let sizes = [10, 100, 2000];
    let blocks = sizes.map(|size| list.allocate(layout(size, 8)).unwrap());
    assert_eq!((list.live_blocks(&memory.extent), list.used_bytes(&memory.extent)), (3, 2128));
    let grown = layout(3000, 8);
    // SAFETY: each is allocated, and freed with its layout.
    unsafe {
        let length = list.grow_in_place(&memory.extent, blocks[2].cast(), layout(2000, 8), grown);
        assert_eq!(length, Some(3008));
        assert_eq!(list.used(), (3, 16 + 112 + 3008));
        assert!(!list.free(&memory.extent, blocks[2].cast(), grown));
        assert!(!list.free(&memory.extent, blocks[0].cast(), layout(10, 8)));
        assert_eq!(list.used(), (1, 112));
        assert!(list.free(&memory.extent, blocks[1].cast(), layout(100, 8)));
        assert_eq!(list.next_emptied(), Some(memory.extent.start()));
        assert_eq!((list.next_emptied(), list.used()), (None, (0, 0)));
        list.remove_extent(&memory.extent);
    }
}
