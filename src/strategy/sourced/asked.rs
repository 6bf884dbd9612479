//! Questions about any address, for strategies that can answer them.

use core::ptr::NonNull;

use super::SourcedAllocator;
use crate::allocator::MemorySource;
use crate::strategy::{Extent, Strategy};

impl<S: Strategy, M: MemorySource> SourcedAllocator<S, M> {
    /// Calls `ask` with the strategy, the extent that an address is in and the address with that
    /// extent's provenance. `None` if it is in no extent, in one that the strategy never saw, or
    /// of a block that is parked or waits beside that. `ask` must not use this allocator.
    pub(in crate::strategy) fn ask_at<T>(
        &self,
        address: *const u8,
        ask: impl FnOnce(&S, &Extent, NonNull<u8>) -> Option<T>,
    ) -> Option<T> {
        let address = NonNull::new(address.cast_mut())?;
        let state = self.state();
        let record = state.record_of(address)?;
        // SAFETY: the extent is held, so its record is valid.
        let record = unsafe { record.as_ref() };
        if record.is_direct || state.parked.is_at(address) || state.shelf.is_at(address) {
            return None;
        }
        let start = record.extent.start();
        // SAFETY: the address lies in the extent.
        let within =
            unsafe { crate::pointers::forward(start, crate::pointers::distance(start, address)) };
        ask(&state.strategy, &record.extent, within)
    }
}
