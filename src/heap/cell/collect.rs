//! Frees that come late: blocks that others pushed on the foreign stack, and, under
//! AddressSanitizer, blocks that waited in quarantine.
//!
//! Collecting costs one exchange and then what each block's free costs. The chain was written by
//! other threads into freed memory, which a program may have written to since, so each link is
//! checked before it is followed.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::super::foreign::{self, ForeignBlock, FreedWith};
use super::blocks::free;
use super::idle::retire_emptied;
use super::inspect::verify_sometimes;
use super::{Header, header_of, strategy_of};
use crate::region::{self, ChunkEntry};
use crate::strategy::Strategy;
use crate::sync::foreign_stack::BlockId;
use crate::sys;

/// # Safety
/// The caller runs the heap.
pub(super) unsafe fn collect<S: Strategy>(header: Header) {
    // SAFETY: the caller's contract.
    unsafe {
        free_chain::<S>(header, header_of(header).foreign.take_all());
        end_quarantine::<S>(header);
        verify_sometimes::<S>(header);
    }
}

/// # Safety
/// The caller runs the heap and took the chain off its foreign stack.
pub(super) unsafe fn free_chain<S: Strategy>(header: Header, first: BlockId) {
    let (mut next, committed) = (first, region::committed());
    let mut blocks: u64 = 0;
    while next != 0 {
        // SAFETY: the chain's blocks were pushed and are ours now; each is allocated as far as this
        // heap knows. The holder is freed when it was read.
        unsafe {
            let Some(holder) = foreign::find_holder(next, header, committed) else { corrupted() };
            next = holder.next();
            // The one miss of eight blocks, while the others are freed.
            committed.prefetch(next as usize);
            blocks += holder.names() as u64 + 1;
            holder.visit_named(header, committed, |block| {
                free_waiting::<S>(header, block.unwrap_or_else(|| corrupted()));
            });
            free_waiting::<S>(header, holder.block);
        }
    }
    if blocks != 0 {
        // SAFETY: the caller runs the heap.
        unsafe { header_of(header) }.account.count_foreign_frees(blocks);
    }
}

/// Frees a block that waited.
///
/// # Safety
/// The caller runs the heap, of a run of which the block is, allocated as far as the heap knows.
#[inline]
unsafe fn free_waiting<S: Strategy>(header: Header, block: ForeignBlock) {
    let ForeignBlock { address, entry, word } = block;
    // SAFETY: the caller's contract.
    unsafe {
        // AddressSanitizer has to be told how long the block is.
        if cfg!(heapswitch_asan) {
            return free_as_told::<S>(header, entry, address, word);
        }
        match strategy_of::<S>(header).free_of_class(entry.class(), address) {
            Some(true) => retire_emptied::<S>(header),
            Some(false) => {}
            None => free_as_told::<S>(header, entry, address, word),
        }
    }
}

/// Frees a block by the layout that it was freed with, which its word tells.
///
/// # Safety
/// As [`free_waiting`].
#[inline(never)] // measured: the loop of a slab's blocks takes eight instructions less
unsafe fn free_as_told<S: Strategy>(
    header: Header,
    entry: &'static ChunkEntry,
    address: NonNull<u8>,
    word: FreedWith,
) {
    let Some(layout) = word.layout() else { corrupted() };
    sys::poison::unpoison(address, layout.size());
    // SAFETY: the caller's contract.
    unsafe { free::<S>(header, entry, address, layout) };
}

#[cold]
#[inline(never)]
fn corrupted() -> ! {
    sys::abort_with(&[
        "a block was written to after it was freed, or freed twice, by another thread",
    ])
}

/// As [`free`], when other blocks were freed after this one.
///
/// # Safety
/// As [`free`].
pub(super) unsafe fn free_late<S: Strategy>(
    header: Header,
    entry: &'static ChunkEntry,
    block: NonNull<u8>,
    layout: Layout,
) {
    // SAFETY: the caller's contract.
    unsafe {
        #[cfg(heapswitch_asan)]
        if entry.tag.get() == super::EXTENT {
            let quarantine = &header_of(header).quarantine;
            while let Some(freed) = quarantine.next_due() {
                free_freed::<S>(header, freed);
            }
            if quarantine.admit(super::super::quarantine::Freed { block, layout }) {
                return;
            }
        }
        free::<S>(header, entry, block, layout);
    }
}

/// # Safety
/// The caller runs the heap and took the block from its quarantine.
#[cfg(heapswitch_asan)]
unsafe fn free_freed<S: Strategy>(header: Header, freed: super::super::quarantine::Freed) {
    if let Some(entry) = region::entry_of(freed.block.as_ptr()) {
        // SAFETY: the block was the program's until it was freed.
        unsafe { free::<S>(header, entry, freed.block, freed.layout) };
    }
}

/// Frees what waits in quarantine. Whether there was something.
///
/// # Safety
/// The caller runs the heap.
pub(super) unsafe fn end_quarantine<S: Strategy>(header: Header) -> bool {
    #[cfg(heapswitch_asan)]
    // SAFETY: the caller's contract.
    unsafe {
        let mut is_any = false;
        while let Some(freed) = header_of(header).quarantine.take() {
            free_freed::<S>(header, freed);
            is_any = true;
        }
        is_any
    }
    #[cfg(not(heapswitch_asan))]
    {
        let _ = (header, S::NAME);
        false
    }
}
