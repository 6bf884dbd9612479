//! Blocks above 32 KiB are runs of chunks: they grow into the free chunks behind them, and shrink
//! by giving their last ones back, in a thread's heap and in a context's.
//!
//! One test, for where runs lie is the process's affair: another's would be in the way.
#![cfg(not(any(heapswitch_pass_through, heapswitch_asan, loom)))]

use std::alloc::{Layout, alloc, dealloc, realloc};
use std::hint::black_box;
use std::thread;

use heapswitch::CurrentAllocatorInUse::{self, CoroutineLocal, ThreadLocal};
use heapswitch::strategy::slab::Slab;
use heapswitch::{
    Heap, HeapSwitch, LifetimeHint, LimitPolicy, owner_of, process_usage, purge, thread_heap_id,
    usage_of,
};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

const CHUNK_BYTES: usize = 64 << 10;

/// A block with a number in each of its chunks, the first and the last byte.
struct Block {
    start: *mut u8,
    bytes: usize,
    seed: u8,
}

impl Block {
    fn new(bytes: usize, seed: u8) -> Self {
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc(Self::layout(bytes)) };
        assert!(!start.is_null());
        let mut block = Self { start, bytes, seed };
        block.fill();
        block
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, 8).unwrap()
    }

    fn marks(&self) -> impl Iterator<Item = usize> + use<> {
        let bytes = self.bytes;
        (0..bytes).step_by(CHUNK_BYTES / 2).chain([bytes - 1])
    }

    fn mark_at(&self, at: usize) -> u8 {
        self.seed.wrapping_add((at / (CHUNK_BYTES / 2)) as u8)
    }

    fn fill(&mut self) {
        for at in self.marks() {
            // SAFETY: the mark lies in the block.
            unsafe { self.start.add(at).write(self.mark_at(at)) };
        }
    }

    fn check(&self, at: usize) {
        // SAFETY: the mark lies in the block, and was written.
        let found = unsafe { black_box(self.start.add(at)).read() };
        assert_eq!(found, self.mark_at(at), "at {at} of {}", self.bytes);
    }

    fn check_all_but_the_end(&self, before: usize) {
        (0..before).step_by(CHUNK_BYTES / 2).for_each(|at| self.check(at));
    }

    /// Whether it stayed where it was.
    fn resize(&mut self, bytes: usize) -> bool {
        let kept = bytes.min(self.bytes);
        // SAFETY: the block is allocated with that layout, and the size not zero.
        let moved = unsafe { realloc(self.start, Self::layout(self.bytes), bytes) };
        assert!(!moved.is_null());
        let stayed = moved == self.start;
        (self.start, self.bytes) = (moved, bytes);
        // The end's mark stood where it ended.
        self.check_all_but_the_end(kept);
        self.fill();
        stayed
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.marks().for_each(|at| self.check(at));
        // SAFETY: the block is allocated with that layout.
        unsafe { dealloc(self.start, Self::layout(self.bytes)) };
    }
}

// SAFETY: the block is its holder's alone.
unsafe impl Send for Block {}

/// Shrinks and grows back, with what is counted and who owns what.
fn to_and_fro(allocator: CurrentAllocatorInUse) {
    let before = usage_of(allocator);
    let mut block = Block::new(64 * CHUNK_BYTES, 1);
    let (held, taken) = (usage_of(allocator), process_usage().region.taken_bytes);
    let runs = process_usage().region.runs_taken - process_usage().region.runs_returned;
    let owner = owner_of(block.start);
    assert!(owner.is_some() && (allocator == CoroutineLocal || owner == thread_heap_id()));
    for chunks in [63, 40, 17, 2, 1] {
        assert!(block.resize(chunks * CHUNK_BYTES), "a block moved to have {chunks} chunks");
        let (now, given) = (usage_of(allocator), (64 - chunks) * CHUNK_BYTES);
        assert_eq!(now.committed_bytes, held.committed_bytes - given);
        assert_eq!(now.allocated_bytes, held.allocated_bytes - given);
        assert_eq!(now.allocated_blocks, held.allocated_blocks);
        let region = process_usage().region;
        assert_eq!(region.taken_bytes, taken - given);
        assert_eq!(region.runs_taken - region.runs_returned, runs, "an end is no run");
        for chunk in 0..64 {
            let of_chunk = owner_of(block.start.wrapping_add(chunk * CHUNK_BYTES));
            assert_eq!(of_chunk, owner.filter(|_| chunk < chunks), "chunk {chunk} of {chunks}");
        }
        assert!(block.resize(64 * CHUNK_BYTES), "a block of {chunks} chunks moved to grow");
        assert_eq!(usage_of(allocator).committed_bytes, held.committed_bytes);
    }
    // What needs no run of its own moves, and so the run goes back whole.
    assert!(block.resize(40_000), "one chunk is one chunk");
    assert!(!block.resize(20_000));
    drop(block);
    assert_eq!(usage_of(allocator).allocated_bytes, before.allocated_bytes);
}

