//! What is said of addresses, and which frees are errors.

use core::mem::MaybeUninit;

use super::*;
use crate::source::{BorrowedSliceSource, MemoryMapSource};
use crate::strategy::model::layout;
use crate::strategy::stripes::cell::CELL_BYTES;
use crate::strategy::stripes::tests::LOOKS;

type Memory = Vec<MaybeUninit<u8>>;

fn memory(bytes: usize) -> Memory {
    vec![MaybeUninit::new(0xa5); bytes]
}

fn at(block: NonNull<[u8]>) -> *const u8 {
    block.cast::<u8>().as_ptr()
}

/// Three of one size and three of another: the sizes of the fifth and the first.
#[test]
fn sizes_follow_from_addresses() {
    let mut memory = memory(64 << 10);
    let stripes = StripeAllocator::new(BorrowedSliceSource::new(&mut memory));
    let blocks = [30, 30, 30, 380, 380, 380].map(|size| stripes.allocate(layout(size, 8)).unwrap());
    let offsets = blocks.map(|block| block.addr().get() - blocks[0].addr().get());
    assert_eq!(offsets, [0, 32, 64, 512, 896, 1280]);
    assert_eq!(stripes.allocation_size(at(blocks[4])), Ok(384));
    assert_eq!(stripes.allocation_size(at(blocks[0])), Ok(32));
    let large = stripes.allocate(layout(5000, 8)).unwrap();
    assert_eq!(stripes.allocation_size(at(large)), Ok(5120));
}

#[test]
fn wrong_frees_are_errors_and_change_nothing() {
    let mut memory = memory(64 << 10);
    let stripes = StripeAllocator::new(BorrowedSliceSource::new(&mut memory));
    let of = |size| layout(size, 8);
    let blocks = [100, 100, 100, 6000].map(|size| stripes.allocate(of(size)).unwrap());
    let count = || stripes.memory_usage().allocated_blocks;
    let free = |block: NonNull<u8>, size| {
        // SAFETY: every block here is this test's to free.
        unsafe { stripes.deallocate_checked(block, of(size)) }
    };
    let not_allocated = |block: NonNull<u8>| Err(StripeError::NotAllocated(block.addr().get()));
    // Zero sizes, with a block's address and with that of no memory.
    assert_eq!(free(blocks[0].cast(), 0), Err(StripeError::ZeroSize));
    assert_eq!(free(stripes.allocate(of(0)).unwrap().cast(), 0), Err(StripeError::ZeroSize));
    // Foreign: elsewhere, within a block of a stripe, of a large one, and in a blank.
    let elsewhere = NonNull::from(&0_u64).cast::<u8>();
    assert_eq!(free(elsewhere, 8), not_allocated(elsewhere));
    for (index, offset) in [(0, 1), (0, 32), (2, 128), (3, 8), (3, 512), (3, 1024), (3, 6144)] {
        // SAFETY: all lies in the memory.
        let inside = unsafe { crate::pointers::forward(blocks[index].cast(), offset) };
        assert_eq!(free(inside, 100), not_allocated(inside), "{offset} behind {index}");
    }
    // Another length, and an alignment that the block has not.
    let other = StripeError::OtherLayout { length: 128, layout: of(129) };
    assert_eq!(free(blocks[0].cast(), 129), Err(other));
    assert_eq!(count(), 4);
    stripes.verify();
    // Second frees, of what waits, is parked, and has been merged.
    for (index, size, length) in [(0, 100, 128), (1, 128, 128), (3, 6000, 6144), (2, 97, 128)] {
        let block = blocks[index].cast();
        assert_eq!(free(block, size), Ok(length));
        for earlier in blocks.iter().filter(|earlier| earlier.addr() == block.addr()) {
            assert_eq!(free(earlier.cast(), size), not_allocated(earlier.cast()));
        }
        stripes.verify();
    }
    for (block, size) in blocks.into_iter().zip([100, 100, 100, 6000]) {
        assert_eq!(free(block.cast(), size), not_allocated(block.cast()));
    }
    assert_eq!(count(), 0);
    stripes.verify();
}

