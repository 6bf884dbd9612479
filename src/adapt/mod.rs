//! Adaptors between the traits for allocators.
//!
//! | from | to | adaptor |
//! |---|---|---|
//! | [`Allocator`](crate::allocator::Allocator) | [`GlobalAlloc`](core::alloc::GlobalAlloc) | [`AllocatorAdaptor`] |
//! | [`GlobalAlloc`](core::alloc::GlobalAlloc) | [`Allocator`](crate::allocator::Allocator) | [`GlobalAllocToAllocatorAdaptor`] |
//! | `core::alloc::Allocator` (unstable) | [`Allocator`](crate::allocator::Allocator) | `AllocToAllocatorAdaptor`, with the feature `nightly` |
//! | [`Allocator`](crate::allocator::Allocator) | `core::alloc::Allocator` (unstable) | `AllocatorToAllocAdaptor`, with the feature `nightly` |
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
