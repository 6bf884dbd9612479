//! Memory sources: where heaps and strategies get their ranges from.
//!
//! - [`MemoryMapSource`]: mappings, each with huge pages, locking, placement ... as set. Any
//!   thread; exhausted when the system is.
//! - [`ArenaMemorySource`]: fixed-size blocks cut from another source's ranges, taken and given
//!   back in O(1) without a lock. Any thread; exhausted at its maximum.
//! - [`BorrowedSliceSource`]: parts of a slice. One thread at a time; exhausted when the slice is.
//! - [`FileMemorySource`]: parts of a file, which keep their contents. Any thread; exhausted at its
//!   maximum, or when the disk is full.
//! - [`RegionMapSource`](region_map): runs of chunks of the region, which heaps draw from, straight
//!   or through an arena. Any thread; exhausted when the region is full.

pub mod arena;
pub mod borrowed_slice;
pub mod file;
pub mod memory_map;
#[cfg(not(loom))]
pub mod region_map;

pub use arena::{ArenaMemorySource, ArenaSettings, ArenaSettingsError, ArenaSizes};
pub use borrowed_slice::BorrowedSliceSource;
pub use file::{FileMemorySource, FileSettings, FileSourceError};
pub use memory_map::{HugePages, MemoryMapSettings, MemoryMapSettingsError, MemoryMapSource};
