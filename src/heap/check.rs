//! What the `check` build (`--cfg heapswitch_check`) watches: which blocks are allocated.
//!
//! A free of what is not allocated aborts and names the address, on the thread that makes it. What
//! is freed is filled with [`FREED`], so that whoever reads it later reads that. With `--cfg
//! heapswitch_asan` it is poisoned too, see `heap::quarantine`. In other builds
//! everything here is empty.

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::region::ChunkEntry;
#[cfg(heapswitch_check)]
use crate::{
    heap::by_address::length_of, region, region::owners::ChunkPlace, sys, units::PAGE_BYTES,
};

/// What freed memory is filled with.
pub const FREED: u8 = 0xDE;

/// The most bytes of a block that are filled.
const FILLED_BYTES: usize = 64 << 10;

/// A block was handed out.
#[inline]
pub fn handed_out(block: NonNull<u8>) {
    #[cfg(heapswitch_check)]
    if let Some((entry, offset)) = entry_of(block)
        && !entry.blocks.set(offset)
    {
        abort_at("a block is handed out that is allocated already", block);
    }
    let _ = block;
}

/// A block is being freed, by whomever.
///
/// # Safety
/// Unless the block is not allocated, which is found out here, `layout` fits it, and the caller
/// frees it next.
#[inline]
pub unsafe fn freed(block: NonNull<u8>, layout: Layout) {
    #[cfg(heapswitch_check)]
    {
        if !entry_of(block).is_some_and(|(entry, offset)| entry.blocks.clear(offset)) {
            abort_at("a block is freed that is not allocated, perhaps freed before", block);
        }
        // SAFETY: the block was allocated, is at least as long, and is nobody's any more.
        unsafe { block.write_bytes(FREED, layout.size().min(FILLED_BYTES)) };
        if cfg!(heapswitch_asan) && layout.size() > super::foreign::LINK_BYTES {
            // SAFETY: the block is longer than the link.
            let behind = unsafe { crate::pointers::forward(block, super::foreign::LINK_BYTES) };
            sys::poison::poison(behind, layout.size() - super::foreign::LINK_BYTES);
        }
    }
    let _ = (block, layout, FILLED_BYTES, FREED);
}

/// A block of a closed heap was freed: nobody touches it before its run is taken anew.
#[inline]
pub fn freed_for_good(block: NonNull<u8>, layout: Layout) {
    crate::sys::poison::poison(block, layout.size());
}

/// A block is being resized: it has to be allocated.
#[inline]
pub fn resized(block: NonNull<u8>) {
    #[cfg(heapswitch_check)]
    if !entry_of(block).is_some_and(|(entry, offset)| entry.blocks.is_set(offset)) {
        abort_at("a block is resized that is not allocated, perhaps freed before", block);
    }
    let _ = block;
}

/// The blocks of a chunk were counted, and so many were found: those that wait to be collected
/// count, and no others but the allocated ones may.
#[inline]
pub fn counted(entry: &ChunkEntry, blocks: u32) {
    #[cfg(heapswitch_check)]
    if entry.blocks.count() > blocks {
        sys::abort_with(&["a run's count of blocks is corrupted: more are allocated than it says"]);
    }
    let _ = (entry, blocks);
}

/// A run goes back: no block may be allocated in it.
#[inline]
pub fn run_returned(entry: &ChunkEntry) {
    counted(entry, 0);
}

/// The blocks of a chunk are given up, whether or not they are allocated.
#[inline]
pub fn forgotten(entry: &ChunkEntry) {
    #[cfg(heapswitch_check)]
    entry.blocks.clear_all();
    let _ = entry;
}

#[cfg(heapswitch_check)]
fn entry_of(block: NonNull<u8>) -> Option<(&'static ChunkEntry, usize)> {
    Some((region::entry_of(block.as_ptr())?, region::offset_of(block.as_ptr())?))
}

#[cfg(heapswitch_check)]
#[cold]
fn abort_at(what: &str, block: NonNull<u8>) -> ! {
    let address = block.addr().get();
    let mut digits = [[0; sys::HEXADECIMAL_BYTES]; 3];
    let [of_block, of_page, of_class] = &mut digits;
    let block_digits = sys::hexadecimal(address, of_block);
    let page_digits = sys::hexadecimal(address & !(PAGE_BYTES - 1), of_page);
    // SAFETY: lengths are read where a block is, or the chunk has none, which names no class.
    let length = region::entry_of(block.as_ptr())
        .and_then(|entry| unsafe { length_of(ChunkPlace::of(entry)) });
    let class = length.map_or("no class", |bytes| sys::hexadecimal(bytes, of_class));
    let what = [what, ": ", block_digits, ", page ", page_digits, ", class of bytes: ", class];
    sys::abort_with(&what)
}
