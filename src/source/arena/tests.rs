//! The arena on a source that counts: what it serves, keeps and gives back, and what it refuses.

use super::index_stack::Links;
use super::*;
use crate::source::MemoryMapSource;
use core::cell::Cell;
use std::collections::HashSet;
use std::vec::Vec;

const BLOCK: usize = 1 << 12;
const RANGE: usize = 8 * BLOCK;

/// Blocks of 4 KiB, 8 in a range, 4 ranges at most.
const SIZES: ArenaSizes =
    ArenaSizes { block_bytes: BLOCK, range_bytes: RANGE, maximum_bytes: 4 * RANGE };

/// Counts what is taken of mappings, and can be told to refuse.
struct Inner {
    source: MemoryMapSource,
    refuses: Cell<bool>,
}

// SAFETY: forwards to a memory map, or takes nothing.
unsafe impl MemorySource for &Inner {
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        if self.refuses.get() { Err(AllocError) } else { self.source.take(request) }
    }

    unsafe fn give_back(&self, range: MemoryRange) {
        // SAFETY: the caller's contract.
        unsafe { self.source.give_back(range) }
    }

    fn granule(&self) -> usize {
        BLOCK
    }
}

fn inner() -> Inner {
    let settings = crate::source::MemoryMapSettings::new().granule(BLOCK);
    let source = MemoryMapSource::with_settings(settings).unwrap();
    Inner { source, refuses: Cell::new(false) }
}

fn arena(inner: &Inner) -> ArenaMemorySource<&Inner> {
    ArenaMemorySource::new(inner, ArenaSettings::new(SIZES).unwrap())
}

fn request(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 16).unwrap()
}

fn take(arena: &ArenaMemorySource<&Inner>) -> MemoryRange {
    arena.verify();
    arena.take(request(BLOCK)).unwrap()
}

#[test]
fn tells_what_is_broken_of_its_free_blocks() {
    let inner = inner();
    let broken = |damage: &dyn Fn(&ArenaMemorySource<&Inner>)| {
        let arena = arena(&inner);
        let blocks = [take(&arena), take(&arena)];
        assert_eq!(arena.broken_blocks(), None);
        // As before: those that were given back last come first.
        // SAFETY: taken above.
        blocks.iter().for_each(|block| unsafe { arena.give_back(*block) });
        arena.verify();
        assert_eq!(
            [take(&arena), take(&arena)].map(|block| block.start),
            [blocks[1].start, blocks[0].start]
        );
        damage(&arena);
        let broken = arena.broken_blocks();
        // Its range is lost: nobody knows what of it is free.
        core::mem::forget(arena);
        broken
    };
    let free = |arena: &ArenaMemorySource<&Inner>, index| {
        arena.free.push(&arena.table().unwrap(), Popped { index, flag: false });
    };
    let number = |arena: &ArenaMemorySource<&Inner>| arena.free.pop(&arena.table().unwrap());
    assert_eq!(broken(&|_| ()), None);
    let twice = |arena: &ArenaMemorySource<&Inner>| {
        let index = number(arena).unwrap().index;
        free(arena, index);
        free(arena, index);
    };
    assert_eq!(broken(&twice), Some("more blocks are free than it holds, or one twice"));
    let elsewhere = |arena: &ArenaMemorySource<&Inner>| {
        let index = number(arena).unwrap().index;
        free(arena, (index + 16) % 64);
    };
    assert_eq!(broken(&elsewhere), Some("a block is free of a range that it does not hold"));
    let lost = |arena: &ArenaMemorySource<&Inner>| {
        // Its link goes on to the end, past all others, and their number stays.
        let (table, top) = (arena.table().unwrap(), number(arena).unwrap().index);
        free(arena, top);
        table.link(top).fetch_and(!0 << 32, Ordering::Relaxed);
    };
    assert_eq!(broken(&lost), Some("its free blocks are miscounted"));
}

#[test]
fn tells_what_is_broken_of_its_ranges() {
    let inner = inner();
    let arena = arena(&inner);
    let block = take(&arena);
    let table = arena.table().unwrap();
    assert!(table.is_sound(1) && !table.is_sound(0) && !table.is_sound(2));
    let slot = table.slot(table.number(block.start).unwrap());
    table.count(slot).store(1, Ordering::Relaxed);
    assert!(!table.is_sound(1), "a release is under way");
    table.count(slot).store(0, Ordering::Relaxed);
    assert!(table.is_sound(1));
    // SAFETY: taken above.
    unsafe { arena.give_back(block) };
    arena.verify();
}

#[test]
fn serves_blocks_up_to_its_maximum_and_every_block_once() {
    let inner = inner();
    let arena = arena(&inner);
    let blocks: Vec<_> = (0..32).map(|_| take(&arena)).collect();
    let starts: HashSet<_> = blocks.iter().map(|block| block.start).collect();
    assert_eq!(
        (starts.len(), inner.source.mapping_count(), arena.held_bytes()),
        (32, 4, 4 * RANGE)
    );
    assert!(blocks.iter().all(|block| block.length == BLOCK && block.is_zeroed));
    assert!(blocks.iter().all(|block| block.start.addr().get() % BLOCK == 0));
    assert_eq!(arena.take(request(1)), Err(AllocError));
    // SAFETY: taken above.
    unsafe { arena.give_back(blocks[5]) };
    let again = take(&arena);
    assert_eq!((again.start, again.is_zeroed), (blocks[5].start, false));
    for block in &blocks {
        // SAFETY: taken above, the sixth again.
        unsafe { arena.give_back(*block) };
    }
    arena.release_unused();
    assert_eq!((inner.source.mapping_count(), arena.held_bytes()), (0, 0));
}

