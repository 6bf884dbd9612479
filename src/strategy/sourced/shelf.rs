//! Blocks that were freed while another of their layout was [parked](super::parked).
//!
//! Where several are freed before as many are allocated, one that is parked serves once. These
//! serve the next requests, and again neither the strategy nor a count is told. Nobody can tell the
//! difference, for whatever else is asked first [frees them](State::clear_shelf).
//!
//! Nor is it asked which ranges they are in, mostly. A range that has more than [`FEW`] blocks has
//! more than can wait, so it is not kept for what its users freed. It is known how many ranges have
//! fewer; where none has, a block waits wherever it is, and else its range is looked up and asked.
//! Whenever a range falls to few all that wait are freed.

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::State;
use super::records::Record;
use crate::allocator::MemorySource;
use crate::pointers;
use crate::strategy::Strategy;

/// The most blocks that wait beside the one that is parked.
const MOST: usize = 24;

/// As many blocks as a range has that is soon empty. A power of two, so that one test tells that
/// and an empty one from all others.
const FEW: usize = 32;
const _: () = assert!(FEW.is_power_of_two() && MOST + 1 < FEW);

/// Blocks that their users freed.
///
/// # Invariants
/// - As many as `length` says are here, by their [numbers](pointers::number). Each was allocated by
///   the layout that blocks are parked by; the strategy and all counts still have it.
/// - Each is in a range that has more than [`FEW`]; but for while they are freed because it has no
///   more.
/// - The limit is [`MOST`] while no range has a block but at most [`FEW`], and else 0.
pub(super) struct Shelf {
    length: usize,
    /// How many may be here before a range is asked: [`MOST`], or none while one has few.
    limit: usize,
    blocks: [MaybeUninit<usize>; MOST],
    /// Ranges that have a block but at most [`FEW`]; for strategies that park.
    scarce_ranges: usize,
}

impl Shelf {
    pub(super) const fn new() -> Self {
        Self { length: 0, limit: MOST, blocks: [MaybeUninit::uninit(); MOST], scarce_ranges: 0 }
    }

    #[inline]
    pub(super) fn length(&self) -> usize {
        self.length
    }

    pub(super) fn scarce_ranges(&self) -> usize {
        self.scarce_ranges
    }

    #[inline]
    fn has_room(&self) -> bool {
        self.length < self.limit
    }

    /// Puts a block in, of a range that has not few.
    ///
    /// # Safety
    /// There are less than [`MOST`].
    #[inline]
    unsafe fn push(&mut self, block: NonNull<u8>) {
        // SAFETY: the caller's contract: there is such a place. A block is a byte long or more.
        unsafe { self.blocks.get_unchecked_mut(self.length).write(pointers::number(block)) };
        self.length += 1;
    }

    /// Puts a block in, if there is a place and its range, which has so many, has not few.
    #[inline]
    pub(super) fn try_push_of(&mut self, block: NonNull<u8>, live: usize) -> bool {
        if live <= FEW || self.length >= MOST {
            return false;
        }
        // SAFETY: there is a place.
        unsafe { self.push(block) };
        true
    }

    /// Takes out the block that came last.
    #[inline]
    fn pop(&mut self) -> Option<NonNull<u8>> {
        self.length = self.length.checked_sub(1)?;
        // SAFETY: it was below the length, so it is a place, and has a block's number.
        unsafe { pointers::of_number(self.blocks.get_unchecked(self.length).assume_init()) }
    }

    /// Counts a range that has few blocks, or has not any more.
    fn count_scarce(&mut self, change: isize) {
        self.scarce_ranges = self.scarce_ranges.wrapping_add_signed(change);
        self.limit = if self.scarce_ranges == 0 { MOST } else { 0 };
    }

    /// The numbers of all that wait.
    fn numbers(&self) -> impl Iterator<Item = usize> {
        // SAFETY: by the invariant these are written.
        self.blocks.iter().take(self.length).map(|place| unsafe { place.assume_init() })
    }

    /// All that wait.
    pub(super) fn iter(&self) -> impl Iterator<Item = NonNull<u8>> {
        // SAFETY: they are blocks' numbers.
        self.numbers().filter_map(|number| unsafe { pointers::of_number(number) })
    }

    /// Whether the block at that address waits.
    pub(super) fn is_at(&self, address: NonNull<u8>) -> bool {
        // SAFETY: the address is in a range, or of a block that comes back.
        let sought = unsafe { pointers::number(address) };
        self.numbers().any(|number| number == sought)
    }
}

