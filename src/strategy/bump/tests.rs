//! Random operations on counted extents, beside a list of what is allocated: blocks and bytes are
//! exact at every step, whichever way the pages were filled and emptied.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::*;
use crate::strategy::model::{Memory, Sequence, layout};
use crate::units::CHUNK_BYTES;

/// Mostly small, at times several pages, at times with a large alignment.
fn random_layout(sequence: &mut Sequence) -> Layout {
    let most = [24, 24, 100, 1024, 1024, 3000, 20_000][sequence.below(7)];
    let shift = if sequence.below(8) == 0 { sequence.below(13) } else { sequence.below(4) };
    layout(1 + sequence.below(most), 1 << shift)
}

struct Live {
    start: NonNull<u8>,
    layout: Layout,
    extent: usize,
}

struct Model {
    bump: Bump<true>,
    memories: Vec<Memory>,
    live: Vec<Live>,
}

impl Model {
    fn new() -> Self {
        let mut bump = Bump::new(());
        let memories: Vec<_> = (0..2).map(|_| Memory::new(&bump, CHUNK_BYTES)).collect();
        memories.iter().rev().for_each(|memory| memory.add_to(&mut bump));
        Self { bump, memories, live: Vec::new() }
    }

    fn allocate(&mut self, layout: Layout) {
        let bump = &mut self.bump;
        let is_small = layout.size() <= SMALL_BYTES && layout.align() <= 16;
        let start = bump
            .allocate_in_window(layout)
            .or_else(|| is_small.then(|| bump.allocate_in_next_page(layout)).flatten())
            .or_else(|| bump.allocate_past_window(layout));
        let Some(start) = start else { return };
        assert!(pointers::is_aligned(start, layout.align()));
        let holds = |memory: &Memory| memory.extent.contains(start);
        let extent = self.memories.iter().position(holds).expect("a block lies in an extent");
        // SAFETY: the block is allocated, at least as long as asked for.
        unsafe { start.write_bytes(0xa5, layout.size()) };
        self.live.push(Live { start, layout, extent });
    }

    /// Through the paths that a heap takes.
    fn free(&mut self, index: usize) {
        let Live { start, layout, extent } = self.live.swap_remove(index);
        let extent = &self.memories[extent].extent;
        // SAFETY: the block is allocated with this layout, in this extent.
        unsafe {
            if self.bump.ends_at_cursor(start, layout) && self.bump.take_back(start, layout) {
                self.bump.rewind_where_idle(extent, start);
            } else if layout.size() <= SMALL_BYTES && layout.align() <= 16 {
                self.bump.free_small(extent, start, layout);
            } else {
                self.bump.free(extent, start, layout);
            }
        }
    }

    fn resize(&mut self, index: usize, size: usize) {
        let Live { start, layout: old, extent } = self.live[index];
        let new = layout(size, old.align());
        let extent = &self.memories[extent].extent;
        // SAFETY: the block is allocated with the old layout, in this extent.
        let length = unsafe {
            if size > old.size() {
                self.bump.grow_in_place(extent, start, old, new)
            } else {
                self.bump.shrink_in_place(extent, start, old, new)
            }
        };
        if let Some(length) = length {
            assert_eq!(length, length_of(size));
            // SAFETY: the block is so long now.
            unsafe { start.write_bytes(0xa5, size) };
            self.live[index].layout = new;
        }
    }

    /// Another extent becomes the one that is cut up, if it holds nothing.
    fn change_extent(&mut self) {
        for index in 0..self.memories.len() {
            let extent = &self.memories[index].extent;
            if !self.bump.is_current(extent) && self.live.iter().all(|block| block.extent != index)
            {
                // SAFETY: no block of it is allocated, and it is valid until it is removed again.
                unsafe { self.bump.remove_extent(extent) };
                self.memories[index].add_to(&mut self.bump);
                return;
            }
        }
    }

    fn check(&mut self, is_put_back: bool) {
        self.bump.verify();
        for (index, memory) in self.memories.iter().enumerate() {
            let of_extent = || self.live.iter().filter(|block| block.extent == index);
            let bytes: usize = of_extent().map(|block| length_of(block.layout.size())).sum();
            assert_eq!(self.bump.used_bytes(&memory.extent), bytes);
            let base = memory.extent.start().addr().get();
            let touches = |block: &Live, page: usize| {
                let start = block.start.addr().get() - base;
                let end = start + block.layout.size();
                start < (page + 1) * PAGE_BYTES && page * PAGE_BYTES < end
            };
            let mut idle = [false; pages::PAGES];
            self.bump.visit_idle(&memory.extent, &mut |page| {
                idle[(page.cast::<u8>().addr().get() - base) / PAGE_BYTES] = true;
            });
            for (page, &is_idle) in idle.iter().enumerate() {
                assert_eq!(is_idle, !of_extent().any(|block| touches(block, page)), "page {page}");
            }
            if is_put_back {
                let blocks = of_extent().count();
                assert_eq!(self.bump.live_blocks(&memory.extent) as usize, blocks);
            }
        }
        let is_intact = |block: &Live| {
            // SAFETY: the block is allocated and was written.
            let bytes =
                unsafe { core::slice::from_raw_parts(block.start.as_ptr(), block.layout.size()) };
            bytes.iter().all(|&byte| byte == 0xa5)
        };
        assert!(self.live.iter().all(is_intact));
    }
}

#[test]
fn blocks_and_bytes_are_exact_at_every_step() {
    for seed in 0..40 {
        let (mut model, mut sequence) = (Model::new(), Sequence(seed));
        for _ in 0..400 {
            let (choice, blocks) = (sequence.below(20), model.live.len());
            match choice {
                0..10 => model.allocate(random_layout(&mut sequence)),
                10..15 if blocks != 0 => model.free(sequence.below(blocks)),
                15..17 if blocks != 0 => model.free(blocks - 1),
                17 if blocks != 0 => {
                    let most = [200, 9000][sequence.below(2)];
                    let size = 1 + sequence.below(most);
                    let index = [blocks - 1, sequence.below(blocks)][sequence.below(2)];
                    model.resize(index, size);
                }
                18 if sequence.below(4) == 0 => model.change_extent(),
                19 if sequence.below(20) == 0 => {
                    while let Some(last) = model.live.len().checked_sub(1) {
                        model.free(sequence.below(last + 1));
                    }
                }
                _ => {}
            }
            // Counting moves what is counted from the window to its page: not at every step.
            let is_put_back = sequence.below(7) == 0;
            model.check(is_put_back);
        }
    }
}

#[test]
fn an_extent_whose_last_block_is_taken_back_is_used_from_its_start() {
    let mut model = Model::new();
    let start = model.memories[0].extent.start();
    for _ in 0..300 {
        model.allocate(layout(64, 8));
    }
    while !model.live.is_empty() {
        let first = (0..model.live.len()).min_by_key(|&index| model.live[index].start);
        model.free(first.unwrap());
    }
    model.allocate(layout(64, 8));
    assert_eq!(model.live[0].start, start);
}