#[test]
fn refuses_what_no_block_holds() {
    let inner = inner();
    let arena = arena(&inner);
    assert!(arena.take(request(BLOCK + 1)).is_err());
    assert!(arena.take(Layout::from_size_align(8, 2 * BLOCK).unwrap()).is_err());
    inner.refuses.set(true);
    assert!(arena.take(request(8)).is_err());
    inner.refuses.set(false);
    let block = arena.take(request(0)).unwrap();
    assert_eq!(block.length, BLOCK);
    // SAFETY: taken above.
    unsafe { arena.give_back(block) };
    let small = ArenaSizes { block_bytes: BLOCK / 2, ..SIZES };
    let finer_than_the_source = ArenaMemorySource::new(&inner, ArenaSettings::new(small).unwrap());
    assert!(finer_than_the_source.take(request(8)).is_err());
}

#[test]
fn keeps_one_idle_range_and_one_with_a_taken_block() {
    let inner = inner();
    let arena = arena(&inner);
    let blocks: Vec<_> = (0..32).map(|_| take(&arena)).collect();
    for block in blocks[1..].iter().rev() {
        // SAFETY: taken above.
        unsafe { arena.give_back(*block) };
    }
    // At 17 free blocks two ranges were idle and one went, which left 9. Above 9 + 4 + 8 the same
    // again. Now one range is idle and one has a taken block.
    assert_eq!(inner.source.mapping_count(), 2);
    assert_eq!(arena.release_unused(), RANGE);
    assert_eq!(inner.source.mapping_count(), 1);
    // SAFETY: taken above, and its range was kept for it.
    unsafe {
        blocks[0].start.write_bytes(1, BLOCK);
        arena.give_back(blocks[0]);
    }
    assert_eq!(arena.release_unused(), RANGE);
    assert_eq!(inner.source.mapping_count(), 0);
}

#[test]
fn a_boundary_crossed_to_and_fro_maps_nothing() {
    let inner = inner();
    let arena = arena(&inner);
    let _kept: Vec<_> = (0..8).map(|_| take(&arena)).collect();
    for _ in 0..100 {
        let block = take(&arena);
        assert_eq!(inner.source.mapping_count(), 2);
        // SAFETY: taken above.
        unsafe { arena.give_back(block) };
        assert_eq!(inner.source.mapping_count(), 2);
    }
}

#[test]
fn dropping_leaves_taken_blocks_alone() {
    let inner = inner();
    let arena = arena(&inner);
    let blocks: Vec<_> = (0..16).map(|_| take(&arena)).collect();
    for block in &blocks[1..] {
        // SAFETY: taken above.
        unsafe { arena.give_back(*block) };
    }
    drop(arena);
    assert_eq!(inner.source.mapping_count(), 1);
    // SAFETY: never given back.
    unsafe { blocks[0].start.write_bytes(1, BLOCK) };
}

#[test]
fn ranges_come_and_go_for_ever() {
    // Removed places are taken again, and searches stay short however many ranges came and went.
    let inner = inner();
    let arena = arena(&inner);
    for round in 0..500 {
        let blocks: Vec<_> = (0..1 + round % 32).map(|_| take(&arena)).collect();
        for block in blocks {
            // SAFETY: taken above.
            unsafe { arena.give_back(block) };
        }
        arena.release_unused();
        assert_eq!(inner.source.mapping_count(), 0);
    }
}

#[test]
fn sizes_that_are_wrong_are_named() {
    use ArenaSettingsError::{Block, Blocks, Maximum, Range};
    let wrong = |sizes| ArenaSettings::new(sizes).unwrap_err();
    assert_eq!(wrong(ArenaSizes { block_bytes: 24, ..SIZES }), Block { block_bytes: 24 });
    assert_eq!(wrong(ArenaSizes { block_bytes: 8, ..SIZES }), Block { block_bytes: 8 });
    let range = ArenaSizes { range_bytes: BLOCK / 2, ..SIZES };
    assert_eq!(wrong(range), Range { range_bytes: BLOCK / 2, block_bytes: BLOCK });
    let maximum = ArenaSizes { maximum_bytes: BLOCK, ..SIZES };
    assert_eq!(wrong(maximum), Maximum { maximum_bytes: BLOCK, range_bytes: RANGE });
    for maximum_bytes in [1 << 40, usize::MAX] {
        let blocks = ArenaSizes { maximum_bytes, ..SIZES };
        assert_eq!(wrong(blocks), Blocks { maximum_bytes, block_bytes: BLOCK });
    }
    // 1 TiB of chunks.
    assert!(
        ArenaSettings::new(ArenaSizes { maximum_bytes: 1 << 40, ..ArenaSizes::DEFAULT }).is_ok()
    );
}
