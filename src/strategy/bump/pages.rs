//! What lies in each page of a counted extent: how many blocks start there, and bytes of blocks.
//!
//! Both in one number of 32 bits, blocks above and bytes below, so that a free subtracts once. A
//! page without either is idle: a closed heap gives it back to the kernel.

use core::cell::Cell;

use crate::strategy::Extent;
use crate::units::{PAGE_BYTES, PAGE_SHIFT};

/// A chunk's pages.
pub(super) const PAGES: usize = crate::units::CHUNK_BYTES / PAGE_BYTES;

/// A block, in a page's number; what is below are bytes, at most 4096.
const BLOCK_SHIFT: u32 = 16;
const BYTES_MASK: u32 = (1 << BLOCK_SHIFT) - 1;

/// So many blocks and bytes, modulo 2^32: what is below zero is so for as long as a window's count
/// is not added.
#[inline]
pub(super) const fn number_of(blocks: u32, bytes: usize) -> u32 {
    (blocks << BLOCK_SHIFT).wrapping_add(bytes as u32)
}

pub(super) const fn blocks_in(number: u32) -> u32 {
    number >> BLOCK_SHIFT
}

pub(super) const fn bytes_in(number: u32) -> usize {
    (number & BYTES_MASK) as usize
}

/// The number of the page that an address lies in, or an offset in the extent: a counted extent is
/// an aligned chunk, so either tells.
#[inline]
pub(super) fn page(extent: &Extent, place: usize) -> &Cell<u32> {
    // SAFETY: bump asks for no metadata, and clears the counts when it gets the extent.
    let counts: &[Cell<u32>; PAGES] = unsafe { extent.counts() };
    &counts[(place >> PAGE_SHIFT) & (PAGES - 1)]
}

/// Every page's number, in order.
pub(super) fn all(extent: &Extent) -> impl Iterator<Item = u32> {
    (0..PAGES).map(|index| page(extent, index << PAGE_SHIFT).get())
}

pub(super) fn clear(extent: &Extent) {
    (0..PAGES).for_each(|index| page(extent, index << PAGE_SHIFT).set(0));
}

/// Whether no page has a block. Reads one number at a time: some were just written, and a load of
/// several at once waits until every store before those has left the processor.
pub(super) fn is_empty(extent: &Extent) -> bool {
    all(extent).all(|number| number == 0)
}

/// Adds to a page's number; what that is then.
#[inline]
pub(super) fn add(extent: &Extent, place: usize, number: u32) -> u32 {
    let page = page(extent, place);
    page.set(page.get().wrapping_add(number));
    page.get()
}

/// Counts the bytes `start..end` of a block, each page's with it.
pub(super) fn add_bytes(extent: &Extent, start: usize, end: usize) {
    for_each_part(start, end, |place, bytes| {
        add(extent, place, number_of(0, bytes));
    });
}

/// Counts them off. Whether a page is idle now.
pub(super) fn subtract_bytes(extent: &Extent, start: usize, end: usize) -> bool {
    let mut is_any_idle = false;
    for_each_part(start, end, |place, bytes| {
        is_any_idle |= add(extent, place, number_of(0, bytes).wrapping_neg()) == 0;
    });
    is_any_idle
}

fn for_each_part(start: usize, end: usize, mut visit: impl FnMut(usize, usize)) {
    let mut place = start;
    while place < end {
        let part_end = end.min((place | (PAGE_BYTES - 1)) + 1);
        visit(place, part_end - place);
        place = part_end;
    }
}
