//! `Stripes`: sixteen blocks of one size side by side, and a fill map of sixteen bits for them.
//!
//! ```text
//!   extent   │ stripe of 16 × 48  │ blank      │ stripe of 16 × 32 │ large │ blank             │
//!            │▓▓░▓░▓▓▓▓▓▓▓▓▓▓░▓▓▓│            │▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓│▓▓▓▓▓▓│                   │
//!
//!   cells of 512 bytes, a record each, out of line:
//!            head ─ ─ ┐           head    tail  head             head   head            tail
//!            fill 1110111101101011 length       fill 1111...     length length
//!              ▲
//!   open[48] ──┘ ⇄ ...            blanks: a red-black tree by (length, address), nodes within them
//! ```
//!
//! Blocks of up to 4 KiB come in **stripes** of 16: the fill map of the first stripe of the size
//! that is not full gives the block, so what is asked for together lies together, and neither
//! allocating nor freeing touches the blocks themselves: no link in them, no header before them.
//! Before the fill maps comes the block of the size that was freed last, if it still waits.
//! A new stripe is cut from the shortest **blank** that has room for 16; where none has, one of as
//! few cells as hold a block. A stripe that empties becomes a blank and merges with the blanks on
//! both sides, so memory moves from size to size; the only stripe of its size that has room is kept
//! until something else needs it. What is larger, or aligned to more than 512 bytes, is one block
//! of whole cells.
//!
//! - `cell` has the records of the cells of an extent,
//! - `blanks` the tree,
//! - `last` the blocks that were freed last,
//! - [`checked`] what [`StripeAllocator`] says of any address, and frees that may be wrong,
//! - [`space`] the same idea over any address space, [checked](space::StripeSpace): it says where
//!   blocks would be, how long the one at an address is, and which frees are errors.
//!
//! Costs: a few instructions beside the fill map's, O(log n) of the blanks for each 16th block at
//! most; 24 bytes of records for each 512 (4.7 %, and a chunk's are rounded up to 4 KiB), and 3 KiB
//! of its own: a heap's record takes 4 KiB. Sizes are rounded up to 32 bytes. Not for: few blocks
//! of many sizes, each of which holds a stripe; very many small contexts; blocks of more than 4 KiB
//! that grow, for which there are the [trees](super::trees).

mod blanks;
mod cell;
pub mod checked;
mod last;
pub mod space;
#[cfg(test)]
mod tests;
mod verify;

use core::alloc::Layout;
use core::ptr::NonNull;

use self::blanks::Blanks;
use self::cell::{CELL_BYTES, Cell, Header, Kind, MAX_STRIDE, STRIDE_STEP, UNITS};
use self::last::{Last, Waiting};
use super::sourced::SourcedAllocator;
use super::{Extent, Strategy};
use crate::allocator::AllocError;
use crate::pointers;
use crate::sys::abort_with;
use crate::units::{PAGE_BYTES, round_up};

/// Stripes on a memory source, for use through the allocator trait.
pub type StripeAllocator<M> = SourcedAllocator<Stripes, M>;

/// Strides: multiples of 32 bytes up to 4 KiB.
const STRIDES: usize = MAX_STRIDE / STRIDE_STEP;

/// Sixteen blocks of one size side by side, see the [module](self).
///
/// # Invariants
/// 1. Every cell of an extent is in one stripe, one large block or one blank, as its records say.
/// 2. No two blanks touch, and each is in `blanks`.
/// 3. `open[n]` is the list of the stripes of stride `32 * (n + 1)` that are not full, linked both
///    ways. A stripe without a block is the only one in its list.
/// 4. A block in `last` is free, and taken for its stripe's fill map.
#[derive(Debug)]
pub struct Stripes {
    blanks: Blanks,
    last: Last,
    open: [Option<NonNull<Cell>>; STRIDES],
    headers: Option<NonNull<Header>>,
}

// SAFETY: the pointers lead to memory that is the strategy's alone.
unsafe impl Send for Stripes {}

/// How a layout is served.
#[derive(Clone, Copy)]
enum Served {
    /// In stripes of this stride, in steps of 32 bytes.
    Stripe(usize),
    /// As this many cells.
    Large(usize),
}

