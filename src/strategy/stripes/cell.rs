//! The records of an extent's cells, out of line.
//!
//! ```text
//!   metadata   │ Header │ Cell 0 │ Cell 1 │ Cell 2 │ ...
//!
//!   a stripe   head: its index, stride, fill map, links │ inner: cells back to the head │ inner
//!   large      head: its cells                          │ (not written)                 │ tail
//!   blank      head: its cells                          │ (not written)                 │ tail
//! ```
//!
//! Heads are always up to date, and so is every cell that may lie just before a head: that is how
//! a run knows whether its neighbours are blanks. **What is not written stays as it was, but no
//! record says that it is the head of a stripe or of a large block unless it is**: such a head is
//! written over when its run ends, and a tail says that it is one. So any address can be asked for
//! the block that begins there, in one or two records.

use core::ptr::NonNull;

use crate::pointers;
use crate::strategy::Extent;

/// The bytes of a cell.
pub(super) const CELL_BYTES: usize = 512;

/// What strides are multiples of: a stripe of 16 of them is a cell.
pub(super) const STRIDE_STEP: usize = CELL_BYTES / UNITS;

/// Blocks in a whole stripe.
pub(super) const UNITS: usize = 16;

/// The longest stride: sixteen are a chunk.
pub(super) const MAX_STRIDE: usize = 4096;

/// The most cells of an extent: 2 TiB.
pub(super) const MAX_CELLS: usize = u32::MAX as usize;

/// What a cell is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Blank = 0,
    Large,
    /// Of 16 units.
    Stripe,
    /// Of the units that fit into the fewest cells that hold one.
    ShortStripe,
    /// A stripe's, behind its head.
    Inner,
}

/// The record of a cell. All zero bytes are a valid record.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Cell {
    /// Of a stripe's head: the next in the list of those with room.
    pub(super) next: Option<NonNull<Cell>>,
    pub(super) previous: Option<NonNull<Cell>>,
    /// Of a stripe's head: its index in the extent. Of an inner cell: how many cells back the head
    /// is. Of the head and the tail of a large block or a blank: its cells.
    number: u32,
    state: State,
}

/// What a cell is, in one word that is only ever read and written whole. With a field for each, a
/// free stored two bytes and the next allocation loaded four with these among them: a processor
/// cannot answer such a load before the store has reached its cache, and so waits for all that is
/// under way.
///
/// ```text
///   bits   24..32 kind │ 16..24 stride in steps of 32 bytes, less one │ 0..16 fill
///                      │ of a large block or a blank: whether a tail  │
/// ```
/// The fill map says which units of the stripe are allocated; those that it does not have are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
struct State(u32);

impl State {
    /// The bit above the fill map.
    const BEYOND_FILL: u32 = 1 << u16::BITS;

    /// What a tail has where a stripe has its stride.
    const TAIL: u8 = 1;

    const fn new(kind: Kind, stride: u8) -> Self {
        Self(((kind as u32) << 24) | ((stride as u32) << 16))
    }

    #[inline]
    const fn is(self, kind: Kind) -> bool {
        self.0 >> 24 == kind as u32
    }

    #[inline]
    const fn kind(self) -> Kind {
        match self.0 >> 24 {
            0 => Kind::Blank,
            1 => Kind::Large,
            2 => Kind::Stripe,
            3 => Kind::ShortStripe,
            _ => Kind::Inner,
        }
    }

    #[inline]
    const fn stride(self) -> u8 {
        (self.0 >> 16) as u8
    }

    #[inline]
    const fn fill(self) -> u16 {
        self.0 as u16
    }

    /// Whether it is the tail of a large block or a blank, and not the head.
    const fn is_tail(self) -> bool {
        self.stride() == Self::TAIL
    }
}

const _: () = assert!(size_of::<Cell>() == 24);

