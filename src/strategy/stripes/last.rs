//! The block of each stride that was freed last, kept out of the books.
//!
//! Where one block is freed and another of the size is allocated next, as in a table whose entries
//! are replaced, that block serves, and neither looks at the records: those of random blocks must
//! come from memory first, and while a processor waits for one it begins nothing that is further
//! away than a few hundred instructions. One block of a stride waits, so at most one stripe of each
//! stride is kept from emptying; all go back before it is said that nothing fits. Nothing is
//! written to the blocks.

use core::ptr::NonNull;

use super::cell::{self, Header, STRIDE_STEP};
use super::{STRIDES, Stripes};

/// A block that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) block: NonNull<u8>,
    /// Of the extent that it is in.
    pub(super) header: NonNull<Header>,
}

/// The blocks that wait.
///
/// # Invariants
/// Each is freed by its user, in a stripe of the stride that it waits for, and taken for the fill
/// map; its extent was added and not removed.
#[derive(Debug)]
pub(super) struct Last([Option<Waiting>; STRIDES]);

impl Last {
    pub(super) const fn new() -> Self {
        Self([None; STRIDES])
    }

    /// The place of a stride. What is taken out of it is free and still in the fill map; what is
    /// put in must be.
    #[inline]
    pub(super) fn of(&mut self, steps: usize) -> Option<&mut Option<Waiting>> {
        self.0.get_mut(steps.wrapping_sub(1))
    }

    /// The blocks that wait, with their strides.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, Waiting)> {
        (1..).zip(&self.0).filter_map(|(steps, waiting)| Some((steps, (*waiting)?)))
    }
}

impl Stripes {
    /// Frees a block that waited.
    ///
    /// # Safety
    /// It was just taken out of its place.
    #[inline(never)]
    pub(super) unsafe fn put_back(&mut self, waiting: Waiting) {
        let Waiting { block, header } = waiting;
        // SAFETY: the block is in a stripe of the header's extent, and taken for the fill map.
        unsafe {
            let (head, offset) = header.as_ref().head_of(block);
            let steps = (*head.as_ptr()).steps();
            self.give_unit(header, head, cell::unit_at_offset(offset, steps));
        }
    }

    /// Frees the blocks that wait, of one extent or of all.
    #[cold]
    pub(super) fn put_back_those_of(&mut self, extent: Option<NonNull<Header>>) {
        for steps in 1..=STRIDES {
            if let Some(waiting) = self.last.of(steps).and_then(|place| {
                place.take_if(|waiting| extent.is_none_or(|header| header == waiting.header))
            }) {
                // SAFETY: it was just taken out.
                unsafe { self.put_back(waiting) };
            }
        }
    }

    /// Whether a block is allocated, and not only taken for the fill map.
    ///
    /// # Safety
    /// It is in a stripe of the extent of `header`.
    pub(super) unsafe fn is_allocated(&self, header: NonNull<Header>, block: NonNull<u8>) -> bool {
        // SAFETY: the caller's contract.
        let is_taken = unsafe {
            let (head, offset) = header.as_ref().head_of(block);
            let head = head.as_ref();
            head.has_unit(cell::unit_at_offset(offset, head.steps()))
        };
        is_taken && self.last.iter().all(|(_, waiting)| waiting.block != block)
    }

    /// The bytes of the block that begins at an address of an extent, which may be any; none if no
    /// block that is allocated does. Takes no more than three records.
    ///
    /// # Safety
    /// The extent of `header` was added and not removed, and the address lies in it.
    pub(super) unsafe fn block_at(
        &self,
        header: NonNull<Header>,
        address: NonNull<u8>,
    ) -> Option<usize> {
        // SAFETY: the caller's contract.
        let bytes = unsafe { header.as_ref() }.block_at(address)?;
        let place = self.last.0.get((bytes / STRIDE_STEP).wrapping_sub(1)).copied().flatten();
        place.is_none_or(|waiting| waiting.block != address).then_some(bytes)
    }

    /// What is wrong with the blocks that wait, if anything is.
    pub(super) fn waiting_fault(&self) -> Option<&'static str> {
        for (steps, Waiting { block, header }) in self.last.iter() {
            // SAFETY: the block is in an extent that was added and not removed.
            let (head, offset) = unsafe { header.as_ref().head_of(block) };
            // SAFETY: as above.
            let head = unsafe { head.as_ref() };
            let unit = cell::unit_at_offset(offset, steps);
            if !head.is_stripe() || head.steps() != steps || unit * steps != offset {
                return Some("a block waits for a stride that it has not");
            }
            if !head.has_unit(unit) {
                return Some("a block waits and is free in the fill map");
            }
        }
        None
    }
}
