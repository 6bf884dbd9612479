//! `FreeList`: holes kept by address and joined, searched by first, next or best fit.
//!
//! The plainest general allocator, and the one that wastes least: blocks are their size rounded up
//! to 16 bytes, without a header, for the `Layout` comes back at the free. A hole needs 16 bytes.
//!
//! ```text
//!   extent      ████░░░░░░██████████░░████████████████░░░░░░░░░░░░░░░    █ block  ░ hole
//!   out of line     │     │         │ │               │              │   a bit at each edge
//!
//!   shelf 6     extent ⇄ extent ⇄ ...       extents by the longest hole that they may have
//!   shelf 3     extent
//! ```
//!
//! - `holes` has the holes of one extent: `edges` says where they begin and end, `granule` what
//!   lies there,
//! - `bins` has lists of holes by length, for best fit, and keeps their heads in the extent itself;
//!   `stretches` has the holes by address, for first and next fit, and `maxima` says where one may
//!   be long enough; both by the lengths' `class`es,
//! - `shelves` the extents that may serve a request, and `used` what of each is,
//! - `cut` says where a block is cut.
//!
//! **Which fit?** Best fit leaves the least behind, and takes the fewest steps: the default. First
//! fit keeps the upper end of memory free. Next fit goes on where the last search ended, so blocks
//! of one time lie together, and it fragments most.
//!
//! **What was freed lately** and is up to 1 KiB long waits in a list of its length, at most 8 of up
//! to 64 bytes, 6 of up to 512, else 4, and serves the next request of that length before any hole
//! does, whatever the fit. It joins its neighbours when a search finds no
//! hole: before more memory is taken, and before a request is refused.
//!
//! **Large requests** (above 128 KiB) get a range of their own from the memory source, which on a
//! `MemoryMapSource` is a mapping, and goes back when they are freed: so one long-lived small
//! block never pins a large range. Inside heaps that begins at 32 KiB, as for every strategy.
//! **Other ranges** are as long as all that is held, up to 16 GiB, so that there are few: no hole
//! crosses from one to the next. One of a MiB or more gives what nobody has touched, for best fit,
//! only where no fuller one surely has room. [`reserve`](SourcedAllocator::reserve) takes one for
//! all.
//!
//! Costs: a bit for each 16 bytes, and 4 bytes for each class of lengths, or, for first and next
//! fit, another bit and a byte for each KiB (together about 1 or 2 %). A block from the lists, or
//! into them, takes some ten instructions. Best fit else takes about a hundred, and freeing eighty,
//! however many holes there are; before a request finds no room, a look at 32 holes more. First fit
//! takes a few steps, which grow with the logarithm of the extent's length, and one more for each
//! hole of nearly the size that does not fit. Not for: many threads' worth of objects of a few
//! sizes, where a [slab](super::slab) is faster, or many large blocks of all sizes, where
//! [buddies](super::buddy) are.

mod bins;
mod class;
mod cut;
mod edges;
mod granule;
mod holes;
mod maxima;
mod shelves;
mod stretches;
#[cfg(test)]
mod tests;
mod used;
mod verify;

use core::alloc::Layout;
use core::ptr::NonNull;

use self::bins::MAX_GRANULES;
use self::granule::{GRANULE, WORDS_OF_GRANULE, granules_for};
use self::holes::Holes;
use self::shelves::{SHELVES, Shelves, shelf_of};
use self::used::Used;
use super::quick::{Quick, WAITING_BYTES};
use super::sourced::SourcedAllocator;
use super::{Extent, FreedAtOnce, Strategy};
use crate::allocator::AllocError;
use crate::pointers;
use crate::sys::abort_with;
use crate::units::round_up;

/// A free list on a memory source, for use through the allocator trait.
pub type FreeListAllocator<M> = SourcedAllocator<FreeList, M>;

/// Which of the holes that fit is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fit {
    /// The first by address.
    First,
    /// The first from where the last search ended.
    Next,
    /// The shortest; from 1 KiB on nearly that.
    #[default]
    Best,
}

