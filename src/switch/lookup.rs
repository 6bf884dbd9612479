//! Questions about addresses.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::handle::Heap;
use super::state::state;
use crate::heap::HeapHeader;
use crate::region::owners;

/// Names a heap: the same as long as the heap is not closed, and perhaps another's after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeapId(usize);

impl HeapId {
    fn of(header: NonNull<HeapHeader>) -> Self {
        Self(header.addr().get())
    }
}

impl Heap {
    /// The heap's name.
    pub fn id(&self) -> HeapId {
        HeapId::of(self.raw())
    }
}

/// The name of this thread's own heap; `None` before its first allocation from there.
pub fn thread_heap_id() -> Option<HeapId> {
    state().thread_heap.get().map(HeapId::of)
}

/// Which heap owns the chunk that an address lies in. `None` for what no heap holds: the global
/// allocator's, stacks, statics. O(1), for any address at all.
pub fn owner_of(address: *const u8) -> Option<HeapId> {
    owners::owner_of(address).map(|owner| HeapId::of(owner.cast()))
}

/// The bytes that may be used of a block: those that were asked for, and those that the rounding
/// added.
///
/// # Safety
/// `block` is currently allocated by a heap, or by the global allocator behind heaps, and `layout`
/// fits it.
pub unsafe fn usable_size(block: NonNull<u8>, layout: Layout) -> usize {
    let Some(owner) = owners::owner_of(block.as_ptr()) else { return layout.size() };
    let owner = owner.cast::<HeapHeader>();
    // SAFETY: the block is allocated, so it pins the header; anyone may ask for lengths.
    let length = unsafe { (owner.as_ref().operations.block_length)(owner, layout) };
    length.unwrap_or(layout.size())
}
