//! The lists of an extent's free runs, by length: what lies at the ends of a run, and what changes
//! when one is put in or taken out.
//!
//! ```text
//!   run      │ next, previous, length               length │
//!   empty    │ next, previous, length │                        in the extent's header
//! ```
//!
//! Where a freed block has no run beside it, the **empty** run is taken out in its place, which has
//! no length and is in no list. Whether there is a run nobody can foresee, and a wrong guess costs
//! more than taking one out.

use core::cell::Cell;
use core::hint::select_unpredictable;
use core::ptr::NonNull;

use super::bins::BINS;
use super::runs::{Runs, UNIT};
use crate::pointers;

/// No place.
pub(super) const NONE: u32 = u32::MAX;

/// From here on what is no place says which bin's first run it is.
pub(super) const FIRST: u32 = !(BINS as u32 - 1);

/// What the first run of a bin has for the run before it: so whoever takes it out need not know its
/// length.
#[inline]
pub(super) const fn first_of(bin: usize) -> u32 {
    FIRST | bin as u32
}

/// Bytes at the start of a free run that are written, if it is as long.
pub(super) const HEAD_BYTES: usize = LINK_BYTES + LENGTH_BYTES;

/// Bytes at its end.
pub(super) const TAIL_BYTES: usize = LENGTH_BYTES;

/// The neighbours in the list.
const LINK_BYTES: usize = 2 * size_of::<u32>();

/// A run's length, in units.
const LENGTH_BYTES: usize = size_of::<u32>();

/// What is taken out of no list where no run is: what is written then is what was there.
///
/// # Invariants
/// `next` is [`NONE`], `previous` says that it is the first of bin 0, and `length` is zero.
#[derive(Debug)]
pub(super) struct Empty([Cell<u32>; HEAD_BYTES / size_of::<u32>()]);

impl Empty {
    pub(super) const fn new() -> Self {
        Self([Cell::new(NONE), Cell::new(first_of(0)), Cell::new(0)])
    }

    /// Whether the invariants hold.
    pub(super) fn is_sound(&self) -> bool {
        let [next, previous, length] = &self.0;
        (next.get(), previous.get(), length.get()) == (NONE, first_of(0), 0)
    }

    /// Changes a word, for the tests.
    #[cfg(test)]
    pub(super) fn damage(&self, word: usize) {
        self.0[word].set(1);
    }
}

/// Where a free run starts, or the empty one.
///
/// # Invariants
/// There are links, of the strategy's alone, and behind them the length unless it is a run of 8
/// bytes.
#[derive(Clone, Copy)]
pub(super) struct Run(NonNull<Cell<u32>>);

impl Run {
    /// The run that comes next in the list, or [`NONE`].
    #[inline]
    fn next<'a>(self) -> &'a Cell<u32> {
        // SAFETY: by the type's invariants.
        unsafe { self.0.as_ref() }
    }

    /// The run before it in the list, or [`first_of`] the bin.
    #[inline]
    fn previous<'a>(self) -> &'a Cell<u32> {
        // SAFETY: by the type's invariants.
        unsafe { pointers::element(self.0, 1).as_ref() }
    }

    /// The length in units.
    ///
    /// # Safety
    /// It is longer than 8 bytes, or empty.
    #[inline]
    unsafe fn length<'a>(self) -> &'a Cell<u32> {
        // SAFETY: by the type's invariants and the contract.
        unsafe { pointers::element(self.0, 2).as_ref() }
    }
}

