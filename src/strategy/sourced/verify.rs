//! Whether what a `SourcedAllocator` keeps beside its strategy agrees with itself: the records,
//! what finds them, the spare, the block that is parked, those that wait beside it, and the counts.

use core::ptr::NonNull;

use super::State;
use super::records::Record;
use super::shelf::has_few;
use crate::pointers;
use crate::strategy::Strategy;
use crate::sys::abort_with;

/// What the records add up to.
#[derive(Default)]
struct Sums {
    range_bytes: usize,
    live_blocks: usize,
    direct_blocks: usize,
    remembered: usize,
    scarce_ranges: usize,
    is_spare_held: bool,
    is_each_sound: bool,
}

impl<S: Strategy> State<S> {
    /// Aborts, with the strategy's name and what is broken, if something is. O(ranges).
    pub(super) fn verify(&self) {
        if let Some(broken) = self.broken() {
            abort_with(&["an allocator's ", broken, " are corrupted: ", S::NAME]);
        }
    }

    /// What is broken.
    fn broken(&self) -> Option<&'static str> {
        let mut sums = Sums { is_each_sound: true, ..Sums::default() };
        let is_tree = self.records.is_sound(&mut |pointer| self.take_in(&mut sums, pointer));
        let is_parked_sound = || self.parked.of().is_none_or(|parked| self.may_park(parked));
        let equations = [
            ("records", is_tree && sums.is_each_sound),
            ("remembered records", sums.remembered == self.found.count()),
            ("spare's records", sums.is_spare_held || self.spare.is_none()),
            ("parked blocks", is_parked_sound() && self.is_shelf_sound(&sums)),
            ("counts", self.counts_are(&sums)),
        ];
        equations.into_iter().find(|(_, holds)| !holds).map(|(what, _)| what)
    }

    /// Adds a record's figures.
    fn take_in(&self, sums: &mut Sums, pointer: NonNull<Record>) {
        // SAFETY: the tree has it, so it is valid.
        let record = unsafe { pointer.as_ref() };
        let (live, is_spare) = (record.live_blocks.get(), self.spare == Some(pointer));
        let (start, range) = (record.extent.start(), record.range);
        let record_at = pointers::distance(start, pointer.cast());
        let is_placed = start == range.start
            && record.extent.length() <= record_at
            && record_at + size_of::<Record>() <= range.length;
        let is_counted = match (record.is_direct, is_spare) {
            (true, is_spare) => live == 1 && !is_spare,
            (false, true) => live == 0,
            (false, false) => !S::TELLS_EMPTY || live == 0,
        };
        let is_forgotten = !record.is_direct || self.found.times(pointer) == 0;
        sums.is_each_sound &= is_placed && is_counted && is_forgotten;
        sums.is_spare_held |= is_spare;
        sums.range_bytes += range.length;
        sums.live_blocks += live;
        sums.direct_blocks += usize::from(record.is_direct);
        sums.scarce_ranges += usize::from(!record.is_direct && live != 0 && has_few(live));
        sums.remembered += self.found.times(pointer);
    }

    fn counts_are(&self, sums: &Sums) -> bool {
        let blocks = self.allocated_blocks;
        let is_counted = if S::COUNTS_ON_SOURCES {
            blocks == sums.direct_blocks
        } else if S::TELLS_EMPTY {
            blocks >= sums.direct_blocks
        } else {
            blocks == sums.live_blocks
        };
        let usage = &self.usage;
        is_counted
            && usage.committed_bytes == sums.range_bytes
            && usage.committed_bytes <= usage.peak_committed_bytes
            && usage.allocated_bytes <= usage.committed_bytes
    }

    /// Whether the blocks that wait beside the one that is parked may: each once, in a range that
    /// has not few.
    fn is_shelf_sound(&self, sums: &Sums) -> bool {
        let scarce_ranges = if S::PARKS_LAST { sums.scarce_ranges } else { 0 };
        let is_sound = |block: NonNull<u8>| {
            // SAFETY: where the tree has the record, it is valid.
            let live = |record: NonNull<Record>| unsafe { record.as_ref() }.live_blocks.get();
            self.records.find(block).is_some_and(|record| !has_few(live(record)))
                && !self.parked.is_at(block)
                && self.shelf.iter().filter(|other| *other == block).count() == 1
        };
        self.shelf.scarce_ranges() == scarce_ranges
            && (self.shelf.length() == 0 || S::PARKS_LAST)
            && self.shelf.iter().all(is_sound)
    }

    /// Whether a block may be parked: it counts as allocated in a range that has another, or there
    /// is no spare.
    fn may_park(&self, (block, bytes): (NonNull<u8>, usize)) -> bool {
        let Some(pointer) = self.records.find(block) else { return false };
        // SAFETY: the tree has it, so it is valid.
        let record = unsafe { pointer.as_ref() };
        let live = record.live_blocks.get();
        let end = pointers::distance(record.extent.start(), block) + bytes;
        S::PARKS_LAST
            && !record.is_direct
            && end <= record.extent.length()
            && (live > 1 || (live == 1 && self.spare.is_none()))
    }
}

