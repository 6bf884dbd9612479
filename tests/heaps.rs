//! Heaps of every kind through the battery, in every way in which a program reaches them, with the
//! allocator really installed.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[macro_use]
#[expect(dead_code, reason = "here the heap and not the source tells how much is taken")]
mod battery;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use battery::{Limits, TestSource};
use heapswitch::source::region_map::CONTEXT_SOURCE;
use heapswitch::strategy::bit_set::{BitSet, Settings};
use heapswitch::strategy::buddy::Buddy;
use heapswitch::strategy::free_list::{self, Fit, FreeList};
use heapswitch::strategy::memory_map::MemoryMap;
use heapswitch::strategy::sites::{self, WithSites};
use heapswitch::strategy::slab::Slab;
use heapswitch::strategy::stripes::Stripes;
use heapswitch::{
    AllocError, Allocator, ArenaMemorySource, ArenaSettings, ArenaSizes,
    GlobalAllocToAllocatorAdaptor, Heap, HeapBuilder, HeapSwitch, LifetimeHint, MemoryRange,
    MemorySource, RegionMapSource, RegionSource, SiteSampling, flush_foreign_frees, usable_size,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// The battery's source over chunks of the region.
#[derive(Debug)]
struct InRegion(TestSource);

// SAFETY: each is used by the one thread whose heap it serves: others only free into a heap that is
// not closed, which goes to no source.
unsafe impl Sync for InRegion {}

// SAFETY: every method is that of the battery's source, which allocates nothing once it is on
// another.
unsafe impl MemorySource for InRegion {
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        self.0.take(request)
    }

    unsafe fn give_back(&self, range: MemoryRange) {
        // SAFETY: the caller's contract is the same.
        unsafe { self.0.give_back(range) }
    }

    fn granule(&self) -> usize {
        self.0.granule()
    }
}

// SAFETY: ranges are those of the region's own source.
unsafe impl RegionSource for InRegion {}

/// How a heap is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Through the trait, not entered.
    Apart,
    /// Through the trait, entered.
    Entered,
    /// Through the global allocator, entered; half of the frees when it was left again.
    Routed,
    /// Through the trait; half of the frees on another thread.
    Foreign,
}

type Freed = Option<(usize, Layout)>;

/// Frees what it is sent; `None` makes it flush and answer.
fn free_elsewhere(blocks: &Receiver<Freed>, flushed: &SyncSender<()>) {
    while let Ok(freed) = blocks.recv() {
        match freed {
            Some((address, layout)) => {
                let block = std::ptr::with_exposed_provenance_mut(address);
                // SAFETY: the block is allocated, and the sender uses it no more.
                unsafe { GLOBAL.dealloc(block, layout) };
            }
            None => {
                flush_foreign_frees();
                flushed.send(()).unwrap();
            }
        }
    }
}

