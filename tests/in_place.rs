//! Growing and shrinking in place: where each strategy can, the block stays where it is, and what
//! it gave up is found again. On a source of its own, and inside a heap.

#[path = "battery/mod.rs"]
#[macro_use]
#[expect(dead_code, unused_imports, reason = "only blocks and the source are used")]
mod battery;

use std::ptr::NonNull;

use battery::{Block, TestSource, allocate, layout, resize};
use heapswitch::{
    Allocator, BitSetAllocator, BumpAllocator, LocalAllocator, MultipleBinarySearchTreeAllocator,
};

const ALIGN: usize = 8;

fn new(allocator: &impl Allocator, size: usize, seed: u8) -> Block {
    allocate(allocator, layout(size, ALIGN), seed)
}

/// Grows or shrinks a block; whether it stayed where it was.
fn stays(allocator: &impl Allocator, block: Block, size: usize) -> (Block, bool) {
    let start = block.start();
    let resized = resize(allocator, block, layout(size, ALIGN), false);
    assert_eq!(resized.layout.size(), size);
    let is_there = resized.start() == start;
    (resized, is_there)
}

fn end_of(block: &Block) -> NonNull<u8> {
    let start = block.start();
    NonNull::new(start.as_ptr().wrapping_add(block.bytes.len())).unwrap()
}

/// Three blocks of `size` in a row.
fn in_a_row(allocator: &impl Allocator, size: usize) -> [Block; 3] {
    let blocks = [1, 2, 3].map(|seed| new(allocator, size, seed));
    assert_eq!(end_of(&blocks[0]), blocks[1].start());
    assert_eq!(end_of(&blocks[1]), blocks[2].start());
    blocks
}

/// The last allocation grows, shrinks and is freed in place, and no other.
fn of_a_bump(allocator: &impl Allocator) {
    for size in [8, 96, 1400] {
        let [first, middle, last] = in_a_row(allocator, size);
        let (last, is_there) = stays(allocator, last, 3 * size);
        assert!(is_there, "the last block of {size} moved to grow");
        let (last, is_there) = stays(allocator, last, 2 * size);
        assert!(is_there, "the last block of {size} moved to shrink");
        let behind = new(allocator, size, 4);
        assert_eq!(behind.start(), end_of(&last), "what the last block gave up is lost");
        let start = behind.start();
        behind.free(allocator, true);
        let again = new(allocator, 5 * size, 5);
        assert_eq!(again.start(), start, "the last block was not freed in place");
        let (middle, is_there) = stays(allocator, middle, 2 * size);
        assert!(!is_there, "a block grew over its neighbour");
        [first, middle, last, again].into_iter().for_each(|block| block.free(allocator, false));
    }
}

/// A block grows into the free neighbour behind it as far as that reaches, and shrinks in place.
fn of_others(allocator: &impl Allocator, size: usize) {
    let [first, middle, last] = in_a_row(allocator, size);
    let end = end_of(&middle);
    middle.free(allocator, true);
    let (first, is_there) = stays(allocator, first, 2 * size);
    assert!(is_there, "a block of {size} moved, and what follows it is free");
    assert_eq!(end_of(&first), end);
    let (first, is_there) = stays(allocator, first, size);
    assert!(is_there, "a block of {size} moved to shrink");
    // What it gave up serves again: it is the only room of that length between the two.
    let (first, is_there) = stays(allocator, first, 2 * size);
    assert!(is_there, "what a block of {size} gave up is not free");
    let (first, is_there) = stays(allocator, first, 2 * size + 1);
    assert!(!is_there, "a block grew over its neighbour");
    [first, last].into_iter().for_each(|block| block.free(allocator, false));
}

/// The range of a freed block is kept: what follows is cut from there in a row.
fn with_a_long_range(allocator: &impl Allocator) {
    new(allocator, 4 << 20, 9).free(allocator, false);
}

#[test]
fn a_bump_on_a_source() {
    let source = TestSource::new(64 << 20);
    let allocator = BumpAllocator::new(source.clone());
    of_a_bump(&allocator);
    // Past its chunk it goes on in the next.
    let blocks: Vec<_> = (0..100).map(|seed| new(&allocator, 10_000, seed)).collect();
    assert!(source.ranges() > 1 && allocator.memory_usage().committed_bytes > 1_000_000);
    blocks.into_iter().for_each(|block| block.free(&allocator, true));
}

