//! Where holes are and which of them are taken.

use super::*;
use crate::strategy::model::{self, Memory, layout};

#[test]
fn random_operations_with_each_fit() {
    for fit in [Fit::First, Fit::Next, Fit::Best] {
        model::run::<FreeList>(Settings { fit }, &[4096, 65_536, 10_000, 16]);
    }
}

/// An extent that begins as one hole of so many bytes.
fn memory_of(list: &FreeList, bytes: usize) -> Memory {
    let hole_of = |length: usize| {
        holes::usable_granules(length, list.fit)
            .checked_sub(holes::kept_granules(length / GRANULE, list.fit))
    };
    let length =
        (bytes..).step_by(GRANULE).find(|&length| hole_of(length) == Some(bytes / GRANULE));
    Memory::new(list, length.unwrap())
}

/// Where that hole begins.
fn first_of(memory: &Memory) -> usize {
    // SAFETY: the extent was added and not removed.
    unsafe { Holes::of(&memory.extent) }.kept_bytes()
}

/// An extent with holes of 4, 2, 3, and 100 granules, in this order, each behind one block.
fn with_holes(fit: Fit) -> (FreeList, Memory, Vec<usize>) {
    let mut list = FreeList::new(Settings { fit });
    let memory = memory_of(&list, 16 * (4 + 1 + 2 + 1 + 3 + 1 + 100));
    memory.add_to(&mut list);
    let mut starts = vec![];
    let mut holes = vec![];
    for granules in [4, 2, 3] {
        holes.push((list.allocate(layout(granules * 16, 8)).unwrap(), granules));
        starts.push(pointers::distance(memory.extent.start(), holes[holes.len() - 1].0.cast()));
        list.allocate(layout(16, 8)).unwrap();
    }
    for (block, granules) in holes {
        // SAFETY: allocated above.
        unsafe { list.deallocate(&memory.extent, block.cast(), layout(granules * 16, 8)) };
    }
    // As when a search found nothing: or the holes of just the length would be taken first.
    list.flush();
    starts.push(first_of(&memory) + 16 * 12);
    (list, memory, starts)
}

fn taken(list: &mut FreeList, memory: &Memory, size: usize) -> usize {
    let block = list.allocate(layout(size, 8)).unwrap();
    list.verify();
    pointers::distance(memory.extent.start(), block.cast())
}

#[test]
fn first_fit_takes_the_first() {
    let (mut list, memory, starts) = with_holes(Fit::First);
    assert_eq!(taken(&mut list, &memory, 30), starts[0]);
    assert_eq!(taken(&mut list, &memory, 30), starts[0] + 32);
    assert_eq!(taken(&mut list, &memory, 40), starts[2]);
    assert_eq!(taken(&mut list, &memory, 30), starts[1]);
    assert_eq!(taken(&mut list, &memory, 16), starts[3]);
}

#[test]
fn next_fit_goes_on() {
    let (mut list, memory, starts) = with_holes(Fit::Next);
    assert_eq!(taken(&mut list, &memory, 40), starts[3]);
    assert_eq!(taken(&mut list, &memory, 16), starts[3] + 48);
    assert_eq!(taken(&mut list, &memory, 16 * 96), starts[3] + 64);
    assert_eq!(taken(&mut list, &memory, 16), starts[0]);
    assert_eq!(taken(&mut list, &memory, 16), starts[0] + 16);
}

#[test]
fn best_fit_takes_the_shortest() {
    let (mut list, memory, starts) = with_holes(Fit::Best);
    assert_eq!(taken(&mut list, &memory, 30), starts[1]);
    assert_eq!(taken(&mut list, &memory, 33), starts[2]);
    assert_eq!(taken(&mut list, &memory, 8), starts[0]);
    assert_eq!(taken(&mut list, &memory, 80), starts[3]);
}

/// Whatever order neighbours are freed in, they become one hole.
#[test]
fn neighbours_are_joined_on_both_sides() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut list = FreeList::new(Settings::default());
        let memory = memory_of(&list, 48 * 3);
        memory.add_to(&mut list);
        let blocks = [(); 3].map(|()| list.allocate(layout(48, 8)).unwrap());
        assert!(list.allocate(layout(1, 1)).is_none());
        for index in order {
            // SAFETY: allocated above.
            unsafe { list.deallocate(&memory.extent, blocks[index].cast(), layout(48, 8)) };
            list.verify();
        }
        assert_eq!(taken(&mut list, &memory, 144), first_of(&memory));
    }
}

/// The least hole is 16 bytes, and serves.
#[test]
fn a_block_is_16_bytes_without_a_header() {
    let mut list = FreeList::new(Settings::default());
    let memory = memory_of(&list, 4096);
    memory.add_to(&mut list);
    let mut blocks: Vec<_> = std::iter::from_fn(|| list.allocate(layout(16, 16))).collect();
    assert_eq!(blocks.len(), 256);
    let freed = blocks.swap_remove(77);
    // SAFETY: allocated above.
    unsafe { list.deallocate(&memory.extent, freed.cast(), layout(16, 16)) };
    assert_eq!(list.allocate(layout(9, 1)), Some(freed));
}