struct Elsewhere {
    blocks: Option<SyncSender<Freed>>,
    flushed: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Elsewhere {
    fn new() -> Self {
        let (blocks, received) = sync_channel(256);
        let (answer, flushed) = sync_channel(1);
        let thread = std::thread::spawn(move || free_elsewhere(&received, &answer));
        Self { blocks: Some(blocks), flushed, thread: Some(thread) }
    }

    fn send(&self, freed: Freed) {
        self.blocks.as_ref().unwrap().send(freed).unwrap();
    }

    fn flush(&self) {
        self.send(None);
        self.flushed.recv().unwrap();
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.blocks = None;
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A heap that is checked after each step, as an allocator.
struct Tested {
    heap: Option<Heap>,
    way: Way,
    elsewhere: Option<Elsewhere>,
    steps: Cell<usize>,
    live_blocks: Cell<usize>,
}

impl Tested {
    fn new(source: TestSource, way: Way, build: impl FnOnce(HeapBuilder<'static>) -> Heap) -> Self {
        let source: &'static InRegion = Box::leak(Box::new(InRegion(source.on(&CONTEXT_SOURCE))));
        Self {
            heap: Some(build(Heap::builder().source(source))),
            way,
            elsewhere: (way == Way::Foreign).then(Elsewhere::new),
            steps: Cell::new(0),
            live_blocks: Cell::new(0),
        }
    }

    fn heap(&self) -> &Heap {
        self.heap.as_ref().unwrap()
    }

    /// Calls `act` with what allocates and frees.
    fn with<T>(&self, act: impl FnOnce(&dyn Allocator) -> T) -> T {
        match self.way {
            Way::Apart | Way::Foreign => act(&self.heap()),
            Way::Entered => self.heap().run(|| act(&self.heap())).unwrap(),
            Way::Routed => {
                self.heap().run(|| act(&GlobalAllocToAllocatorAdaptor::new(&GLOBAL))).unwrap()
            }
        }
    }

    /// Checks the heap after a step; of long runs, after some.
    fn check(&self, more_blocks: isize) {
        let steps = self.steps.replace(self.steps.get() + 1);
        let live_blocks = self.live_blocks.get().wrapping_add_signed(more_blocks);
        self.live_blocks.set(live_blocks);
        let checked_each = if cfg!(debug_assertions) { 300 } else { 600 };
        if steps > checked_each && !steps.is_multiple_of(509) {
            return;
        }
        self.heap().verify().unwrap();
        let usage = self.heap().memory_usage().unwrap();
        assert!(usage.allocated_bytes <= usage.committed_bytes);
        if matches!(self.way, Way::Apart | Way::Entered) {
            assert_eq!(usage.allocated_blocks, live_blocks);
        }
    }

    fn change(
        &self,
        old: Layout,
        new: Layout,
        act: impl FnOnce(&dyn Allocator) -> Result<NonNull<[u8]>, AllocError>,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let changed = self.with(act);
        let more = isize::from(new.size() != 0) - isize::from(old.size() != 0);
        self.check(if changed.is_ok() { more } else { 0 });
        changed
    }
}

const EMPTY: Layout = Layout::new::<()>();

// SAFETY: every method is that of the one heap, or of the global allocator, which frees by address.
unsafe impl Allocator for Tested {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.change(EMPTY, layout, |allocator| allocator.allocate(layout))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.change(EMPTY, layout, |allocator| allocator.allocate_zeroed(layout))
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        let is_other = self.steps.get().is_multiple_of(2) && layout.size() != 0;
        match &self.elsewhere {
            Some(elsewhere) if is_other => {
                elsewhere.send(Some((block.as_ptr().expose_provenance(), layout)));
            }
            // SAFETY: the caller's contract.
            None if is_other && self.way == Way::Routed => unsafe {
                GLOBAL.dealloc(block.as_ptr(), layout);
            },
            // SAFETY: the caller's contract.
            _ => self.with(|allocator| unsafe { allocator.deallocate(block, layout) }),
        }
        self.check(-isize::from(layout.size() != 0));
    }

    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract is the same.
        self.change(old, new, |allocator| unsafe { allocator.grow(block, old, new) })
    }

    unsafe fn grow_zeroed(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract is the same.
        self.change(old, new, |allocator| unsafe { allocator.grow_zeroed(block, old, new) })
    }

    unsafe fn shrink(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract is the same.
        self.change(old, new, |allocator| unsafe { allocator.shrink(block, old, new) })
    }
}

impl Drop for Tested {
    fn drop(&mut self) {
        let Some(heap) = self.heap.take() else { return };
        if std::thread::panicking() {
            return;
        }
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.flush();
        }
        flush_foreign_frees();
        heap.release_unused().unwrap();
        heap.verify().unwrap();
        let usage = heap.memory_usage().unwrap();
        assert_eq!(
            (usage.allocated_blocks, usage.allocated_bytes, usage.committed_bytes),
            (0, 0, 0)
        );
        let report = heap.close();
        assert_eq!((report.blocks, report.kept_bytes), (0, 0));
    }
}

fn hinted(source: TestSource, way: Way, hint: LifetimeHint) -> Tested {
    Tested::new(source, way, |builder| builder.hint(hint).build().unwrap())
}

fn bump(source: TestSource, way: Way) -> Tested {
    hinted(source, way, LifetimeHint::Short)
}

fn bits(source: TestSource, way: Way) -> Tested {
    hinted(source, way, LifetimeHint::Medium)
}

fn trees(source: TestSource, way: Way) -> Tested {
    hinted(source, way, LifetimeHint::Long)
}

fn slab(source: TestSource, way: Way) -> Tested {
    Tested::new(source, way, |builder| builder.build_kind::<Slab>(()).unwrap())
}

fn slab_unbatched(source: TestSource) -> Tested {
    Tested::new(source, Way::Foreign, |builder| builder.unbatched().build_kind::<Slab>(()).unwrap())
}

fn bits_of(source: TestSource, block_bytes: usize) -> Tested {
    let settings = Settings { block_bytes };
    Tested::new(source, Way::Entered, |builder| builder.build_kind::<BitSet>(settings).unwrap())
}

fn free_list(source: TestSource, way: Way, fit: Fit) -> Tested {
    let settings = free_list::Settings { fit };
    Tested::new(source, way, |builder| builder.build_kind::<FreeList>(settings).unwrap())
}

fn buddy(source: TestSource, way: Way) -> Tested {
    Tested::new(source, way, |builder| builder.build_kind::<Buddy>(()).unwrap())
}

fn stripes(source: TestSource, way: Way) -> Tested {
    Tested::new(source, way, |builder| builder.build_kind::<Stripes>(()).unwrap())
}

fn memory_map(source: TestSource, way: Way) -> Tested {
    let source = source.times(8);
    Tested::new(source, way, |builder| builder.build_kind::<MemoryMap>(()).unwrap())
}

/// A strategy of its own, that records where some blocks are asked for.
fn with_sites(source: TestSource) -> Tested {
    let settings = sites::Settings { strategy: (), sampling: SiteSampling::EveryNth(61) };
    Tested::new(source, Way::Foreign, |builder| {
        builder.build_kind::<WithSites<Slab>>(settings).unwrap()
    })
}

/// Where the heap has no more, the global allocator serves; what another thread frees comes late.
fn of_plenty() -> Limits {
    Limits { is_bounded: false, ..Limits::default() }
}

battery!(bump_apart, |source| bump(source, Way::Apart));
battery!(bump_entered, |source| bump(source, Way::Entered));
battery!(bump_routed, |source| bump(source, Way::Routed), of_plenty());
battery!(bump_foreign, |source| bump(source, Way::Foreign), of_plenty());

battery!(bits_apart, |source| bits(source, Way::Apart));
battery!(bits_entered, |source| bits(source, Way::Entered));
battery!(bits_routed, |source| bits(source, Way::Routed), of_plenty());
battery!(bits_foreign, |source| bits(source, Way::Foreign), of_plenty());

battery!(bits_of_8_entered, |source| bits_of(source, 8));
battery!(bits_of_4096_entered, |source| bits_of(source, 4096));

battery!(trees_apart, |source| trees(source, Way::Apart));
battery!(trees_entered, |source| trees(source, Way::Entered));
battery!(trees_routed, |source| trees(source, Way::Routed), of_plenty());
battery!(trees_foreign, |source| trees(source, Way::Foreign), of_plenty());

battery!(slab_apart, |source| slab(source, Way::Apart));
battery!(slab_entered, |source| slab(source, Way::Entered));
battery!(slab_routed, |source| slab(source, Way::Routed), of_plenty());
battery!(slab_foreign, |source| slab(source, Way::Foreign), of_plenty());
battery!(slab_unbatched, slab_unbatched, of_plenty());

// What a program has that switches nothing: the thread's own heap, and the global allocator.
battery!(thread_heap, |_| GlobalAllocToAllocatorAdaptor::new(&GLOBAL), of_plenty());

/// A heap over an arena of the region's chunks; the battery's own source serves nothing then.
fn in_an_arena(source: TestSource, hint: LifetimeHint) -> Tested {
    let sizes = ArenaSizes { block_bytes: 64 << 10, range_bytes: 1 << 20, maximum_bytes: 1 << 30 };
    let arena = ArenaMemorySource::new(CONTEXT_SOURCE, ArenaSettings::new(sizes).unwrap());
    let arena: &'static ArenaMemorySource<RegionMapSource> = Box::leak(Box::new(arena));
    Tested::new(source, Way::Entered, |_| Heap::builder().source(arena).hint(hint).build().unwrap())
}

/// A block of the arena is all that a request can have.
fn of_a_chunk() -> Limits {
    Limits { max_align: 64 << 10, max_size: 64 << 10, is_bounded: false }
}

battery!(bump_in_an_arena, |source| in_an_arena(source, LifetimeHint::Short), of_a_chunk());
battery!(bits_in_an_arena, |source| in_an_arena(source, LifetimeHint::Medium), of_a_chunk());
battery!(trees_in_an_arena, |source| in_an_arena(source, LifetimeHint::Long), of_a_chunk());

#[test]
fn a_heap_on_an_arena_gives_its_chunks_back_to_it() {
    let arena = ArenaMemorySource::new(CONTEXT_SOURCE, ArenaSettings::DEFAULT);
    let arena: &'static ArenaMemorySource<RegionMapSource> = Box::leak(Box::new(arena));
    let heap = Heap::builder().source(arena).build().unwrap();
    let texts = heap.run(|| (0..2000).map(|n| "t".repeat(n % 500)).collect::<Vec<_>>()).unwrap();
    assert!(heap.contains(texts[499].as_ptr()) && arena.held_bytes() >= 500_000);
    assert!(heap.close().blocks > 1000);
    assert_eq!(arena.release_unused(), 0, "the escapees' chunks are the arena's no more");
    drop(texts);
    flush_foreign_frees();
    arena.release_unused();
    assert_eq!(arena.held_bytes(), 0);
}
battery!(free_list_entered, |source| free_list(source, Way::Entered, Fit::First));
battery!(free_list_routed, |source| free_list(source, Way::Routed, Fit::Next), of_plenty());
battery!(free_list_foreign, |source| free_list(source, Way::Foreign, Fit::Best), of_plenty());

battery!(buddy_entered, |source| buddy(source, Way::Entered));
battery!(buddy_foreign, |source| buddy(source, Way::Foreign), of_plenty());

battery!(with_sites_foreign, with_sites, of_plenty());

battery!(stripes_entered, |source| stripes(source, Way::Entered));
battery!(stripes_foreign, |source| stripes(source, Way::Foreign), of_plenty());

battery!(memory_map_apart, |source| memory_map(source, Way::Apart));
battery!(memory_map_entered, |source| memory_map(source, Way::Entered));
battery!(memory_map_routed, |source| memory_map(source, Way::Routed), of_plenty());
battery!(memory_map_foreign, |source| memory_map(source, Way::Foreign), of_plenty());

/// Each block is a run of chunks, which goes back at once.
#[test]
fn a_memory_map_holds_its_blocks_and_nothing_else() {
    let heap = Heap::builder().build_kind::<MemoryMap>(()).unwrap();
    assert_eq!(heap.strategy(), "memory_map");
    let held = || heap.memory_usage().unwrap().committed_bytes;
    let small = heap.run(|| Box::new(7_u8)).unwrap();
    let address: *const u8 = &raw const *small;
    assert_eq!((address.addr() % (64 << 10), held()), (0, 64 << 10));
    // SAFETY: the block is allocated, of that layout.
    let usable = unsafe { usable_size(NonNull::from(&*small), Layout::new::<u8>()) };
    assert_eq!(usable, 64 << 10);
    let mut large = heap.run(|| vec![1_u8; 100_000]).unwrap();
    assert_eq!(held(), 192 << 10);
    heap.run(|| large.resize(10 << 20, 2)).unwrap();
    assert_eq!((held(), large[99_999], large[100_000]), (64 << 10 | 10 << 20, 1, 2));
    heap.run(|| drop(large)).unwrap();
    assert_eq!(held(), 64 << 10);
    let report = heap.close();
    assert_eq!((report.blocks, report.bytes, report.kept_bytes), (1, 64 << 10, 64 << 10));
    assert_eq!(*small, 7);
}

/// Of blocks that wait in a batch some hold the names of others, by their lengths. None is lost,
/// whatever comes after what, in batches of any length: not of those that are collected, nor of
/// those that still wait when the heap is closed, nor of those that are freed later.
#[test]
fn no_block_of_a_batch_is_lost() {
    const SIZES: [usize; 7] = [8, 4096, 16, 24, 100, 64, 40];
    let build: [fn(HeapBuilder<'static>) -> Heap; 5] = [
        |builder| builder.hint(LifetimeHint::Short).build().unwrap(),
        |builder| builder.hint(LifetimeHint::Medium).build().unwrap(),
        |builder| builder.hint(LifetimeHint::Long).build().unwrap(),
        |builder| builder.build_kind::<Slab>(()).unwrap(),
        |builder| builder.build_kind::<MemoryMap>(()).unwrap(),
    ];
    for (build, part) in
        build.iter().flat_map(|build| [1, 2, 8, 9, 31, 32, 33, 70].map(|n| (build, n)))
    {
        let arena = ArenaMemorySource::new(CONTEXT_SOURCE, ArenaSettings::DEFAULT);
        let arena: &'static ArenaMemorySource<RegionMapSource> = Box::leak(Box::new(arena));
        let heap = build(Heap::builder().source(arena));
        let allocated = |index: usize| {
            let layout = Layout::from_size_align(SIZES[(index + part) % SIZES.len()], 8).unwrap();
            let block = (&heap).allocate(layout).unwrap();
            (block.cast::<u8>().expose_provenance(), layout)
        };
        let blocks: Vec<_> = (0..3 * part).map(allocated).collect();
        let free = |part: &[(NonZeroUsize, Layout)]| {
            for &(address, layout) in part {
                // SAFETY: the block is allocated, and used no more.
                unsafe {
                    GLOBAL.dealloc(std::ptr::with_exposed_provenance_mut(address.get()), layout)
                };
            }
        };
        let (step, blocks) = (Barrier::new(2), &blocks);
        let (used, left) = std::thread::scope(|scope| {
            scope.spawn(|| {
                free(&blocks[..part]);
                flush_foreign_frees();
                step.wait();
                step.wait(); // They were counted.
                free(&blocks[part..2 * part]);
                step.wait();
                step.wait(); // The heap is closed.
                flush_foreign_frees();
                free(&blocks[2 * part..]);
            });
            step.wait();
            let used = heap.release_unused().and_then(|_| heap.memory_usage());
            step.wait();
            step.wait();
            let left = heap.close().blocks;
            step.wait();
            (used.unwrap().allocated_blocks, left)
        });
        assert_eq!(used, 2 * part);
        // What is long, or more than one batch, did not wait.
        assert!((part..=2 * part).contains(&left) && (part > 9 || left > part), "{left} of {part}");
        arena.release_unused();
        assert_eq!(arena.held_bytes(), 0, "{part}");
    }
}

/// What others free in an unbatched heap does not wait, whatever its strategy. A heap that takes
/// its place after a reset is unbatched, too.
#[test]
fn an_unbatched_heap_has_back_at_once_what_others_freed() {
    fn free_elsewhere<T>(blocks: Vec<Vec<u8>>, look: impl FnOnce() -> T) -> T {
        let step = Barrier::new(2);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                drop(blocks);
                step.wait();
                step.wait(); // They were counted.
            });
            step.wait();
            let seen = look();
            step.wait();
            thread.join().unwrap(); // Its batches are handed over.
            seen
        })
    }
    for is_unbatched in [true, false] {
        let builder = Heap::builder();
        let builder = if is_unbatched { builder.unbatched() } else { builder };
        let heaps = [
            builder.hint(LifetimeHint::Short).build().unwrap(),
            builder.hint(LifetimeHint::Long).build().unwrap(),
            builder.build_kind::<Slab>(()).unwrap(),
        ];
        for mut heap in heaps {
            let make = |heap: &Heap| heap.run(|| vec![vec![1; 64]; 5]).unwrap();
            let left = |heap: &Heap| {
                heap.run(|| ()).and_then(|()| heap.memory_usage()).unwrap().allocated_blocks
            };
            let (kept, freed) = (make(&heap), make(&heap));
            assert_eq!(left(&heap), 12);
            let expected = if is_unbatched { 6 } else { 12 };
            assert_eq!(free_elsewhere(freed, || left(&heap)), expected, "{}", heap.strategy());
            assert_eq!(heap.reset().unwrap().blocks, 6);
            let (freed, expected) = (make(&heap), if is_unbatched { 0 } else { 6 });
            assert_eq!(free_elsewhere(freed, || left(&heap)), expected, "{}", heap.strategy());
            free_elsewhere(kept, || ());
            heap.close();
        }
    }
}

