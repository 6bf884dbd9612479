//! Extents by the longest hole that they may have.
//!
//! An extent stands on the shelf of the longest hole that it may have, by powers of two; what it
//! really has may be shorter, never longer. So an extent that cannot serve a request is not asked,
//! but once.

use core::cell::Cell;
use core::ptr::NonNull;

use super::granule::WORDS_OF_GRANULE;
use super::holes::Holes;
use crate::strategy::Extent;

/// Shelf 0 is for extents without a hole; shelf `n` for holes of 2^(n-1) to 2^n - 1 granules.
pub(super) const SHELVES: usize = 34;

/// The shelf of an extent whose longest hole is of `granules`, at least 1.
#[inline]
pub(super) const fn shelf_of(granules: usize) -> usize {
    granules.ilog2() as usize + 1
}

/// The words from which on a hole belongs on a higher shelf.
const fn limit_of(shelf: usize) -> usize {
    WORDS_OF_GRANULE << shelf
}

/// Where an extent stands: in its record.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) shelf: Cell<usize>,
    /// From how many words on a hole belongs on a higher shelf.
    pub(super) limit: Cell<usize>,
    pub(super) next: Cell<Option<NonNull<Extent>>>,
    previous: Cell<Option<NonNull<Extent>>>,
}

impl Place {
    pub(super) const fn new() -> Self {
        Self {
            shelf: Cell::new(0),
            limit: Cell::new(limit_of(0)),
            next: Cell::new(None),
            previous: Cell::new(None),
        }
    }
}

/// The shelves.
///
/// # Invariants
/// - Each extent that was added and not removed is in the list of the shelf that its place names,
///   linked both ways.
/// - Bit `n` of `occupied` is set exactly where shelf `n` has an extent.
#[derive(Debug)]
pub(super) struct Shelves {
    occupied: u64,
    heads: [Option<NonNull<Extent>>; SHELVES],
}

/// The record of an extent on a shelf.
///
/// # Safety
/// The extent is on a shelf.
unsafe fn holes<'a>(extent: NonNull<Extent>) -> &'a Holes {
    // SAFETY: what is on a shelf was added and not removed.
    unsafe { Holes::of(extent.as_ref()) }
}

impl Shelves {
    pub(super) const fn new() -> Self {
        Self { occupied: 0, heads: [None; SHELVES] }
    }

    /// The first extent of a shelf.
    #[inline]
    pub(super) fn first(&self, shelf: usize) -> Option<NonNull<Extent>> {
        *self.heads.get(shelf)?
    }

    /// The least shelf from `shelf` on that has an extent.
    #[inline]
    pub(super) fn next_occupied(&self, shelf: usize) -> Option<usize> {
        let rest = self.occupied & u64::MAX.checked_shl(shelf as u32)?;
        (rest != 0).then_some(rest.trailing_zeros() as usize)
    }

    /// Puts an extent that is on no shelf on one.
    ///
    /// # Safety
    /// The extent was added, and stays valid until it is taken down.
    pub(super) unsafe fn put(&mut self, extent: &Extent, shelf: usize) {
        let Some(head) = self.heads.get_mut(shelf) else { return };
        // SAFETY: the extent was added; the head is on a shelf.
        unsafe {
            let place = &Holes::of(extent).place;
            if let Some(next) = *head {
                holes(next).place.previous.set(Some(extent.into()));
            }
            place.shelf.set(shelf);
            place.limit.set(limit_of(shelf));
            place.previous.set(None);
            place.next.set(*head);
        }
        // INVARIANT: the extent is in this list now, and its shelf is occupied.
        *head = Some(extent.into());
        self.occupied |= 1 << shelf;
    }

    /// Takes an extent from its shelf.
    ///
    /// # Safety
    /// It is on one.
    pub(super) unsafe fn take_down(&mut self, extent: &Extent) {
        // SAFETY: the extent is on a shelf, and so are those that it links.
        unsafe {
            let place = &Holes::of(extent).place;
            let (next, previous) = (place.next.get(), place.previous.get());
            if let Some(next) = next {
                holes(next).place.previous.set(previous);
            }
            if let Some(previous) = previous {
                holes(previous).place.next.set(next);
            } else if let Some(head) = self.heads.get_mut(place.shelf.get()) {
                *head = next;
                if next.is_none() {
                    // INVARIANT: the list is empty now.
                    self.occupied &= !(1 << place.shelf.get());
                }
            }
        }
    }

    /// Moves an extent to a shelf.
    ///
    /// # Safety
    /// It is on one.
    pub(super) unsafe fn put_on(&mut self, extent: &Extent, shelf: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            if shelf != Holes::of(extent).place.shelf.get() {
                self.take_down(extent);
                self.put(extent, shelf);
            }
        }
    }

    /// Calls `visit` with each extent.
    pub(super) fn visit(&self, mut visit: impl FnMut(&Extent)) {
        for &head in &self.heads {
            let mut next = head;
            while let Some(extent) = next {
                // SAFETY: the extent is on a shelf.
                let (extent, holes) = unsafe { (extent.as_ref(), holes(extent)) };
                next = holes.place.next.get();
                visit(extent);
            }
        }
    }

    /// Whether an extent is on a shelf. O(extents).
    pub(super) fn have(&self, extent: NonNull<Extent>) -> bool {
        let mut have = false;
        self.visit(|other| have |= extent == other.into());
        have
    }

    /// Checks each extent and each link; what is wrong, if anything is.
    pub(super) fn fault(&self) -> Option<&'static str> {
        for (shelf, head) in self.heads.iter().enumerate() {
            if (self.occupied >> shelf & 1 != 0) != head.is_some() {
                return Some("a shelf's bit disagrees with its list");
            }
            let (mut previous, mut next) = (None, *head);
            while let Some(extent) = next {
                // SAFETY: the extent is on a shelf.
                let holes = unsafe { holes(extent) };
                if holes.place.previous.get() != previous {
                    return Some("a list reads differently backwards");
                }
                let is_there =
                    (holes.place.shelf.get(), holes.place.limit.get()) == (shelf, limit_of(shelf));
                if !is_there || holes.longest() > shelf {
                    return Some("an extent stands below the shelf of its longest hole");
                }
                if let Some(fault) = holes.fault() {
                    return Some(fault);
                }
                previous = next;
                next = holes.place.next.get();
            }
        }
        None
    }
}
