//! Numbers that are the same in every run and for every peer.

/// xorshift64*: a few cycles a number, so that it does not hide the allocator's.
pub(crate) struct Random(u64);

impl Random {
    /// A series of its own for each thread of a workload; the first thread is 0.
    pub(crate) fn of_thread(thread: usize) -> Self {
        const SEED: u64 = 0x9E37_79B9_7F4A_7C15;
        Self(SEED.wrapping_mul(2 * thread as u64 + 1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    /// A number below `limit`, which is far below 2^32.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (((self.next() & 0xFFFF_FFFF) * limit as u64) >> 32) as usize
    }

    /// A size between two, such that each doubling is as likely as the next: small ones are many,
    /// large ones few. The smaller is at least 1.
    pub(crate) fn size_bytes(&mut self, smallest: usize, largest: usize) -> usize {
        let doublings = (largest / smallest).ilog2() as usize;
        let base = smallest << self.below(doublings);
        base + self.below(base)
    }
}
