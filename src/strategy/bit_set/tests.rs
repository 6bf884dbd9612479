//! `BitSet` on extents given by hand, every equation checked after each step.

use std::alloc::{alloc_zeroed, dealloc};

use super::*;
use crate::strategy::model::all_are;

/// An extent and its metadata, on memory of the test's own heap.
pub(super) struct Memory {
    pub(super) extent: Box<Extent>,
    layouts: [Layout; 2],
    live: usize,
}

impl Memory {
    pub(super) fn new(strategy: &BitSet, bytes: usize, is_zeroed: bool) -> Self {
        let layouts = [bytes, strategy.metadata_bytes(bytes)]
            .map(|size| Layout::from_size_align(size, BitSet::EXTENT_ALIGN).unwrap());
        let [start, metadata] = layouts.map(|layout| {
            // SAFETY: neither size is zero.
            NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap()
        });
        if !is_zeroed {
            // SAFETY: as long as was just allocated.
            unsafe { start.write_bytes(0xd1, bytes) };
        }
        // SAFETY: memory and metadata are as long; the tests add it before they use it.
        let extent = Box::new(unsafe { Extent::new(start, bytes, metadata, is_zeroed) });
        Self { extent, layouts, live: 0 }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with these layouts in `new`.
        unsafe {
            dealloc(self.extent.start().as_ptr(), self.layouts[0]);
            dealloc(self.extent.metadata().as_ptr(), self.layouts[1]);
        }
    }
}

fn random(seed: &mut u64, limit: usize) -> usize {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*seed >> 33) as usize % limit
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

struct Model {
    strategy: BitSet,
    extents: Vec<Memory>,
    blocks: Vec<(NonNull<u8>, Layout, usize)>,
}

impl Model {
    fn extent_of(&mut self, block: NonNull<u8>) -> &mut Memory {
        self.extents.iter_mut().find(|memory| memory.extent.contains(block)).unwrap()
    }

    fn allocate(&mut self, layout: Layout, zeroed: bool) {
        let cut = |strategy: &mut BitSet| match zeroed {
            true => strategy.allocate_zeroed(layout),
            false => strategy.allocate(layout),
        };
        let block = match cut(&mut self.strategy) {
            Some(block) => block,
            None => {
                let bytes = self.strategy.extent_bytes(layout).unwrap().max(20_000);
                let memory = Memory::new(&self.strategy, bytes.next_multiple_of(64), zeroed);
                // SAFETY: new memory, that lives until the extent is removed.
                unsafe { self.strategy.add_extent(&memory.extent) };
                self.extents.push(memory);
                cut(&mut self.strategy).expect("an extent of extent_bytes serves the layout")
            }
        };
        let start: NonNull<u8> = block.cast();
        assert_eq!(Ok(block.len()), self.strategy.block_length(layout));
        assert!(pointers::is_aligned(start, layout.align()));
        let memory = self.extent_of(start);
        assert!(
            pointers::distance(memory.extent.start(), start) + block.len()
                <= memory.extent.length()
        );
        memory.live += 1;
        for &(other, _, length) in &self.blocks {
            assert!(
                pointers::distance(other, start) >= length
                    && pointers::distance(start, other) >= block.len(),
                "blocks overlap"
            );
        }
        // SAFETY: just allocated.
        unsafe {
            assert!(!zeroed || all_are(block.as_ref(), 0));
            start.write_bytes(0xff, block.len());
        }
        self.blocks.push((start, layout, block.len()));
    }

    fn free(&mut self, index: usize) {
        let (block, layout, _) = self.blocks.swap_remove(index);
        let position =
            self.extents.iter().position(|memory| memory.extent.contains(block)).unwrap();
        let memory = &mut self.extents[position];
        memory.live -= 1;
        // SAFETY: allocated with that layout in that extent; an extent is removed without blocks.
        unsafe {
            self.strategy.deallocate(&memory.extent, block, layout);
            self.strategy.verify();
            if memory.live == 0 && position % 2 == 0 {
                self.strategy.remove_extent(&memory.extent);
                self.extents.swap_remove(position);
            }
        }
    }

    fn resize(&mut self, index: usize, size: usize) {
        let (block, old, length) = self.blocks[index];
        let new = layout(size, old.align());
        let memory = self.extents.iter().find(|memory| memory.extent.contains(block)).unwrap();
        // SAFETY: allocated with that layout in that extent.
        let resized = unsafe {
            if size >= old.size() {
                self.strategy.grow_in_place(&memory.extent, block, old, new)
            } else {
                self.strategy.shrink_in_place(&memory.extent, block, old, new)
            }
        };
        match resized {
            Some(resized) => {
                assert_eq!(Ok(resized), self.strategy.block_length(new));
                // SAFETY: the block is as long now.
                unsafe { block.write_bytes(0xff, resized) };
                self.blocks[index] = (block, new, resized);
            }
            None => assert!(size > length, "every block can shrink in place"),
        }
    }
}

