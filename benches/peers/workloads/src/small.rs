//! Small blocks, and little but allocating and freeing them.

use std::hint::black_box;

use crate::Part;
use crate::random::Random;

/// A block of `size` bytes of which the first is written: user code touches what it allocates.
///
/// Inlined in every program: where it is a call of its own, the vector that it returns is read
/// back from the stack by a wider load than it was stored by, which waits for all stores before.
/// That was three fifths of the time of `request` in the one program in which it was not inlined.
#[inline(always)] // measured: see above
pub(crate) fn block(size: usize) -> Vec<u8> {
    let mut block = Vec::with_capacity(size);
    block.push(1);
    block
}

pub(crate) fn random_block(random: &mut Random) -> Vec<u8> {
    const SMALLEST: usize = 8;
    const LARGEST: usize = 512;
    block(SMALLEST + random.below(LARGEST - SMALLEST))
}

/// Allocate a block of 32 bytes and free it at once.
pub(crate) fn pairs(part: Part) {
    for number in 0..part.repeats as u64 {
        drop(black_box(Box::new([number; 4])));
    }
}

/// Allocate 1000 blocks, free them in the opposite order.
pub(crate) fn lifo(part: Part) {
    const BLOCKS: usize = 1000;
    let mut stack = Vec::with_capacity(BLOCKS);
    for _ in 0..part.repeats {
        stack.extend((0..BLOCKS as u64).map(|number| Box::new([number; 6])));
        while let Some(last) = stack.pop() {
            black_box(last);
        }
    }
}

/// Replace a random one of 1000 live blocks by one of a random size.
pub(crate) fn churn(part: Part) {
    const LIVE: usize = 1000;
    replaced(LIVE, part);
}

/// The same among 100,000: more than the caches nearest to the processor hold.
pub(crate) fn replace(part: Part) {
    const LIVE: usize = 100_000;
    replaced(LIVE, part);
}

/// The same among 2,000,000 in all threads together: half a gigabyte.
pub(crate) fn millions(part: Part) {
    const LIVE: usize = 2_000_000;
    replaced(LIVE / part.threads, part);
}

fn replaced(live: usize, part: Part) {
    let mut random = Random::of_thread(part.thread);
    let mut blocks: Vec<Vec<u8>> = (0..live).map(|_| random_block(&mut random)).collect();
    for _ in 0..part.repeats {
        blocks[random.below(live)] = random_block(&mut random);
    }
    black_box(blocks);
}

/// A request: 2000 objects of the sizes that programs mostly have are built, read, and dropped.
pub(crate) fn request(part: Part) {
    const OBJECTS: usize = 2000;
    const SIZES: [usize; 16] = [16, 16, 24, 24, 32, 32, 32, 40, 48, 48, 64, 64, 96, 128, 200, 400];
    let mut random = Random::of_thread(part.thread);
    for _ in 0..part.repeats {
        crate::in_request_scope(&mut || {
            let mut objects = Vec::new();
            for _ in 0..OBJECTS {
                objects.push(block(SIZES[random.below(SIZES.len())]));
            }
            black_box(objects.iter().map(|object| u64::from(object[0])).sum::<u64>());
        });
    }
}
