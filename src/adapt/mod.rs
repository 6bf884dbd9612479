//! Adaptors between the traits for allocators.
//!
//! - [`AllocatorAdaptor`]: [`Allocator`](crate::allocator::Allocator) to
//!   [`GlobalAlloc`](core::alloc::GlobalAlloc).
//! - [`GlobalAllocToAllocatorAdaptor`]: [`GlobalAlloc`](core::alloc::GlobalAlloc) to
//!   [`Allocator`](crate::allocator::Allocator).
//! - `AllocToAllocatorAdaptor` and `AllocatorToAllocAdaptor`: the unstable `core::alloc::Allocator`
//!   to ours and back, with the feature `nightly`.
//!
//! Each costs a call that the compiler inlines. And [`Recorder`], which passes on to another
//! `GlobalAlloc` and writes a [trace] of what the program allocates and frees.

mod from_global;
#[cfg(feature = "nightly")]
mod nightly;
mod recorder;
mod to_global;
pub mod trace;

pub use from_global::GlobalAllocToAllocatorAdaptor;
#[cfg(feature = "nightly")]
pub use nightly::{AllocToAllocatorAdaptor, AllocatorToAllocAdaptor};
pub use recorder::Recorder;
pub use to_global::AllocatorAdaptor;
pub(crate) use to_global::{allocate, allocate_zeroed, deallocate, reallocate};
