//! How long the holes of each stretch may be: where a search need not look.
//!
//! ```text
//!   level 1            9               for 64 stretches
//!   level 0     0  3  9  0  1  ...     for 64 granules each: the longest hole's class and one
//! ```
//!
//! A byte is an **upper bound**: it rises as soon as a longer hole appears, and falls only when a
//! search looked in vain. So changes cost a compare or two, and a search for the first hole of a
//! class passes over eight stretches at a time.

use core::cell::Cell;
use core::ptr::NonNull;

use crate::pointers;

/// Stretches that one byte of the next level stands for, as a power of two.
const FAN_SHIFT: u32 = 6;
const FAN: usize = 1 << FAN_SHIFT;

/// No value is higher: a byte's top bit is for comparing eight at a time.
pub(super) const MAX_VALUE: u8 = 127;

/// Levels for 2^26 stretches of 64 granules: 64 GiB.
const MAX_LEVELS: usize = 5;

/// The bounds, level by level.
///
/// # Invariants
/// - A byte is at least the value of each hole in its stretch, on every level.
/// - `starts[level]` is where a level's bytes begin, a multiple of 64; there are `starts[levels]`.
#[derive(Debug)]
pub(super) struct Maxima {
    bytes: NonNull<Cell<u8>>,
    levels: usize,
    starts: [u32; MAX_LEVELS + 1],
}

const fn starts_for(stretches: usize) -> ([u32; MAX_LEVELS + 1], usize) {
    let (mut starts, mut levels, mut count) = ([0; MAX_LEVELS + 1], 0, stretches);
    while levels < MAX_LEVELS {
        starts[levels + 1] = starts[levels] + count.next_multiple_of(FAN) as u32;
        levels += 1;
        count = count.div_ceil(FAN);
        if count <= 1 {
            break;
        }
    }
    (starts, levels)
}

impl Maxima {
    /// The bytes for so many stretches.
    pub(super) const fn bytes_for(stretches: usize) -> usize {
        let (starts, levels) = starts_for(stretches);
        starts[levels] as usize
    }

    /// Bounds of zero: no hole anywhere.
    ///
    /// # Safety
    /// `bytes` leads to [`bytes_for`](Self::bytes_for) zeroed bytes, aligned to 8, that are this
    /// one's alone as long as it is used.
    pub(super) const unsafe fn new(bytes: NonNull<u8>, stretches: usize) -> Self {
        let (starts, levels) = starts_for(stretches);
        Self { bytes: bytes.cast(), levels, starts }
    }

    /// The group of 64 bounds on a level that `index` is in.
    #[inline]
    fn group(&self, level: usize, index: usize) -> Option<&[Cell<u8>; FAN]> {
        let at = *self.starts.get(level)? as usize + (index & !(FAN - 1));
        if at >= *self.starts.get(level + 1)? as usize {
            return None;
        }
        // SAFETY: levels are whole groups by the type's invariant, and the bytes are changed
        // through their cells alone.
        Some(unsafe { pointers::forward(self.bytes.cast(), at).cast().as_ref() })
    }

    #[inline]
    fn bound(&self, level: usize, index: usize) -> Option<&Cell<u8>> {
        self.group(level, index)?.get(index & (FAN - 1))
    }

    /// A hole of that value appeared in a stretch.
    #[inline]
    pub(super) fn raise(&self, stretch: usize, value: u8) {
        let mut index = stretch;
        for level in 0..self.levels {
            let Some(bound) = self.bound(level, index) else { return };
            if bound.get() >= value {
                return;
            }
            bound.set(value);
            index >>= FAN_SHIFT;
        }
    }

    /// All holes of a stretch were looked at, and the longest is of that value.
    #[inline]
    pub(super) fn lower(&self, stretch: usize, value: u8) {
        if let Some(bound) = self.bound(0, stretch) {
            bound.set(value);
        }
    }

    /// The first stretch from `stretch` on whose bound is at least `value`.
    #[inline]
    pub(super) fn next_at_least(&self, stretch: usize, value: u8) -> Option<usize> {
        if let Some(found) = first_in(self.group(0, stretch)?, stretch & (FAN - 1), value) {
            return Some((stretch & !(FAN - 1)) | found);
        }
        self.next_above(stretch, value)
    }