#[test]
fn bit_sets_on_a_source() {
    // Quick lists hold blocks of up to 31 units: longer ones join their neighbours at once.
    for (block_bytes, size) in [(8, 512), (32, 2048), (256, 16_384), (4096, 1 << 18)] {
        let allocator = BitSetAllocator::with_block_bytes(block_bytes, TestSource::new(64 << 20));
        with_a_long_range(&allocator);
        of_others(&allocator, size);
        allocator.verify();
    }
}

#[test]
fn trees_on_a_source() {
    // Blocks below 1 KiB wait for their length to be asked for again: longer ones join at once.
    for size in [1024, 1344, 5056, 40_000] {
        let allocator = MultipleBinarySearchTreeAllocator::new(TestSource::new(64 << 20));
        with_a_long_range(&allocator);
        of_others(&allocator, size);
        allocator.verify();
    }
}

/// Not under AddressSanitizer, where what is freed in a heap waits, poisoned, before it serves
/// again.
#[cfg(not(any(heapswitch_asan, heapswitch_pass_through, loom)))]
mod heaps {
    use heapswitch::strategy::bit_set::{BitSet, Settings};
    use heapswitch::{Heap, LifetimeHint};

    use super::*;

    #[test]
    fn a_bump() {
        let heap = Heap::with_hint(LifetimeHint::Short).unwrap();
        of_a_bump(&&heap);
        heap.verify().unwrap();
    }

    #[test]
    fn bit_sets() {
        for (block_bytes, size) in [(8, 256), (32, 1024), (64, 2048)] {
            let settings = Settings { block_bytes };
            let heap = Heap::builder().build_kind::<BitSet>(settings).unwrap();
            of_others(&&heap, size);
            heap.verify().unwrap();
        }
    }

    #[test]
    fn trees() {
        for size in [1024, 1344, 4992] {
            let heap = Heap::with_hint(LifetimeHint::Long).unwrap();
            of_others(&&heap, size);
            heap.verify().unwrap();
        }
    }

    /// A large block is a run of chunks, and grows into the free chunks behind it.
    #[test]
    fn runs_of_chunks() {
        let heap = Heap::with_hint(LifetimeHint::Long).unwrap();
        let allocator = &heap;
        // Where runs are is the region's affair: of several, one has free chunks behind it.
        let stayed = (1..=20).filter(|&round| {
            let block = new(&allocator, round << 16, 1);
            let next = new(&allocator, 1 << 16, 2);
            let is_neighbour = next.start() == end_of(&block);
            next.free(&allocator, false);
            let (block, is_there) = stays(&allocator, block, (round + 1) << 16);
            block.free(&allocator, false);
            is_neighbour && is_there
        });
        assert!(stayed.count() > 0);
    }
}

/// In a heap that is full the block behind one waits for a request of its own length. Growing must
/// not fail for that.
#[cfg(not(heapswitch_pass_through))] // Nothing is ever full there.
#[test]
fn a_block_of_a_full_heap_grows_over_one_that_waits() {
    use heapswitch::{Heap, LifetimeHint, LimitPolicy};
    for hint in [LifetimeHint::Medium, LifetimeHint::Long] {
        for size in [64, 256, 1024] {
            let of = layout(size, ALIGN);
            let build = Heap::builder().hint(hint).limit(256 << 10).policy(LimitPolicy::Fail);
            let heap = build.build().unwrap();
            let mut blocks = Vec::new();
            while let Ok(block) = (&heap).allocate(of) {
                blocks.push(block.cast::<u8>());
                assert!(blocks.len() <= (256 << 10) / size, "the limit does not hold");
            }
            // In the middle of a chunk, and two neighbours.
            let at = blocks.len() / 2 + 5;
            let (first, behind) = (blocks[at], blocks[at + 1]);
            assert_eq!(first.as_ptr().wrapping_add(size), behind.as_ptr());
            // SAFETY: the blocks are allocated with that layout.
            unsafe {
                (&heap).deallocate(behind, of);
                let grown = (&heap).grow(first, of, layout(2 * size, ALIGN));
                assert_eq!(grown.map(|block| block.cast()), Ok(first), "{hint:?} {size}");
            }
        }
    }
}
