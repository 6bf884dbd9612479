//! The battery over the sources that programs use, and over the allocators that need none.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[macro_use]
#[expect(dead_code, reason = "nothing here needs ranges of a region, or counts bytes")]
mod battery;

use std::alloc::{Layout, System};
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use battery::{Limits, TestSource};
use heapswitch::{
    AllocError, ArenaMemorySource, ArenaSettings, ArenaSizes, BitSetAllocator, BorrowedSliceSource,
    BuddyAllocator, BumpAllocator, ContextAllocator, FileMemorySource, FileSettings,
    FreeListAllocator, GlobalAllocToAllocatorAdaptor, LifetimeHint, LocalAllocator, Locked,
    MemoryMapAllocator, MemoryMapSource, MemoryRange, MemorySource,
    MultipleBinarySearchTreeAllocator, SlabAllocator, StripeAllocator,
};

/// These take nothing of the battery's own source.
fn of_plenty() -> Limits {
    Limits { is_bounded: false, ..Limits::default() }
}

fn of_slab() -> Limits {
    Limits { max_align: 32 << 10, max_size: 32 << 10, is_bounded: false }
}

/// With what alignment and records take, this fits in a block of 2 MiB.
fn of_arena() -> Limits {
    Limits { max_align: 64 << 10, max_size: 1 << 20, is_bounded: false }
}

fn maps(_: TestSource) -> MemoryMapSource {
    MemoryMapSource::new()
}

fn arena(_: TestSource) -> ArenaMemorySource<MemoryMapSource> {
    let sizes = ArenaSizes { block_bytes: 2 << 20, range_bytes: 8 << 20, maximum_bytes: 4 << 30 };
    ArenaMemorySource::new(MemoryMapSource::new(), ArenaSettings::new(sizes).unwrap())
}

/// A file that has no name any more, so that it goes with its source.
fn file_with(is_sparse: bool) -> FileMemorySource {
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let name = format!("heapswitch-battery-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let settings = FileSettings { is_sparse, ..FileSettings::default() };
    // SAFETY: nobody else knows the file.
    let source = unsafe { FileMemorySource::open(&path, settings) };
    std::fs::remove_file(&path).unwrap();
    source.unwrap()
}

fn file(_: TestSource) -> FileMemorySource {
    file_with(false)
}

fn sparse_file(_: TestSource) -> FileMemorySource {
    file_with(true)
}

/// A slice with the source that borrows it, so that a constructor can return both.
struct SliceSource {
    source: BorrowedSliceSource<'static>,
    memory: NonNull<[MaybeUninit<u8>]>,
}

fn slice_of(bytes: usize) -> SliceSource {
    let memory: &'static mut [MaybeUninit<u8>] = Box::leak(Box::new_uninit_slice(bytes));
    let pointer = NonNull::from(&mut *memory);
    // SAFETY: the slice is used through the source alone until both are dropped.
    let source = BorrowedSliceSource::new(unsafe { &mut *pointer.as_ptr() });
    SliceSource { source, memory: pointer }
}

fn slice(_: TestSource) -> SliceSource {
    slice_of(192 << 20)
}

impl Drop for SliceSource {
    fn drop(&mut self) {
        assert_eq!(self.source.free_bytes(), self.source.usable_bytes(), "ranges are missing");
        // SAFETY: leaked in `slice_of`; no range is taken, and the source has no destructor.
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}

// SAFETY: every method is the borrowed source's, whose slice lives as long.
unsafe impl MemorySource for SliceSource {
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        self.source.take(request)
    }

    unsafe fn give_back(&self, range: MemoryRange) {
        // SAFETY: the caller's contract is the same.
        unsafe { self.source.give_back(range) }
    }

    fn granule(&self) -> usize {
        self.source.granule()
    }
}

battery!(bump_on_maps, |source| BumpAllocator::new(maps(source)), of_plenty());
battery!(bump_in_an_arena, |source| BumpAllocator::new(arena(source)), of_arena());
battery!(bump_in_a_slice, |source| BumpAllocator::new(slice(source)), of_plenty());
battery!(bump_in_a_file, |source| BumpAllocator::new(sparse_file(source)), of_plenty());

battery!(bits_on_maps, |source| BitSetAllocator::new(maps(source)), of_plenty());
battery!(bits_in_an_arena, |source| BitSetAllocator::new(arena(source)), of_arena());
battery!(bits_in_a_slice, |source| BitSetAllocator::new(slice(source)), of_plenty());
battery!(bits_in_a_file, |source| BitSetAllocator::new(file(source)), of_plenty());

fn trees<M: MemorySource>(source: M) -> MultipleBinarySearchTreeAllocator<M> {
    MultipleBinarySearchTreeAllocator::new(source)
}

battery!(trees_on_maps, |source| trees(maps(source)), of_plenty());
battery!(trees_in_an_arena, |source| trees(arena(source)), of_arena());
battery!(trees_in_a_slice, |source| trees(slice(source)), of_plenty());
battery!(trees_in_a_file, |source| trees(file(source)), of_plenty());

battery!(slab_on_maps, |source| SlabAllocator::new(maps(source)), of_slab());
battery!(slab_in_an_arena, |source| SlabAllocator::new(arena(source)), of_slab());
battery!(slab_in_a_slice, |source| SlabAllocator::new(slice(source)), of_slab());
battery!(slab_in_a_file, |source| SlabAllocator::new(sparse_file(source)), of_slab());

battery!(free_list_on_maps, |source| FreeListAllocator::new(maps(source)), of_plenty());
battery!(free_list_in_an_arena, |source| FreeListAllocator::new(arena(source)), of_arena());
battery!(free_list_in_a_slice, |source| FreeListAllocator::new(slice(source)), of_plenty());
battery!(free_list_in_a_file, |source| FreeListAllocator::new(file(source)), of_plenty());

battery!(buddy_on_maps, |source| BuddyAllocator::new(maps(source)), of_plenty());
battery!(buddy_in_an_arena, |source| BuddyAllocator::new(arena(source)), of_arena());
battery!(buddy_in_a_slice, |source| BuddyAllocator::new(slice(source)), of_plenty());
battery!(buddy_in_a_file, |source| BuddyAllocator::new(sparse_file(source)), of_plenty());

battery!(stripes_on_maps, |source| StripeAllocator::new(maps(source)), of_plenty());
battery!(stripes_in_an_arena, |source| StripeAllocator::new(arena(source)), of_arena());
battery!(stripes_in_a_slice, |source| StripeAllocator::new(slice(source)), of_plenty());
battery!(stripes_in_a_file, |source| StripeAllocator::new(file(source)), of_plenty());

battery!(
    context_in_a_slice,
    |source| ContextAllocator::new(LifetimeHint::Medium, slice(source)),
    of_plenty()
);
battery!(
    locked_context_on_maps,
    |source| Locked::new(ContextAllocator::new(LifetimeHint::Long, maps(source))),
    of_plenty()
);

// Every range is a block of 64 KiB.
battery!(
    trees_in_an_arena_of_chunks,
    |source| trees(ArenaMemorySource::new(maps(source), ArenaSettings::DEFAULT)),
    Limits { max_align: 4096, max_size: 48 << 10, is_bounded: false }
);

battery!(mappings, |_| MemoryMapAllocator::new(), of_plenty());
battery!(locked_mappings, |_| Locked::new(MemoryMapAllocator::new()), of_plenty());
battery!(system, |_| GlobalAllocToAllocatorAdaptor::new(&System), of_plenty());

/// A memory map that tells what it gave last, and how many ranges are out.
#[derive(Default)]
struct Watched {
    source: MemoryMapSource,
    last: Cell<Option<(usize, usize)>>,
    ranges: Cell<usize>,
}

// SAFETY: both are the memory map's.
unsafe impl MemorySource for Watched {
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        let range = self.source.take(request)?;
        self.last.set(Some((range.start.addr().get(), range.length)));
        self.ranges.set(self.ranges.get() + 1);
        Ok(range)
    }

    unsafe fn give_back(&self, range: MemoryRange) {
        self.ranges.set(self.ranges.get() - 1);
        // SAFETY: the caller's contract is the same.
        unsafe { self.source.give_back(range) }
    }

    fn granule(&self) -> usize {
        self.source.granule()
    }
}