/// What is known of an extent.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Header {
    start: NonNull<u8>,
    records: NonNull<Cell>,
    cells: usize,
    /// The list of all headers.
    pub(super) next: Option<NonNull<Header>>,
    pub(super) previous: Option<NonNull<Header>>,
}

/// The cells of a stripe of `units` blocks.
#[inline]
pub(super) const fn cells_for(steps: usize, units: usize) -> usize {
    (steps * units).div_ceil(UNITS)
}

/// The blocks that `cells` cells have room for, at most 16.
#[inline]
pub(super) const fn units_in(cells: usize, steps: usize) -> usize {
    let units = cells * UNITS / steps;
    if units < UNITS { units } else { UNITS }
}

const fn usable_cells(extent_bytes: usize) -> usize {
    let cells = extent_bytes / CELL_BYTES;
    if cells < MAX_CELLS { cells } else { MAX_CELLS }
}

/// The metadata bytes for an extent.
pub(super) const fn metadata_bytes(extent_bytes: usize) -> usize {
    size_of::<Header>() + usable_cells(extent_bytes) * size_of::<Cell>()
}

/// For each stride in steps the factor by which to divide by it: rounded up, in 24 bits, which is
/// exact for offsets in a stripe, at most 2048 steps.
static RECIPROCALS: [u32; MAX_STRIDE / STRIDE_STEP + 1] = {
    let mut factors = [0; MAX_STRIDE / STRIDE_STEP + 1];
    let mut steps = 1;
    while steps < factors.len() {
        factors[steps] = (1_u32 << 24).div_ceil(steps as u32);
        steps += 1;
    }
    factors
};

/// `offset_steps / steps`, for offsets in a stripe.
#[inline]
pub(super) fn unit_at_offset(offset_steps: usize, steps: usize) -> usize {
    let factor = RECIPROCALS.get(steps).copied().unwrap_or(0);
    (offset_steps * factor as usize) >> 24
}

/// Counts a record or a node of the tree that is looked at, where tests bound how many that are.
#[inline]
pub(super) fn looked() {
    #[cfg(test)]
    super::tests::LOOKS.set(super::tests::LOOKS.get() + 1);
}

impl Cell {
    /// Takes the first free unit.
    #[inline]
    pub(super) fn take_unit(&mut self) -> usize {
        // The lowest bit that is clear. Were the map full, the bit above would make it the 16th.
        let unit = (!self.state.0 | State::BEYOND_FILL).trailing_zeros() as usize & 15;
        // INVARIANT: the stripe is not full where this is called, so the bit is clear.
        self.state.0 |= 1 << unit;
        unit
    }

    #[inline]
    pub(super) fn give_unit(&mut self, unit: usize) {
        self.state.0 &= !(1 << (unit & 15));
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.state.fill() == u16::MAX
    }

    /// Whether no unit is allocated.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.state.fill() == self.missing()
    }

    /// Whether a unit is allocated.
    pub(super) fn has_unit(&self, unit: usize) -> bool {
        self.state.fill() & !self.missing() & 1 << (unit & 15) != 0
    }

    /// The stride in steps, of a stripe's head.
    #[inline]
    pub(super) fn steps(&self) -> usize {
        self.state.stride() as usize + 1
    }

    /// How many units the stripe has.
    #[inline]
    fn units(&self) -> usize {
        match self.state.kind() {
            Kind::Stripe => UNITS,
            _ => units_in(cells_for(self.steps(), 1), self.steps()),
        }
    }

    /// The bits of units that the stripe does not have.
    #[inline]
    fn missing(&self) -> u16 {
        match self.state.kind() {
            Kind::Stripe => 0,
            _ => u16::MAX.checked_shl(self.units() as u32).unwrap_or(0),
        }
    }

    /// The cells of the stripe that this is the head of.
    pub(super) fn stripe_cells(&self) -> usize {
        match self.state.kind() {
            Kind::Stripe => cells_for(self.steps(), UNITS),
            _ => cells_for(self.steps(), 1),
        }
    }

    #[inline]
    pub(super) fn is_stripe(&self) -> bool {
        matches!(self.state.kind(), Kind::Stripe | Kind::ShortStripe)
    }
}

