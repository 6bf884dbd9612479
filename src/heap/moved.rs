//! Copying a block that is to be elsewhere.

use core::ptr::NonNull;

use crate::pointers;
use crate::region;
use crate::sys::{IS_PASS_THROUGH, memory};
use crate::units::{HUGE_PAGE_BYTES, SEGMENT_BYTES};

/// From so many bytes on, what was copied is given back to the kernel while the rest is copied: a
/// block that grows by copying else needs twice its memory, and who has so long ones has few.
const LONG_BYTES: usize = SEGMENT_BYTES;

/// Copies the first bytes of a block that is about to be freed to another, and may lose them.
///
/// # Safety
/// Both are allocated, so long, and the caller's alone; they do not overlap. What is copied is not
/// read any more where it was.
#[inline]
pub unsafe fn copy_before_free(from: NonNull<u8>, to: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        if bytes < LONG_BYTES || IS_PASS_THROUGH {
            to.copy_from_nonoverlapping(from, bytes);
        } else {
            copy_and_give_back(from, to, bytes);
        }
    }
}

/// In pieces that end where huge pages do.
///
/// # Safety
/// As [`copy_before_free`].
#[cold]
#[inline(never)]
unsafe fn copy_and_give_back(from: NonNull<u8>, to: NonNull<u8>, bytes: usize) {
    // Of memory outside the region nobody knows what it is made of.
    let (mut copied, mut is_given_back) = (0, region::offset_of(from.as_ptr()).is_some());
    while copied < bytes {
        // SAFETY: the piece lies in both blocks. Where it is given back it is a whole huge page of
        // the first, which nobody reads any more.
        unsafe {
            let piece_start = pointers::forward(from, copied);
            let to_end = pointers::padding(piece_start, HUGE_PAGE_BYTES);
            let wanted = if to_end == 0 { HUGE_PAGE_BYTES } else { to_end };
            let piece = wanted.min(bytes - copied);
            pointers::forward(to, copied).copy_from_nonoverlapping(piece_start, piece);
            // The kernel refuses what is locked, of which the program wants to keep the pages.
            is_given_back = is_given_back
                && (piece < HUGE_PAGE_BYTES || memory::give_back_pages(piece_start, piece).is_ok());
            copied += piece;
        }
    }
}
