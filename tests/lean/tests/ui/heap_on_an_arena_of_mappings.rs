//! An arena is in the region only if what it takes from is.

use heapswitch::{ArenaMemorySource, ArenaSettings, Heap, MemoryMapSource};

static SOURCE: ArenaMemorySource<MemoryMapSource> =
    ArenaMemorySource::new(MemoryMapSource::new(), ArenaSettings::DEFAULT);

fn main() {
    let _ = Heap::builder().source(&SOURCE);
}