/// Another thread does not resize in a heap that it does not run.
fn by_another(mut block: Block) {
    thread::spawn(move || {
        let owner = owner_of(block.start);
        assert!(block.resize(block.bytes - 1), "of as many chunks");
        assert!(!block.resize(CHUNK_BYTES));
        assert_ne!(owner_of(block.start), owner);
    })
    .join()
    .unwrap();
}

/// What a block gives back, another may have under the same limit.
fn under_a_limit() {
    let heap = Heap::builder().limit(64 * CHUNK_BYTES).policy(LimitPolicy::Fail).build().unwrap();
    heap.run(|| {
        let mut first = Block::new(60 * CHUNK_BYTES, 3);
        // SAFETY: the layout is not empty.
        assert!(black_box(unsafe { alloc(Block::layout(50 * CHUNK_BYTES)) }).is_null());
        assert!(first.resize(10 * CHUNK_BYTES));
        let second = Block::new(50 * CHUNK_BYTES, 4);
        drop((first, second));
    })
    .unwrap();
    assert_eq!(heap.close().kept_bytes, 0);
}

/// Random lengths against what was written.
fn at_random(steps: usize) {
    let mut seed = 1_u64;
    let mut below = move |limit: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % limit
    };
    let mut blocks: Vec<Block> = Vec::new();
    let (mut shrunk, mut stayed) = (0, 0);
    for step in 0..steps {
        let bytes = 33_000 + below(20 * CHUNK_BYTES);
        if blocks.len() < 4 || below(3) == 0 && blocks.len() < 30 {
            blocks.push(Block::new(bytes, step as u8));
        } else {
            let mut block = blocks.swap_remove(below(blocks.len()));
            if below(4) != 0 {
                let is_shorter = bytes < block.bytes;
                let is_there = block.resize(bytes);
                assert!(is_there || !is_shorter, "a block moved to shrink");
                shrunk += usize::from(is_shorter);
                stayed += usize::from(is_there && !is_shorter);
                blocks.push(block);
            }
        }
    }
    assert!(shrunk > steps / 8 && stayed > 0, "{shrunk} {stayed}");
}

/// A slab's heap keeps a few chunks, for blocks of one as for those it cuts up: a buffer that comes
/// and goes takes no lock that threads share.
fn what_is_one_chunk_waits() {
    purge();
    let taken = || process_usage().region.runs_taken;
    let before = taken();
    for seed in 0..100 {
        let (first, second) = (Block::new(40 << 10, seed), Block::new(CHUNK_BYTES, seed));
        assert_eq!(owner_of(first.start), thread_heap_id());
        drop((first, second));
    }
    assert!(taken() - before <= 2, "{} runs were taken for the same two", taken() - before);
    // Zeroed where it is asked for, whatever it held.
    let zeroed = vec![0_u8; 40 << 10];
    assert!(black_box(&zeroed).iter().all(|&byte| byte == 0));
    // No more than 256 KiB, and not for ever.
    let many: Vec<Block> = (0..20).map(|seed| Block::new(CHUNK_BYTES, seed)).collect();
    let region = || process_usage().region;
    let held = region().taken_bytes;
    drop(many);
    assert!(region().taken_bytes + 16 * CHUNK_BYTES <= held);
    purge();
    assert!(region().taken_bytes + 19 * CHUNK_BYTES <= held);
}

#[test]
fn they_grow_and_shrink_where_they_stand() {
    let made = || -> [Heap; 3] {
        let hinted = |hint| Heap::with_hint(hint).unwrap();
        let slab = Heap::builder().build_kind::<Slab>(()).unwrap();
        [hinted(LifetimeHint::Short), hinted(LifetimeHint::Long), slab]
    };
    to_and_fro(ThreadLocal);
    at_random(2000);
    by_another(Block::new(30 * CHUNK_BYTES, 2));
    for heap in made() {
        heap.run(|| to_and_fro(CoroutineLocal)).unwrap();
        heap.run(|| at_random(2000)).unwrap();
        by_another(heap.run(|| Block::new(30 * CHUNK_BYTES, 2)).unwrap());
        heap.verify().unwrap();
        assert_eq!(heap.close().kept_bytes, 0);
    }
    under_a_limit();
    what_is_one_chunk_waits();
    purge();
}
