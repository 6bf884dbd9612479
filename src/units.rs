//! Sizes of the memory's units, and arithmetic on them.
//!
//! Every constant here is in bytes unless its name says otherwise.
#![forbid(unsafe_code)]

use core::fmt::{self, Write as _};

/// log2 of [`CHUNK_BYTES`].
pub const CHUNK_SHIFT: u32 = 16;

/// A chunk: the unit in which sources hand memory to heaps and in which addresses are looked up.
///
/// 64 KiB is the largest page size of any Linux system, so a chunk can always be given back to the
/// kernel alone, and small enough that a context with twenty objects wastes address space only.
pub const CHUNK_BYTES: usize = 1 << CHUNK_SHIFT;

/// log2 of [`PAGE_BYTES`].
pub const PAGE_SHIFT: u32 = 12;

/// The page size that is assumed where counts are kept by page. On a system with larger pages the
/// kernel is only asked for whole pages of its own, see [`crate::sys::page_bytes`].
pub const PAGE_BYTES: usize = 1 << PAGE_SHIFT;

/// A transparent huge page of x86-64. A segment is several, and aligned to its length.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The smallest block that a strategy may cut inside a heap, and its least alignment: a foreign
/// free keeps its link and the block's layout in it.
pub const MIN_BLOCK_BYTES: usize = 8;

/// The least stretch of the region that is committed at once, with one protection, policy, name and
/// advice. Measured: committing alternate single chunks fails after 32,750, the limit on mappings.
pub const SEGMENT_BYTES: usize = 32 << 20;

/// The region lies below this address, so an address in it takes 48 bits.
pub const ADDRESS_END: usize = 1 << 48;

/// Chunks in a segment.
pub const SEGMENT_CHUNKS: usize = SEGMENT_BYTES / CHUNK_BYTES;

/// Rounds `value` up to a multiple of `alignment`, a power of two; `None` on overflow.
#[inline]
pub const fn round_up(value: usize, alignment: usize) -> Option<usize> {
    debug_assert!(alignment.is_power_of_two());
    match value.checked_add(alignment - 1) {
        Some(sum) => Some(sum & !(alignment - 1)),
        None => None,
    }
}

/// Rounds `value` down to a multiple of `alignment`, a power of two.
#[inline]
pub const fn round_down(value: usize, alignment: usize) -> usize {
    debug_assert!(alignment.is_power_of_two());
    value & !(alignment - 1)
}

/// The chunks that hold `bytes`, at least one; `None` on overflow.
#[inline]
pub const fn chunks_for(bytes: usize) -> Option<usize> {
    match round_up(bytes, CHUNK_BYTES) {
        Some(0) => Some(1),
        Some(rounded) => Some(rounded >> CHUNK_SHIFT),
        None => None,
    }
}

/// A number of bytes as it is shown: in the largest unit that leaves at least one whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl Bytes {
    /// So many.
    pub const fn of(bytes: usize) -> Self {
        Self(bytes as u64)
    }
}

/// In a column, as wide as it is told to be.
impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = Short::default();
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.iter().find(|(shift, _)| self.0 >> shift != 0) {
            Some(&(shift, unit)) => {
                let tenths = ((u128::from(self.0) * 10) >> shift) as u64;
                if tenths.is_multiple_of(10) {
                    write!(shown, "{} {unit}", tenths / 10)?;
                } else {
                    write!(shown, "{}.{} {unit}", tenths / 10, tenths % 10)?;
                }
            }
            None => write!(shown, "{} B", self.0)?,
        }
        formatter.pad(shown.as_str())
    }
}

/// Text that is written without allocating: at most 11 digits, a point, one more, and a unit.
#[derive(Default)]
struct Short {
    bytes: [u8; 24],
    length: usize,
}

impl Short {
    fn as_str(&self) -> &str {
        let written = self.bytes.get(..self.length).unwrap_or(&[]);
        core::str::from_utf8(written).unwrap_or("")
    }
}

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        let shown =
            [0, 1023, 1024, 65_536, 1_600_000, 3 << 30].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(shown, ["0 B", "1023 B", "1 KiB", "64 KiB", "1.5 MiB", "3 GiB"]);
        assert_eq!(Bytes(u64::MAX).to_string(), "17179869183.9 GiB");
        assert_eq!(format!("{:>8}|{:<8}|", Bytes(1536), Bytes(7)), " 1.5 KiB|7 B     |");
    }

    #[test]
    fn rounding() {
        assert_eq!(round_up(0, 8), Some(0));
        assert_eq!(round_up(9, 8), Some(16));
        assert_eq!(round_up(usize::MAX, 8), None);
        assert_eq!(round_down(15, 8), 8);
        assert_eq!(chunks_for(0), Some(1));
        assert_eq!(chunks_for(CHUNK_BYTES), Some(1));
        assert_eq!(chunks_for(CHUNK_BYTES + 1), Some(2));
        assert_eq!(chunks_for(usize::MAX), None);
    }
}
