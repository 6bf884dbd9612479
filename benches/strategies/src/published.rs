//! talc's published benchmarks, written anew: random actions, and how much of the memory is in
//! live blocks when a request is refused. Sizes are small more often than large, alignments mostly
//! 8, and blocks are not written to.

use std::alloc::Layout;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::peers::Peer;
use crate::workloads::Random;

/// The most bytes that are asked for in each of the rows; three times that where blocks are
/// resized.
pub const MOST_BYTES: [usize; 5] = [200, 1000, 3000, 10_000, 30_000];

/// A layout of 4 bytes to some limit, which is itself random: half of all have less than a fifth
/// of `most_bytes`. Three of four are aligned to 8, and of the others three of four to each power
/// of two more.
fn layout(random: &mut Random, most_bytes: usize) -> Layout {
    let limit = 16 + random.below(most_bytes - 16);
    let size = 4 + random.below(limit - 4);
    let align = 8 << ((random.below(1 << 16) | 1 << 16).trailing_zeros() / 2);
    Layout::from_size_align(size, align).expect("a layout")
}

/// Live blocks in two lists, for the reason that `workloads::Live` has.
struct Live<'a, P> {
    peer: &'a P,
    addresses: &'a Range<usize>,
    blocks: Vec<*mut u8>,
    layouts: Vec<Layout>,
}

impl<'a, P: Peer> Live<'a, P> {
    fn new(peer: &'a P, addresses: &'a Range<usize>) -> Self {
        let (blocks, layouts) = (Vec::with_capacity(100_000), Vec::with_capacity(100_000));
        Self { peer, addresses, blocks, layouts }
    }

    /// That a block is the peer's, or null.
    #[inline]
    fn served(&self, block: *mut u8) -> bool {
        assert!(
            block.is_null() || self.addresses.contains(&block.addr()),
            "another allocator served: {block:?}"
        );
        !block.is_null()
    }

    /// Whether a new block was had.
    #[inline]
    fn add(&mut self, layout: Layout) -> bool {
        let block = self.peer.allocate(layout);
        if !self.served(block) {
            return false;
        }
        self.blocks.push(block);
        self.layouts.push(layout);
        true
    }

    #[inline]
    fn free(&mut self, index: usize) {
        let (block, layout) = (self.blocks.swap_remove(index), self.layouts.swap_remove(index));
        // SAFETY: every block in the list is allocated with its layout.
        unsafe { self.peer.free(block, layout) };
    }

    /// Whether it could be resized.
    #[inline]
    fn resize(&mut self, index: usize, size: usize) -> bool {
        let layout = self.layouts[index];
        // SAFETY: as above; the size is not zero.
        let block = unsafe { self.peer.resize(self.blocks[index], layout, size) };
        if !self.served(block) {
            return false;
        }
        self.blocks[index] = block;
        self.layouts[index] = Layout::from_size_align(size, layout.align()).expect("a layout");
        true
    }

    fn free_all(&mut self) {
        while !self.blocks.is_empty() {
            self.free(self.blocks.len() - 1);
        }
    }
}

/// 400,000 actions: half of them allocate, the others free where there are at least 300 blocks, and
/// allocate else; so there are more and more, up to some 900. With `with_resize`, every seventh
/// resizes.
#[inline(never)] // So that an allocator is compiled alike wherever its memory comes from.
pub fn random_actions(
    peer: &impl Peer,
    addresses: &Range<usize>,
    most_bytes: usize,
    with_resize: bool,
) -> Duration {
    const ACTIONS: usize = 400_000;
    const LEAST: usize = 300;
    let mut random = Random::new();
    let mut live = Live::new(peer, addresses);
    let kinds = if with_resize { 7 } else { 6 };
    let start = Instant::now();
    for _ in 0..ACTIONS {
        let (kind, count) = (random.below(kinds), live.blocks.len());
        let is_done = match kind {
            6 if count == 0 => true,
            6 => {
                let index = random.below(count);
                live.resize(index, 1 + random.below(3 * most_bytes - 1))
            }
            ..3 => live.add(layout(&mut random, most_bytes)),
            _ if count < LEAST => live.add(layout(&mut random, most_bytes)),
            _ => {
                live.free(random.below(count));
                true
            }
        };
        assert!(is_done, "there is memory enough");
    }
    let taken = start.elapsed();
    live.free_all();
    taken
}

/// How much of the memory is in live blocks when a request is refused, on average: half of all
/// actions allocate up to 10,000 B, four of ten resize to up to 100,000, one frees; after each
/// refusal all are freed.
pub fn efficiency(peer: &impl Peer, addresses: &Range<usize>) -> f64 {
    const MOST_BYTES: usize = 10_000;
    const ROUNDS: usize = 30;
    let mut random = Random::new();
    let mut live = Live::new(peer, addresses);
    let mut used_bytes = 0;
    for _ in 0..ROUNDS {
        loop {
            let (kind, count) = (random.below(10), live.blocks.len());
            let is_done = match kind {
                ..5 => live.add(layout(&mut random, MOST_BYTES)),
                _ if count == 0 => true,
                5 => {
                    live.free(random.below(count));
                    true
                }
                _ => {
                    let index = random.below(count);
                    live.resize(index, 1 + random.below(10 * MOST_BYTES - 1))
                }
            };
            if !is_done {
                break;
            }
        }
        used_bytes += live.layouts.iter().map(Layout::size).sum::<usize>();
        live.free_all();
    }
    used_bytes as f64 / (ROUNDS * addresses.len()) as f64
}
