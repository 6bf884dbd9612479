//! A program whose threads, contexts and global allocator are all the strategy `buddy`.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/installed.rs"]
mod installed;

installed::program!(buddy, BuddyAllocator, 512);