/// A freed block serves its length first, and joins its neighbours before a request is refused.
#[test]
fn what_waits_joins_when_nothing_else_serves() {
    for fit in [Fit::First, Fit::Next, Fit::Best] {
        let mut list = FreeList::new(Settings { fit });
        let memory = memory_of(&list, 64 * 3);
        memory.add_to(&mut list);
        let blocks = [(); 3].map(|()| list.allocate(layout(64, 8)).unwrap());
        for block in blocks {
            // SAFETY: allocated above.
            unsafe { list.deallocate(&memory.extent, block.cast(), layout(64, 8)) };
        }
        list.verify();
        assert_eq!(list.allocate(layout(60, 8)), Some(blocks[2]), "the one that was freed last");
        assert!(!list.quick.is_empty());
        assert_eq!(taken(&mut list, &memory, 128), first_of(&memory));
        assert!(list.quick.is_empty() && list.allocate(layout(1, 1)).is_none());
    }
}

/// Best fit's holes of one class, of which the one at `place` is longer, and a search for it where
/// nothing else is.
fn search_for_the_long_one(place: usize) -> bool {
    let mut list = FreeList::new(Settings { fit: Fit::Best });
    let memory = Memory::new(&list, 16 * 41 * 66 * 3);
    memory.add_to(&mut list);
    let length_of = |index| 16 * if index == place { 67 } else { 65 };
    let lengths: Vec<usize> = (0..40).map(length_of).collect();
    let blocks: Vec<_> = lengths
        .iter()
        .map(|&length| {
            let block = list.allocate(layout(length, 8)).unwrap();
            list.allocate(layout(16, 8)).unwrap();
            block
        })
        .collect();
    while list.allocate(layout(16 * 100, 8)).is_some() {}
    while list.allocate(layout(16, 8)).is_some() {}
    // The last one that is freed is the first of the list.
    for (&block, &length) in blocks.iter().zip(&lengths).rev() {
        // SAFETY: allocated above.
        unsafe { list.deallocate(&memory.extent, block.cast(), layout(length, 8)) };
    }
    list.verify();
    let found = list.allocate(layout(16 * 66, 8)).map(|found| found.cast::<u8>());
    assert!(found.is_none_or(|found| found == blocks[place].cast()));
    assert!(list.allocate(layout(16 * 66, 8)).is_none());
    assert!(list.allocate(layout(16 * 65, 8)).is_some());
    found.is_some()
}

/// Of the holes of a class that may be too short 32 are looked at, and no more.
#[test]
fn best_fit_looks_at_some_holes_of_a_class() {
    assert!(search_for_the_long_one(0));
    assert!(search_for_the_long_one(31));
    assert!(!search_for_the_long_one(32));
}

/// A range is no longer than can be used: all of it is granules with a place of their own.
#[test]
fn no_range_is_longer_than_its_holes_can_tell() {
    const MOST: usize = MOST_BYTES;
    assert_eq!((MOST + GRANULE, FreeList::MOST_RANGE_BYTES), (16 << 30, 16 << 30));
    for fit in [Fit::First, Fit::Next, Fit::Best] {
        let list = FreeList::new(Settings { fit });
        assert_eq!(holes::usable_granules(MOST, fit) * GRANULE, MOST);
        assert_eq!(holes::usable_granules(MOST + 4096, fit) * GRANULE, MOST);
        let kept = if fit == Fit::Best { 1152 + 3 * GRANULE } else { 0 };
        assert_eq!(list.extent_bytes(layout(MOST - kept, 8)), Some(MOST));
        assert_eq!(list.extent_bytes(layout(MOST - kept + 1, 8)), None);
        assert_eq!(list.extent_bytes(layout(MOST - kept, 4096)), None, "it may not fit aligned");
        assert_eq!(list.metadata_bytes(MOST), list.metadata_bytes(1 << 40));
    }
}

/// An extent may be longer than was asked for; what is kept in it grows with it.
#[test]
fn an_extent_that_is_longer_has_room_for_what_was_asked() {
    for fit in [Fit::First, Fit::Next, Fit::Best] {
        let list = FreeList::new(Settings { fit });
        for asked in (1..300).chain([1000, 2047, 2048, 4000]) {
            let least = list.extent_bytes(layout(asked * GRANULE, 8)).unwrap();
            for more in 0..300 {
                let bytes = least + more * GRANULE;
                let kept = holes::kept_granules(bytes / GRANULE, fit);
                assert!(holes::usable_granules(bytes, fit) >= kept + asked, "{asked}, {more}");
            }
        }
    }
}

