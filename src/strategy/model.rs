//! Random operations on a strategy with extents given by hand, every equation checked after each
//! step; for each strategy's own tests.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use super::{Extent, Strategy};
use crate::pointers::{distance, is_aligned};

/// An extent and its metadata, on memory of the test's own heap.
pub(super) struct Memory {
    pub(super) extent: Box<Extent>,
    metadata: NonNull<u8>,
    layouts: [Layout; 2],
    live: usize,
}

impl Memory {
    pub(super) fn new<S: Strategy>(strategy: &S, bytes: usize) -> Self {
        let metadata_bytes = strategy.metadata_bytes(bytes).max(16);
        let layouts = [(bytes, S::EXTENT_ALIGN), (metadata_bytes, 16)]
            .map(|(size, align)| Layout::from_size_align(size, align).unwrap());
        let [start, metadata] = layouts.map(|layout| {
            // SAFETY: neither size is zero.
            NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap()
        });
        // SAFETY: as long as was just allocated; a strategy must not depend on what was there.
        unsafe { start.write_bytes(0xd1, bytes) };
        // SAFETY: the range and its metadata were allocated above, and live as long as the model.
        let extent = Box::new(unsafe { Extent::new(start, bytes, metadata, false) });
        Self { extent, metadata, layouts, live: 0 }
    }

    pub(super) fn add_to<S: Strategy>(&self, strategy: &mut S) {
        // SAFETY: the extent is boxed and its metadata as long as asked; that and the words are
        // cleared first.
        unsafe {
            self.metadata.write_bytes(0, self.layouts[1].size());
            self.extent.words.iter().for_each(|word| word.set(0));
            strategy.add_extent(&self.extent);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with these layouts in `new`.
        unsafe {
            dealloc(self.extent.start().as_ptr(), self.layouts[0]);
            dealloc(self.metadata.as_ptr(), self.layouts[1]);
        }
    }
}

pub(super) fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// A sequence that is the same on every run.
pub(super) struct Sequence(pub(super) u64);

impl Sequence {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }

    fn layout(&mut self) -> Layout {
        let scale = [40, 40, 300, 300, 3000, 20_000][self.below(6)];
        let shift = if self.below(10) == 0 { self.below(11) } else { self.below(5) };
        layout(1 + self.below(scale), 1 << shift)
    }
}

struct Live {
    start: NonNull<u8>,
    length: usize,
    layout: Layout,
    fill: u8,
}

/// Whether all bytes have that value: the first, and each that of the one before it. The slices are
/// compared: an iterator is a hundred times as slow unoptimized.
pub(super) fn all_are(bytes: &[u8], value: u8) -> bool {
    let Some((first, rest)) = bytes.split_first() else { return true };
    *first == value && *rest == bytes[..rest.len()]
}

impl Live {
    fn fill(&self) {
        // SAFETY: the block is allocated, and so long.
        unsafe { self.start.write_bytes(self.fill, self.length) };
    }

    fn check(&self, length: usize) {
        // SAFETY: the block is allocated, and was filled.
        let bytes = unsafe { NonNull::slice_from_raw_parts(self.start, length).as_ref() };
        assert!(all_are(bytes, self.fill), "{:?} was changed", self.layout);
    }
}

struct Model<S: Strategy> {
    strategy: S,
    extents: Vec<Memory>,
    live: Vec<Live>,
    sequence: Sequence,
    fills: u8,
}

impl<S: Strategy> Model<S> {
    fn extent_of(&mut self, block: NonNull<u8>) -> &mut Memory {
        self.extents.iter_mut().find(|memory| memory.extent.contains(block)).unwrap()
    }

    fn track(&mut self, start: NonNull<u8>, length: usize, layout: Layout) {
        assert!(length >= layout.size() && is_aligned(start, layout.align()));
        assert_eq!(self.strategy.block_length(layout), Ok(length));
        assert_eq!(self.strategy.length_of_block(layout), length);
        let extent = &self.extent_of(start).extent;
        assert!(distance(extent.start(), start) + length <= extent.length());
        for other in &self.live {
            let (from, to) = (start.addr().get(), other.start.addr().get());
            assert!(from + length <= to || to + other.length <= from, "blocks overlap");
        }
        self.fills = self.fills.wrapping_add(1);
        let live = Live { start, length, layout, fill: self.fills };
        live.fill();
        self.live.push(live);
    }

