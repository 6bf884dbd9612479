//! Random operations against a plain model, and the cases that randomness seldom meets.

use std::alloc::{alloc, dealloc};
use std::collections::BTreeMap;

use super::*;
use crate::pointers::{distance, is_aligned};
use crate::strategy::model::all_are;

/// An extent with memory of its own.
pub(super) struct Memory {
    layout: Layout,
    metadata_layout: Layout,
    pub(super) extent: Box<Extent>,
}

impl Memory {
    pub(super) fn new(length: usize, alignment: usize) -> Self {
        let strategy = MultipleBinarySearchTree::new(());
        let layout = Layout::from_size_align(length, alignment).expect("a layout of the tests");
        let metadata_layout = Layout::from_size_align(strategy.metadata_bytes(length), 16)
            .expect("a layout of the tests");
        // SAFETY: neither layout has size zero.
        let (start, metadata) = unsafe { (alloc(layout), alloc(metadata_layout)) };
        let start = NonNull::new(start).expect("memory for the tests");
        let metadata = NonNull::new(metadata).expect("memory for the tests");
        // SAFETY: fresh memory of that layout.
        unsafe { metadata.write_bytes(0, metadata_layout.size()) };
        // SAFETY: as above; the strategy must not depend on what was there before.
        unsafe { start.write_bytes(0xA5, length) };
        // SAFETY: memory and metadata are as long; the tests add it before they use it.
        let extent = Box::new(unsafe { Extent::new(start, length, metadata, false) });
        Self { layout, metadata_layout, extent }
    }

