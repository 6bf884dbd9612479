//! What a release build notices of a block that is freed twice: the process ends when the block
//! goes back to its chunk again. The `check` build ends it at the second free, see `check.rs`.
#![cfg(not(any(heapswitch_pass_through, heapswitch_check, loom)))]

mod child;

use std::alloc::{Layout, alloc, dealloc};

use heapswitch::{HeapSwitch, purge};

#[global_allocator]
static GLOBAL: HeapSwitch = HeapSwitch;

/// A length that nothing else here asks for.
const BYTES: usize = 600;

#[test]
fn a_block_that_goes_back_twice_ends_the_process() {
    let test = "a_block_that_goes_back_twice_ends_the_process";
    child::fails_with(test, "twice", "slab: a block was freed twice", || {
        let layout = Layout::from_size_align(BYTES, 8).unwrap();
        // SAFETY: it is not, which is what is tested: the second free is one too many.
        unsafe {
            let block = alloc(layout);
            dealloc(block, layout);
            dealloc(block, layout);
        }
        purge();
    });
}
