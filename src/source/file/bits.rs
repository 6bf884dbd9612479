//! Runs of clear bits in a bitmap: which granules of the file are free.
#![forbid(unsafe_code)]

/// The first bit at or after `from` and before `end` that is `is_set`; `end` where there is none.
fn next(words: &[u64], from: usize, end: usize, is_set: bool) -> usize {
    let flip = if is_set { 0 } else { u64::MAX };
    let mut bit = from;
    while bit < end {
        let Some(word) = words.get(bit / 64) else { break };
        let rest = (word ^ flip) >> (bit % 64);
        if rest != 0 {
            return end.min(bit + rest.trailing_zeros() as usize);
        }
        bit = (bit / 64 + 1) * 64;
    }
    end
}

/// A run of granules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: usize,
    pub(super) length: usize,
}

impl Run {
    pub(super) fn end(self) -> usize {
        self.first + self.length
    }
}

/// The first run of `length` clear bits below `end` that starts at a multiple of `step` plus
/// `offset`. O(bits / 64) and more where many short runs are free.
pub(super) fn find(words: &[u64], end: usize, length: usize, step: Step) -> Option<Run> {
    let mut from = 0;
    loop {
        let clear = next(words, from, end, false);
        let first = step.at_or_after(clear)?;
        if first.checked_add(length)? > end {
            return None;
        }
        let until = next(words, first, first + length, true);
        if until == first + length {
            return Some(Run { first, length });
        }
        from = until;
    }
}

/// Which granules a run may start at, so that its address is aligned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// A power of two.
    pub(super) every: usize,
    /// Below `every`.
    pub(super) offset: usize,
}

impl Step {
    fn at_or_after(self, bit: usize) -> Option<usize> {
        let above = bit.checked_add(self.every - 1)?.checked_sub(self.offset)?;
        let first = (above & !(self.every - 1)).checked_add(self.offset)?;
        // Where `bit` is at most `offset`, the multiple may have been rounded to one too many.
        Some(if bit <= self.offset { self.offset } else { first })
    }
}

/// Whether every bit of `run` is clear and below `end`.
pub(super) fn is_clear(words: &[u64], run: Run, end: usize) -> bool {
    run.end() <= end && next(words, run.first, run.end(), true) == run.end()
}

/// Sets or clears the bits of a run.
pub(super) fn mark(words: &mut [u64], run: Run, is_set: bool) {
    let mut bit = run.first;
    while bit < run.end() {
        let shift = bit % 64;
        let count = (run.end() - bit).min(64 - shift);
        let mask = (u64::MAX >> (64 - count)) << shift;
        if let Some(word) = words.get_mut(bit / 64) {
            *word = if is_set { *word | mask } else { *word & !mask };
        }
        bit += count;
    }
}

/// How many bits are set.
pub(super) fn count(words: &[u64]) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}

/// One more than the last set bit below `end`; zero where none is set.
pub(super) fn used_end(words: &[u64], end: usize) -> usize {
    let Some(words) = words.get(..end.div_ceil(64)) else { return end };
    let last = words.iter().rposition(|word| *word != 0);
    last.and_then(|last| Some(last * 64 + 64 - words.get(last)?.leading_zeros() as usize))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const ANYWHERE: Step = Step { every: 1, offset: 0 };

    #[test]
    fn runs_over_word_boundaries() {
        let mut words = [0; 4];
        mark(&mut words, Run { first: 60, length: 80 }, true);
        assert_eq!(words, [0xf << 60, u64::MAX, 0xfff, 0]);
        assert_eq!(find(&words, 256, 60, ANYWHERE), Some(Run { first: 0, length: 60 }));
        assert_eq!(find(&words, 256, 61, ANYWHERE), Some(Run { first: 140, length: 61 }));
        assert_eq!(find(&words, 256, 117, ANYWHERE), None);
        assert_eq!((used_end(&words, 256), used_end(&[0; 4], 256)), (140, 0));
        mark(&mut words, Run { first: 0, length: 256 }, false);
        assert_eq!(find(&words, 256, 256, ANYWHERE), Some(Run { first: 0, length: 256 }));
    }

    proptest! {
        #[test]
        fn finds_what_a_plain_search_finds(
            bits in prop::collection::vec(prop::bool::weighted(0.2), 1..200),
            length in 1_usize..20,
            shift in 0_u32..4,
            offset in 0_usize..8,
        ) {
            let step = Step { every: 1 << shift, offset: offset % (1 << shift) };
            let mut words = [0; 4];
            for (first, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
                mark(&mut words, Run { first, length: 1 }, true);
            }
            let plain: Option<usize> = (0..bits.len())
                .filter(|first| first % step.every == step.offset)
                .find(|first| {
                    bits.get(*first..first + length).is_some_and(|run| !run.contains(&true))
                });
            let found = find(&words, bits.len(), length, step);
            prop_assert_eq!(found.map(|run| run.first), plain);
            let free: Vec<bool> = (0..bits.len())
                .map(|first| is_clear(&words, Run { first, length: 1 }, bits.len()))
                .collect();
            prop_assert!(free.iter().zip(&bits).all(|(free, bit)| free != bit));
            let used = bits.iter().rposition(|bit| *bit).map_or(0, |last| last + 1);
            prop_assert_eq!(used_end(&words, bits.len()), used);
        }
    }
}
