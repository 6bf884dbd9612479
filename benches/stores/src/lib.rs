//! The stores and their peers, and the work that they are timed on. See README.md.

pub mod gravity;
pub mod pool;
pub mod port;
pub mod scaling;

/// Numbers that look random and are the same in each run.
pub struct Numbers(pub u64);

impl Numbers {
    /// The next one below `limit`.
    #[inline]
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        ((u64::from((self.0 >> 32) as u32) * limit as u64) >> 32) as usize
    }
}