    fn allocate(&mut self) {
        let layout = self.sequence.layout();
        if let Some(block) = self.strategy.allocate(layout) {
            self.extent_of(block.cast()).live += 1;
            self.track(block.cast(), block.len(), layout);
            return;
        }
        // What is added for a request serves it.
        let bytes = self.strategy.extent_bytes(layout).unwrap().next_multiple_of(4096);
        if self.extents.iter().map(|memory| memory.extent.length()).sum::<usize>() < 400_000 {
            let memory = Memory::new(&self.strategy, bytes);
            memory.add_to(&mut self.strategy);
            self.extents.push(memory);
            let block = self.strategy.allocate(layout).expect("a new extent serves the request");
            self.extent_of(block.cast()).live += 1;
            self.track(block.cast(), block.len(), layout);
        }
    }

    fn free(&mut self) {
        let Some(index) = self.sequence.below(1 << 20).checked_rem(self.live.len()) else { return };
        let live = self.live.swap_remove(index);
        live.check(live.length);
        let memory = self.extent_of(live.start);
        memory.live -= 1;
        let by_length = layout(live.length, live.layout.align());
        let extent: *const Extent = &raw const *memory.extent;
        let is_last = memory.live == 0;
        // SAFETY: the block is allocated in the extent, which is boxed.
        unsafe { self.strategy.deallocate(&*extent, live.start, by_length) };
        if is_last && self.sequence.below(3) == 0 {
            self.remove(extent);
        }
    }

    /// Removes an extent without blocks, and half of the times adds it again.
    fn remove(&mut self, extent: *const Extent) {
        // SAFETY: nothing is allocated in it.
        unsafe { self.strategy.remove_extent(&*extent) };
        let index = self.extents.iter().position(|memory| &raw const *memory.extent == extent);
        let memory = self.extents.swap_remove(index.unwrap());
        if self.sequence.below(2) == 0 {
            memory.add_to(&mut self.strategy);
            self.extents.push(memory);
        }
    }

    fn resize(&mut self) {
        let Some(index) = self.sequence.below(1 << 20).checked_rem(self.live.len()) else { return };
        let new_size = self.sequence.layout().size();
        let (other_align, keeps_align) =
            (1 << self.sequence.below(13), self.sequence.below(2) == 0);
        let live = &self.live[index];
        let (start, old) = (live.start, live.layout);
        // As owners do: only where the address is aligned already, and the lengths differ.
        let new = layout(new_size, if keeps_align { old.align() } else { other_align });
        if !is_aligned(start, new.align()) {
            return;
        }
        if self.strategy.block_length(new) == Ok(live.length) {
            return;
        }
        let kept = live.length.min(new_size);
        let extent: *const Extent = &raw const *self.extent_of(start).extent;
        // SAFETY: the block is allocated in the extent with that layout.
        let length = unsafe {
            if new_size >= old.size() {
                self.strategy.grow_in_place(&*extent, start, old, new)
            } else {
                self.strategy.shrink_in_place(&*extent, start, old, new)
            }
        };
        if let Some(length) = length {
            let live = self.live.swap_remove(index);
            live.check(kept.min(length));
            self.track(start, length, new);
        }
    }

    /// Overwrites what is said to be idle.
    fn drop_idle(&mut self) {
        for memory in &self.extents {
            self.strategy.visit_idle(&memory.extent, &mut |mut idle| {
                // SAFETY: idle ranges may be lost.
                unsafe { idle.as_mut() }.fill(0);
            });
        }
    }

    /// What is visited at the end is outside every block.
    fn close(mut self) {
        let mut strategy = self.strategy;
        let mut visited = 0;
        for memory in &self.extents {
            strategy.visit_unallocated(&memory.extent, &mut |mut range| {
                visited += range.len();
                // SAFETY: the strategy is used no more.
                unsafe { range.as_mut() }.fill(0);
            });
        }
        self.live.drain(..).for_each(|live| live.check(live.length));
        assert!(visited > 0);
    }
}

/// Random operations; the number of live blocks rises and falls.
pub(super) fn run<S: Strategy>(settings: S::Settings, extents: &[usize]) {
    let strategy = S::new(settings);
    let (sequence, live) = (Sequence(2026), vec![]);
    let mut model = Model { strategy, extents: vec![], live, sequence, fills: 0 };
    for &bytes in extents {
        let memory = Memory::new(&model.strategy, bytes);
        memory.add_to(&mut model.strategy);
        model.extents.push(memory);
    }
    for step in 0..3000 {
        let target = [20, 200, 3, 500][step / 300 % 4];
        match model.sequence.below(16) {
            0 | 1 => model.resize(),
            2 if step % 5 == 0 => model.drop_idle(),
            kind if (kind < 11) == (model.live.len() < target) => model.allocate(),
            _ => model.free(),
        }
        if step % 7 == 0 || step < 400 {
            model.strategy.verify();
        }
    }
    model.close();
}