/// What can be chosen of a free list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Which hole is taken.
    pub fit: Fit,
}

/// Blocks shorter than this, in granules, may wait in quick lists: up to 1 KiB.
const QUICK_LENGTHS: usize = 65;

/// How many of each length may wait: together 147 KiB, which serve before anything is refused.
/// Where lengths are random each that finds room saves a wrong guess as well. Measured on the trace
/// `cache`: with none waiting the least memory that would do is 269 KiB, with these 345.
const QUICK_ROOM: [u8; QUICK_LENGTHS] = {
    let mut room = [0; QUICK_LENGTHS];
    let mut granules = 1;
    while granules < QUICK_LENGTHS {
        room[granules] = match granules {
            ..5 => 8,
            5..17 => 6,
            17..33 => 6,
            _ => 4,
        };
        granules += 1;
    }
    room
};
const _: () = assert!(WAITING_BYTES <= GRANULE);

/// The most bytes of an extent that are used: 16 GiB less a granule.
const MOST_BYTES: usize = MAX_GRANULES * GRANULE;

/// Holes by address, see the [module](self).
///
/// # Invariants
/// - Each extent that was added and not removed is on a shelf, no lower than that of its longest
///   hole. `current` is one of them, or none.
/// - A block that waits in a quick list is in no hole.
/// - The words of an extent count its blocks that are allocated and do not wait.
#[derive(Debug)]
pub struct FreeList {
    fit: Fit,
    current: Option<NonNull<Extent>>,
    quick: Quick<QUICK_LENGTHS>,
    shelves: Shelves,
    /// Where the extent starts whose last block was freed, for a heap, which asks for it at once;
    /// on a source nobody does.
    emptied: Option<NonNull<u8>>,
}

// SAFETY: the pointers lead to memory that is the strategy's alone.
unsafe impl Send for FreeList {}

impl FreeList {
    /// Frees granules of an extent into its holes.
    ///
    /// # Safety
    /// They begin at `start`, are in no hole, and are not used any more.
    #[inline(never)]
    unsafe fn give(&mut self, extent: &Extent, start: NonNull<u8>, granules: usize) {
        // SAFETY: something is allocated in the extent, so that was added and not removed; the rest
        // is the caller's contract.
        unsafe {
            match Holes::of(extent).give(start, granules) {
                Some(words) if words < Holes::of(extent).place.limit.get() => {}
                Some(words) => self.raise(extent, words),
                None => self.give_by_address(extent, start, granules),
            }
        }
    }

    /// As [`give`](Self::give), for first and next fit.
    ///
    /// # Safety
    /// As there.
    #[inline(never)]
    unsafe fn give_by_address(&mut self, extent: &Extent, start: NonNull<u8>, granules: usize) {
        // SAFETY: as there.
        unsafe {
            let holes = Holes::of(extent);
            let words = holes.give_by_any(start, granules);
            if words >= holes.place.limit.get() {
                self.raise(extent, words);
            }
        }
    }

    /// Puts an extent on the shelf of its longest hole.
    ///
    /// # Safety
    /// It was added and not removed.
    #[cold]
    #[inline(never)]
    unsafe fn raise(&mut self, extent: &Extent, words: usize) {
        // SAFETY: the extent is on a shelf.
        unsafe { self.shelves.put_on(extent, shelf_of(words / WORDS_OF_GRANULE)) };
    }

    /// Frees a block; whether its extent has none any more.
    ///
    /// # Safety
    /// As [`Strategy::deallocate`].
    #[inline]
    unsafe fn free_block(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) -> bool {
        let granules = granules_for(layout.size());
        if cfg!(any(test, heapswitch_check)) {
            self.check_is_taken(extent, block, granules);
        }
        Used::of(extent).count_freed(granules);
        // SAFETY: the block is allocated in the extent, and so long; where it waits, it stays taken
        // for the holes.
        unsafe {
            if !self.quick.push(extent, block, granules) {
                self.give(extent, block, granules);
            }
        }
        Used::of(extent).blocks.get() == 0
    }
}