/// Whether a range that had so many blocks, and has one more, has few from now on or not any more.
#[inline]
pub(super) const fn is_bound<S: Strategy>(live: usize) -> bool {
    if S::PARKS_LAST { live & !FEW == 0 } else { live == 0 }
}

/// Whether something may be to be done about a range that has so many blocks left: where blocks are
/// parked also with one, which may be that.
#[inline]
pub(super) const fn is_few_left<S: Strategy>(live: usize) -> bool {
    if S::PARKS_LAST { live & !FEW <= 1 } else { live == 0 }
}

/// Whether so many blocks are few, or none.
pub(super) const fn has_few(live: usize) -> bool {
    live <= FEW
}

impl<S: Strategy> State<S> {
    /// A range had no block, or as many as few are, and has one more.
    #[cold]
    #[inline(never)]
    pub(super) fn passed_bound(&mut self, pointer: NonNull<Record>, had: usize) {
        if had == 0 {
            if self.spare == Some(pointer) {
                self.spare = None;
            }
            self.shelf.count_scarce(1);
        } else {
            self.shelf.count_scarce(-1);
        }
    }

    /// A range has so many blocks left; none, or as many as few are, matter.
    #[inline]
    pub(super) fn fell_to(&mut self, source: &impl MemorySource, live: usize) {
        match live {
            0 => self.shelf.count_scarce(-1),
            FEW => {
                self.shelf.count_scarce(1);
                self.clear_shelf(source);
            }
            _ => {}
        }
    }

    /// Lets a block wait, of the layout that blocks are parked by, where one is, if no range has
    /// few; else false, and nothing is done.
    #[inline]
    pub(super) fn try_shelve(&mut self, block: NonNull<u8>) -> bool {
        if !self.shelf.has_room() {
            return false;
        }
        self.check_freed(block);
        // SAFETY: the limit is at most as many as there are places.
        unsafe { self.shelf.push(block) };
        true
    }

    /// Takes out a block that waits, if the layout is theirs.
    #[inline]
    pub(super) fn take_shelved(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        if !S::PARKS_LAST || self.shelf.length == 0 || !self.parked.is_for(layout) {
            return None;
        }
        let block = self.shelf.pop()?;
        Some(pointers::block(block, self.strategy.length_of_block(layout)))
    }