#[test]
fn blocks_as_long_as_a_chunk() {
    let settings = Settings { block_bytes: 64 << 10 };
    let heap = Heap::builder().build_kind::<BitSet>(settings).unwrap();
    let layout = Layout::from_size_align(100, 4096).unwrap();
    let block = (&heap).allocate(layout).unwrap();
    assert_eq!((block.len(), heap.block_length(layout)), (64 << 10, Ok(64 << 10)));
    // SAFETY: allocated above.
    unsafe { (&heap).deallocate(block.cast(), layout) };
}

/// Blocks that no chunk has room for are refused, and take nothing.
#[test]
fn blocks_longer_than_a_chunk() {
    let settings = Settings { block_bytes: 128 << 10 };
    let heap = Heap::builder().build_kind::<BitSet>(settings).unwrap();
    let small = Layout::new::<u64>();
    for _ in 0..10 {
        assert!((&heap).allocate(small).is_err());
    }
    assert!(heap.block_length(small).is_err());
    assert_eq!(heap.memory_usage().unwrap().committed_bytes, 0);
    let text = heap.run(|| String::from("served by the global allocator")).unwrap();
    assert!(!heap.contains(text.as_ptr()));
}

/// All that a slab holds without a block, lists included, serves a large request.
#[test]
fn a_full_heap_gives_up_what_it_holds_in_lists() {
    let source = TestSource::new(1 << 20).on(&CONTEXT_SOURCE);
    let source: &'static InRegion = Box::leak(Box::new(InRegion(source)));
    let heap = Heap::builder().source(source).build_kind::<Slab>(()).unwrap();
    let layout = Layout::new::<[u8; 500]>();
    let blocks: Vec<_> = std::iter::from_fn(|| (&heap).allocate(layout).ok()).collect();
    for block in blocks {
        // SAFETY: allocated above.
        unsafe { (&heap).deallocate(block.cast(), layout) };
    }
    let large = Layout::new::<[u8; 1 << 20]>();
    let block = (&heap).allocate(large).unwrap();
    // SAFETY: allocated above.
    unsafe { (&heap).deallocate(block.cast(), large) };
}

/// Whether its runner is at work or not: of all classes together it keeps four runs without blocks.
#[test]
fn a_slab_keeps_four_runs_for_all_that_it_was_ever_asked_for() {
    let heap = Heap::builder().build_kind::<Slab>(()).unwrap();
    for _ in 0..3 {
        for size in (3..15).flat_map(|shift| (4..8).map(move |quarter| quarter << shift >> 2)) {
            let layout = Layout::from_size_align(size, 8).unwrap();
            let block = (&heap).allocate(layout).unwrap();
            // SAFETY: allocated above.
            unsafe { (&heap).deallocate(block.cast(), layout) };
        }
        // Counting puts back what waits in magazines, and tells what was held before that.
        assert_eq!(heap.memory_usage().unwrap().allocated_blocks, 0);
        assert!(heap.memory_usage().unwrap().committed_bytes <= 256 << 10);
    }
}
