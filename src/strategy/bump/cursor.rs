//! A cursor that counts how often it was moved.
//!
//! ```text
//!   bit 63                              16 15            0
//!   │ address                             │ count + 2^15 │
//! ```
//!
//! Address and count lie in one word, so that cutting a block stores once: what bounds a row of
//! allocations is their stores. Only inside a heap is there a count, where addresses have at most
//! 48 bits because the region lies there; elsewhere the word is the address.

use core::ptr::NonNull;

use crate::pointers;
use crate::units::ADDRESS_END;

const COUNT_BITS: u32 = 16;

/// An address and, if `COUNTED`, how many blocks were cut, less those that were taken back.
///
/// # Invariants
/// - Counted: the count lies between -2^15 and 2^15, exclusively. A page has 512 blocks at most,
///   and whoever goes to another page starts to count anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor<const COUNTED: bool>(u64);

/// What a cursor has to stay below: a word that can be compared with it, whatever it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit<const COUNTED: bool>(u64);

impl<const COUNTED: bool> Cursor<COUNTED> {
    const SHIFT: u32 = if COUNTED { COUNT_BITS } else { 0 };
    const ONE: u64 = COUNTED as u64;
    const NONE: u64 = if COUNTED { 1 << 15 } else { 0 };

    /// At an address; nothing is counted.
    #[inline]
    pub(super) const fn at(address: usize) -> Self {
        debug_assert!(!COUNTED || address < ADDRESS_END);
        Self(((address as u64) << Self::SHIFT) | Self::NONE)
    }

    #[inline]
    pub(super) const fn address(self) -> usize {
        (self.0 >> Self::SHIFT) as usize
    }

    /// A pointer to the address.
    ///
    /// # Safety
    /// The address is not 0, and in an allocation that was exposed.
    #[inline]
    pub(super) unsafe fn pointer(self) -> NonNull<u8> {
        // SAFETY: the caller's contract.
        unsafe {
            if COUNTED {
                pointers::of_exposed::<COUNT_BITS>(self.0)
            } else {
                pointers::of_exposed::<0>(self.0)
            }
        }
    }

    /// So many bytes further, with one more block counted. The sum must not overflow.
    #[inline]
    pub(super) const fn after_block(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add((bytes as u64) << Self::SHIFT).wrapping_add(Self::ONE))
    }

    /// So many bytes back, with one block less counted.
    #[inline]
    pub(super) const fn before_block(self, bytes: usize) -> Self {
        Self(self.0.wrapping_sub((bytes as u64) << Self::SHIFT).wrapping_sub(Self::ONE))
    }

    /// What it counted, as a number modulo 2^32; 0 where nothing is counted.
    pub(super) const fn count(self) -> u32 {
        ((self.0 & ((1 << Self::SHIFT) - 1)) as u32).wrapping_sub(Self::NONE as u32)
    }

    /// Whether it is at the limit or below.
    #[inline]
    pub(super) const fn is_within(self, limit: Limit<COUNTED>) -> bool {
        self.0 < limit.0
    }
}

impl<const COUNTED: bool> Limit<COUNTED> {
    /// No cursor is within.
    pub(super) const NONE: Self = Self(0);

    /// Just below the first word of a higher address.
    pub(super) const fn at(address: usize) -> Self {
        Self((address as u64 + 1) << Cursor::<COUNTED>::SHIFT)
    }

    /// The address; not of [`NONE`](Self::NONE).
    pub(super) const fn address(self) -> usize {
        (self.0 >> Cursor::<COUNTED>::SHIFT).wrapping_sub(1) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts_and_moves<const COUNTED: bool>(address: usize) {
        let one = u32::from(COUNTED);
        let start = Cursor::<COUNTED>::at(address);
        assert_eq!((start.address(), start.count()), (address, 0));
        let second = start.after_block(24).after_block(0);
        assert_eq!((second.address(), second.count()), (address + 24, 2 * one));
        let back = second.before_block(0).before_block(24).before_block(16);
        assert_eq!((back.address(), back.count()), (address - 16, one.wrapping_neg()));
    }

    #[test]
    fn a_cursor_counts_what_it_is_moved_by() {
        for address in [4096, 0x7fff_ffff_f000, (1 << 48) - 8192] {
            counts_and_moves::<true>(address);
            counts_and_moves::<false>(address);
        }
        counts_and_moves::<false>(1 << 56);
    }

    fn is_compared_by_address<const COUNTED: bool>(address: usize) {
        let limit = Limit::<COUNTED>::at(address);
        assert_eq!(limit.address(), address);
        let mut cursor = Cursor::<COUNTED>::at(address - 8);
        assert!(cursor.is_within(limit));
        for _ in 0..512 {
            cursor = cursor.after_block(0);
            assert!(cursor.is_within(limit) && cursor.after_block(8).is_within(limit));
            assert!(!cursor.after_block(9).is_within(limit));
            assert!(!cursor.is_within(Limit::NONE));
        }
    }

    #[test]
    fn a_limit_is_compared_by_address_whatever_was_counted() {
        for address in [4096, 0x7fff_ffff_f000, (1 << 48) - 4096] {
            is_compared_by_address::<true>(address);
            is_compared_by_address::<false>(address);
        }
    }
}