    fn next_above(&self, stretch: usize, value: u8) -> Option<usize> {
        let (mut level, mut index) = (0, stretch);
        loop {
            // Up to the first group behind in which something may be.
            let found = loop {
                (level, index) = (level + 1, (index >> FAN_SHIFT) + 1);
                if level >= self.levels {
                    return None;
                }
                if index & (FAN - 1) == 0 {
                    // The group ended: its successor is found from one level further up.
                    index -= 1;
                    continue;
                }
                if let Some(found) = first_in(self.group(level, index)?, index & (FAN - 1), value) {
                    break (index & !(FAN - 1)) | found;
                }
            };
            // And down again; what turns out too high becomes what it should be.
            index = found;
            while level > 0 {
                let below = self.group(level - 1, index << FAN_SHIFT)?;
                let Some(child) = first_in(below, 0, value) else {
                    let most = below.iter().map(Cell::get).max().unwrap_or(0);
                    self.bound(level, index)?.set(most);
                    break;
                };
                (level, index) = (level - 1, index << FAN_SHIFT | child);
            }
            if level == 0 {
                return Some(index);
            }
            // The search goes on behind that stretch, as if it came from its last one.
            index = (index << FAN_SHIFT) | (FAN - 1);
            level -= 1;
        }
    }

    /// The value that no hole exceeds.
    pub(super) fn most(&self) -> u8 {
        let top = self.levels.checked_sub(1).and_then(|top| self.group(top, 0));
        top.and_then(|group| group.iter().map(Cell::get).max()).unwrap_or(0)
    }

    /// Whether every bound of the stretch is at least `value`.
    pub(super) fn allows(&self, stretch: usize, value: u8) -> bool {
        (0..self.levels).all(|level| {
            let index = stretch >> (FAN_SHIFT as usize * level);
            self.bound(level, index).is_some_and(|bound| bound.get() >= value)
        })
    }
}

/// The first of a group, from `from` on, that is at least `value`; values are below 128.
#[inline]
fn first_in(group: &[Cell<u8>; FAN], from: usize, value: u8) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    let mut skipped = u64::MAX << ((from & 7) * 8);
    // SAFETY: 64 cells of bytes are as long as eight of arrays of eight bytes, and need no more
    // alignment. Read together they are one load; the compiler does not find that by itself.
    let eights: &[Cell<[u8; 8]>; FAN / 8] = unsafe { NonNull::from(group).cast().as_ref() };
    for (index, eight) in eights.iter().enumerate().skip(from / 8) {
        // A byte's top bit stays set exactly where nothing is borrowed from it.
        let reached = (u64::from_le_bytes(eight.get()) | TOPS) - ONES * u64::from(value);
        let reached = reached & TOPS;
        let reached = reached & skipped;
        if reached != 0 {
            return Some(index * 8 + reached.trailing_zeros() as usize / 8);
        }
        skipped = u64::MAX;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_plain_scan_finds() {
        for stretches in [1, 63, 64, 65, 4097, 300_000] {
            let mut memory = vec![0_u64; Maxima::bytes_for(stretches) / 8];
            let bytes = NonNull::from(memory.as_mut_slice()).cast();
            // SAFETY: the bytes outlive their user and are as many as asked.
            let maxima = unsafe { Maxima::new(bytes, stretches) };
            let mut model = vec![0_u8; stretches];
            let mut state = 5_usize;
            for step in 0..600 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let (stretch, value) = ((state >> 33) % stretches, (state >> 25) as u8 & 127);
                if step % 3 == 0 {
                    maxima.lower(stretch, value / 2);
                    model[stretch] = value / 2;
                    maxima.raise(stretch, value / 2);
                    // Lowering says what is; the levels above may only be too high.
                    (1..maxima.levels).for_each(|level| {
                        let bound = maxima.bound(level, stretch >> (6 * level)).unwrap();
                        bound.set(bound.get().max(value / 2));
                    });
                } else {
                    maxima.raise(stretch, value);
                    model[stretch] = model[stretch].max(value);
                }
                let from = (state >> 40) % stretches;
                let wanted = 1 + value / 2;
                let scan = (from..stretches).find(|&stretch| model[stretch] >= wanted);
                assert_eq!(maxima.next_at_least(from, wanted), scan, "{stretches}: {from}");
                assert!(maxima.allows(stretch, model[stretch]));
                assert!(maxima.most() >= model[stretch]);
            }
        }
    }
}
