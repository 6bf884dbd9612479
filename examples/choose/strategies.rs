//! Every strategy by name.

use heapswitch::allocator::LocalAllocator;
use heapswitch::strategy::free_list::Settings;
use heapswitch::{
    BitSetAllocator, BuddyAllocator, BumpAllocator, Fit, FreeListAllocator,
    MultipleBinarySearchTreeAllocator, SlabAllocator, StripeAllocator,
};

use crate::memory::Memory;

/// What is done with each strategy.
pub(crate) trait Visitor {
    type Result;

    fn visit(&mut self, start: usize, allocator: &impl LocalAllocator) -> Self::Result;
}

/// Their names, in the order of the tables.
pub(crate) const NAMES: &[&str] = &[
    "bump",
    "slab",
    "bit_set",
    "trees",
    "free_list first",
    "free_list next",
    "free_list best",
    "buddy",
    "stripes",
];

/// Makes the strategy of that name on so many bytes of the memory, and visits it.
pub(crate) fn visit<V: Visitor>(
    name: &str,
    (memory, bytes): (&mut Memory, usize),
    visitor: &mut V,
) -> V::Result {
    let start = memory.start();
    let source = memory.source(bytes);
    let list = |fit| Settings { fit };
    match name {
        "bump" => visitor.visit(start, &BumpAllocator::new(source)),
        "slab" => visitor.visit(start, &SlabAllocator::new(source)),
        "bit_set" => visitor.visit(start, &BitSetAllocator::new(source)),
        "trees" => visitor.visit(start, &MultipleBinarySearchTreeAllocator::new(source)),
        "free_list next" => {
            visitor.visit(start, &FreeListAllocator::with_settings(list(Fit::Next), source))
        }
        "free_list best" => {
            visitor.visit(start, &FreeListAllocator::with_settings(list(Fit::Best), source))
        }
        "buddy" => visitor.visit(start, &BuddyAllocator::new(source)),
        "stripes" => visitor.visit(start, &StripeAllocator::new(source)),
        _ => visitor.visit(start, &FreeListAllocator::with_settings(list(Fit::First), source)),
    }
}
