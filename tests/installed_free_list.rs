//! A program whose threads, contexts and global allocator are all the strategy `free_list`.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/installed.rs"]
mod installed;

installed::program!(free_list, FreeListAllocator, 272);
