//! Numbers that are the same in every run and for every peer.

/// xorshift64*: a few cycles a number, so that it does not hide the allocator's.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
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
}
