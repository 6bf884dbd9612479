//! What can go wrong with a file.
#![forbid(unsafe_code)]

use core::fmt;

use crate::sys::SystemError;

/// Why a file cannot be a memory source, or a call on one failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileSourceError {
    /// The granule is no power of two of at least a page, or the maximum is zero or too large.
    Settings {
        /// The granule that was asked, in bytes.
        granule: usize,
        /// The maximum that was asked, in bytes.
        maximum_bytes: usize,
    },
    /// The file cannot be opened for reading and writing, or created.
    Open {
        /// Why.
        error: SystemError,
    },
    /// Another source has the file, in this process or another.
    InUse,
    /// The file is longer than the stated maximum.
    TooLong {
        /// The file's length in bytes.
        file_bytes: u64,
        /// The maximum that was asked, in bytes.
        maximum_bytes: usize,
    },
    /// Address space for the maximum cannot be reserved.
    Reserve {
        /// What was asked, in bytes.
        bytes: usize,
        /// Why.
        error: SystemError,
    },
    /// The file cannot be made longer.
    Grow {
        /// The length that was asked, in bytes.
        bytes: usize,
        /// Why.
        error: SystemError,
    },
    /// The file cannot be mapped.
    Map {
        /// What was asked, in bytes.
        bytes: usize,
        /// Why.
        error: SystemError,
    },
    /// The file cannot be written.
    Flush {
        /// What was asked, in bytes.
        bytes: usize,
        /// Why.
        error: SystemError,
    },
    /// The range is not in the file.
    NotInFile,
}

impl fmt::Display for FileSourceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings { granule, maximum_bytes } => write!(
                formatter,
                "a file source with granules of {granule} bytes and at most {maximum_bytes} bytes \
                 was asked; the granule must be a power of two of at least a page, the maximum at \
                 least a granule and below half the address space"
            ),
            Self::Open { error } => write!(
                formatter,
                "a file was to be opened for reading and writing, which failed with {error}; see \
                 that its directory exists and allows that"
            ),
            Self::InUse => write!(
                formatter,
                "a file was to be locked, but another source has it; wait until that is dropped, \
                 or use another file"
            ),
            Self::TooLong { file_bytes, maximum_bytes } => write!(
                formatter,
                "a file source of at most {maximum_bytes} bytes was asked, but the file has \
                 {file_bytes}; raise the maximum"
            ),
            Self::Reserve { bytes, error } => write!(
                formatter,
                "{bytes} bytes of address space were to be reserved, which failed with {error}; \
                 lower the maximum, or raise RLIMIT_AS"
            ),
            Self::Grow { bytes, error } => write!(
                formatter,
                "a file was to become {bytes} bytes long, which failed with {error}; free disk \
                 space, or raise RLIMIT_FSIZE"
            ),
            Self::Map { bytes, error } => write!(
                formatter,
                "{bytes} bytes of a file were to be mapped, which failed with {error}; see that \
                 its file system can map, and raise RLIMIT_AS or vm.max_map_count"
            ),
            Self::Flush { bytes, error } => write!(
                formatter,
                "{bytes} bytes were to be written to a file, which failed with {error}; what is on \
                 the disk is unknown"
            ),
            Self::NotInFile => write!(
                formatter,
                "a range was to be written to a file that it is not from; pass a range of this \
                 source"
            ),
        }
    }
}

impl core::error::Error for FileSourceError {}
