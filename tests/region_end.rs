//! What lies behind the region's last byte cannot be reached by an overflow of the last block.
#![cfg(not(any(heapswitch_pass_through, loom)))]

mod child;

use std::alloc::{Layout, alloc};

use heapswitch::owner_of;

heapswitch::global_thread_and_coroutine_switchable_allocator! { region_bytes = 64 MiB }

/// Fills the region, whose last chunk's block it gives the end of.
fn end_of_the_last_block() -> *mut u8 {
    let mut end = std::ptr::null_mut::<u8>();
    for bytes in [1 << 20, 64 << 10] {
        let layout = Layout::from_size_align(bytes, 8).unwrap();
        loop {
            // SAFETY: the layout is not empty.
            let block = unsafe { alloc(layout) };
            if owner_of(block).is_none() {
                break; // The region is full: the global allocator's.
            }
            end = end.max(block.wrapping_add(bytes));
        }
    }
    end
}

#[test]
fn a_word_behind_the_last_block_cannot_be_written() {
    let test = "a_word_behind_the_last_block_cannot_be_written";
    child::fails_with(test, "one", "about to be written", || {
        let end = end_of_the_last_block();
        assert!(end.addr().is_multiple_of(32 << 20), "{end:?} is not a region's end");
        eprintln!("about to be written");
        // SAFETY: none, which is what is tested: the kernel has to end the process here.
        unsafe { end.cast::<usize>().write_volatile(0x4141_4141) };
    });
}
