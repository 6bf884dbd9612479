//! A block that outlives its heap pins the source.

use heapswitch::{ArenaMemorySource, ArenaSettings, Heap, RegionMapSource};

fn main() {
    let inner = heapswitch::source::region_map::CONTEXT_SOURCE;
    let source: ArenaMemorySource<RegionMapSource> =
        ArenaMemorySource::new(inner, ArenaSettings::DEFAULT);
    let _ = Heap::builder().source(&source);
}
