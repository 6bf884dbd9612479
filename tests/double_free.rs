//! What a release build notices of a block that is freed twice: the process ends when the block
//! goes back to its chunk again. The `check` build ends it at the second free, see `check.rs`.
#![cfg(not(any(heapswitch_pass_through, heapswitch_check, loom)))]

mod child;

use std::alloc::{Layout, alloc, dealloc};

use heapswitch::strategy::slab::Slab;
use heapswitch::{
    Allocator, Heap, HeapSwitch, MemoryMapSource, SlabAllocator, flush_foreign_frees, purge,
};

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

/// Blocks of one length, so many that their chunks go back when all are freed.
fn blocks_of(layout: Layout) -> Vec<*mut u8> {
    // SAFETY: the layout is not empty.
    (0..1000).map(|_| unsafe { alloc(layout) }).collect()
}

/// The chunk is nobody's by then, or another length's, or another heap's: nothing that is not this
/// slab's is written to.
#[test]
fn a_block_whose_chunk_went_back_ends_the_process() {
    let test = "a_block_whose_chunk_went_back_ends_the_process";
    let ended = "slab: a block was freed twice";
    let layout = Layout::from_size_align(BYTES, 8).unwrap();
    let free_all = |blocks: &[*mut u8]| {
        // SAFETY: each is freed once here.
        blocks.iter().for_each(|&block| unsafe { dealloc(block, layout) });
    };
    // SAFETY: it is not, which is what is tested.
    let free_again = |block: *mut u8, layout| unsafe { dealloc(block, layout) };

    // Its owner is read through a null pointer, so that the kernel ends it.
    child::failing(test, "nobody's", || {
        let blocks = blocks_of(layout);
        free_all(&blocks);
        purge();
        free_again(blocks[500], layout);
        purge();
    });
    child::fails_with(test, "another length's", ended, || {
        let blocks = blocks_of(layout);
        free_all(&blocks);
        purge();
        let others = blocks_of(Layout::from_size_align(900, 8).unwrap());
        let is_there =
            |block: &&*mut u8| others.iter().any(|other| other.addr() >> 16 == block.addr() >> 16);
        let again = blocks.iter().find(is_there).expect("no chunk was used again");
        free_again(*again, layout);
        purge();
        drop(others);
    });
    // Chunks that were blocks of their own wait in the heap that had them.
    for (name, size, align) in [("a chunk's", 40_000, 8), ("an aligned one's", 100, 8192)] {
        child::fails_with(test, name, "a block was freed twice", || {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: the layout is not empty.
            let block = unsafe { alloc(layout) };
            free_again(block, layout);
            free_again(block, layout);
        });
    }
    child::fails_with(test, "not of that length", ended, || {
        // SAFETY: the layout is not empty; the free is wrong, which is what is tested.
        unsafe { dealloc(alloc(layout), Layout::from_size_align(900, 8).unwrap()) };
        purge();
    });
}

/// Used by itself, a slab links its free blocks through themselves.
#[test]
fn a_link_that_leads_out_of_its_extent_ends_the_process() {
    let test = "a_link_that_leads_out_of_its_extent_ends_the_process";
    child::fails_with(test, "a link", "a block was written to after it was freed", || {
        let slab = SlabAllocator::new(MemoryMapSource::new());
        let layout = Layout::from_size_align(64, 8).unwrap();
        let block = slab.allocate(layout).unwrap().cast::<u8>();
        // SAFETY: the block is allocated; the write comes too late, which is what is tested.
        unsafe {
            slab.deallocate(block, layout);
            block.write_bytes(0x41, 8);
        }
        let _ = slab.allocate(layout);
        let _ = slab.allocate(layout);
    });
    child::fails_with(test, "twice", "slab: a block was freed twice", || {
        let slab = SlabAllocator::new(MemoryMapSource::new());
        let layout = Layout::from_size_align(64, 8).unwrap();
        let block = slab.allocate(layout).unwrap().cast::<u8>();
        // SAFETY: it is not, which is what is tested.
        unsafe {
            slab.deallocate(block, layout);
            slab.deallocate(block, layout);
        }
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
