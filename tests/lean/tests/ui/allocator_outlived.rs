//! What a strategy allocates by itself goes with it.

use allocator_api2::vec::Vec;
use heapswitch::{BumpAllocator, MemoryMapSource};

fn main() {
    let mut numbers;
    {
        let allocator = BumpAllocator::new(MemoryMapSource::new());
        numbers = Vec::new_in(&allocator);
    }
    numbers.push(1);
}