/// A heap asks for the extent that became empty at once; what nobody asked for is not told of
/// another extent at the same place.
#[test]
fn an_extent_that_goes_is_not_told_of() {
    let mut list = FreeList::new(Settings::default());
    let memory = Memory::new(&list, 4096);
    memory.add_to(&mut list);
    let block = list.allocate(layout(100, 8)).unwrap();
    // SAFETY: the block is allocated; then no block is.
    unsafe {
        assert!(list.free(&memory.extent, block.cast(), layout(100, 8)));
        list.remove_extent(&memory.extent);
    }
    assert_eq!(list.next_emptied(), None);
}

/// What is broken.
#[derive(Clone, Copy)]
enum Break {
    /// A word of the extent, a count, becomes that.
    Count(usize, usize),
    /// A byte of the empty hole, which lies in the second granule, is changed.
    Empty(usize),
}

const OTHER_BLOCKS: &str = "an extent counts other blocks than are allocated in it";
const OTHER_BYTES: &str = "an extent counts other bytes than are allocated in it";
const EMPTY_IS_WRONG: &str = "the empty hole's links are wrong: freed memory was written to";

/// What is broken, and what is said of it. One block of 10 granules is allocated, and one waits.
const BROKEN: [(Break, &str); 9] = [
    (Break::Count(0, 0), OTHER_BLOCKS),
    (Break::Count(0, 11), OTHER_BLOCKS),
    (Break::Count(2, 9), OTHER_BYTES),
    (Break::Count(2, 0), OTHER_BYTES),
    (Break::Count(2, usize::MAX), OTHER_BYTES),
    (Break::Empty(0), EMPTY_IS_WRONG),
    (Break::Empty(4), EMPTY_IS_WRONG),
    (Break::Empty(8), EMPTY_IS_WRONG),
    (Break::Empty(12), EMPTY_IS_WRONG),
];

/// What is broken is found: each in a process of its own, which aborts.
#[test]
#[cfg_attr(miri, ignore = "starts processes")]
fn what_is_broken_is_found_and_named() {
    const VARIABLE: &str = "HEAPSWITCH_SABOTAGE";
    if let Ok(case) = std::env::var(VARIABLE) {
        let mut list = FreeList::new(Settings::default());
        let memory = Memory::new(&list, 4096);
        memory.add_to(&mut list);
        let blocks = [(); 2].map(|()| list.allocate(layout(160, 8)).unwrap());
        // SAFETY: allocated above.
        unsafe { list.deallocate(&memory.extent, blocks[0].cast(), layout(160, 8)) };
        list.verify();
        match BROKEN[case.parse::<usize>().unwrap()].0 {
            Break::Count(word, value) => memory.extent.words[word].set(value),
            // SAFETY: a byte of the extent that is the list's own.
            Break::Empty(byte) => unsafe {
                let byte = pointers::forward(memory.extent.start(), GRANULE + byte);
                byte.write(byte.read() ^ 1);
            },
        }
        return list.verify();
    }
    let this = std::env::current_exe().unwrap();
    let name = "strategy::free_list::tests::what_is_broken_is_found_and_named";
    for (case, (_, message)) in BROKEN.iter().enumerate() {
        let output = std::process::Command::new(&this)
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(VARIABLE, case.to_string())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "case {case} was not found");
        assert!(error.contains(&format!("heapswitch: free_list: {message}")), "{case}: {error}");
    }
}

/// What waits does not count, and the last block's end is told once.
#[test]
fn it_counts_what_is_allocated() {
    let mut list = FreeList::new(Settings::default());
    let memory = Memory::new(&list, 64 << 10);
    memory.add_to(&mut list);
    let sizes = [10, 100, 2000];
    let blocks = sizes.map(|size| list.allocate(layout(size, 8)).unwrap());
    assert_eq!((list.live_blocks(&memory.extent), list.used_bytes(&memory.extent)), (3, 2128));
    let grown = layout(3000, 8);
    // SAFETY: each is allocated, and freed with its layout.
    unsafe {
        let length = list.grow_in_place(&memory.extent, blocks[2].cast(), layout(2000, 8), grown);
        assert_eq!(length, Some(3008));
        assert_eq!(list.used(), (3, 16 + 112 + 3008));
        assert!(!list.free(&memory.extent, blocks[2].cast(), grown));
        assert!(!list.free(&memory.extent, blocks[0].cast(), layout(10, 8)));
        assert_eq!(list.used(), (1, 112));
        assert!(list.free(&memory.extent, blocks[1].cast(), layout(100, 8)));
        assert_eq!(list.next_emptied(), Some(memory.extent.start()));
        assert_eq!((list.next_emptied(), list.used()), (None, (0, 0)));
        list.remove_extent(&memory.extent);
    }
}