impl Header {
    /// Writes the header of an extent, as the first in the list.
    ///
    /// # Safety
    /// The extent upholds its type's invariants, its metadata is as long as [`metadata_bytes`]
    /// says; `first` is the first header in the list.
    pub(super) unsafe fn write(extent: &Extent, first: Option<NonNull<Self>>) -> NonNull<Self> {
        // SAFETY: the metadata has room for the header and the records behind it.
        unsafe {
            let header = extent.metadata().cast::<Self>();
            let records = pointers::forward(extent.metadata(), size_of::<Self>()).cast();
            let cells = usable_cells(extent.length());
            header.write(Self {
                start: extent.start(),
                records,
                cells,
                next: first,
                previous: None,
            });
            if let Some(first) = first {
                (*first.as_ptr()).previous = Some(header);
            }
            header
        }
    }

    /// Takes a header out of the list whose first is in `first`.
    ///
    /// # Safety
    /// It is in that list.
    pub(super) unsafe fn unlink(header: NonNull<Self>, first: &mut Option<NonNull<Self>>) {
        // SAFETY: the header is in the list, and so are those that it links.
        unsafe {
            let (next, previous) = (header.as_ref().next, header.as_ref().previous);
            if let Some(next) = next {
                (*next.as_ptr()).previous = previous;
            }
            match previous {
                Some(previous) => (*previous.as_ptr()).next = next,
                None => *first = next,
            }
        }
    }

    /// The header of the extent of a stripe.
    ///
    /// # Safety
    /// The cell is a stripe's head.
    #[inline]
    pub(super) unsafe fn of(head: NonNull<Cell>) -> NonNull<Self> {
        // SAFETY: the records follow the header, and a stripe's head knows its index.
        unsafe {
            let bytes = (*head.as_ptr()).number as usize * size_of::<Cell>() + size_of::<Self>();
            pointers::backward(head.cast(), bytes).cast()
        }
    }

    /// Where a unit of a stripe is.
    ///
    /// # Safety
    /// The cell is a stripe's head, and it has that unit.
    #[inline]
    pub(super) unsafe fn unit_at(head: NonNull<Cell>, unit: usize) -> NonNull<u8> {
        // SAFETY: the unit lies in the extent.
        unsafe {
            let cell = head.as_ref();
            let offset = unit * cell.steps() * STRIDE_STEP;
            let start = Self::of(head).as_ref().address(cell.number as usize);
            pointers::forward(start, offset)
        }
    }

    pub(super) const fn cells(&self) -> usize {
        self.cells
    }

    /// Where a cell is.
    #[inline]
    pub(super) fn address(&self, index: usize) -> NonNull<u8> {
        // SAFETY: callers pass cells of the extent.
        unsafe { pointers::forward(self.start, index * CELL_BYTES) }
    }

    /// The record of a cell.
    ///
    /// # Safety
    /// There is such a cell.
    #[inline]
    pub(super) unsafe fn cell(&self, index: usize) -> NonNull<Cell> {
        looked();
        // SAFETY: the caller's contract.
        unsafe { pointers::forward(self.records.cast(), index * size_of::<Cell>()).cast() }
    }

    #[inline]
    fn read(&self, index: usize) -> Option<&Cell> {
        if index >= self.cells {
            return None;
        }
        // SAFETY: there is such a cell, and no other reference to it is held meanwhile.
        Some(unsafe { self.cell(index).as_ref() })
    }

    /// The index of a stripe's head.
    #[inline]
    pub(super) fn index_of(&self, head: NonNull<Cell>) -> usize {
        pointers::distance(self.records.cast(), head.cast()) / size_of::<Cell>()
    }

