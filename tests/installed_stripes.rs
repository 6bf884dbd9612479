//! A program whose threads, contexts and global allocator are all the strategy `stripes`.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "support/installed.rs"]
mod installed;

use heapswitch::{Locked, MemoryMapSource, StripeAllocator};
use installed::Installed;

static SHARED: Locked<StripeAllocator<MemoryMapSource>> =
    Locked::new(StripeAllocator::new(MemoryMapSource::new()));

/// The macro wants a type of its own, which is this static's.
struct Shared;

// SAFETY: every method is that of the static.
unsafe impl std::alloc::GlobalAlloc for Shared {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe { SHARED.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: the caller's contract.
        unsafe { SHARED.dealloc(block, layout) }
    }
}

heapswitch::global_thread_and_coroutine_switchable_allocator! {
    coroutine = stripes,
    thread = stripes,
    global = Shared,
}

const INSTALLED: Installed = Installed { name: "stripes", stride: 288 };

#[test]
fn threads_live_on_it() {
    installed::threads_live_on_it(&INSTALLED);
}

#[test]
fn contexts_live_on_it() {
    installed::contexts_live_on_it(&INSTALLED);
}

#[test]
fn coroutines_live_on_it() {
    installed::coroutines_live_on_it(&INSTALLED);
}

#[test]
fn the_global_allocator_is_it() {
    installed::the_global_allocator_is_it(&SHARED);
}
