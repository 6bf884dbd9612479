//! `StripeSpace`: stripes over any address space, checked.
//!
//! It hands out addresses and keeps everything about them to itself, so the space need not be
//! memory: it may be a file, a device, a graphics card's memory or a range of port numbers. Wrong
//! calls are errors and change nothing.
//!
//! ```
//! use heapswitch::strategy::stripes::space::{SpaceSettings, StripeSpace};
//!
//! let settings = SpaceSettings { start: 0, length: 1000, alignment: 1 };
//! let mut space = StripeSpace::new(settings)?;
//! let addresses = [3, 3, 3, 12, 12, 12].map(|size| space.allocate(size).unwrap());
//! assert_eq!(addresses, [0, 3, 6, 48, 60, 72]);
//! assert_eq!(space.allocation_size(60)?, 12);
//! assert_eq!(space.free(60)?, 12);
//! assert!(space.free(60).is_err());
//! # Ok::<(), heapswitch::strategy::stripes::space::SpaceError>(())
//! ```
//!
//! ```text
//!   stripes by address        (0, 3, 111...)  (48, 12, 111...)
//!   open by (stride, address) (3, 0)          (12, 48)
//!   blanks by (size, address) (760, 240)      and by address
//! ```
//!
//! Each is one of std's ordered maps: every call takes O(log n), and a million allocations need
//! some 6 MB where they are of few sizes. **Those maps take their memory from the program's
//! allocator**: this is no part of one. The strategy [`Stripes`](super::Stripes) is, and keeps its
//! records out of line.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

/// Allocations in a whole stripe.
const UNITS: usize = 16;

/// What address space there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceSettings {
    /// The first address.
    pub start: usize,
    /// How many addresses there are.
    pub length: usize,
    /// What each allocation's address is a multiple of, at least 1: a power of two.
    pub alignment: usize,
}

/// Why a call was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpaceError {
    /// The alignment is no power of two, or the space goes past the last address.
    Settings(SpaceSettings),
    /// An allocation of size zero.
    ZeroSize,
    /// No blank is long enough.
    Full {
        /// What was asked for.
        size: usize,
        /// The longest blank. It may be longer than what was asked for, where it is aligned to
        /// less.
        longest_blank: usize,
    },
    /// No allocation begins at the address: it was freed before, or is foreign.
    NotAllocated(usize),
}

impl core::fmt::Display for SpaceError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Settings(SpaceSettings { start, length, alignment }) => write!(
                formatter,
                "no space of {length} addresses from {start} on, aligned to {alignment}: the \
                 alignment has to be a power of two, and the end an address"
            ),
            Self::ZeroSize => write!(formatter, "an allocation of size zero has no address"),
            Self::Full { size, longest_blank } => {
                write!(formatter, "no room for {size}: the longest blank is {longest_blank}")
            }
            Self::NotAllocated(address) => {
                write!(formatter, "no allocation begins at {address}; was it freed before?")
            }
        }
    }
}

impl core::error::Error for SpaceError {}

/// Up to 16 allocations of one size.
#[derive(Clone, Copy, Debug)]
struct Stripe {
    stride: usize,
    units: usize,
    /// Which units are allocated.
    fill: u16,
}

impl Stripe {
    const fn length(&self) -> usize {
        self.stride * self.units
    }

    const fn is_full(&self) -> bool {
        self.fill.count_ones() as usize == self.units
    }
}

/// A stripe and one of its units.
struct Unit {
    start: usize,
    stripe: Stripe,
    number: usize,
}

/// An address space in which stripes are allocated, see the [module](self).
///
/// # Invariants
/// - Stripes and blanks overlap nowhere and fill the space, but for what alignment takes of its
///   ends. No two blanks touch, no stripe is empty.
/// - `open` has exactly the stripes that are not full, `by_size` exactly the blanks.
#[derive(Clone, Debug)]
pub struct StripeSpace {
    alignment: usize,
    stripes: BTreeMap<usize, Stripe>,
    open: BTreeSet<(usize, usize)>,
    blanks: BTreeMap<usize, usize>,
    by_size: BTreeSet<(usize, usize)>,
    allocations: usize,
    allocated: usize,
}

impl StripeSpace {
    /// A space in which nothing is allocated.
    ///
    /// # Errors
    /// [`SpaceError::Settings`].
    pub fn new(settings: SpaceSettings) -> Result<Self, SpaceError> {
        let SpaceSettings { start, length, alignment } = settings;
        let wrong = SpaceError::Settings(settings);
        if !alignment.is_power_of_two() {
            return Err(wrong);
        }
        let end = start.checked_add(length).ok_or(wrong)?;
        let mut space = Self {
            alignment,
            stripes: BTreeMap::new(),
            open: BTreeSet::new(),
            blanks: BTreeMap::new(),
            by_size: BTreeSet::new(),
            allocations: 0,
            allocated: 0,
        };
        let first = start.checked_next_multiple_of(alignment).unwrap_or(end);
        if first < end {
            space.put_blank(first, end - first);
        }
        Ok(space)
    }

    /// How many allocations there are.
    pub const fn allocations(&self) -> usize {
        self.allocations
    }

