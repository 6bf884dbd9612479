//! heapswitch: a global allocator that threads and coroutines switch.

#![warn(missing_docs)]

pub mod adapt;
pub mod allocator;
#[cfg(not(loom))]
pub mod heap;
pub mod numa;
pub mod pointers;
#[cfg(not(loom))]
pub mod region;
pub mod source;
pub mod strategy;
pub mod sync;
pub mod sys;
pub mod units;
#[cfg(not(loom))]
pub mod switch;
