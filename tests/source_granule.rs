//! A source whose ranges are no chunks, named to the macro: the program ends at its first
//! allocation, and is told what to write.
#![cfg(not(any(heapswitch_pass_through, loom)))]

#[path = "child/mod.rs"]
mod child;

use std::alloc::{GlobalAlloc, Layout};

use heapswitch::{ArenaMemorySource, ArenaSettings, ArenaSizes, RegionMapSource};

static WIDE: ArenaMemorySource<RegionMapSource> = ArenaMemorySource::new(
    RegionMapSource::THREADS,
    match ArenaSettings::new(ArenaSizes { block_bytes: 128 << 10, ..ArenaSizes::DEFAULT }) {
        Ok(settings) => settings,
        Err(_) => panic!("an arena has these sizes"),
    },
);

heapswitch::global_thread_and_coroutine_switchable_allocator! {
    struct ByHand;
    thread_source = WIDE,
    install = false,
}

#[test]
fn is_refused_at_the_start() {
    let expected = "the source that the macro names as `thread_source` has another granule";
    child::fails_with("is_refused_at_the_start", "a block", expected, || {
        // SAFETY: the layout is not empty.
        let _ = unsafe { ByHand.alloc(Layout::new::<u64>()) };
    });
}
