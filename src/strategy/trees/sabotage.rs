//! What somebody writes into freed memory, or into the map, is found by `verify`: each test process
//! breaks one word, and must abort with the strategy's name.

use std::process::Command;

use super::tests::Memory;
use super::*;

const VARIABLE: &str = "HEAPSWITCH_SABOTAGE";

/// One word that is broken: in a free block at an offset from its start, or elsewhere.
#[derive(Clone, Copy)]
enum Place {
    Head(usize),
    LastWord,
    MapByte,
    /// The count of the extent's blocks.
    Count,
    /// The extent's address, in a block that waits.
    Waiting,
    /// The bit of the first bin, in which the empty block would be.
    FirstBin,
    /// Nothing, but the block that waits is freed once more.
    FreeTwice,
    /// Nothing, but the extent is removed.
    Remove,
}

/// The places, the values written there, and what `verify` says of them.
const CASES: &[(Place, usize, &str)] = &[
    (Place::Head(0), 0, "a tree holds other blocks than are marked sorted"),
    (Place::Head(8), 0, "the links of a bin's list disagree"),
    (Place::Head(16), 64, "a free block names another extent"),
    (Place::Head(24), 2_048, "a free block's lengths differ from the map"),
    (Place::Head(24), 1_056, "a block before is sorted, one behind not"),
    (Place::Head(40), 0, "a tree holds other blocks than are marked sorted"),
    (Place::Head(48), 64, "the root of a red-black tree has a parent"),
    (Place::Head(56), 1, "the root of a red-black tree is red"),
    (Place::LastWord, 992, "a free block's lengths differ from the map"),
    (Place::MapByte, 1, "a free block"),
    (Place::Count, 0, "the count of an extent's blocks disagrees with the map"),
    (Place::Count, 42, "the count of an extent's blocks disagrees with the map"),
    (Place::Waiting, 64, "a block in a quick list was written to after it was freed"),
    (Place::FirstBin, 1, "the first bin holds a block"),
    (Place::FreeTwice, 0, "a block is freed that is free already"),
    (Place::Remove, 0, "an extent is removed that is not one free block"),
];

/// Three sorted blocks in one bin: of 1,056, 1,088 and 1,120 bytes, each in front of a short one,
/// of which two are allocated and the last waits. The first is the root of the tree until the third
/// is sorted; the middle one then.
fn break_one(case: usize) {
    let memory = Memory::new(65_536, 4_096);
    let mut strategy = MultipleBinarySearchTree::new(());
    memory.add_to(&mut strategy);
    let layout = |size| Layout::from_size_align(size, 8).expect("a layout");
    let sizes = [1_056, 32, 1_088, 32, 1_120, 32];
    let blocks = sizes.map(|size| strategy.allocate(layout(size)).expect("room").cast::<u8>());
    for index in [0, 2, 4, 5] {
        // SAFETY: the block is allocated with that layout.
        unsafe { strategy.deallocate(&memory.extent, blocks[index], layout(sizes[index])) };
    }
    // Of the same bin, but none fits: they are sorted.
    assert!(strategy.allocate(layout(1_216)).is_some());
    strategy.verify();
    let (place, value, _) = CASES[case];
    // The newest is the first of the list; the root is the middle one.
    let is_about_root = matches!(place, Place::Head(40 | 48 | 56));
    let index = if is_about_root { 2 } else { 0 };
    let index = if matches!(place, Place::Head(0)) { 4 } else { index };
    // SAFETY: words of free memory and of the metadata, which only the strategy reads, to check.
    unsafe {
        match place {
            Place::Head(offset) => forward(blocks[index], offset).cast::<usize>().write(value),
            Place::LastWord => {
                forward(blocks[index], sizes[index] - 8).cast::<usize>().write(value);
            }
            Place::MapByte => {
                let byte = forward(memory.extent.metadata(), size_of::<Record>());
                byte.write(byte.read() ^ value as u8);
            }
            Place::Count => live_blocks(&memory.extent).set(value),
            Place::Waiting => forward(blocks[5], 8).cast::<usize>().write(value),
            Place::FirstBin => strategy.bins.damage(value as u64),
            Place::FreeTwice => strategy.deallocate(&memory.extent, blocks[5], layout(sizes[5])),
            Place::Remove => strategy.remove_extent(&memory.extent),
        }
    }
    strategy.verify();
}

#[test]
#[cfg_attr(miri, ignore = "starts processes")]
fn what_is_broken_is_found_and_named() {
    if let Ok(case) = std::env::var(VARIABLE) {
        return break_one(case.parse().expect("a number"));
    }
    let this = std::env::current_exe().expect("the path of this test");
    for (case, (_, _, message)) in CASES.iter().enumerate() {
        let name = "strategy::trees::sabotage::what_is_broken_is_found_and_named";
        let output = Command::new(&this)
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(VARIABLE, case.to_string())
            .output()
            .expect("the test as a process");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "case {case} was not found");
        let expected = format!("heapswitch: {}: {message}", MultipleBinarySearchTree::NAME);
        assert!(error.contains(&expected), "case {case}: {error}");
    }
}
