//! The integers that a pool may number its blocks with.
#![forbid(unsafe_code)]

use core::fmt::Debug;
use core::hash::Hash;

mod sealed {
    pub trait Sealed {}
}

/// An unsigned integer that numbers a pool's blocks: `u8`, `u16`, `u32`, `u64` or `usize`. Each
/// block costs two of them, so the smallest that can count the blocks is the best.
pub trait PoolIndex:
    sealed::Sealed + Copy + Eq + Ord + Hash + Debug + Send + Sync + 'static
{
    /// How many blocks it can number: its largest value and one, or as many as memory can hold.
    const MOST_BLOCKS: usize;

    /// The number as an index.
    fn to_usize(self) -> usize;

    /// The index as a number. It is below [`MOST_BLOCKS`](Self::MOST_BLOCKS).
    fn from_usize(index: usize) -> Self;
}

macro_rules! indices {
    ($($integer:ty)*) => { $(
        impl sealed::Sealed for $integer {}

        impl PoolIndex for $integer {
            const MOST_BLOCKS: usize = {
                let numbers = (Self::MAX as usize).saturating_add(1);
                if numbers < isize::MAX as usize { numbers } else { isize::MAX as usize }
            };

            #[inline]
            fn to_usize(self) -> usize {
                self as usize
            }

            #[inline]
            fn from_usize(index: usize) -> Self {
                debug_assert!(index < Self::MOST_BLOCKS);
                index as Self
            }
        }
    )* };
}

indices!(u8 u16 u32 u64 usize);
