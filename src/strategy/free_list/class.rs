//! Classes of lengths, by which holes are kept and sought.
//!
//! Lengths are in granules of 16 bytes. Up to a scale's bound there is a class for each length,
//! above a few an octave. A hole belongs to the last class whose length it reaches.
#![forbid(unsafe_code)]

use super::granule::WORDS_OF_GRANULE;

/// How fine classes are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// log2 of the lengths that have a class of their own; at least `steps_shift`.
    exact_shift: u32,
    /// log2 of the classes of an octave above.
    steps_shift: u32,
}

/// For bounds, which take a byte each: exact below 16 granules, four an octave above.
pub(super) const COARSE: Scale = Scale { exact_shift: 4, steps_shift: 2 };

/// For lists: exact below 64 granules, eight an octave above.
pub(super) const FINE: Scale = Scale { exact_shift: 6, steps_shift: 3 };

impl Scale {
    /// The last class that is at most as long as `granules`, at least 1.
    #[inline]
    pub(super) const fn class_of(self, granules: usize) -> usize {
        let exact = 1_usize << self.exact_shift;
        if granules < exact {
            return granules.wrapping_sub(1);
        }
        // A floating point number has octave and step side by side in its upper bits, and none of
        // a number of granules is lost: half of the instructions that shifts take.
        let octave_and_step = (granules as i64 as f64).to_bits() >> (52 - self.steps_shift);
        let of_exact = (1023 + self.exact_shift as usize) << self.steps_shift;
        octave_and_step as usize - (of_exact - (exact - 1))
    }

    /// [`class_of`](Self::class_of) of a length in words of whole granules: a multiple of four.
    #[inline]
    pub(super) const fn class_of_words(self, words: usize) -> usize {
        if self.is_exact(words) {
            return (words / WORDS_OF_GRANULE).wrapping_sub(1);
        }
        self.class_of_many(words)
    }

    /// Whether lengths of so many words have a class of their own.
    #[inline]
    pub(super) const fn is_exact(self, words: usize) -> bool {
        words < WORDS_OF_GRANULE << self.exact_shift
    }

    /// [`class_of_words`](Self::class_of_words) without a branch, for lengths of which nobody can
    /// foresee on which side of the bound they are.
    #[inline]
    pub(super) fn class_of_any_words(self, words: usize) -> usize {
        let exact = (words / WORDS_OF_GRANULE).wrapping_sub(1);
        core::hint::select_unpredictable(self.is_exact(words), exact, self.class_of_many(words))
    }

    #[inline]
    const fn class_of_many(self, words: usize) -> usize {
        let octave_and_step = (words as i64 as f64).to_bits() >> (52 - self.steps_shift);
        let shift = WORDS_OF_GRANULE.ilog2() + self.exact_shift;
        let of_exact = (1023 + shift as usize) << self.steps_shift;
        let exact = 1_usize << self.exact_shift;
        (octave_and_step as usize).wrapping_sub(of_exact - (exact - 1))
    }

    /// The length of a class in granules: the least that belongs to it.
    #[inline]
    pub(super) const fn length_of(self, class: usize) -> usize {
        let exact = 1_usize << self.exact_shift;
        if class < exact {
            return class + 1;
        }
        let (above, steps) = (class - (exact - 1), 1_usize << self.steps_shift);
        (steps + above % steps) << (above / steps + (self.exact_shift - self.steps_shift) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_length_belongs_to_the_last_class_that_it_reaches() {
        for scale in [COARSE, FINE] {
            for granules in (1..5000).chain([1 << 20, (1 << 32) - 1, 1 << 32]) {
                let class = scale.class_of(granules);
                let words = granules * WORDS_OF_GRANULE;
                assert_eq!(scale.class_of_words(words), class);
                assert_eq!(scale.class_of_any_words(words), class);
                let (length, next) = (scale.length_of(class), scale.length_of(class + 1));
                assert!(length <= granules && granules < next);
                let is_exact = granules < 1 << scale.exact_shift;
                assert!(!is_exact || (length, next) == (granules, granules + 1));
            }
        }
    }
}