    /// The head of the run that a block lies in, and how many steps of 32 bytes behind its start.
    ///
    /// # Safety
    /// The block lies in a stripe of this extent, or is a large block.
    #[inline]
    pub(super) unsafe fn head_of(&self, block: NonNull<u8>) -> (NonNull<Cell>, usize) {
        let offset = pointers::distance(self.start, block);
        let mut index = offset / CELL_BYTES;
        // SAFETY: the block's cell is a head, or a stripe's that says how far back its head is.
        unsafe {
            let cell = self.cell(index).as_ref();
            // Without a branch: which cell of a stripe a block is in cannot be foreseen, and a
            // wrong guess would be noticed only when the record has come from memory. Measured:
            // replacing random ones of a million blocks waited for that most of its time.
            let inner = usize::from(cell.state.is(Kind::Inner));
            index -= cell.number as usize * inner;
            (self.cell(index), (offset - index * CELL_BYTES) / STRIDE_STEP)
        }
    }

    /// Writes the head and the tail of a large block or a blank.
    ///
    /// # Safety
    /// The cells belong to nothing else.
    pub(super) unsafe fn write_run(&self, index: usize, cells: usize, kind: Kind) {
        // The tail first: of one cell it is the head.
        for (at, mark) in [(index + cells - 1, State::TAIL), (index, 0)] {
            let number = cells as u32;
            // SAFETY: the cells are in the extent.
            unsafe {
                let state = State::new(kind, mark);
                self.cell(at).write(Cell { next: None, previous: None, number, state });
            }
        }
    }

    /// Lets a cell say no more that it is a head.
    ///
    /// # Safety
    /// It is one, and what it is the head of joins the blank before it.
    pub(super) unsafe fn forget_head(&self, index: usize) {
        let state = State::new(Kind::Blank, 0);
        // SAFETY: the caller's contract.
        unsafe {
            self.cell(index).write(Cell { next: None, previous: None, number: 0, state });
        }
    }

    /// Writes the cells of a new stripe, in which nothing is allocated.
    ///
    /// # Safety
    /// The cells belong to nothing else, and are as many as the stripe's.
    pub(super) unsafe fn write_stripe(&self, index: usize, steps: usize, is_short: bool) {
        let kind = if is_short { Kind::ShortStripe } else { Kind::Stripe };
        let stride = (steps - 1) as u8;
        let state = State::new(kind, stride);
        let mut head = Cell { next: None, previous: None, number: index as u32, state };
        head.state.0 |= u32::from(head.missing());
        let cells = head.stripe_cells();
        // SAFETY: the cells are in the extent.
        unsafe {
            self.cell(index).write(head);
            for distance in 1..cells {
                self.cell(index + distance).write(Cell {
                    next: None,
                    previous: None,
                    number: distance as u32,
                    state: State::new(Kind::Inner, stride),
                });
            }
        }
    }

    /// The cells of the blank that begins at a cell, where a run begins; none if it is another.
    #[inline]
    pub(super) fn blank_at(&self, index: usize) -> Option<usize> {
        let cell = self.read(index)?;
        cell.state.is(Kind::Blank).then_some(cell.number as usize)
    }

    /// The cells of the blank that ends before a cell, where a run begins.
    #[inline]
    pub(super) fn blank_before(&self, index: usize) -> Option<usize> {
        self.blank_at(index.checked_sub(1)?)
    }

    /// The cells of the large block that begins at a cell.
    pub(super) fn large_at(&self, index: usize) -> Option<usize> {
        let cell = self.read(index)?;
        cell.state.is(Kind::Large).then_some(cell.number as usize)
    }