/// A free list's large request is a mapping of its own, which goes when it is freed.
#[test]
fn large_requests_go_straight_to_the_memory_map() {
    let allocator = FreeListAllocator::new(Watched::default());
    let source = allocator.source();
    let small = battery::allocate(&allocator, battery::layout(100, 8), 1);
    let before = allocator.memory_usage().committed_bytes;
    for size in [200 << 10, 3 << 20, (64 << 20) + 1] {
        let large = battery::allocate(&allocator, battery::layout(size, 8), 2);
        let (start, length) = source.last.take().expect("a range for it");
        assert_eq!(start, large.start().addr().get(), "the block is where the mapping begins");
        // The block and its record, in whole granules.
        assert!((size..size + 1024 + source.granule()).contains(&length), "{length} for {size}");
        assert_eq!(source.ranges.get(), 2);
        large.free(&allocator, false);
        assert_eq!(source.ranges.get(), 1, "{size} went back at once");
        assert_eq!(allocator.memory_usage().committed_bytes, before);
    }
    small.free(&allocator, false);
}

/// Blocks of 992 bytes until the slice is full; of two that touch the one behind is freed, and
/// waits for its length: the other grows into it.
fn grows_into_what_waits(allocator: &impl LocalAllocator) {
    let (layout, twice) = (battery::layout(992, 8), battery::layout(1984, 8));
    let allocate = || allocator.allocate(layout).ok();
    let mut blocks: Vec<NonNull<u8>> = std::iter::from_fn(allocate).map(NonNull::cast).collect();
    blocks.sort();
    let touch = |pair: &[NonNull<u8>]| pair[1].addr().get() - pair[0].addr().get() == 992;
    let first = blocks.windows(2).rposition(touch).expect("there are two that touch");
    let behind = blocks.remove(first + 1);
    // SAFETY: each block is allocated with its layout, and freed once.
    unsafe {
        allocator.deallocate(behind, layout);
        let grown = allocator.grow(blocks[first], layout, twice).expect("there is room behind it");
        assert_eq!(grown.cast(), blocks[first], "nowhere else is any");
        allocator.deallocate(blocks.remove(first), twice);
        blocks.into_iter().for_each(|block| allocator.deallocate(block, layout));
    }
}

#[test]
fn a_block_grows_into_one_that_waits_where_nothing_else_is_left() {
    grows_into_what_waits(&BitSetAllocator::new(slice_of(64 << 10)));
    grows_into_what_waits(&FreeListAllocator::new(slice_of(64 << 10)));
    grows_into_what_waits(&MultipleBinarySearchTreeAllocator::new(slice_of(64 << 10)));
}
