//! Sizes that matter: blocks beyond the small ones, growing ones, and mixes that change.

use std::collections::VecDeque;
use std::hint::black_box;

use crate::Part;
use crate::random::Random;
use crate::small::block;

const PAGE_BYTES: usize = 4096;

/// Vectors grow by pushing: one to 8 MiB, many to a few kilobytes.
pub(crate) fn vectors(part: Part) {
    const LARGE: u64 = 1 << 20;
    const SMALL: u64 = 300;
    const SMALLS: usize = 1000;
    for _ in 0..part.repeats {
        black_box(grown(LARGE));
        for _ in 0..SMALLS {
            black_box(grown(SMALL));
        }
    }
}

fn grown(length: u64) -> Vec<u64> {
    let mut vector = Vec::new();
    for number in 0..length {
        vector.push(number);
    }
    vector
}

/// Replace a random one of 8 live blocks of 64 KiB to 32 MiB; each page is written, and every other
/// block is asked for zeroed.
pub(crate) fn large(part: Part) {
    const LIVE: usize = 8;
    const SMALLEST: usize = 64 << 10;
    const LARGEST: usize = 32 << 20;
    let mut random = Random::of_thread(part.thread);
    let mut blocks: Vec<Vec<u8>> = (0..LIVE).map(|_| Vec::new()).collect();
    for number in 0..part.repeats {
        let place = random.below(LIVE);
        let size = random.size_bytes(SMALLEST, LARGEST);
        // The old block goes first, as it does when a buffer is taken down and another set up.
        blocks[place] = Vec::new();
        blocks[place] = if number % 2 == 0 { zeroed_touched(size) } else { touched(size) };
    }
    black_box(blocks);
}

fn zeroed_touched(size: usize) -> Vec<u8> {
    let mut block = vec![0; size];
    for page in block.chunks_mut(PAGE_BYTES) {
        assert_eq!(page[page.len() / 2], 0, "a block asked for zeroed is zero");
        page[0] = 1;
    }
    block
}

fn touched(size: usize) -> Vec<u8> {
    let mut block = Vec::with_capacity(size);
    for page in block.spare_capacity_mut().chunks_mut(PAGE_BYTES) {
        page[0].write(1);
    }
    black_box(block.as_mut_ptr());
    block
}

/// Buffers for input and output, 1 to 64 KiB: one is filled, now and then extended, and waits in a
/// queue of 64 until it is dropped.
pub(crate) fn buffers(part: Part) {
    const WAITING: usize = 64;
    const SMALLEST: usize = 1 << 10;
    const LARGEST: usize = 64 << 10;
    const EXTENDED_ONCE_IN: usize = 4;
    let mut random = Random::of_thread(part.thread);
    let mut queue = VecDeque::with_capacity(WAITING);
    for number in 0..part.repeats {
        if queue.len() == WAITING {
            black_box(queue.pop_front());
        }
        let mut buffer: Vec<u8> = Vec::with_capacity(random.size_bytes(SMALLEST, LARGEST));
        // A quarter is filled: the copying shall not hide the allocator.
        buffer.resize(buffer.capacity() / 4, number as u8);
        if random.below(EXTENDED_ONCE_IN) == 0 {
            buffer.reserve_exact(2 * buffer.capacity());
        }
        queue.push_back(buffer);
    }
}

/// Fragmentation: each phase fills 8 MiB with sizes of its own mix, replaces half at random, and
/// drops nine tenths in random order; the survivors stay for four phases more.
pub(crate) fn phases(part: Part) {
    const PHASE_BYTES: usize = 8 << 20;
    const KEPT_PHASES: usize = 4;
    const SURVIVES_ONE_IN: usize = 10;
    // The smallest and the largest of each phase's mix.
    const MIXES: [(usize, usize); 5] =
        [(16, 64), (128, 1024), (2048, 8192), (16, 16_384), (16_384, 131_072)];
    let mut random = Random::of_thread(part.thread);
    let mut survivors: VecDeque<Vec<Vec<u8>>> = VecDeque::new();
    for phase in 0..part.repeats {
        let (smallest, largest) = MIXES[phase % MIXES.len()];
        let mut blocks = Vec::new();
        let mut filled_bytes = 0;
        while filled_bytes < PHASE_BYTES {
            let size = random.size_bytes(smallest, largest);
            filled_bytes += size;
            blocks.push(block(size));
        }
        for _ in 0..blocks.len() / 2 {
            let place = random.below(blocks.len());
            blocks[place] = block(random.size_bytes(smallest, largest));
        }
        let survive = blocks.len() / SURVIVES_ONE_IN;
        while blocks.len() > survive {
            black_box(blocks.swap_remove(random.below(blocks.len())));
        }
        survivors.push_back(blocks);
        if survivors.len() > KEPT_PHASES {
            black_box(survivors.pop_front());
        }
    }
}
