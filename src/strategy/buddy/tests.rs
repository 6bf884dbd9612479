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
    assert_eq!(buddy.all_waiting().count(), 2, "one of them in front");
    assert!(buddy.allocate(layout(4096, 8)).is_some());
}

/// It is handed out again by its order, also where an older one of it waits; to others it is free.
#[test]
fn the_block_freed_last_of_all_waits_in_front() {
    let (mut buddy, memory) = with_extent(4096);
    let new = |buddy: &mut Buddy, size| buddy.allocate(layout(size, 8)).unwrap().cast::<u8>();
    let free = |buddy: &mut Buddy, block, size| {
        // SAFETY: allocated below, and freed once.
        let is_last = unsafe { buddy.free(&memory.extent, block, layout(size, 8)) };
        buddy.verify();
        assert_eq!(is_last, buddy.is_empty(&memory.extent));
        is_last
    };
    let [first, second] = [(); 2].map(|()| new(&mut buddy, 64));
    let long = new(&mut buddy, 1024);
    assert!(!free(&mut buddy, first, 64) && !free(&mut buddy, second, 64));
    assert_eq!(buddy.used(), (1, 1024));
    assert_eq!([(); 2].map(|()| new(&mut buddy, 50)), [second, first], "the one freed last first");
    assert!(!free(&mut buddy, first, 64) && !free(&mut buddy, long, 1024));
    assert_eq!(new(&mut buddy, 64), first, "one of another order was freed since");
    assert_eq!(new(&mut buddy, 1000), long);
    assert_eq!(buddy.used(), (3, 64 + 64 + 1024));
    assert!(!free(&mut buddy, second, 64) && !free(&mut buddy, long, 1024));
    assert!(free(&mut buddy, first, 64), "none is left");
    assert_eq!(buddy.used(), (0, 0));
    assert_eq!(new(&mut buddy, 64), first);
    assert_eq!((buddy.is_empty(&memory.extent), buddy.used()), (false, (1, 64)));
    assert!(free(&mut buddy, first, 64), "again none is left");
    assert_eq!(new(&mut buddy, 4096), memory.extent.start(), "all that waited merged");
}

/// Each extent tells when its last block is freed, whichever has the block in front.
#[test]
fn what_waits_in_front_is_of_one_extent() {
    let (mut buddy, one) = with_extent(64);
    let first = buddy.allocate(layout(64, 8)).unwrap();
    let other = Memory::new(&buddy, 64);
    other.add_to(&mut buddy);
    let second = buddy.allocate(layout(64, 8)).unwrap();
    // SAFETY: allocated above, and freed once; without a block an extent may go.
    unsafe {
        assert!(buddy.free(&one.extent, first.cast(), layout(64, 8)));
        assert!(buddy.is_empty(&one.extent) && !buddy.is_empty(&other.extent));
        assert_eq!(buddy.used(), (1, 64));
        assert!(buddy.free(&other.extent, second.cast(), layout(64, 8)));
        buddy.remove_extent(&other.extent);
    }
    assert!(buddy.is_empty(&one.extent));
    buddy.verify();
    assert_eq!(buddy.allocate(layout(64, 8)), Some(first));
    assert_eq!(buddy.allocate(layout(64, 8)), None);
}