#[test]
fn agrees_with_a_plain_model() {
    for block_bytes in [8, 32, 64, 1024] {
        let strategy = BitSet::new(Settings { block_bytes });
        let mut model = Model { strategy, extents: vec![], blocks: vec![] };
        let mut seed = block_bytes as u64;
        for step in 0..4000 {
            let target = if step / 500 % 2 == 0 { 150 } else { 10 };
            let size = 1 + random(&mut seed, [100, 100, 1000, 30_000][step % 4]);
            let align = 1 << random(&mut seed, if step % 9 == 0 { 14 } else { 6 });
            match random(&mut seed, 8) {
                0..=2 if model.blocks.len() < target => {
                    model.allocate(layout(size, align), step % 3 == 0);
                }
                3 if !model.blocks.is_empty() => {
                    let index = random(&mut seed, model.blocks.len());
                    model.resize(index, size);
                }
                _ if !model.blocks.is_empty() => {
                    let index = random(&mut seed, model.blocks.len());
                    model.free(index);
                }
                _ => {}
            }
            model.strategy.verify();
        }
        while !model.blocks.is_empty() {
            model.free(0);
        }
        for memory in &model.extents {
            // SAFETY: no block is left.
            unsafe { model.strategy.remove_extent(&memory.extent) };
        }
        model.strategy.verify();
        assert_eq!((model.strategy.occupied, model.strategy.current), (0, None));
    }
}

#[test]
fn settings_are_made_good() {
    for (asked, got) in [(0, 8), (8, 8), (9, 16), (32, 32), (33, 64), (usize::MAX, 1 << 30)] {
        assert_eq!(BitSet::new(Settings { block_bytes: asked }).block_bytes(), got, "{asked}");
    }
    assert_eq!(BitSet::new(Settings::default()).block_bytes(), 32);
}

#[test]
fn a_chunk_serves_a_request_of_a_chunk() {
    let strategy = BitSet::new(Settings::default());
    for align in [1, 8, 32, 64] {
        assert_eq!(strategy.extent_bytes(layout(65_536, align)), Some(65_536));
    }
    assert_eq!(strategy.extent_bytes(layout(65_536, 4096)), Some(65_536 + 4096 - 64));
}

#[test]
fn lengths_round_up_to_blocks_and_no_further() {
    let strategy = BitSet::new(Settings::default());
    for size in 1..10_000 {
        let length = strategy.block_length(layout(size, 8)).unwrap();
        assert_eq!(length, size.next_multiple_of(32));
        assert_eq!(strategy.block_length(layout(length, 8)), Ok(length));
    }
    let most = isize::MAX as usize;
    assert!(strategy.block_length(layout(most, 1)).is_err());
    assert_eq!(strategy.extent_bytes(layout(most, 1)), None);
}

#[test]
fn no_extent_is_asked_for_that_could_not_serve() {
    let strategy = BitSet::new(Settings::default());
    let most = runs::MAX_UNITS * UNIT;
    let length = most & !31;
    assert_eq!(strategy.extent_bytes(layout(length, 32)), Some(length));
    assert_eq!(strategy.extent_bytes(layout(length, 8192)), None);
    let (length, align) = ((32 << 30) - (1 << 20), 4 << 20);
    assert_eq!(strategy.extent_bytes(layout(length, align)), None);
}

#[test]
fn what_waits_is_joined_before_a_request_is_refused() {
    let mut strategy = BitSet::new(Settings::default());
    let memory = Memory::new(&strategy, 65_536, true);
    // SAFETY: the memory lives until the extent is removed below, and each block is freed once,
    // with the layout that it was allocated with.
    unsafe {
        strategy.add_extent(&memory.extent);
        for (wanted, align) in [(65_536, 8), (32_768, 32_768)] {
            let small = layout(64, 8);
            let blocks: Vec<_> = core::iter::from_fn(|| strategy.allocate(small)).collect();
            assert_eq!(blocks.len(), 1024);
            blocks
                .iter()
                .for_each(|block| strategy.deallocate(&memory.extent, block.cast(), small));
            assert!(!strategy.quick.is_empty());
            let large = layout(wanted, align);
            let block = strategy.allocate(large).expect("all of it is free");
            strategy.verify();
            strategy.deallocate(&memory.extent, block.cast(), large);
        }
        strategy.remove_extent(&memory.extent);
    }
}
