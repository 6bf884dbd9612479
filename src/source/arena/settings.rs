//! What can be chosen of an arena.
#![forbid(unsafe_code)]

use core::fmt;

use super::index_stack::MAXIMUM_INDICES;
use crate::units::CHUNK_BYTES;

/// The least block in bytes.
pub(super) const MINIMUM_BLOCK_BYTES: usize = 16;

/// How large an arena's parts are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaSizes {
    /// The size and alignment of every block: a power of two of at least 16 bytes and at least the
    /// inner source's granule.
    pub block_bytes: usize,
    /// The size and alignment of the ranges that it takes from the inner source: a power of two and
    /// at least a block. It gives back only whole ranges.
    pub range_bytes: usize,
    /// The most that it takes from the inner source at any time, rounded down to whole ranges. The
    /// arena's own tables take 16 to 32 bytes of address space for each block of this and 48 to 96
    /// for each range, of which only what is used is touched.
    pub maximum_bytes: usize,
}

impl ArenaSizes {
    /// Blocks of 64 KiB from ranges of 1 MiB, at most 16 GiB.
    pub const DEFAULT: Self =
        Self { block_bytes: CHUNK_BYTES, range_bytes: 1 << 20, maximum_bytes: 16 << 30 };
}

impl Default for ArenaSizes {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Sizes that an [`ArenaMemorySource`](super::ArenaMemorySource) can have.
///
/// ```
/// use heapswitch::source::{ArenaMemorySource, ArenaSettings, ArenaSizes, MemoryMapSource};
///
/// static ARENA: ArenaMemorySource<MemoryMapSource> = ArenaMemorySource::new(
///     MemoryMapSource::new(),
///     match ArenaSettings::new(ArenaSizes { maximum_bytes: 1 << 30, ..ArenaSizes::DEFAULT }) {
///         Ok(settings) => settings,
///         Err(_) => panic!("the sizes are wrong"),
///     },
/// );
/// ```
///
/// # Invariants
/// Every block's number, below `slots << range_blocks_shift`, is below [`MAXIMUM_INDICES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaSettings {
    block_shift: u32,
    range_shift: u32,
    maximum_ranges: usize,
    slots: usize,
}

impl ArenaSettings {
    /// [`ArenaSizes::DEFAULT`].
    pub const DEFAULT: Self = match Self::new(ArenaSizes::DEFAULT) {
        Ok(settings) => settings,
        Err(_) => panic!("the default sizes are valid"),
    };

    /// Checks these sizes.
    ///
    /// # Errors
    /// Sizes that no arena can have.
    pub const fn new(sizes: ArenaSizes) -> Result<Self, ArenaSettingsError> {
        let ArenaSizes { block_bytes, range_bytes, maximum_bytes } = sizes;
        if !block_bytes.is_power_of_two() || block_bytes < MINIMUM_BLOCK_BYTES {
            return Err(ArenaSettingsError::Block { block_bytes });
        }
        if !range_bytes.is_power_of_two() || range_bytes < block_bytes {
            return Err(ArenaSettingsError::Range { range_bytes, block_bytes });
        }
        if maximum_bytes < range_bytes {
            return Err(ArenaSettingsError::Maximum { maximum_bytes, range_bytes });
        }
        let maximum_ranges = maximum_bytes / range_bytes;
        let range_blocks = range_bytes / block_bytes;
        // Twice as many places as ranges, so that a search is short. Each factor is below 2^28, so
        // nothing overflows.
        let too_many = Err(ArenaSettingsError::Blocks { maximum_bytes, block_bytes });
        if maximum_ranges > MAXIMUM_INDICES || range_blocks > MAXIMUM_INDICES {
            return too_many;
        }
        let slots = (2 * maximum_ranges).next_power_of_two();
        if slots * range_blocks > MAXIMUM_INDICES {
            return too_many;
        }
        let (block_shift, range_shift) = (block_bytes.ilog2(), range_bytes.ilog2());
        Ok(Self { block_shift, range_shift, maximum_ranges, slots })
    }

    /// A block in bytes.
    #[inline]
    pub const fn block_bytes(&self) -> usize {
        1 << self.block_shift
    }

    /// A range in bytes.
    #[inline]
    pub const fn range_bytes(&self) -> usize {
        1 << self.range_shift
    }

    /// Ranges at most.
    pub const fn maximum_ranges(&self) -> usize {
        self.maximum_ranges
    }

    /// log2 of a block in bytes.
    #[inline]
    pub(super) const fn block_shift(&self) -> u32 {
        self.block_shift
    }

    /// log2 of a range in bytes.
    #[inline]
    pub(super) const fn range_shift(&self) -> u32 {
        self.range_shift
    }

    /// log2 of the blocks in a range.
    #[inline]
    pub(super) const fn range_blocks_shift(&self) -> u32 {
        self.range_shift - self.block_shift
    }

    /// Blocks in a range.
    #[inline]
    pub(super) const fn range_blocks(&self) -> usize {
        1 << self.range_blocks_shift()
    }

    /// Places for ranges, a power of two.
    #[inline]
    pub(super) const fn slots(&self) -> usize {
        self.slots
    }
}

impl Default for ArenaSettings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Sizes that no arena can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArenaSettingsError {
    /// The block is no power of two of at least 16 bytes.
    Block {
        /// What was asked.
        block_bytes: usize,
    },
    /// The range is no power of two, or less than a block.
    Range {
        /// What was asked.
        range_bytes: usize,
        /// What was asked.
        block_bytes: usize,
    },
    /// The maximum is less than a range.
    Maximum {
        /// What was asked.
        maximum_bytes: usize,
        /// What was asked.
        range_bytes: usize,
    },
    /// The maximum has more blocks than an arena can number: 16 to 32 million.
    Blocks {
        /// What was asked.
        maximum_bytes: usize,
        /// What was asked.
        block_bytes: usize,
    },
}

impl fmt::Display for ArenaSettingsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block { block_bytes } => write!(
                formatter,
                "an arena of blocks of {block_bytes} bytes was asked, which is no power of two of \
                 at least {MINIMUM_BLOCK_BYTES}; use {CHUNK_BYTES}"
            ),
            Self::Range { range_bytes, block_bytes } => write!(
                formatter,
                "an arena with ranges of {range_bytes} bytes was asked, which is no power of two \
                 of at least a block's {block_bytes}; use 16 blocks"
            ),
            Self::Maximum { maximum_bytes, range_bytes } => write!(
                formatter,
                "an arena of at most {maximum_bytes} bytes was asked, less than one range of \
                 {range_bytes}; use smaller ranges or a larger maximum"
            ),
            Self::Blocks { maximum_bytes, block_bytes } => write!(
                formatter,
                "an arena of at most {maximum_bytes} bytes in blocks of {block_bytes} was asked, \
                 which are more than 16 million; use larger blocks or a smaller maximum"
            ),
        }
    }
}

impl core::error::Error for ArenaSettingsError {}