/// A block counts for what it is long now.
#[test]
fn resized_blocks_are_counted() {
    let (mut buddy, memory) = with_extent(4096);
    let block = buddy.allocate(layout(64, 8)).unwrap();
    // SAFETY: allocated above, with that length each time.
    unsafe {
        let block = block.cast();
        buddy.grow_in_place(&memory.extent, block, layout(64, 8), layout(512, 8)).unwrap();
        assert_eq!(buddy.used(), (1, 512));
        buddy.shrink_in_place(&memory.extent, block, layout(512, 8), layout(100, 8)).unwrap();
        assert_eq!(buddy.used(), (1, 128));
        assert!(buddy.free(&memory.extent, block, layout(128, 8)));
    }
    buddy.verify();
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

/// Blocks of an extent are waiting, listed, merged into longer ones, or allocated.
#[test]
fn what_is_free_is_known_by_any_part_of_it() {
    let (mut buddy, memory) = with_extent(4096);
    let blocks = [(); 16].map(|()| buddy.allocate(layout(256, 8)).unwrap().cast::<u8>());
    let is_free = |buddy: &Buddy, index: usize, order: usize| {
        // SAFETY: the extent was added, and the block lies in it.
        unsafe {
            let start = pointers::forward(memory.extent.start(), index * 256);
            buddy.is_free(start, order, record_of(&memory.extent).as_ref())
        }
    };
    let free = |buddy: &mut Buddy, index: usize| {
        // SAFETY: allocated above, and freed once.
        unsafe { buddy.deallocate(&memory.extent, blocks[index], layout(256, 8)) };
        buddy.verify();
    };
    free(&mut buddy, 5);
    assert!(is_free(&buddy, 5, 8), "it waits");
    assert!(is_free(&buddy, 4, 9) && is_free(&buddy, 0, 12) && is_free(&buddy, 5, 5));
    assert!(!is_free(&buddy, 4, 8) && !is_free(&buddy, 6, 9));
    free(&mut buddy, 4);
    free(&mut buddy, 12);
    assert!(is_free(&buddy, 4, 9), "both are one listed block");
    assert!(is_free(&buddy, 5, 8), "which this is the upper half of");
    assert!(is_free(&buddy, 4, 5) && is_free(&buddy, 0, 11));
    assert!(!is_free(&buddy, 0, 10) && !is_free(&buddy, 6, 8));
}

#[test]
fn what_is_written_after_a_free_breaks_no_merge() {
    let (mut buddy, memory) = with_extent(4096);
    let blocks = [(); 64].map(|()| buddy.allocate(layout(64, 8)).unwrap().cast::<u8>());
    for index in (0..64).map(|step| step * 37 % 64) {
        // SAFETY: allocated above, and freed once; what a free block's links do not need is written
        // to, of one that waits all.
        unsafe {
            buddy.deallocate(&memory.extent, blocks[index], layout(64, 8));
            blocks[index].write_bytes(0xff, 64);
            buddy.verify();
            record_of(&memory.extent).as_ref().visit(&mut |start, order| {
                let links = size_of::<block::Block>();
                pointers::forward(start, links).write_bytes(0xff, (1 << order) - links);
            });
        }
    }
    assert_eq!(buddy.allocate(layout(4096, 8)).unwrap().cast(), memory.extent.start());
}

/// What waits is in no list and no map, and checked all the same.
#[test]
fn verify_looks_at_what_waits() {
    let (mut buddy, memory) = with_extent(4096);
    let [first, second] = [(); 2].map(|()| buddy.allocate(layout(64, 8)).unwrap().cast::<u8>());
    // SAFETY: the extent was added.
    let record = unsafe { record_of(&memory.extent) };
    let place = 6 - MIN_ORDER;
    assert_eq!(buddy.fault(), None);
    let in_front = Waiting { block: first, record };
    (buddy.last, buddy.last_order) = (in_front, 6);
    assert_eq!(buddy.fault(), None, "it is counted still");
    let misplaced = Some("a block that waits is listed, or lies at no multiple of its length");
    let miscounted_in_all = Some("the blocks of all extents are miscounted");
    for (order, fault) in [(7, miscounted_in_all), (8, misplaced), (NO_ORDER, None)] {
        buddy.last_order = order;
        assert_eq!(buddy.fault(), fault);
    }
    // SAFETY: allocated above.
    unsafe { buddy.deallocate(&memory.extent, first, layout(64, 8)) };
    buddy.put_last_back();
    assert_eq!(buddy.fault(), None);
    let mut fault_of = |block, record| {
        buddy.waiting[place] = Some(Waiting { block, record });
        buddy.fault()
    };
    // SAFETY: all lies in the extent.
    let (within, listed) = unsafe { (pointers::forward(first, 32), pointers::forward(second, 64)) };
    assert_eq!(fault_of(within, record), misplaced);
    assert_eq!(fault_of(listed, record), misplaced);
    assert_eq!(fault_of(first, record), None);
    buddy.waiting[place + 1] = Some(Waiting { block: first, record: NonNull::dangling() });
    assert_eq!(buddy.fault(), Some("a block waits of an extent that is gone"));
    buddy.waiting[place + 1] = None;
    let miscounted = Some("an extent's blocks are miscounted");
    // SAFETY: the extent was added.
    let record = unsafe { record.as_ref() };
    record.count_freed(6);
    assert_eq!(buddy.fault(), miscounted, "one is allocated");
    record.count_taken(6);
    for (blocks, fault) in [(0, miscounted_in_all), (3, miscounted_in_all), (2, None), (1, None)] {
        buddy.blocks = blocks;
        assert_eq!(buddy.fault(), fault);
    }
    // SAFETY: allocated above.
    unsafe { buddy.deallocate(&memory.extent, second, layout(64, 8)) };
    assert_eq!(buddy.fault(), None);
    buddy.waiting[place] = None;
    assert_eq!(buddy.fault(), miscounted, "it is neither allocated nor free");
}

/// Extents of every length have a place for each block that they have room for.
#[test]
fn each_place_has_a_bit_of_its_own() {
    for granules in [1, 2, 3, 5, 8, 13, 31, 64, 100, 127] {
        let (buddy, memory) = with_extent(granules * 32);
        // SAFETY: the extent was added.
        let record = unsafe { record_of(&memory.extent).as_ref() };
        let mut found = vec![];
        record.visit(&mut |start, order| found.push((start, order)));
        // SAFETY: the blocks lie in the extent.
        unsafe {
            found.iter().for_each(|&(start, order)| record.clear(start, order));
            let mut places = vec![];
            for order in MIN_ORDER..=granules.ilog2() as usize + MIN_ORDER {
                for index in 0..(granules * 32) >> order {
                    let start = pointers::forward(memory.extent.start(), index << order);
                    places.push((start, order));
                }
            }
            for &(start, order) in &places {
                assert!(!record.is_listed(start, order));
                record.set(start, order);
            }
            let mut all = vec![];
            record.visit(&mut |start, order| all.push((start, order)));
            assert_eq!(all, places);
            places.iter().for_each(|&(start, order)| record.clear(start, order));
            found.iter().for_each(|&(start, order)| record.set(start, order));
        }
        buddy.verify();
    }
}
