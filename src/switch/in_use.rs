//! Which allocator serves this thread's allocations.
#![forbid(unsafe_code)]

/// Which allocator serves this thread's allocations.
///
/// Freeing never looks at it: an address tells its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CurrentAllocatorInUse {
    /// The thread's own heap.
    #[default]
    ThreadLocal = 0,
    /// The heap of the running coroutine, task or scope.
    CoroutineLocal = 1,
    /// The locked global allocator.
    Global = 2,
}