    /// Frees all that wait.
    #[inline(never)]
    pub(super) fn clear_shelf(&mut self, source: &impl MemorySource) {
        let layout = self.parked.layout();
        while let Some(block) = self.shelf.pop() {
            if let Some(record) = self.record_of(block) {
                // SAFETY: the block waited, so it was freed with that layout; the record is of its
                // extent.
                unsafe { self.free(source, block, layout, record) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::mem::MaybeUninit;

    use super::*;
    use crate::StripeAllocator;
    use crate::allocator::{Allocator, LocalAllocator};
    use crate::source::BorrowedSliceSource;
    use crate::strategy::model::Sequence;

    type Stripes<'a> = StripeAllocator<BorrowedSliceSource<'a>>;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    fn counts(allocator: &impl LocalAllocator) -> (usize, usize) {
        let usage = allocator.memory_usage();
        (usage.allocated_blocks, usage.allocated_bytes)
    }

    fn take(stripes: &Stripes<'_>, size: usize, count: usize) -> Vec<NonNull<u8>> {
        (0..count).map(|_| stripes.allocate(layout(size)).unwrap().cast()).collect()
    }

    fn free(stripes: &Stripes<'_>, size: usize, blocks: impl IntoIterator<Item = NonNull<u8>>) {
        for block in blocks {
            // SAFETY: callers pass allocated blocks of that size.
            unsafe { stripes.deallocate(block, layout(size)) };
        }
    }

    #[test]
    fn those_that_were_freed_last_serve_and_the_counts_do_not_know() {
        let mut memory = vec![MaybeUninit::new(0xa5); 64 << 10];
        let stripes = Stripes::new(BorrowedSliceSource::new(&mut memory));
        let mut blocks = take(&stripes, 64, 200);
        let mut freed = blocks.split_off(180);
        free(&stripes, 64, freed.iter().copied());
        assert_eq!(stripes.state().shelf.length(), 19, "one is parked");
        assert_eq!(counts(&stripes), (180, 180 * 64));
        stripes.verify();
        assert!(freed.iter().all(|block| stripes.allocation_size(block.as_ptr()).is_err()));
        let mut again = take(&stripes, 64, 20);
        assert_eq!(counts(&stripes), (200, 200 * 64));
        freed.sort();
        again.sort();
        assert_eq!(again, freed);
        stripes.verify();
        // More than there is room for.
        free(&stripes, 64, again.into_iter().chain(blocks.drain(..30)));
        assert_eq!((stripes.state().shelf.length(), counts(&stripes).0), (MOST, 150));
        stripes.verify();
        free(&stripes, 64, blocks);
        assert_eq!((stripes.state().shelf.length(), counts(&stripes)), (0, (0, 0)));
        stripes.verify();
    }

    #[test]
    fn whatever_else_is_asked_first_finds_them_free() {
        let mut memory = vec![MaybeUninit::new(0xa5); 64 << 10];
        let stripes = Stripes::new(BorrowedSliceSource::new(&mut memory));
        stripes.reserve(60 << 10).unwrap();
        let blocks: Vec<_> =
            core::iter::from_fn(|| stripes.allocate(layout(512)).ok()).map(NonNull::cast).collect();
        let (freed, kept) = blocks.split_at(16);
        let waiting = || stripes.state().shelf.length();
        free(&stripes, 512, freed.iter().copied());
        assert_eq!(waiting(), 15);
        let longer = stripes.allocate(layout(8192)).unwrap();
        assert_eq!((longer.cast(), waiting()), (freed[0], 0), "in their place");
        // Those stand behind it, but for one, whose stripe is the one that is kept.
        free(&stripes, 512, kept[40..41].iter().chain(&kept[..16]).copied());
        assert_eq!(waiting(), 16);
        // SAFETY: the block is allocated with the old layout.
        let grown = unsafe { stripes.grow(longer.cast(), layout(8192), layout(9216)) }.unwrap();
        assert_eq!((grown.cast(), waiting()), (freed[0], 0), "where it stands");
        free(&stripes, 512, kept[16..20].iter().copied());
        assert_eq!(waiting(), 3);
        stripes.release_unused();
        assert_eq!(waiting(), 0);
        stripes.verify();
    }

    /// Ranges in which nothing is in use, so far as users know: none, or one.
    fn ranges_without_use(stripes: &Stripes<'_>) -> usize {
        let state = stripes.state();
        let parked = state.parked.of().map(|(block, _)| block);
        let mut unused = 0;
        state.records.visit(&mut |record| {
            let is_in = |block: &NonNull<u8>| record.extent.contains(*block);
            let waiting = state.shelf.iter().chain(parked).filter(is_in).count();
            unused += usize::from(record.live_blocks.get() == waiting);
        });
        unused
    }

    #[test]
    fn no_range_is_kept_for_blocks_that_wait() {
        let mut memory = vec![MaybeUninit::new(0xa5); 16 << 20];
        let stripes = Stripes::new(BorrowedSliceSource::new(&mut memory));
        let mut random = Sequence(7);
        let mut live: Vec<(usize, NonNull<u8>)> = Vec::new();
        let (mut most_waiting, mut most_bytes) = (0, 0);
        for step in 0..60_000 {
            // Up and down to nothing, by bursts of one size, mostly.
            let is_growing = step / 10_000 % 2 == 0;
            let burst = 1 + random.below(40);
            let size = [64, 200, 1000, 2000][random.below(40).saturating_sub(36)];
            for _ in 0..burst {
                if random.below(10) < if is_growing { 6 } else { 3 } {
                    if let Ok(block) = stripes.allocate(layout(size)) {
                        live.push((size, block.cast()));
                    }
                } else if !live.is_empty() {
                    let (size, block) = live.swap_remove(random.below(live.len()));
                    free(&stripes, size, [block]);
                }
                assert!(ranges_without_use(&stripes) <= 1);
            }
            most_waiting = most_waiting.max(stripes.state().shelf.length());
            most_bytes = most_bytes.max(stripes.memory_usage().committed_bytes);
            if step % 500 == 0 {
                stripes.verify();
            }
            assert_eq!(counts(&stripes).0, live.len());
        }
        assert!(most_waiting > MOST / 2 && most_bytes > 4 << 20, "{most_waiting} {most_bytes}");
        live.drain(..).for_each(|(size, block)| free(&stripes, size, [block]));
        assert_eq!((ranges_without_use(&stripes), counts(&stripes)), (1, (0, 0)));
    }
}