#[inline]
const fn served(layout: Layout) -> Served {
    let (size, align) = (layout.size(), layout.align());
    if size <= MAX_STRIDE && align <= CELL_BYTES {
        let step = if align > STRIDE_STEP { align } else { STRIDE_STEP };
        // Both are powers of two, and the size is at most 4 KiB.
        Served::Stripe(((size + (step - 1)) & !(step - 1)) / STRIDE_STEP)
    } else {
        // A layout's size is at most isize::MAX, so the sum does not overflow.
        Served::Large(size.div_ceil(CELL_BYTES))
    }
}

impl Served {
    #[inline]
    const fn bytes(self) -> usize {
        match self {
            Self::Stripe(steps) => steps * STRIDE_STEP,
            Self::Large(cells) => cells * CELL_BYTES,
        }
    }
}

impl Stripes {
    #[inline]
    fn open_list(&mut self, steps: usize) -> Option<&mut Option<NonNull<Cell>>> {
        self.open.get_mut(steps.wrapping_sub(1))
    }

    /// Takes a block of a stride.
    #[inline]
    fn take_block(&mut self, steps: usize) -> Option<NonNull<u8>> {
        match self.last.of(steps)?.take() {
            Some(waiting) => Some(waiting.block),
            None => self.take_unit(steps),
        }
    }

    /// Takes a block from a stripe.
    #[inline(never)]
    fn take_unit(&mut self, steps: usize) -> Option<NonNull<u8>> {
        let head = match *self.open_list(steps)? {
            Some(head) => head,
            None => self.new_stripe(steps)?,
        };
        // SAFETY: a stripe in a list is valid and not full.
        unsafe {
            let unit = (*head.as_ptr()).take_unit();
            if (*head.as_ptr()).is_full() {
                self.close(head, steps);
            }
            Some(Header::unit_at(head, unit))
        }
    }

    /// Puts a stripe first in the list of its stride.
    ///
    /// # Safety
    /// It is not full, and in no list.
    #[inline]
    unsafe fn reopen(&mut self, head: NonNull<Cell>, steps: usize) {
        let Some(first) = self.open_list(steps) else { return };
        let next = first.replace(head);
        // SAFETY: the stripe is valid, and so is the first in the list.
        unsafe {
            (*head.as_ptr()).next = next;
            (*head.as_ptr()).previous = None;
            if let Some(next) = next {
                (*next.as_ptr()).previous = Some(head);
            }
        }
    }

    /// Takes a stripe out of the list of its stride.
    ///
    /// # Safety
    /// It is in that list.
    #[inline]
    unsafe fn close(&mut self, head: NonNull<Cell>, steps: usize) {
        // SAFETY: the stripe is in the list, and so are those that it links.
        unsafe {
            let (next, previous) = ((*head.as_ptr()).next, (*head.as_ptr()).previous);
            if let Some(next) = next {
                (*next.as_ptr()).previous = previous;
            }
            match previous {
                Some(previous) => (*previous.as_ptr()).next = next,
                None => {
                    if let Some(first) = self.open_list(steps) {
                        *first = next;
                    }
                }
            }
        }
    }

    /// Cuts a stripe of 16 from the shortest blank that has room, or of fewer.
    #[cold]
    #[inline(never)]
    fn new_stripe(&mut self, steps: usize) -> Option<NonNull<Cell>> {
        let whole = cell::cells_for(steps, UNITS);
        let taken = self.take_cells(whole).or_else(|| {
            self.release_resting();
            self.take_cells(whole)
        });
        let (header, index, is_short) = match taken {
            Some((header, index)) => (header, index, false),
            None => {
                let (header, index) = self.take_cells(cell::cells_for(steps, 1))?;
                (header, index, true)
            }
        };
        // SAFETY: the cells were just taken.
        unsafe { header.as_ref().write_stripe(index, steps, is_short) };
        // SAFETY: the head was just written, has room, and is in no list.
        unsafe {
            let head = header.as_ref().cell(index);
            self.reopen(head, steps);
            Some(head)
        }
    }

    /// Takes cells from the front of the shortest blank that has as many.
    fn take_cells(&mut self, cells: usize) -> Option<(NonNull<Header>, usize)> {
        let blank = self.blanks.take(cells)?;
        if blank.cells > cells {
            // SAFETY: the cells behind are free, and touch no blank.
            unsafe { self.blanks.put(blank.header, blank.index + cells, blank.cells - cells) };
        }
        Some((blank.header, blank.index))
    }

