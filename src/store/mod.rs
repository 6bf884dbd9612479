//! Stores: memory that is reached by handles instead of addresses, on any memory source.
//!
//! - [`OrderedPool`]: blocks of one type that can be sorted without being moved.
//!
//! A store takes one range from its source when it is made, and gives it back when it is dropped.
//! What it notes about its contents beside that range comes from the global allocator.

pub mod ordered_pool;

pub use ordered_pool::OrderedPool;
