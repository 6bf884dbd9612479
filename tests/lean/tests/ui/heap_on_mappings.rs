//! Mappings outside the region tell no owner.

use heapswitch::{Heap, MemoryMapSource};

static SOURCE: MemoryMapSource = MemoryMapSource::new();

fn main() {
    let _ = Heap::builder().source(&SOURCE);
}