    /// Takes cells for a large block.
    #[inline(never)]
    fn take_large(&mut self, cells: usize, align: usize) -> Option<NonNull<u8>> {
        let more = (align / CELL_BYTES).saturating_sub(1);
        let wanted = cells.checked_add(more)?;
        let blank = match self.blanks.take(wanted) {
            Some(blank) => blank,
            None => {
                self.release_resting();
                self.blanks.take(wanted)?
            }
        };
        // SAFETY: the blank's cells are free, and touch no other blank.
        unsafe {
            let header = blank.header.as_ref();
            let front = pointers::padding(header.address(blank.index), align) / CELL_BYTES;
            if front != 0 {
                self.blanks.put(blank.header, blank.index, front);
            }
            let rest = blank.cells - front - cells;
            if rest != 0 {
                self.blanks.put(blank.header, blank.index + front + cells, rest);
            }
            header.write_run(blank.index + front, cells, Kind::Large);
            Some(header.address(blank.index + front))
        }
    }

    /// Makes cells a blank, merged with those on both sides.
    ///
    /// # Safety
    /// They are a stripe, a large block or its end, and nothing in them is allocated.
    unsafe fn give_cells(&mut self, header: NonNull<Header>, index: usize, cells: usize) {
        let (mut index, mut cells) = (index, cells);
        // SAFETY: neighbours that are blanks are in the tree.
        unsafe {
            if let Some(before) = header.as_ref().blank_before(index) {
                header.as_ref().forget_head(index);
                index -= before;
                cells += before;
                self.blanks.remove(header, index);
            }
            if let Some(behind) = header.as_ref().blank_at(index + cells) {
                self.blanks.remove(header, index + cells);
                cells += behind;
            }
            self.blanks.put(header, index, cells);
        }
    }

    /// Frees a block, or lets it wait and frees the one that waited.
    ///
    /// # Safety
    /// It is allocated, in the extent of `header`, and as long as the layout's blocks.
    #[inline]
    unsafe fn free(&mut self, header: NonNull<Header>, block: NonNull<u8>, layout: Layout) {
        // Blocks of whole cells may be large ones, or a layout say so with which they fit.
        let steps = match served(layout) {
            Served::Stripe(steps) if steps % UNITS != 0 => steps,
            // SAFETY: the caller's contract.
            _ => return unsafe { self.give(header, block, layout) },
        };
        // SAFETY: a block that is not of whole cells is in a stripe.
        if cfg!(any(test, heapswitch_check)) && !unsafe { self.is_allocated(header, block) } {
            abort_with(&["stripes: a block is freed that is free already"]);
        }
        let Some(place) = self.last.of(steps) else { return };
        // INVARIANT: the block is freed and still in the fill map.
        let before = place.replace(Waiting { block, header });
        if let Some(before) = before {
            if before.block == block {
                abort_with(&["stripes: a block is freed that is free already"]);
            }
            // SAFETY: it was just taken out.
            unsafe { self.put_back(before) };
        }
    }

    /// Frees a block.
    ///
    /// # Safety
    /// It is allocated, in the extent of `header`, and as long as the layout's blocks.
    #[inline(never)]
    unsafe fn give(&mut self, header: NonNull<Header>, block: NonNull<u8>, layout: Layout) {
        // SAFETY: a block of the extent lies in a stripe or is large, as the records say. The
        // layout does not: one with a larger alignment may fit the same block.
        unsafe {
            let (head, offset) = header.as_ref().head_of(block);
            let steps = (*head.as_ptr()).steps();
            if (*head.as_ptr()).is_stripe() {
                return self.give_unit(header, head, cell::unit_at_offset(offset, steps));
            }
            let (index, cells) =
                (header.as_ref().index_of(head), served(layout).bytes() / CELL_BYTES);
            if cfg!(any(test, heapswitch_check)) && header.as_ref().large_at(index) != Some(cells) {
                abort_with(&["stripes: a block is freed that is free already"]);
            }
            self.give_cells(header, index, cells);
        }
    }

