//! Adaptors between the traits for allocators.
//!
//! - [`AllocatorAdaptor`]: [`Allocator`](crate::allocator::Allocator) to
//!   [`GlobalAlloc`](core::alloc::GlobalAlloc).
//! - [`GlobalAllocToAllocatorAdaptor`]: [`GlobalAlloc`](core::alloc::GlobalAlloc) to
//!   [`Allocator`](crate::allocator::Allocator).
//! - `AllocToAllocatorAdaptor` and `AllocatorToAllocAdaptor`: the unstable `core::alloc::Allocator`
//!   to ours and back, with the feature `nightly`.
//!
//! Each costs a call that the compiler inlines.

mod from_global;
#[cfg(feature = "nightly")]
mod nightly;
mod to_global;

pub use from_global::GlobalAllocToAllocatorAdaptor;
#[cfg(feature = "nightly")]
pub use nightly::{AllocToAllocatorAdaptor, AllocatorToAllocAdaptor};
pub use to_global::AllocatorAdaptor;
pub(crate) use to_global::{allocate, allocate_zeroed, deallocate, reallocate};
