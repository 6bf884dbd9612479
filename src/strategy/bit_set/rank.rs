//! Ranks: lengths of free runs in seven bits, and eight of them compared at once.
//!
//! A **rank** orders run lengths: exact up to 64 blocks, in steps of 64 up to 4096, one value
//! above. So it fits a byte with its top bit clear, and eight ranks fit a **lane** of 64 bits. The
//! clear top bit makes "which bytes are at least `x`" one subtraction without borrows between
//! bytes:
//!
//! ```text
//!   (lane | 0x80...80) - x...x    top bit of each byte stays set where the byte >= x
//! ```
//!
//! Lanes are read and written whole. Byte stores would be shorter code, but a load of eight bytes
//! right after a store of one of them waits until the store left the store buffer.
#![forbid(unsafe_code)]

/// The top bit of each byte.
const TOPS: u64 = 0x8080_8080_8080_8080;

/// The lowest bit of each byte.
const ONES: u64 = 0x0101_0101_0101_0101;

/// Ranks in a lane.
pub(super) const LANE: usize = 8;

/// The rank above every length that is told apart.
pub(super) const TOP: u8 = 127;

/// Runs at least this long have rank [`TOP`], so no run need be counted further.
pub(super) const TOP_BLOCKS: usize = 64 * 64;

/// The rank of a run of `blocks`. Does not fall as `blocks` grows.
#[inline]
pub(super) const fn of(blocks: usize) -> u8 {
    if blocks <= 64 {
        blocks as u8
    } else if blocks <= TOP_BLOCKS {
        (63 + blocks.div_ceil(64)) as u8
    } else {
        TOP
    }
}

/// A lane with `rank` in each byte.
#[inline]
pub(super) const fn splat(rank: u8) -> u64 {
    rank as u64 * ONES
}

/// The top bits of those bytes of `lane` that are at least `wanted`'s.
#[inline]
pub(super) const fn at_least(lane: u64, wanted: u64) -> u64 {
    (lane | TOPS).wrapping_sub(wanted) & TOPS
}

/// The byte `index` (below 8) of `lane`.
#[inline]
pub(super) const fn get(lane: u64, index: usize) -> u8 {
    (lane >> ((index % LANE) * 8)) as u8
}

/// `lane` with `rank` as byte `index` (below 8).
#[inline]
pub(super) const fn with(lane: u64, index: usize, rank: u8) -> u64 {
    let shift = (index % LANE) * 8;
    lane & !(0xff << shift) | (rank as u64) << shift
}

/// The larger of each pair of bytes.
#[inline]
pub(super) const fn larger(a: u64, b: u64) -> u64 {
    let chosen = (at_least(a, b) >> 7) * 0xff;
    a & chosen | b & !chosen
}

/// The largest byte of `lane`.
#[inline]
pub(super) const fn largest(lane: u64) -> u8 {
    let lane = larger(lane, lane >> 32);
    let lane = larger(lane, lane >> 16);
    larger(lane, lane >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_do_not_fall() {
        assert_eq!((of(0), of(1), of(64), of(65), of(128), of(129)), (0, 1, 64, 65, 65, 66));
        assert_eq!((of(TOP_BLOCKS), of(TOP_BLOCKS + 1), of(usize::MAX)), (TOP, TOP, TOP));
        assert!((0..2 * TOP_BLOCKS).all(|blocks| of(blocks) <= of(blocks + 1)));
    }

    #[test]
    fn lanes_agree_with_bytes() {
        let bytes = [0u8, 127, 64, 1, 126, 63, 65, 2];
        let lane = u64::from_le_bytes(bytes);
        for rank in 0..=TOP {
            let hits = at_least(lane, splat(rank));
            for (index, &byte) in bytes.iter().enumerate() {
                assert_eq!(hits >> (index * 8 + 7) & 1 == 1, byte >= rank);
                assert_eq!(get(lane, index), byte);
                assert_eq!(get(with(lane, index, rank), index), rank);
            }
            assert_eq!(largest(with(splat(rank), 3, 0)), rank);
        }
        assert_eq!(largest(lane), 127);
    }
}