    /// Frees a block of a stripe.
    ///
    /// # Safety
    /// It is allocated, and the stripe is of the extent of `header`.
    #[inline]
    unsafe fn give_unit(&mut self, header: NonNull<Header>, head: NonNull<Cell>, unit: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            let (was_full, steps) = ((*head.as_ptr()).is_full(), (*head.as_ptr()).steps());
            if cfg!(any(test, heapswitch_check)) && !(*head.as_ptr()).has_unit(unit) {
                abort_with(&["stripes: a block is freed that is free already"]);
            }
            (*head.as_ptr()).give_unit(unit);
            if was_full {
                self.release_resting_of(steps);
                self.reopen(head, steps);
            }
            if (*head.as_ptr()).is_empty() {
                self.emptied(header, head, steps);
            }
        }
    }

    /// A stripe emptied: it goes, unless it is the only one of its stride that has room.
    ///
    /// # Safety
    /// It is in the list of its stride, and of the extent of `header`.
    unsafe fn emptied(&mut self, header: NonNull<Header>, head: NonNull<Cell>, steps: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            if (*head.as_ptr()).next.is_some() || (*head.as_ptr()).previous.is_some() {
                self.release_stripe(header, head, steps);
            }
        }
    }

    /// Makes a stripe a blank.
    ///
    /// # Safety
    /// It has no block, is in the list of its stride, and of the extent of `header`.
    #[inline(never)]
    unsafe fn release_stripe(
        &mut self,
        header: NonNull<Header>,
        head: NonNull<Cell>,
        steps: usize,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            self.close(head, steps);
            let index = header.as_ref().index_of(head);
            self.give_cells(header, index, (*head.as_ptr()).stripe_cells());
        }
    }

    /// Makes every stripe without a block a blank, after the blocks that wait are free.
    #[cold]
    fn release_resting(&mut self) {
        self.put_back_those_of(None);
        self.release_empty();
    }

    /// Makes every stripe without a block a blank.
    fn release_empty(&mut self) {
        (1..=STRIDES).for_each(|steps| self.release_resting_of(steps));
    }

    /// Makes the stripe of a stride that has no block, if there is one, a blank.
    #[inline]
    fn release_resting_of(&mut self, steps: usize) {
        // SAFETY: a stripe in a list is valid; one without a block is alone in its list.
        unsafe {
            if let Some(head) = self.open_list(steps).and_then(|list| *list)
                && (*head.as_ptr()).is_empty()
            {
                self.release_stripe(Header::of(head), head, steps);
            }
        }
    }
}

/// # Safety
/// The extent was added and not removed.
#[inline]
unsafe fn header_of(extent: &Extent) -> NonNull<Header> {
    // SAFETY: the strategy asks for metadata, and the extent is its.
    unsafe { extent.metadata() }.cast()
}

// SAFETY:
// - A block is a unit of a stripe whose bit was clear, or cells that were a blank; stripes, large
//   blocks and blanks share no cell.
// - A stripe starts at a multiple of 512 and its stride is a multiple of the alignment.
// - `block_length` rounds the size up to the stride's step or to cells, by the alignment: it is
//   monotone, also where the one ends and the other begins, and itself for every size up to it.
// - Only blanks' first bytes and the metadata are written.
// - A new extent of `extent_bytes` is one blank, long enough for a large block wherever its aligned
//   start is, or for one cell run of the stride.
// - Nothing here allocates or unwinds.
unsafe impl Strategy for Stripes {
    type Settings = ();

    const NAME: &'static str = "stripes";

    const EXTENT_ALIGN: usize = CELL_BYTES;

    const PARKS_LAST: bool = true;

    const DEFAULT: Self =
        Self { blanks: Blanks::new(), last: Last::new(), open: [None; STRIDES], headers: None };

    fn new((): ()) -> Self {
        Self::DEFAULT
    }

    fn metadata_bytes(&self, extent_bytes: usize) -> usize {
        cell::metadata_bytes(extent_bytes)
    }

    fn extent_bytes(&self, layout: Layout) -> Option<usize> {
        match served(layout) {
            Served::Stripe(steps) => Some(cell::cells_for(steps, UNITS) * CELL_BYTES),
            Served::Large(cells) => {
                let bytes = cells.checked_mul(CELL_BYTES)?;
                bytes.checked_add(layout.align().saturating_sub(CELL_BYTES))
            }
        }
    }

