//! `SourcedAllocator`: a strategy on a memory source, for use through the allocator trait.
