//! Classes of lengths, by which the maxima say how long holes may be.
//!
//! Lengths are in granules of 16 bytes. Up to 16 granules there is a class for each length, above
//! four an octave. A hole belongs to the last class whose length it reaches.
#![forbid(unsafe_code)]

/// Lengths that have a class of their own.
const EXACT: usize = 16;

/// The last class that is at most as long as `granules`, at least 1.
#[inline]
pub(super) const fn class_of(granules: usize) -> usize {
    if granules < EXACT {
        return granules.saturating_sub(1);
    }
    let octave = granules.ilog2() as usize;
    EXACT - 1 + (octave - EXACT.ilog2() as usize) * 4 + (granules >> (octave - 2) & 3)
}

/// The length of a class in granules: the least that belongs to it.
#[inline]
pub(super) const fn length_of(class: usize) -> usize {
    if class < EXACT {
        return class + 1;
    }
    let above = class - (EXACT - 1);
    (4 + above % 4) << (above / 4 + EXACT.ilog2() as usize - 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_length_belongs_to_the_last_class_that_it_reaches() {
        for granules in (1..5000).chain([1 << 20, (1 << 32) - 1, 1 << 32]) {
            let class = class_of(granules);
            assert!(length_of(class) <= granules && granules < length_of(class + 1));
        }
    }
}