    #[inline]
    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        match round_up(layout.size(), CELL_BYTES) {
            Some(length) if length >> CELL_BYTES.ilog2() <= cell::MAX_CELLS => {
                Ok(served(layout).bytes())
            }
            _ => Err(AllocError),
        }
    }

    #[inline]
    fn length_of_block(&self, layout: Layout) -> usize {
        served(layout).bytes()
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let served = served(layout);
        let start = match served {
            Served::Stripe(steps) => self.take_block(steps),
            Served::Large(cells) => self.take_large(cells, layout.align()),
        };
        Some(pointers::block(start?, served.bytes()))
    }

    #[inline]
    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) {
        // SAFETY: a block is allocated in the extent, so that was added and not removed.
        unsafe { self.free(header_of(extent), extent.own(block), layout) }
    }

    unsafe fn grow_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        let Served::Large(wanted) = served(new) else { return None };
        let had = served(old).bytes() / CELL_BYTES;
        let index = pointers::distance(extent.start(), block) / CELL_BYTES;
        // SAFETY: a block is allocated in the extent, so that was added and not removed; a blank
        // behind the block is in the tree.
        unsafe {
            let header = header_of(extent);
            // A block in a stripe stays there.
            header.as_ref().large_at(index)?;
            let behind = header.as_ref().blank_at(index + had)?;
            let more = wanted - had;
            if behind < more {
                return None;
            }
            self.blanks.remove(header, index + had);
            if behind > more {
                self.blanks.put(header, index + wanted, behind - more);
            }
            header.as_ref().write_run(index, wanted, Kind::Large);
        }
        Some(wanted * CELL_BYTES)
    }

    unsafe fn shrink_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        let Served::Large(wanted) = served(new) else { return None };
        let had = served(old).bytes() / CELL_BYTES;
        let index = pointers::distance(extent.start(), block) / CELL_BYTES;
        // SAFETY: as in `grow_in_place`; the tail is given up.
        unsafe {
            let header = header_of(extent);
            header.as_ref().large_at(index)?;
            header.as_ref().write_run(index, wanted, Kind::Large);
            self.give_cells(header, index + wanted, had - wanted);
        }
        Some(wanted * CELL_BYTES)
    }

    unsafe fn add_extent(&mut self, extent: &Extent) {
        // SAFETY: the caller's contract; the metadata is as long as asked. All of the extent is one
        // blank.
        unsafe {
            let header = Header::write(extent, self.headers);
            self.headers = Some(header);
            if header.as_ref().cells() != 0 {
                self.blanks.put(header, 0, header.as_ref().cells());
            }
        }
    }

    unsafe fn remove_extent(&mut self, extent: &Extent) {
        // SAFETY: the extent was added and not removed.
        self.put_back_those_of(Some(unsafe { header_of(extent) }));
        self.release_empty();
        // SAFETY: the extent was added and not removed, and nothing in it is allocated, so now it
        // is one blank.
        unsafe {
            let header = header_of(extent);
            let cells = header.as_ref().cells();
            if cells != 0 {
                if header.as_ref().blank_at(0) != Some(cells) {
                    abort_with(&["stripes: an extent is removed that is not one blank"]);
                }
                self.blanks.remove(header, 0);
            }
            Header::unlink(header, &mut self.headers);
        }
    }

    fn visit_idle(&self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        // SAFETY: owners ask only about extents that they added and did not remove; a blank's first
        // page has its node.
        unsafe {
            header_of(extent).as_ref().visit_blanks(&mut |start, bytes| {
                let skipped = pointers::padding(start, PAGE_BYTES).max(CELL_BYTES);
                let skipped = skipped.next_multiple_of(CELL_BYTES);
                let aligned = pointers::forward(start, skipped.min(bytes));
                let more = pointers::padding(aligned, PAGE_BYTES);
                let pages = bytes.saturating_sub(skipped + more) & !(PAGE_BYTES - 1);
                if pages != 0 {
                    visit(pointers::block(pointers::forward(aligned, more), pages));
                }
            });
        }
    }

    fn visit_unallocated(&mut self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        // Before the first extent is visited; nothing rests any more at the next ones.
        self.release_resting();
        // SAFETY: as above. Nothing is read of what is visited: the records are out of line.
        unsafe {
            let header = header_of(extent).as_ref();
            header.visit_blanks(&mut |start, bytes| visit(pointers::block(start, bytes)));
            header.visit_free_units(&mut |start, bytes| visit(pointers::block(start, bytes)));
        }
    }

    fn verify(&self) {
        if let Some(fault) = self.fault() {
            abort_with(&["stripes: ", fault]);
        }
    }
}
