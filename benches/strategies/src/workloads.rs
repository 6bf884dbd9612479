//! What is timed, after each peer's published benchmark.

use std::alloc::Layout;
use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::peers::Peer;

/// A sequence that is the same for every peer and round.
pub(crate) struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Self::of(0)
    }

    /// One sequence for each number.
    fn of(number: u64) -> Self {
        Self(0x2545_F491_4F6C_DD1D_u64.wrapping_mul(2 * number + 1))
    }

    #[inline]
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * limit as u128) >> 64) as usize
    }
}

pub fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a layout")
}

/// That the block is the peer's: nothing else may have served it.
#[inline]
pub(crate) fn served(block: *mut u8, addresses: &Range<usize>) -> *mut u8 {
    if !addresses.contains(&block.addr()) {
        another_served(block);
    }
    // SAFETY: the block is allocated, at least a byte long.
    unsafe { block.write(1) };
    block
}

/// By value, and so apart: what a message shows by reference is stored for it before the check.
#[cold]
fn another_served(block: *mut u8) -> ! {
    panic!("another allocator served: {block:?}")
}

/// Blocks and their sizes, in two lists. A pair would be written in two pieces and read in one,
/// for which a processor waits until all earlier writes are done, the allocator's too: that was
/// three tenths of the time of trees with blocks of up to 100,000 bytes.
struct Live {
    blocks: Vec<*mut u8>,
    sizes: Vec<usize>,
}

impl Live {
    fn push(&mut self, block: *mut u8, size: usize) {
        self.blocks.push(block);
        self.sizes.push(size);
    }

    fn swap_remove(&mut self, index: usize) -> (*mut u8, Layout) {
        (self.blocks.swap_remove(index), layout(self.sizes.swap_remove(index)))
    }
}

/// Random actions with all sizes alike: allocates, frees, or resizes a random block, at most 300
/// live.
#[inline(never)] // So that an allocator is compiled alike wherever its memory comes from.
pub fn random_actions(
    peer: &impl Peer,
    addresses: &Range<usize>,
    most_bytes: usize,
    with_resize: bool,
    sequence: u64,
) -> Duration {
    const ACTIONS: usize = 200_000;
    const MOST: usize = 300;
    let mut random = Random::of(sequence);
    let mut live = Live { blocks: Vec::with_capacity(MOST), sizes: Vec::with_capacity(MOST) };
    let start = Instant::now();
    for _ in 0..ACTIONS {
        let kind = random.below(if with_resize { 10 } else { 8 });
        let size = 1 + random.below(most_bytes);
        let count = live.blocks.len();
        // SAFETY: every block in the list is allocated with its size.
        unsafe {
            if count == 0 || (kind < 4 && count < MOST) {
                live.push(served(peer.allocate(layout(size)), addresses), size);
            } else if kind < 8 {
                let (block, layout) = live.swap_remove(random.below(count));
                peer.free(block, layout);
            } else {
                let index = random.below(count);
                let (block, old) = (live.blocks[index], layout(live.sizes[index]));
                live.blocks[index] = served(peer.resize(block, old, size), addresses);
                live.sizes[index] = size;
            }
        }
    }
    let taken = start.elapsed();
    while !live.blocks.is_empty() {
        let (block, layout) = live.swap_remove(0);
        // SAFETY: as above.
        unsafe { peer.free(block, layout) };
    }
    taken
}

/// How much of the buffer is in live blocks when a request is refused, on
/// average over many refusals, each of which frees a random block.
pub fn efficiency(peer: &impl Peer, addresses: &Range<usize>, most_bytes: usize) -> f64 {
    const REFUSALS: usize = 3000;
    let mut random = Random::new();
    let mut live: Vec<(*mut u8, Layout)> = Vec::new();
    let (mut live_bytes, mut sum, mut refusals) = (0, 0.0, 0);
    while refusals < REFUSALS {
        let layout = layout(1 + random.below(most_bytes));
        let block = peer.allocate(layout);
        if !block.is_null() {
            live.push((served(block, addresses), layout));
            live_bytes += layout.size();
            continue;
        }
        refusals += 1;
        sum += live_bytes as f64 / addresses.len() as f64;
        let (block, layout) = live.swap_remove(random.below(live.len()));
        live_bytes -= layout.size();
        // SAFETY: the block is allocated with its layout.
        unsafe { peer.free(block, layout) };
    }
    for (block, layout) in live {
        // SAFETY: as above.
        unsafe { peer.free(block, layout) };
    }
    sum / REFUSALS as f64
}