/// The length of the block that serves a request of `size` bytes.
#[inline]
const fn rounded(size: usize) -> usize {
    granules_for(size) * GRANULE
}

// SAFETY:
// - A block is cut from a hole, which then is shorter or gone, and is aligned as its front was.
// - `block_length` rounds the size up to granules whatever the alignment: monotone, the same for
//   all sizes up to it.
// - Only the metadata, the extents' words, the first and last granules of holes and what waits are
//   written.
// - `extent_bytes` leaves room to align the request; a new extent is one hole, on its shelf.
// - Nothing here allocates or unwinds.
unsafe impl Strategy for FreeList {
    type Settings = Settings;

    const NAME: &'static str = "free_list";

    const COUNTS_BLOCKS: bool = true;

    const COUNTS_ON_SOURCES: bool = true;
    const TELLS_EMPTY: bool = true;

    const HAS_WAITING: bool = true;

    const EXTENT_ALIGN: usize = 64;

    const DIRECT_BYTES: usize = 128 << 10;

    const EXTENT_DIVISOR: usize = 1;

    const MOST_RANGE_BYTES: usize = MOST_BYTES + GRANULE;

    const DEFAULT: Self = Self {
        fit: Fit::Best,
        current: None,
        quick: Quick::new(QUICK_ROOM),
        shelves: Shelves::new(),
        emptied: None,
    };

    fn new(settings: Settings) -> Self {
        Self { fit: settings.fit, ..Self::DEFAULT }
    }

    fn metadata_bytes(&self, extent_bytes: usize) -> usize {
        holes::metadata_bytes(extent_bytes, self.fit)
    }

    fn extent_bytes(&self, layout: Layout) -> Option<usize> {
        let length = self.block_length(layout).ok()?;
        let hole_bytes = length.checked_add(layout.align().saturating_sub(Self::EXTENT_ALIGN))?;
        holes::extent_bytes(hole_bytes, self.fit)
    }