    pub(super) fn add_to(&self, strategy: &mut MultipleBinarySearchTree) {
        // SAFETY: the extent is boxed, and its metadata as long as asked; each is cleared first.
        unsafe {
            self.extent.metadata().write_bytes(0, self.metadata_layout.size());
            strategy.add_extent(&self.extent);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with these layouts by `new`.
        unsafe {
            dealloc(self.extent.start().as_ptr(), self.layout);
            dealloc(self.extent.metadata().as_ptr(), self.metadata_layout);
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    /// Mostly short, seldom as long as `bound`.
    fn size(&mut self, bound: usize) -> usize {
        let cap = 1 + self.below(bound);
        let cap = 1 + self.below(cap);
        1 + self.below(cap)
    }

    fn alignment(&mut self) -> usize {
        1 << if self.below(4) == 0 { self.below(13) } else { self.below(5) }
    }
}

#[derive(Clone, Copy)]
struct Live {
    start: NonNull<u8>,
    length: usize,
    layout: Layout,
    fill: u8,
}

/// The strategy, its extents and what is allocated.
struct Model {
    strategy: MultipleBinarySearchTree,
    memories: Vec<Memory>,
    live: Vec<Live>,
    by_start: BTreeMap<usize, usize>,
    fills: u8,
}

impl Model {
    fn new(lengths: &[usize]) -> Self {
        let mut model = Self {
            strategy: MultipleBinarySearchTree::new(()),
            memories: Vec::new(),
            live: Vec::new(),
            by_start: BTreeMap::new(),
            fills: 0,
        };
        for &length in lengths {
            model.add(Memory::new(length, 4096));
        }
        model
    }

    fn add(&mut self, memory: Memory) {
        memory.add_to(&mut self.strategy);
        self.memories.push(memory);
        self.strategy.verify();
    }

    fn extent_of(&self, block: NonNull<u8>) -> &Extent {
        let memory = self.memories.iter().find(|memory| memory.extent.contains(block));
        &memory.expect("a block lies in an extent").extent
    }

    /// Fills a block from `from` on, and notes it as live.
    fn track(&mut self, start: NonNull<u8>, length: usize, layout: Layout) {
        assert!(is_aligned(start, layout.align()));
        assert_eq!(self.strategy.block_length(layout), Ok(length));
        let address = start.addr().get();
        let extent = self.extent_of(start);
        assert!(distance(extent.start(), start) + length <= extent.length());
        let before = self.by_start.range(..address + length).next_back();
        assert!(before.is_none_or(|(&start, &length)| start + length <= address), "overlap");
        self.fills = self.fills.wrapping_add(1);
        // SAFETY: the block was just allocated.
        unsafe { start.write_bytes(self.fills, length) };
        self.by_start.insert(address, length);
        self.live.push(Live { start, length, layout, fill: self.fills });
    }

    fn untrack(&mut self, index: usize) -> Live {
        let live = self.live.swap_remove(index);
        self.by_start.remove(&live.start.addr().get());
        self.check_content(live, live.length);
        live
    }

    fn check_content(&self, live: Live, length: usize) {
        // SAFETY: the block is allocated and was filled.
        let content = unsafe { NonNull::slice_from_raw_parts(live.start, length).as_ref() };
        assert!(all_are(content, live.fill), "the content changed");
    }

    fn allocate(&mut self, layout: Layout) -> bool {
        let Some(block) = self.strategy.allocate(layout) else { return false };
        self.track(block.cast(), block.len(), layout);
        true
    }

    /// Frees with any layout that fits.
    fn free(&mut self, index: usize, random: &mut Random) {
        let live = self.untrack(index);
        let size = live.layout.size() + random.below(live.length - live.layout.size() + 1);
        let layout = Layout::from_size_align(size, live.layout.align()).expect("fits");
        let memory = self.memories.iter().position(|memory| memory.extent.contains(live.start));
        let extent = &self.memories[memory.expect("a block lies in an extent")].extent;
        // SAFETY: the block was allocated with a layout like this.
        unsafe { self.strategy.deallocate(extent, live.start, layout) };
    }

    fn resize(&mut self, index: usize, size: usize) {
        let live = self.live[index];
        let new = Layout::from_size_align(size, live.layout.align()).expect("a layout");
        let Ok(expected) = self.strategy.block_length(new) else { return };
        let memory = self.memories.iter().position(|memory| memory.extent.contains(live.start));
        let extent = &self.memories[memory.expect("a block lies in an extent")].extent;
        // SAFETY: the block is allocated with that layout, and `new` is on the right side of it.
        let length = unsafe {
            if expected == live.length {
                return;
            } else if expected > live.length {
                self.strategy.grow_in_place(extent, live.start, live.layout, new)
            } else {
                let shrunk = self.strategy.shrink_in_place(extent, live.start, live.layout, new);
                assert!(shrunk.is_some(), "shrinking never fails");
                shrunk
            }
        };
        let Some(length) = length else { return };
        assert_eq!(length, expected);
        self.check_content(live, live.length.min(length));
        self.live.swap_remove(index);
        self.by_start.remove(&live.start.addr().get());
        self.track(live.start, length, new);
    }

    fn free_all(&mut self, random: &mut Random) {
        while !self.live.is_empty() {
            let index = random.below(self.live.len());
            self.free(index, random);
            self.strategy.verify();
        }
    }

    fn remove_all(mut self) {
        for memory in &self.memories {
            // SAFETY: nothing is allocated any more.
            unsafe { self.strategy.remove_extent(&memory.extent) };
            self.strategy.verify();
        }
        assert!(self.strategy.allocate(Layout::new::<u8>()).is_none());
    }
}

fn run(seed: u64, lengths: &[usize], largest: usize, steps: usize, target: usize) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut model = Model::new(lengths);
    for _ in 0..steps {
        let action = random.below(10);
        if model.live.is_empty() || action < 4 && model.live.len() < target || action < 2 {
            let layout = Layout::from_size_align(random.size(largest), random.alignment());
            model.allocate(layout.expect("a layout"));
        } else if action < 8 {
            let index = random.below(model.live.len());
            model.free(index, &mut random);
        } else {
            let (index, size) = (random.below(model.live.len()), random.size(largest));
            model.resize(index, size);
        }
        model.strategy.verify();
    }
    model.free_all(&mut random);
    model.remove_all();
}

const STEPS: usize = if cfg!(miri) { 100 } else { 3_000 };

#[test]
fn random_operations_in_one_chunk() {
    for seed in 1..12 {
        run(seed, &[65_536], 1_000, STEPS, 60);
    }
}

#[test]
fn random_small_operations_in_a_crowded_extent() {
    for seed in 1..6 {
        run(seed, &[16_384], 200, STEPS, 300);
    }
}

#[test]
fn random_large_operations_in_a_large_extent() {
    for seed in 1..6 {
        run(seed, &[4 << 20], 200_000, STEPS / 2, 60);
    }
}

#[test]
fn random_operations_across_extents_of_odd_lengths() {
    for seed in 1..6 {
        run(seed, &[65_536, 4_096, 48, 131_072 + 16, 16, 80], 9_000, STEPS, 80);
    }
}

#[test]
fn every_size_and_alignment_is_served_by_an_extent_of_the_length_it_asks_for() {
    for size in (1..300).chain([1_000, 1_024, 4_095, 4_096, 65_535, 65_536, 250_000]) {
        for shift in 0..17 {
            let layout = Layout::from_size_align(size, 1 << shift).expect("a layout");
            let mut strategy = MultipleBinarySearchTree::new(());
            let length = strategy.extent_bytes(layout).expect("an extent's length");
            let memory = Memory::new(length, MultipleBinarySearchTree::EXTENT_ALIGN);
            memory.add_to(&mut strategy);
            let block = strategy.allocate(layout).expect("a block of a new extent");
            assert!(is_aligned(block.cast(), layout.align()));
            assert_eq!(strategy.block_length(layout), Ok(block.len()));
            strategy.verify();
            // SAFETY: the block is allocated with that layout, then the extent is empty.
            unsafe {
                strategy.deallocate(&memory.extent, block.cast(), layout);
                strategy.remove_extent(&memory.extent);
            }
            strategy.verify();
        }
    }
}

#[test]
fn all_sizes_up_to_the_returned_length_give_that_length_and_the_next_another() {
    let strategy = MultipleBinarySearchTree::new(());
    for size in 1..70_000 {
        for alignment in [1, 8, 64, 4_096] {
            let length_of = |size| {
                let layout = Layout::from_size_align(size, alignment).expect("a layout");
                strategy.block_length(layout).expect("a length")
            };
            let length = length_of(size);
            assert!(length >= size);
            assert_eq!(length_of(length), length);
            assert!(length_of(length + 1) > length);
        }
    }
    let most = Layout::from_size_align(isize::MAX as usize, 1).expect("a layout");
    assert_eq!(strategy.block_length(most), Err(AllocError));
    assert_eq!(strategy.extent_bytes(most), None);
}

#[test]
fn extents_that_touch_are_not_coalesced_and_are_removed_alone() {
    let memory = Memory::new(3 * 8_192, 4_096);
    let mut strategy = MultipleBinarySearchTree::new(());
    let metadata: Vec<Memory> = (0..3).map(|_| Memory::new(8_192, 4_096)).collect();
    let extents: Vec<Extent> = (0..3)
        .map(|index| {
            // SAFETY: three thirds of one allocation; each is added before it is used.
            unsafe {
                let start = forward(memory.extent.start(), index * 8_192);
                Extent::new(start, 8_192, metadata[index].extent.metadata(), false)
            }
        })
        .collect();
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        for index in order {
            // SAFETY: each has metadata of its own, cleared here, and is added once a round.
            unsafe {
                extents[index].metadata().write_bytes(0, strategy.metadata_bytes(8_192));
                strategy.add_extent(&extents[index]);
            }
        }
        strategy.verify();
        let whole = Layout::from_size_align(8_192, 1).expect("a layout");
        let mut blocks = Vec::new();
        for alignment in [1, 4_096, 512, 64] {
            let layout = Layout::from_size_align(2_000, alignment).expect("a layout");
            while let Some(block) = strategy.allocate(layout) {
                blocks.push((block.cast::<u8>(), layout));
                strategy.verify();
            }
        }
        assert!(blocks.len() >= 9);
        for (block, layout) in blocks {
            let extent = extents.iter().find(|extent| extent.contains(block));
            // SAFETY: the block is allocated with that layout.
            unsafe { strategy.deallocate(extent.expect("an extent"), block, layout) };
            strategy.verify();
        }
        for _ in 0..2 {
            let block = strategy.allocate(whole).expect("an extent that is one free block");
            let extent = extents.iter().find(|extent| extent.contains(block.cast()));
            // SAFETY: the block is allocated with that layout.
            unsafe { strategy.deallocate(extent.expect("an extent"), block.cast(), whole) };
        }
        for index in order {
            // SAFETY: nothing is allocated.
            unsafe { strategy.remove_extent(&extents[index]) };
            strategy.verify();
        }
    }
}

#[test]
fn idle_ranges_are_whole_pages_that_may_be_dropped() {
    let mut random = Random(77);
    let mut model = Model::new(&[1 << 20, 65_536]);
    for _ in 0..200 {
        let layout = Layout::from_size_align(random.size(20_000), 8).expect("a layout");
        model.allocate(layout);
        if random.below(3) == 0 {
            let index = random.below(model.live.len());
            model.free(index, &mut random);
        }
    }
    let mut idle = 0;
    for memory in &model.memories {
        model.strategy.visit_idle(&memory.extent, &mut |range| {
            assert!(is_aligned(range.cast(), PAGE_BYTES) && range.len() % PAGE_BYTES == 0);
            assert!(!range.is_empty() && memory.extent.contains(range.cast()));
            idle += range.len();
            // SAFETY: idle memory may be dropped, and then reads as zero.
            unsafe { range.cast::<u8>().write_bytes(0, range.len()) };
        });
    }
    assert!(idle > 100_000);
    model.strategy.verify();
    model.free_all(&mut random);
    model.remove_all();
}

#[test]
fn what_is_grown_takes_the_free_block_behind_and_shrinking_gives_it_back() {
    let mut model = Model::new(&[65_536]);
    let layout = |size| Layout::from_size_align(size, 8).expect("a layout");
    for _ in 0..4 {
        assert!(model.allocate(layout(1_000)));
    }
    let mut random = Random(3);
    // The second one's neighbour behind is freed: it grows into it, but not past the next.
    model.free(2, &mut random);
    model.resize(1, 2_048);
    assert!(model.live.iter().any(|live| live.length == 2_048));
    let grown = model.live.iter().position(|live| live.length == 2_048).expect("it grew");
    model.resize(grown, 2_049);
    assert!(model.live.iter().all(|live| live.length != 2_080));
    let grown = model.live.iter().position(|live| live.length == 2_048).expect("unchanged");
    model.resize(grown, 40);
    model.strategy.verify();
    // What it gave back is found again, at the same place.
    assert!(model.allocate(layout(1_984)));
    model.free_all(&mut random);
    model.remove_all();
}

#[test]
fn blocks_that_wait_are_joined_before_a_request_is_refused() {
    let mut model = Model::new(&[65_536]);
    let layout = |size, align| Layout::from_size_align(size, align).expect("a layout");
    let mut random = Random(5);
    for (wanted, align) in [(65_536, 8), (32_768, 32_768)] {
        while model.allocate(layout(64, 8)) {}
        while !model.live.is_empty() {
            model.free(0, &mut random);
        }
        assert!(!model.strategy.quick.is_empty());
        assert!(model.strategy.is_empty(&model.memories[0].extent));
        assert!(model.allocate(layout(wanted, align)));
        assert!(!model.strategy.is_empty(&model.memories[0].extent));
        model.free(0, &mut random);
    }
    model.remove_all();
}

#[test]
fn where_no_other_block_is_left_few_wait() {
    let mut model = Model::new(&[262_144]);
    let mut random = Random(6);
    let layout = |size| Layout::from_size_align(size, 8).expect("a layout");
    for (most_bytes, at_most) in [(992, 1), (96, usize::MAX)] {
        for size in (32..=most_bytes).step_by(32) {
            assert!(model.allocate(layout(size)) && model.allocate(layout(size)));
        }
        let count = model.live.len();
        while !model.live.is_empty() {
            model.free(0, &mut random);
        }
        let mut waiting = 0;
        model.strategy.quick.visit(|_, _, _| waiting += 1);
        assert!(waiting <= at_most && waiting != 0, "{waiting} wait");
        assert!(at_most < count || waiting >= count, "{waiting} of {count} wait");
        model.strategy.verify();
    }
    model.remove_all();
}

#[test]
fn the_context_and_a_chunks_metadata_stay_small() {
    assert!(size_of::<MultipleBinarySearchTree>() <= 928);
    assert!(MultipleBinarySearchTree::new(()).metadata_bytes(65_536) <= 320);
}