/// buddy's pairs: allocates and frees at once.
pub fn pairs(peer: &impl Peer, addresses: &Range<usize>, bytes: usize) -> Duration {
    let layout = black_box(layout(bytes));
    let start = Instant::now();
    for _ in 0..1_000_000 {
        let block = served(peer.allocate(layout), addresses);
        // SAFETY: just allocated.
        unsafe { peer.free(black_box(block), layout) };
    }
    start.elapsed()
}

/// Blocks of powers of two: 20,000 are allocated, freed in random order, and so again.
pub fn powers(peer: &impl Peer, addresses: &Range<usize>) -> Duration {
    let mut random = Random::new();
    let mut live = Vec::with_capacity(20_000);
    let start = Instant::now();
    for _ in 0..4 {
        for _ in 0..20_000 {
            let layout = layout(32 << random.below(8));
            live.push((served(peer.allocate(layout), addresses), layout));
        }
        while !live.is_empty() {
            let (block, layout) = live.swap_remove(random.below(live.len()));
            // SAFETY: the block is allocated with its layout.
            unsafe { peer.free(block, layout) };
        }
    }
    start.elapsed()
}

/// Scopes within scopes, each with 20 blocks of its own that are freed at its end, the last first;
/// every tenth block lives on for a while: the way in which parsers and interpreters allocate.
pub fn nested(peer: &impl Peer, addresses: &Range<usize>) -> Duration {
    let mut random = Random::new();
    let mut scopes: Vec<Vec<(*mut u8, Layout)>> = Vec::with_capacity(64);
    let mut kept: Vec<(*mut u8, Layout)> = Vec::with_capacity(500);
    let start = Instant::now();
    for _ in 0..20_000 {
        if scopes.len() < 60 && random.below(2) == 0 || scopes.is_empty() {
            let scope = (0..20).map(|_| {
                let layout = layout(16 + random.below(497));
                (served(peer.allocate(layout), addresses), layout)
            });
            scopes.push(scope.collect());
            continue;
        }
        let mut scope = scopes.pop().unwrap_or_default();
        while let Some(block) = scope.pop() {
            if scope.len() % 10 == 9 && kept.len() < 500 {
                kept.push(block);
            } else {
                // SAFETY: the block is allocated with its layout.
                unsafe { peer.free(block.0, block.1) };
            }
        }
        if kept.len() >= 500 {
            kept.drain(..).for_each(|(block, layout)| {
                // SAFETY: as above.
                unsafe { peer.free(block, layout) };
            });
        }
    }
    let taken = start.elapsed();
    for (block, layout) in scopes.into_iter().flatten().chain(kept) {
        // SAFETY: as above.
        unsafe { peer.free(block, layout) };
    }
    taken
}

/// buddy's thread test, after Hoard's: each of two threads allocates 3000 objects of 8 bytes and
/// frees them, 50 times, from one shared allocator.
pub fn threads(peer: &(impl Peer + Sync), addresses: &Range<usize>) -> Duration {
    const OBJECTS: usize = 3000;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let layout = layout(8);
                let mut objects = Vec::with_capacity(OBJECTS);
                for _ in 0..50 {
                    objects.extend((0..OBJECTS).map(|_| served(peer.allocate(layout), addresses)));
                    for object in objects.drain(..) {
                        // SAFETY: allocated above.
                        unsafe { peer.free(object, layout) };
                    }
                }
            });
        }
    });
    start.elapsed()
}

/// A request's objects: 2000 of 8 to 256 bytes. Their end is the caller's.
pub fn objects(peer: &impl Peer, is_own: impl Fn(*mut u8) -> bool) {
    let mut random = Random::new();
    for index in 0..2000 {
        let block = peer.allocate(layout(8 + random.below(249)));
        assert!(index != 0 || is_own(block), "another allocator served: {block:?}");
        // SAFETY: just allocated, at least 8 bytes long and aligned.
        unsafe { block.cast::<usize>().write(index) };
    }
}