    /// The sum of their sizes, as [`allocation_size`](Self::allocation_size) gives them.
    pub const fn allocated(&self) -> usize {
        self.allocated
    }

    /// The length of the longest blank.
    pub fn longest_blank(&self) -> usize {
        self.by_size.last().map_or(0, |&(size, _)| size)
    }

    /// Allocates `size` addresses; the first one. It is the lowest free unit of the first stripe of
    /// that size by address, or the first unit of a new stripe.
    ///
    /// # Errors
    /// [`SpaceError::ZeroSize`], [`SpaceError::Full`].
    pub fn allocate(&mut self, size: usize) -> Result<usize, SpaceError> {
        if size == 0 {
            return Err(SpaceError::ZeroSize);
        }
        let full = SpaceError::Full { size, longest_blank: self.longest_blank() };
        let stride = size.checked_next_multiple_of(self.alignment).ok_or(full)?;
        let start = match self.open.range((stride, 0)..=(stride, usize::MAX)).next() {
            Some(&(_, start)) => start,
            None => self.new_stripe(stride).ok_or(full)?,
        };
        // The set leads to stripes that there are.
        let stripe = self.stripes.get_mut(&start).ok_or(full)?;
        let number = stripe.fill.trailing_ones() as usize;
        stripe.fill |= 1 << number;
        if stripe.is_full() {
            self.open.remove(&(stride, start));
        }
        self.allocations += 1;
        self.allocated += stride;
        Ok(start + number * stride)
    }

    /// Frees an allocation; its size.
    ///
    /// # Errors
    /// [`SpaceError::NotAllocated`]: none begins there.
    pub fn free(&mut self, address: usize) -> Result<usize, SpaceError> {
        let Unit { start, mut stripe, number } = self.unit_at(address)?;
        stripe.fill &= !(1 << number);
        self.allocations -= 1;
        self.allocated -= stripe.stride;
        if stripe.fill == 0 {
            self.stripes.remove(&start);
            self.open.remove(&(stripe.stride, start));
            self.merge_blank(start, stripe.length());
        } else {
            self.stripes.insert(start, stripe);
            self.open.insert((stripe.stride, start));
        }
        Ok(stripe.stride)
    }

    /// The size of the allocation that begins at an address: what was asked for, rounded up to the
    /// alignment.
    ///
    /// # Errors
    /// [`SpaceError::NotAllocated`]: none begins there.
    pub fn allocation_size(&self, address: usize) -> Result<usize, SpaceError> {
        self.unit_at(address).map(|unit| unit.stripe.stride)
    }

    /// The allocations, in order of address, and their sizes.
    pub fn iter(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.stripes.iter().flat_map(|(&start, &stripe)| {
            (0..stripe.units)
                .filter(move |number| stripe.fill >> number & 1 != 0)
                .map(move |number| (start + number * stripe.stride, stripe.stride))
        })
    }

    /// The allocated unit that begins at an address.
    fn unit_at(&self, address: usize) -> Result<Unit, SpaceError> {
        let error = SpaceError::NotAllocated(address);
        let (&start, &stripe) = self.stripes.range(..=address).next_back().ok_or(error)?;
        let (number, offset) =
            ((address - start) / stripe.stride, (address - start) % stripe.stride);
        if number >= stripe.units || offset != 0 || stripe.fill >> number & 1 == 0 {
            return Err(error);
        }
        Ok(Unit { start, stripe, number })
    }

    /// Cuts a stripe of 16 from the shortest blank that has room, or else of one.
    fn new_stripe(&mut self, stride: usize) -> Option<usize> {
        let whole = stride.checked_mul(UNITS).and_then(|length| self.take_blank(length));
        let (start, units) = match whole {
            Some(start) => (start, UNITS),
            None => (self.take_blank(stride)?, 1),
        };
        self.stripes.insert(start, Stripe { stride, units, fill: 0 });
        self.open.insert((stride, start));
        Some(start)
    }

    /// Takes the front of the shortest blank of at least `length`.
    fn take_blank(&mut self, length: usize) -> Option<usize> {
        let &(size, start) = self.by_size.range((length, 0)..).next()?;
        self.remove_blank(start);
        if size > length {
            self.put_blank(start + length, size - length);
        }
        Some(start)
    }

    fn put_blank(&mut self, start: usize, length: usize) {
        self.blanks.insert(start, length);
        self.by_size.insert((length, start));
    }

    fn remove_blank(&mut self, start: usize) {
        if let Some(length) = self.blanks.remove(&start) {
            self.by_size.remove(&(length, start));
        }
    }

    /// Puts a blank in, merged with those on both sides.
    fn merge_blank(&mut self, mut start: usize, mut length: usize) {
        if let Some(&behind) = self.blanks.get(&(start + length)) {
            self.remove_blank(start + length);
            length += behind;
        }
        if let Some((&before, &size)) = self.blanks.range(..start).next_back()
            && before + size == start
        {
            self.remove_blank(before);
            start = before;
            length += size;
        }
        self.put_blank(start, length);
    }
}

#[cfg(test)]
mod tests;