    /// The bytes of the block that begins at an address of the extent, whatever that is; none if
    /// none does. A block in a stripe counts if it is taken for the fill map.
    pub(super) fn block_at(&self, address: NonNull<u8>) -> Option<usize> {
        let offset = pointers::distance(self.start, address);
        let index = offset / CELL_BYTES;
        let cell = self.read(index)?;
        let head_index = match cell.state.kind() {
            Kind::Blank => return None,
            Kind::Large => {
                let is_start = !cell.state.is_tail() && offset.is_multiple_of(CELL_BYTES);
                return is_start.then_some(cell.number as usize * CELL_BYTES);
            }
            Kind::Inner => index.checked_sub(cell.number as usize)?,
            Kind::Stripe | Kind::ShortStripe => index,
        };
        // An inner cell's record may be of an earlier stripe, longer than the one that the head is
        // of by now: what lies beyond that is no unit which it has.
        let head = self.read(head_index).filter(|head| head.is_stripe())?;
        let (within, steps) = (offset - head_index * CELL_BYTES, head.steps());
        let unit = unit_at_offset(within / STRIDE_STEP, steps);
        let begins = within == unit * steps * STRIDE_STEP;
        (begins && unit < UNITS && head.has_unit(unit)).then_some(steps * STRIDE_STEP)
    }

    /// How many records say that they are the head of a stripe or a large block.
    pub(super) fn heads(&self) -> usize {
        let cells = (0..self.cells).filter_map(|index| self.read(index));
        cells.filter(|cell| cell.is_taken_head()).count()
    }

    /// The heads of all runs, in order of address, with their index and cells. Ends early where a
    /// record is no head's.
    pub(super) fn runs(&self) -> impl Iterator<Item = (usize, usize, &Cell)> {
        let mut index = 0;
        core::iter::from_fn(move || {
            let cell = self.read(index)?;
            let cells = match cell.state.kind() {
                Kind::Blank | Kind::Large => cell.number as usize,
                Kind::Stripe | Kind::ShortStripe => cell.stripe_cells(),
                Kind::Inner => return None,
            };
            let run = (index, cells, cell);
            index += cells.max(1);
            Some(run)
        })
    }

    /// Calls `visit` with the start and the bytes of each blank.
    pub(super) fn visit_blanks(&self, visit: &mut dyn FnMut(NonNull<u8>, usize)) {
        for (index, cells, cell) in self.runs() {
            if cell.state.is(Kind::Blank) {
                visit(self.address(index), cells * CELL_BYTES);
            }
        }
    }

    /// Calls `visit` with the start and the bytes of each free unit.
    pub(super) fn visit_free_units(&self, visit: &mut dyn FnMut(NonNull<u8>, usize)) {
        for (index, _, cell) in self.runs().filter(|(.., cell)| cell.is_stripe()) {
            let stride = cell.steps() * STRIDE_STEP;
            for unit in (0..UNITS).filter(|unit| cell.state.fill() >> unit & 1 == 0) {
                // SAFETY: the unit lies in the extent.
                visit(unsafe { pointers::forward(self.address(index), unit * stride) }, stride);
            }
        }
    }
}

impl Cell {
    /// Whether this is the head of a stripe or a large block.
    pub(super) fn is_taken_head(&self) -> bool {
        self.is_stripe() || self.state.is(Kind::Large) && !self.state.is_tail()
    }

    /// Whether this is the head of a blank.
    pub(super) fn is_blank(&self) -> bool {
        self.state.is(Kind::Blank)
    }

    /// The stride in steps, of a stripe's head that has room.
    pub(super) fn open_steps(&self) -> Option<usize> {
        (self.is_stripe() && !self.is_full()).then(|| self.steps())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_divided_exactly() {
        for steps in 1..=MAX_STRIDE / STRIDE_STEP {
            for offset in 0..steps * UNITS {
                assert_eq!(unit_at_offset(offset, steps), offset / steps);
            }
        }
    }

    #[test]
    fn a_short_stripe_holds_at_least_one() {
        for steps in 1..=MAX_STRIDE / STRIDE_STEP {
            let cells = cells_for(steps, 1);
            let units = units_in(cells, steps);
            assert!(units >= 1 && units * steps <= cells * UNITS);
            assert_eq!(cells_for(steps, UNITS), steps);
        }
    }
}
