//! What can go wrong with a store.
#![forbid(unsafe_code)]

use core::fmt;

/// Why there is no store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GravityError {
    /// The granule is no power of two up to 4096, or the capacity none, or too many granules.
    Settings {
        /// The capacity that was asked.
        capacity_bytes: usize,
        /// The granule that was asked.
        granule_bytes: usize,
    },
    /// The source is exhausted, or there is no memory for what is noted of blocks.
    NoMemory {
        /// What was asked of the source, in bytes.
        bytes: usize,
    },
}

impl fmt::Display for GravityError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings { capacity_bytes, granule_bytes } => write!(
                formatter,
                "a store of {capacity_bytes} bytes in granules of {granule_bytes} was asked; the \
                 granule must be a power of two up to 4096, and the capacity at least one of them \
                 and less than 2^32 - 1"
            ),
            Self::NoMemory { bytes } => write!(
                formatter,
                "{bytes} bytes were asked of a memory source for a store, and more of the system \
                 for its records, and one of them refused; use a larger source or a smaller store"
            ),
        }
    }
}

impl core::error::Error for GravityError {}

/// Why bytes were not written. The store is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// There is not so much free space.
    Full {
        /// How many bytes were to be written.
        asked_bytes: usize,
        /// How many are free, in whole granules.
        free_bytes: usize,
    },
    /// There would be enough, if readers did not keep it apart, or keep what was freed already.
    Pinned {
        /// How many bytes were to be written.
        asked_bytes: usize,
        /// How many are free, in whole granules.
        free_bytes: usize,
        /// How many are in blocks that readers pin.
        pinned_bytes: usize,
    },
    /// There is no memory for what is noted of a block, where that [comes from](crate::store), or
    /// no number for it.
    NoRecords,
}

impl fmt::Display for WriteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { asked_bytes, free_bytes } => write!(
                formatter,
                "{asked_bytes} bytes were to be written to a store with {free_bytes} free; free \
                 some keys, or write less"
            ),
            Self::Pinned { asked_bytes, free_bytes, pinned_bytes } => write!(
                formatter,
                "{asked_bytes} bytes were to be written to a store with {free_bytes} free, but \
                 readers pin {pinned_bytes} in between; drop guards, or free keys"
            ),
            Self::NoRecords => formatter.write_str(
                "bytes were to be written to a store, but there is no memory for its records; free \
                 some",
            ),
        }
    }
}

impl core::error::Error for WriteError {}

/// The key was freed, or is of another store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchKey;

impl fmt::Display for NoSuchKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key was used that was freed before, or is of another store")
    }
}

impl core::error::Error for NoSuchKey {}

/// Why a key has not got other bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceError {
    /// The key was freed, or is of another store.
    NoSuchKey(NoSuchKey),
    /// The bytes could not be written; the key has its old ones.
    Write(WriteError),
}

impl fmt::Display for ReplaceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchKey(error) => error.fmt(formatter),
            Self::Write(error) => error.fmt(formatter),
        }
    }
}

impl core::error::Error for ReplaceError {}
