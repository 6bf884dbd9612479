//! Which blocks are recorded, and for how many each stands.
//!
//! With `EveryBytes` the distance in bytes from one recorded place to the next is exponential: a
//! block of s bytes is recorded with probability 1 − e^(−s / mean), whatever came before it. So no
//! rhythm of the program hides a place, large blocks are nearly all recorded, and each counts as
//! the reciprocal of its probability: sums over many blocks come out right.

use super::log::Weight;

/// Which blocks' call sites are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SiteSampling {
    /// Every one.
    #[default]
    All,
    /// Each so-manieth, which then stands for as many; 0 and 1 mean every one. A program that asks
    /// in a rhythm with that number is shown wrongly: prefer a prime.
    EveryNth(u32),
    /// One in so many bytes on average, at random, so that a block's chance grows with its length;
    /// 0 means every one. Heaps made alike draw alike.
    EveryBytes(usize),
}

impl SiteSampling {
    /// What the macro's word `sampled` means: one in 64 KiB.
    pub const SAMPLED: Self = Self::EveryBytes(64 << 10);
}

/// Chooses.
#[derive(Debug)]
pub(super) struct Sampler {
    sampling: SiteSampling,
    /// Blocks or bytes to go before the next one; drawn when it is needed.
    left: u64,
    /// State of the generator; 0 before the first draw.
    random: u64,
}

impl Sampler {
    pub(super) const fn new(sampling: SiteSampling) -> Self {
        let sampling = match sampling {
            SiteSampling::EveryNth(0 | 1) | SiteSampling::EveryBytes(0) => SiteSampling::All,
            other => other,
        };
        Self { sampling, left: 0, random: 0 }
    }

    pub(super) fn sampling(&self) -> SiteSampling {
        self.sampling
    }

    /// Whether the next block, of so many bytes, is recorded.
    pub(super) fn takes(&mut self, bytes: usize) -> bool {
        match self.sampling {
            SiteSampling::All => true,
            SiteSampling::EveryNth(every) => {
                let is_taken = self.left == 0;
                self.left = if is_taken { u64::from(every) - 1 } else { self.left - 1 };
                is_taken
            }
            SiteSampling::EveryBytes(mean) => {
                if self.random == 0 {
                    self.left = self.draw(mean);
                }
                if let Some(left) = self.left.checked_sub(bytes as u64).filter(|&left| left != 0) {
                    self.left = left;
                    return false;
                }
                self.left = self.draw(mean);
                true
            }
        }
    }

    /// For how many blocks a recorded one of so many bytes stands.
    pub(super) fn weight_of(&self, bytes: usize) -> Weight {
        match self.sampling {
            SiteSampling::All => Weight::ONE,
            SiteSampling::EveryNth(every) => Weight::new(f64::from(every)),
            SiteSampling::EveryBytes(mean) => {
                let probability = -(-(bytes.max(1) as f64) / mean as f64).exp_m1();
                Weight::new(probability.recip())
            }
        }
    }

    /// A distance of `mean` bytes on average, at least one.
    fn draw(&mut self, mean: usize) -> u64 {
        // SplitMix64: a counter, mixed.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        // Between 0 and 1, and neither.
        let uniform = ((mixed >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
        ((-uniform.ln() * mean as f64) as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The recorded of so many blocks, and for how many they stand.
    fn count(sampling: SiteSampling, bytes: usize, blocks: usize) -> (usize, f64) {
        let mut sampler = Sampler::new(sampling);
        let taken = (0..blocks).filter(|_| sampler.takes(bytes)).count();
        (taken, taken as f64 * sampler.weight_of(bytes).as_f64())
    }

    #[test]
    fn all_and_every_nth_are_exact() {
        assert_eq!(count(SiteSampling::All, 100, 1000), (1000, 1000.0));
        assert_eq!(count(SiteSampling::EveryNth(0), 100, 1000), (1000, 1000.0));
        assert_eq!(count(SiteSampling::EveryNth(10), 100, 1000), (100, 1000.0));
        assert_eq!(count(SiteSampling::EveryBytes(0), 100, 1000), (1000, 1000.0));
    }

    #[test]
    fn by_bytes_the_sums_come_out() {
        for bytes in [8, 100, 1000, 65_536, 1 << 20] {
            let (taken, stood_for) = count(SiteSampling::EveryBytes(4096), bytes, 200_000);
            assert!((0.9..1.1).contains(&(stood_for / 200_000.0)), "{bytes}: {stood_for}");
            if bytes >= 65_536 {
                assert!(taken > 199_900, "{bytes}: large ones are nearly all recorded");
            }
        }
    }
}
