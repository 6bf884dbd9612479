//! Stores: memory that is reached by handles instead of addresses, on any memory source.
//!
//! - [`OrderedPool`]: blocks of one type that can be sorted without being moved. For one thread at
//!   a time.
//! - [`GravityStore`](gravity): bytes of any length, which the store moves to keep its free space
//!   together. For many threads.
//!
//! A store takes one range from its source when it is made, and gives it back when it is dropped.
//! What it notes about its contents beside that range comes from what is in use where it is called,
//! as a `Vec`'s memory does: within a context, from the context's heap, which is charged for it and
//! keeps it as an escapee. A store that contexts share is called within
//! [`with_thread_local`](crate::with_thread_local).

#[cfg(not(loom))]
pub mod gravity;
pub mod ordered_pool;

#[cfg(not(loom))]
pub use gravity::{GravitySettings, GravityStore, Key, ReadGuard, WriteError};
pub use ordered_pool::OrderedPool;