/// Cells that were a stripe or large blocks are within other runs by now: their old records must
/// not count.
#[test]
fn every_address_is_told_rightly_while_runs_come_and_go() {
    let mut memory = memory(256 << 10);
    let addresses = memory.as_ptr_range();
    let stripes = StripeAllocator::new(BorrowedSliceSource::new(&mut memory));
    let mut live: std::collections::BTreeMap<usize, (NonNull<u8>, usize)> = Default::default();
    let mut sequence = crate::strategy::model::Sequence(5);
    for step in 0..1500 {
        let target = [8, 60, 2][step / 100 % 3];
        if live.len() > target {
            let key = *live.keys().nth(sequence.below(live.len())).unwrap();
            let (block, size) = live.remove(&key).unwrap();
            // SAFETY: it is allocated, and not used any more.
            assert!(unsafe { stripes.deallocate_checked(block, layout(size, 8)) }.is_ok());
        } else {
            let most = [40, 600, 4096, 20_000][sequence.below(4)];
            let size = 1 + sequence.below(most);
            let Ok(block) = stripes.allocate(layout(size, 8)) else { continue };
            live.insert(block.addr().get(), (block.cast(), size));
        }
        if step % 10 == 0 {
            stripes.verify();
            let start = addresses.start.addr().next_multiple_of(CELL_BYTES);
            for address in (start..addresses.end.addr()).step_by(32) {
                let address = addresses.start.cast::<u8>().with_addr(address);
                let length = live
                    .get(&address.addr())
                    .map(|(_, size)| stripes.block_length(layout(*size, 8)).unwrap());
                assert_eq!(stripes.allocation_size(address).ok(), length);
            }
        }
    }
}

/// The most records and nodes that a call looks at, and the sum of all calls.
#[derive(Debug, Default)]
struct Looks {
    most: usize,
    sum: usize,
}

impl Looks {
    fn of<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let before = LOOKS.get();
        let result = call();
        let looks = LOOKS.get() - before;
        self.most = self.most.max(looks);
        self.sum += looks;
        result
    }
}

/// A million blocks in thousands of blanks: no call scans them, whatever machine this is.
#[test]
#[cfg(not(heapswitch_pass_through))] // Without mappings.
fn a_million_blocks_and_no_call_looks_at_many() {
    const COUNT: usize = 1_000_000;
    let stripes = StripeAllocator::new(MemoryMapSource::new());
    let size = |index: usize| if index % 64 == 9 { 9000 } else { 8 * (1 + index % 32) };
    let layout_of = |index| layout(size(index), 8);
    let [mut allocating, mut asking, mut freeing] = <[Looks; 3]>::default();
    let take = |looks: &mut Looks, index| looks.of(|| stripes.allocate(layout_of(index)));
    let take_first = |index| take(&mut allocating, index).unwrap().cast::<u8>();
    let mut blocks: Vec<_> = (0..COUNT).map(take_first).collect();
    let mut free = |freeing: &mut Looks, index: usize, block: NonNull<u8>| {
        let length = asking.of(|| stripes.allocation_size(block.as_ptr()));
        assert_eq!(length, Ok(stripes.block_length(layout_of(index)).unwrap()));
        // SAFETY: it is allocated, and not used any more.
        freeing.of(|| unsafe { stripes.deallocate(block, layout_of(index)) });
    };
    // Half of the large ones go, which leaves as many blanks, and others take their place.
    for index in (9..COUNT).step_by(128) {
        free(&mut freeing, index, blocks[index]);
    }
    // All those blanks are too short for this.
    let longer = layout(12_000, 8);
    let block = allocating.of(|| stripes.allocate(longer)).unwrap().cast();
    // SAFETY: just allocated.
    freeing.of(|| unsafe { stripes.deallocate(block, longer) });
    for index in (9..COUNT).step_by(128) {
        blocks[index] = take(&mut allocating, index).unwrap().cast();
    }
    for step in 0..COUNT {
        let index = step * 7919 % COUNT;
        free(&mut freeing, index, blocks[index]);
    }
    assert_eq!(stripes.memory_usage().allocated_blocks, 0);
    stripes.verify();
    // Two records and a stripe's cells or a path in the tree, twice as long as its logarithm; and
    // what a range that goes or comes takes, which few calls do.
    let per_call = |looks: &Looks| looks.sum / COUNT;
    assert!(asking.most <= 2, "{asking:?}");
    assert!(per_call(&allocating) <= 8 && per_call(&freeing) <= 16, "{allocating:?} {freeing:?}");
    assert!(allocating.most <= 1000 && freeing.most <= 1000, "{allocating:?} {freeing:?}");
}
