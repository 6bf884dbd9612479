//! What is broken is found: each test process breaks one word or one rule, and must abort with the
//! strategy's name.

use std::process::Command;

use super::tests::Memory;
use super::*;

const VARIABLE: &str = "HEAPSWITCH_SABOTAGE";

/// What is broken.
#[derive(Clone, Copy)]
enum Break {
    /// The count of an extent's blocks becomes that.
    Count(usize),
    /// The count of their bytes, in blocks of the bit set, becomes that.
    Bytes(usize),
    /// The extent is removed, while its count is that.
    Remove(usize),
    /// A byte of the bits is changed.
    Bits(u8),
    /// A 32-bit word of the free run, at an offset from its start, becomes zero.
    Run(usize),
    /// A block is freed a second time.
    FreeTwice,
    /// The address of its extent in a block that waits.
    Waiting,
    /// A word of the empty run becomes one.
    Empty(usize),
}

/// What is broken, and what is said of it.
const CASES: &[(Break, &str)] = &[
    (Break::Count(0), "the count of an extent's blocks disagrees with the bits"),
    (Break::Count(73), "the count of an extent's blocks disagrees with the bits"),
    (Break::Bytes(0), "the count of an extent's bytes disagrees with the bits"),
    (Break::Bytes(73), "the count of an extent's bytes disagrees with the bits"),
    (Break::Remove(3), "an extent is removed that has blocks"),
    (Break::Remove(0), "the count of an extent's blocks disagrees with the bits"),
    (Break::Bits(1), "a block in a quick list is marked as free"),
    (Break::Run(0), "a bin lists something other than free runs"),
    (Break::Run(8), "a run's lengths differ from the edges"),
    (Break::FreeTwice, "a block is freed that is free already"),
    (Break::Waiting, "a block in a quick list was written to after it was freed"),
    (Break::Empty(0), "the empty run is not empty"),
    (Break::Empty(1), "the empty run is not empty"),
    (Break::Empty(2), "the empty run is not empty"),
];

/// Five blocks, of which the second is free and the last waits: three are allocated, in 72 blocks
/// of the bit set.
fn break_one(what: Break) {
    let mut strategy = BitSet::new(Settings::default());
    let memory = Memory::new(&strategy, 65_536, false);
    let layout = |blocks: usize| Layout::from_size_align(blocks * 32, 8).expect("a layout");
    // SAFETY: new memory, that lives until the process ends.
    unsafe { strategy.add_extent(&memory.extent) };
    let lengths = [40, 40, 2, 30, 2];
    let blocks =
        lengths.map(|length| strategy.allocate(layout(length)).expect("room").cast::<u8>());
    let mut free = |index: usize| {
        // SAFETY: allocated with that layout; a second time only to see that it is found.
        unsafe { strategy.deallocate(&memory.extent, blocks[index], layout(lengths[index])) }
    };
    free(1);
    free(4);
    if matches!(what, Break::FreeTwice) {
        free(1);
    }
    strategy.verify();
    // SAFETY: words of free memory and of the metadata, which only the strategy reads.
    unsafe {
        match what {
            Break::Count(count) => Used::of(&memory.extent).requests.set(count),
            Break::Bytes(blocks) => Used::of(&memory.extent).blocks.set(blocks),
            Break::Remove(count) => {
                Used::of(&memory.extent).requests.set(count);
                strategy.remove_extent(&memory.extent);
            }
            Break::Bits(bits) => {
                let first = runs::metadata_bytes(0) - size_of::<u64>();
                let byte = pointers::forward(memory.extent.metadata(), first);
                byte.write(byte.read() ^ bits);
            }
            Break::Run(offset) => pointers::forward(blocks[1], offset).cast::<u32>().write(0),
            Break::FreeTwice => {}
            Break::Waiting => {
                let extent = pointers::forward(blocks[4], size_of::<usize>());
                extent.cast::<usize>().write(64);
            }
            Break::Empty(word) => Runs::of(&memory.extent).header.empty.damage(word),
        }
    }
    strategy.verify();
}

#[test]
#[cfg_attr(miri, ignore = "starts processes")]
fn what_is_broken_is_found_and_named() {
    if let Ok(case) = std::env::var(VARIABLE) {
        return break_one(CASES[case.parse::<usize>().expect("a number")].0);
    }
    let this = std::env::current_exe().expect("the path of this test");
    for (case, (_, message)) in CASES.iter().enumerate() {
        let name = "strategy::bit_set::sabotage::what_is_broken_is_found_and_named";
        let output = Command::new(&this)
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(VARIABLE, case.to_string())
            .output()
            .expect("the test as a process");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "case {case} was not found");
        let expected = format!("heapswitch: {}: {message}", BitSet::NAME);
        assert!(error.contains(&expected), "case {case}: {error}");
    }
}
