//! What a release build notices of a block that is freed twice: the process ends when the block
//! goes back to its chunk again. The `check` build ends it at the second free, see `check.rs`.
#![cfg(not(any(heapswitch_pass_through, heapswitch_check, loom)))]

mod child;

use std::alloc::{Layout, alloc, dealloc};

use heapswitch::strategy::slab::Slab;
use heapswitch::{Allocator, Heap, HeapSwitch, flush_foreign_frees, purge};

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

/// A block that another than its heap's runner freed holds the link to others, and their names.
#[test]
fn a_block_that_is_written_to_while_it_waits_ends_the_process() {
    let test = "a_block_that_is_written_to_while_it_waits_ends_the_process";
    for (name, byte, from, is_pushed) in [
        ("names", 0xFF, 0, false),
        ("no names", 0, 8, false),
        ("nothing at all", 0, 0, false),
        ("a link", 0xFF, 0, true),
    ] {
        child::fails_with(test, name, "a block was written to after it was freed", || {
            let heap = Heap::builder().build_kind::<Slab>(()).unwrap();
            let layout = Layout::from_size_align(BYTES, 8).unwrap();
            let blocks = [(); 3].map(|()| (&heap).allocate(layout).unwrap().cast::<u8>());
            // SAFETY: the blocks are allocated; the write comes too late, which is what is tested.
            unsafe {
                blocks.iter().for_each(|block| dealloc(block.as_ptr(), layout));
                if is_pushed {
                    flush_foreign_frees();
                }
                blocks[0].byte_add(from).write_bytes(byte, BYTES - from);
            }
            flush_foreign_frees();
            heap.release_unused().unwrap();
        });
    }
}
