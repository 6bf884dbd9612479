//! heapswitch: a global allocator that threads and coroutines switch.

#![warn(missing_docs)]
#![cfg_attr(feature = "nightly", feature(allocator_api))]

pub mod adapt;
pub mod allocator;
pub mod numa;
pub mod pointers;
pub mod source;
pub mod strategy;
pub mod sync;
pub mod sys;
pub mod units;