impl Runs<'_> {
    /// Lists a run; its bin.
    #[inline]
    pub(super) fn push(&self, start: usize, units: usize) -> usize {
        self.write_length::<true>(start, units);
        self.put(start, units)
    }

    /// Puts a run whose length is written into its bin's list; the bin.
    #[inline(always)] // measured: see `Runs::take_at_once`
    pub(super) fn put(&self, start: usize, units: usize) -> usize {
        let bin = self.bin_of(units);
        let head = &self.header.heads[bin % BINS];
        let (run, next) = (self.run_at(start), head.get());
        run.next().set(next);
        // Where there is no next, this is overwritten at once.
        self.run_behind(run, next).previous().set(start as u32);
        run.previous().set(first_of(bin));
        // INVARIANT: the run is in the list, and its bin is occupied.
        head.set(start as u32);
        self.header.occupied.set(self.header.occupied.get() | 1 << bin);
        bin
    }

    /// Takes the first run out of its bin's list.
    #[inline]
    pub(super) fn pop(&self, bin: usize, start: usize) {
        let run = self.run_at(start);
        let next = run.next().get();
        // INVARIANT: the next one is the first; where there is none the list is empty now.
        self.header.heads[bin % BINS].set(next);
        self.run_behind(run, next).previous().set(first_of(bin));
        let occupied = &self.header.occupied;
        occupied.set(occupied.get() & !(u64::from(next == NONE) << bin));
    }

    /// Takes a run out of its bin's list.
    #[inline]
    pub(super) fn unlink(&self, start: usize) {
        self.unlink_run(self.run_at(start));
    }

    /// Takes out the run that starts at `end`, if there is one: its length, else zero.
    ///
    /// # Safety
    /// If there is one it is listed and longer than 8 bytes.
    #[inline]
    pub(super) unsafe fn take_behind(&self, is_free: bool, end: usize) -> usize {
        let run = self.run_or_empty(is_free, end);
        self.unlink_run(run);
        // SAFETY: the caller's contract.
        unsafe { run.length() }.get() as usize
    }

    /// Takes out the run that ends before `first`, if there is one: its length, else zero.
    ///
    /// # Safety
    /// As [`take_behind`](Self::take_behind).
    #[inline]
    pub(super) unsafe fn take_before(&self, is_free: bool, first: usize) -> usize {
        // SAFETY: of the run if there is one by the contract, else the empty one's.
        let length = unsafe {
            let nothing = NonNull::from(self.empty().length());
            let last = self.last_length_at(first);
            select_unpredictable(is_free, last, nothing).as_ref().get() as usize
        };
        self.unlink_run(self.run_or_empty(is_free, first - length));
        length
    }

    /// Takes a run out of its bin's list, or nothing where it is the empty one. Whether it is the
    /// first, or the last, nobody can foresee, so it is done without a branch.
    #[inline]
    fn unlink_run(&self, run: Run) {
        let (next, previous) = (run.next().get(), run.previous().get());
        // Bin 0 has no runs: of the empty one what is written is what is there.
        let head = NonNull::from(&self.header.heads[previous as usize % BINS]);
        let before = self.place(previous as usize);
        // SAFETY: the bin's head, or the link of the run before, which begins with its next.
        unsafe { select_unpredictable(previous >= FIRST, head, before).as_ref() }.set(next);
        // Where there is no next, the run's own link is written, which is none any more; of the
        // empty run what is there. INVARIANT: the run is in no list; its bin's bit may stay.
        self.run_behind(run, next).previous().set(previous);
    }

    /// Whether runs may have no room for lengths: those of one block of 8 bytes.
    #[inline]
    pub(super) const fn is_bare(&self) -> bool {
        self.step == 0
    }

    /// The length of a listed run.
    #[inline]
    pub(super) fn length(&self, start: usize) -> usize {
        if self.is_bare() && self.has_edge(start + 1) {
            return 1;
        }
        // SAFETY: a listed run starts there, and is longer than 8 bytes.
        unsafe { self.run_at(start).length().get() as usize }
    }

    /// The length of the first run of a bin, zero where there is none. Without `ANY` it has room
    /// for that.
    #[inline]
    pub(super) fn length_of_first<const ANY: bool>(&self, start: usize) -> usize {
        let is_run = start != NONE as usize;
        if ANY && is_run {
            return self.length(start);
        }
        // SAFETY: empty, or longer than 8 bytes.
        unsafe { self.run_or_empty(is_run, start).length().get() as usize }
    }

    /// The length of the listed run that ends before `end`.
    #[inline]
    pub(super) fn length_before(&self, end: usize) -> usize {
        if self.is_bare() && self.has_edge(end - 1) {
            return 1;
        }
        // SAFETY: a listed run ends there, and is longer than 8 bytes.
        unsafe { self.last_length_at(end).as_ref().get() as usize }
    }

    /// Writes the length of a run to both its ends, if there is room; without `ANY` there is.
    #[inline]
    pub(super) fn write_length<const ANY: bool>(&self, start: usize, units: usize) {
        if !ANY || units > LINK_BYTES / UNIT {
            // SAFETY: it is longer.
            unsafe { self.write_both_lengths(start, units) };
        }
    }

    /// Writes the length of a run to both its ends.
    ///
    /// # Safety
    /// The run is free, as long, and longer than 8 bytes.
    #[inline]
    pub(super) unsafe fn write_both_lengths(&self, start: usize, units: usize) {
        // SAFETY: both lie in the run.
        unsafe {
            self.run_at(start).length().set(units as u32);
            self.last_length_at(start + units).as_ref().set(units as u32);
        }
    }

    /// Where the run that ends there has its length last, if one does.
    #[inline]
    fn last_length_at(&self, end: usize) -> NonNull<Cell<u32>> {
        let offset = (end * UNIT).wrapping_sub(LENGTH_BYTES);
        // SAFETY: the base is a multiple of 8 that is not zero, so four bytes less are not.
        unsafe { pointers::anywhere(self.base, offset) }.cast()
    }

    /// The first run of a bin.
    #[inline]
    pub(super) fn head(&self, bin: usize) -> usize {
        self.header.heads[bin % BINS].get() as usize
    }

    /// The run behind one in its list.
    #[inline]
    pub(super) fn next(&self, start: usize) -> usize {
        self.run_at(start).next().get() as usize
    }

    /// The run before one in its list, or [`first_of`] the bin.
    pub(super) fn previous(&self, start: usize) -> usize {
        self.run_at(start).previous().get() as usize
    }

    #[inline]
    fn empty(&self) -> Run {
        Run(NonNull::from(&self.header.empty).cast())
    }

    #[inline]
    fn run_or_empty(&self, is_run: bool, start: usize) -> Run {
        Run(select_unpredictable(is_run, self.place(start), self.empty().0))
    }

    /// The run at a place, or the one given where that is none.
    #[inline]
    fn run_behind(&self, run: Run, next: u32) -> Run {
        Run(select_unpredictable(next == NONE, run.0, self.place(next as usize)))
    }

    /// The run at a place.
    #[inline]
    fn run_at(&self, start: usize) -> Run {
        Run(self.place(start))
    }

    /// What lies at a place, if it is one.
    #[inline]
    fn place(&self, place: usize) -> NonNull<Cell<u32>> {
        // SAFETY: places have 32 bits: with the base, an address of a program, so many units do not
        // overflow.
        unsafe { pointers::anywhere(self.base, place * UNIT) }.cast()
    }
}
