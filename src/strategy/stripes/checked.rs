//! What a `StripeAllocator` says of any address, and frees that may be wrong.
//!
//! Each block's size follows from the records of its cell and its stripe, which lie out of line, so
//! an address can be asked for it that is none of a block, and a wrong free is found before it
//! changes anything. Neither looks at more than a few records, however many blocks there are.
//!
//! ```
//! use std::alloc::Layout;
//!
//! use heapswitch::{Allocator, BorrowedSliceSource, StripeAllocator, StripeError};
//!
//! let mut memory = [const { std::mem::MaybeUninit::uninit() }; 32 << 10];
//! let stripes = StripeAllocator::new(BorrowedSliceSource::new(&mut memory));
//! let layout = Layout::new::<[u64; 12]>();
//! let block = stripes.allocate(layout).unwrap().cast::<u8>();
//! assert_eq!(stripes.allocation_size(block.as_ptr()), Ok(96));
//! // SAFETY: the block is not used any more.
//! unsafe {
//!     assert_eq!(stripes.deallocate_checked(block, layout), Ok(96));
//!     let again = stripes.deallocate_checked(block, layout);
//!     assert_eq!(again, Err(StripeError::NotAllocated(block.addr().get())));
//! }
//! ```

use core::alloc::Layout;
use core::ptr::NonNull;

use super::{StripeAllocator, header_of};
use crate::allocator::{Allocator, LocalAllocator, MemorySource};

/// Why a call was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StripeError {
    /// A block of size zero: it has no memory, and nothing is kept about it.
    ZeroSize,
    /// No allocated block of this allocator begins at the address: it was freed before, or is
    /// foreign.
    NotAllocated(usize),
    /// The block that begins there is of another length than one of that layout.
    OtherLayout {
        /// The block's length.
        length: usize,
        /// What was said of it.
        layout: Layout,
    },
}

impl core::fmt::Display for StripeError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::ZeroSize => formatter.write_str("a block of size zero is not freed"),
            Self::NotAllocated(address) => {
                write!(formatter, "no block begins at {address:#x}; was it freed before?")
            }
            Self::OtherLayout { length, layout } => write!(
                formatter,
                "the block has {length} bytes, and so is none of {} aligned to {}",
                layout.size(),
                layout.align()
            ),
        }
    }
}

impl core::error::Error for StripeError {}

impl<M: MemorySource> StripeAllocator<M> {
    /// The length of the allocated block that begins at an address, which may be any: what was
    /// asked for, rounded up as [`block_length`](LocalAllocator::block_length) does.
    ///
    /// # Errors
    /// [`StripeError::NotAllocated`]: none begins there.
    pub fn allocation_size(&self, address: *const u8) -> Result<usize, StripeError> {
        self.ask_at(address, |stripes, extent, address| {
            // SAFETY: the extent is the one that the address is in, and is held.
            unsafe { stripes.block_at(header_of(extent), address) }
        })
        .ok_or(StripeError::NotAllocated(address.addr()))
    }

    /// Frees a block, unless that is wrong; its length. It costs some ten loads more than
    /// [`deallocate`](Allocator::deallocate).
    ///
    /// # Errors
    /// As [`StripeError`] says. A second free is not found once the block serves somebody else.
    ///
    /// # Safety
    /// If a block of this allocator begins at `block`, it is the caller's to free.
    pub unsafe fn deallocate_checked(
        &self,
        block: NonNull<u8>,
        layout: Layout,
    ) -> Result<usize, StripeError> {
        if layout.size() == 0 {
            return Err(StripeError::ZeroSize);
        }
        let length = self.allocation_size(block.as_ptr())?;
        let is_aligned = block.addr().get().is_multiple_of(layout.align());
        if self.block_length(layout) != Ok(length) || !is_aligned {
            return Err(StripeError::OtherLayout { length, layout });
        }
        // SAFETY: a block begins there, it is the caller's to free, and the layout fits it.
        unsafe { self.deallocate(block, layout) };
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
