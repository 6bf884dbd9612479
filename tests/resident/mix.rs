//! Blocks of mixed sizes, in an order that repeats.

/// Numbers that look random, and repeat.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

/// Most blocks are small, most bytes are in larger ones: 64 bytes to 16 KiB, and one in a few
/// thousand of half a MiB.
pub(crate) fn size(random: &mut Random) -> usize {
    let shift = 6 + random.below(7).min(random.below(12));
    match random.below(4000) {
        0 => 512 << 10,
        1..40 => 16 << 10,
        _ => (1 << shift) + random.below(1 << shift),
    }
}

/// A block, each page of which was written to.
pub(crate) fn block(bytes: usize) -> Box<[u8]> {
    let mut block = vec![0_u8; bytes].into_boxed_slice();
    block.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    block
}

/// Many blocks, and the list of them.
pub(crate) struct Blocks {
    blocks: Vec<Box<[u8]>>,
    random: Random,
}

impl Blocks {
    /// So many bytes in blocks.
    pub(crate) fn of(bytes: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (mut blocks, mut sum) = (Vec::new(), 0);
        while sum < bytes {
            blocks.push(block(size(&mut random)));
            sum += blocks.last().map_or(0, |block| block.len());
        }
        Self { blocks, random }
    }

    pub(crate) fn free_in_random_order(&mut self) {
        while !self.blocks.is_empty() {
            let at = self.random.below(self.blocks.len());
            drop(self.blocks.swap_remove(at));
        }
        self.blocks = Vec::new();
    }
}