#[cfg(test)]
mod tests {
    use core::alloc::Layout;
    use core::mem::MaybeUninit;

    use super::*;
    use crate::allocator::Allocator;
    use crate::source::BorrowedSliceSource;
    use crate::strategy::free_list::FreeList;
    use crate::strategy::sourced::SourcedAllocator;
    use crate::strategy::stripes::Stripes;
    use crate::strategy::trees::MultipleBinarySearchTree;

    /// An allocator of a few ranges, of which the first has blocks and the last has none; then
    /// damage, and what is found broken.
    fn found_broken<S: Strategy>(damage: impl FnOnce(&mut State<S>)) -> Option<&'static str> {
        let mut memory = vec![MaybeUninit::new(0xa5); 4 << 20];
        let allocator = SourcedAllocator::<S, _>::new(BorrowedSliceSource::new(&mut memory));
        let layout = Layout::from_size_align(1000, 8).unwrap();
        let new = || allocator.allocate(layout).unwrap().cast::<u8>();
        let mut blocks: Vec<_> = (0..300).map(|_| new()).collect();
        for block in blocks.split_off(20) {
            // SAFETY: allocated above.
            unsafe { allocator.deallocate(block, layout) };
        }
        let state = allocator.state();
        assert!(state.spare.is_some());
        state.verify();
        damage(state);
        let broken = state.broken();
        if broken.is_some() {
            // Its source ends with it, so nothing is lost.
            core::mem::forget(allocator);
        }
        broken
    }

    /// The record of any block.
    fn record<S: Strategy>(state: &State<S>) -> &'static Record {
        let mut found = None;
        state.records.is_sound(&mut |pointer| {
            if state.spare != Some(pointer) {
                found = Some(pointer);
            }
        });
        // SAFETY: the record is of an extent that is held until the test ends.
        unsafe { found.unwrap().as_ref() }
    }

    #[test]
    fn tells_what_is_broken() {
        type Trees = MultipleBinarySearchTree;
        assert_eq!(found_broken::<Trees>(|_| ()), None);
        assert_eq!(found_broken::<FreeList>(|_| ()), None);
        assert_eq!(found_broken::<Stripes>(|_| ()), None);
        let counts = Some("counts");
        assert_eq!(found_broken::<Trees>(|state| state.usage.committed_bytes += 16), counts);
        assert_eq!(found_broken::<Trees>(|state| state.usage.peak_committed_bytes = 0), counts);
        assert_eq!(found_broken::<Stripes>(|state| state.allocated_blocks += 1), counts);
        assert_eq!(found_broken::<FreeList>(|state| state.allocated_blocks += 1), counts);
        let records = Some("records");
        assert_eq!(found_broken::<Trees>(|state| record(state).live_blocks.set(1)), records);
        let with_blocks = |state: &mut State<Stripes>| state.spare = Some(record(state).into());
        assert_eq!(found_broken::<Stripes>(with_blocks), records);
        let gone = |state: &mut State<Trees>| state.spare = Some(NonNull::dangling());
        assert_eq!(found_broken::<Trees>(gone), Some("spare's records"));
        let remember = |state: &mut State<Trees>| {
            let block = record(state).extent.start();
            state.found.remember(block, NonNull::dangling());
        };
        assert_eq!(found_broken::<Trees>(remember), Some("remembered records"));
    }

    #[test]
    fn tells_what_may_not_be_parked() {
        let park = |live: usize| {
            found_broken::<Stripes>(|state| {
                let record = record(state);
                let layout = Layout::from_size_align(1000, 8).unwrap();
                // What it was is parked no more, and was not freed either: only the counts matter.
                state.parked = super::super::parked::Parked::none();
                state.parked.put_of(record.extent.start(), layout);
                state.allocated_blocks -= record.live_blocks.replace(live) - live;
            })
        };
        assert_eq!((park(2), park(1)), (None, Some("parked blocks")));
    }
}