    #[inline]
    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        match round_up(layout.size(), GRANULE) {
            Some(length) if length <= isize::MAX.unsigned_abs() => Ok(length),
            _ => Err(AllocError),
        }
    }

    #[inline]
    fn length_of_block(&self, layout: Layout) -> usize {
        rounded(layout.size())
    }

    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        if let block @ Some(_) = self.take_waiting(layout) {
            return block;
        }
        let granules = granules_for(layout.size());
        let start = self.cut(granules, layout.align())?;
        Some(pointers::block(start, granules * GRANULE))
    }

    #[inline]
    fn may_wait(&self, layout: Layout) -> bool {
        layout.size() <= (QUICK_LENGTHS - 1) * GRANULE
    }

    #[inline]
    fn take_waiting(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let granules = granules_for(layout.size());
        if layout.align() > GRANULE {
            return None;
        }
        let (start, extent) = self.quick.pop(granules)?;
        // SAFETY: a quick list's extents were added and not removed.
        Used::of(unsafe { extent.as_ref() }).count_new(granules);
        Some(pointers::block(start, granules * GRANULE))
    }

    #[inline(always)] // measured: a tenth less instructions where a program has two sources
    fn allocate_at_once(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        let granules = granules_for(layout.size());
        let start = self.cut_by::<true>(granules, layout.align())?;
        Some(pointers::block(start, granules * GRANULE))
    }

    #[inline]
    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { self.free_block(extent, block, layout) };
    }

    #[inline]
    unsafe fn free(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) -> bool {
        // SAFETY: the caller's contract.
        let is_last = unsafe { self.free_block(extent, block, layout) };
        if is_last {
            self.emptied = Some(extent.start());
        }
        is_last
    }

    #[inline(always)] // measured: as `allocate_at_once`
    unsafe fn free_at_once(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        layout: Layout,
    ) -> Option<FreedAtOnce> {
        let granules = granules_for(layout.size());
        if cfg!(any(test, heapswitch_check)) {
            self.check_is_taken(extent, block, granules);
        }
        // SAFETY: a block is allocated in the extent, so that was added and not removed; the rest
        // is the caller's contract.
        unsafe {
            let holes = Holes::of(extent);
            let words = holes.give(block, granules)?;
            Used::of(extent).count_freed(granules);
            Some(match words >= holes.place.limit.get() {
                true => FreedAtOnce::ToSettle,
                false if self.is_empty(extent) => FreedAtOnce::Emptied,
                false => FreedAtOnce::Done,
            })
        }
    }

    unsafe fn settle(&mut self, extent: &Extent) -> bool {
        // SAFETY: the caller's contract; what was added is on a shelf.
        unsafe {
            let holes = Holes::of(extent);
            self.shelves.put_on(extent, holes.longest().max(holes.place.shelf.get()));
        }
        let is_empty = self.is_empty(extent);
        if is_empty {
            self.emptied = Some(extent.start());
        }
        is_empty
    }

    fn next_emptied(&mut self) -> Option<NonNull<u8>> {
        self.emptied.take()
    }

    fn is_empty(&self, extent: &Extent) -> bool {
        Used::of(extent).blocks.get() == 0
    }

    fn live_blocks(&mut self, extent: &Extent) -> u32 {
        Used::of(extent).blocks.get() as u32
    }

    fn used_bytes(&self, extent: &Extent) -> usize {
        Used::of(extent).granules.get() * GRANULE
    }

    fn used(&self) -> (usize, usize) {
        let (mut blocks, mut bytes) = (0, 0);
        self.shelves.visit(|extent| {
            blocks += Used::of(extent).blocks.get();
            bytes += self.used_bytes(extent);
        });
        (blocks, bytes)
    }

    unsafe fn grow_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        let (had, wanted) = (granules_for(old.size()), granules_for(new.size()));
        if wanted > had {
            // SAFETY: the block is allocated in the extent, so that was added and not removed, and
            // ends there.
            unsafe {
                let holes = Holes::of(extent);
                if !holes.take_at(holes.index_of(block) + had, wanted - had) {
                    return None;
                }
            }
            Used::of(extent).resize(had, wanted);
        }
        Some(rounded(new.size()))
    }

    unsafe fn shrink_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        let (had, wanted) = (granules_for(old.size()), granules_for(new.size()));
        if wanted < had {
            // SAFETY: the block is allocated in the extent, and its tail is given up.
            unsafe {
                let tail = pointers::forward(block, wanted * GRANULE);
                match Holes::of(extent).give_tail(tail, had - wanted) {
                    Some(words) if words < Holes::of(extent).place.limit.get() => {}
                    Some(words) => self.raise(extent, words),
                    None => self.give_by_address(extent, tail, had - wanted),
                }
            }
            Used::of(extent).resize(had, wanted);
        }
        Some(rounded(new.size()))
    }

    unsafe fn add_extent(&mut self, extent: &Extent) {
        // SAFETY: the caller's contract; the metadata is as long as `metadata_bytes` asked.
        unsafe {
            let shelf = Holes::start(extent, self.fit).longest().min(SHELVES - 1);
            self.shelves.put(extent, shelf);
        }
        self.current = Some(extent.into());
    }

    unsafe fn remove_extent(&mut self, extent: &Extent) {
        // SAFETY: the extent was added and not removed.
        unsafe {
            if !Holes::of(extent).is_empty() {
                // What waits of it is joined, so that it can be seen to be one hole.
                self.flush();
            }
            if !Holes::of(extent).is_empty() {
                abort_with(&["free_list: an extent is removed that is not one hole"]);
            }
            self.shelves.take_down(extent);
        }
        if self.emptied == Some(extent.start()) {
            self.emptied = None;
        }
        if self.current == Some(extent.into()) {
            self.current = None;
        }
    }

    fn visit_idle(&self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        // SAFETY: owners ask only about extents that they added and did not remove.
        unsafe { Holes::of(extent) }.visit_pages(visit);
    }

    fn visit_unallocated(&mut self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        // Reads the links in all extents, before the first one is visited.
        self.flush();
        // SAFETY: as above.
        unsafe { Holes::of(extent) }.visit(visit);
    }

    fn verify(&self) {
        self.check_all();
    }
}
