//! Memory for the allocator's own records: heap headers, bit maps, stacks of contexts.
//!
//! It lies outside the region, so no overflow in user memory reaches it, and is never unmapped, so
//! a record's memory only ever holds records. Blocks are powers of two from 64 bytes up, one free
//! list a size, behind one lock; a chunk or a heap takes one or two, at its making.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::sys::lock::Lock;
use crate::sys::memory;

const MIN_SHIFT: u32 = 6;
const SIZES: usize = 26;

/// What is mapped at once, in bytes, at least.
const PIECE_BYTES: usize = 1 << 20;

/// The process's metadata memory.
#[derive(Debug)]
pub struct Metadata;

struct FreeBlock {
    next: Option<NonNull<FreeBlock>>,
}

/// At the start of each mapping that records lie in.
struct Piece {
    next: Option<NonNull<Piece>>,
    bytes: usize,
}

/// What a piece's own record takes of it: blocks stay aligned to 64.
const PIECE_RECORD_BYTES: usize = 1 << MIN_SHIFT;

struct Pool {
    pieces: Option<NonNull<Piece>>,
    free: [Option<NonNull<FreeBlock>>; SIZES],
    cursor: Option<NonNull<u8>>,
    left: usize,
}

// SAFETY: the pool owns the memory that its pointers lead to.
unsafe impl Send for Pool {}

static POOL: Lock<Pool> =
    Lock::new(Pool { pieces: None, free: [None; SIZES], cursor: None, left: 0 });
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Bytes in records that are in use, rounded up to the blocks that hold them.
pub fn metadata_bytes_held() -> usize {
    HELD.load(Ordering::Relaxed)
}

/// Calls `visit` with each mapping that records lie in, newest first. Not under the lock: pieces
/// are never unmapped, and their records never change.
pub(super) fn for_each_piece(mut visit: impl FnMut(NonNull<u8>, usize)) {
    let mut next = POOL.lock().pieces;
    while let Some(piece) = next {
        // SAFETY: a piece's record is written before the piece is on the list.
        let Piece { next: following, bytes } = *unsafe { piece.as_ref() };
        visit(piece.cast(), bytes);
        next = following;
    }
}

pub(super) fn metadata_lock() -> &'static crate::sys::lock::RawLock {
    POOL.raw()
}

fn shift_of(bytes: usize) -> Option<u32> {
    Some(bytes.checked_next_power_of_two()?.ilog2().max(MIN_SHIFT))
}

impl Metadata {
    /// Takes `bytes` bytes, zeroed and aligned to the block that holds them (at least 64 bytes), or
    /// to a page for larger ones. `None` where the system refuses.
    pub fn take(bytes: usize) -> Option<NonNull<u8>> {
        let (block, is_zeroed) = Self::take_any(bytes)?;
        if !is_zeroed {
            // SAFETY: the block is the caller's, and at least so long.
            unsafe { block.write_bytes(0, bytes) };
        }
        Some(block)
    }

    /// As [`take`](Self::take), with whatever the memory holds: pages that the caller does not
    /// write to stay untouched.
    pub fn take_unwritten(bytes: usize) -> Option<NonNull<u8>> {
        let (block, is_zeroed) = Self::take_any(bytes)?;
        // Who reads what it did not write shall see it.
        if cfg!(heapswitch_check) && !is_zeroed {
            // SAFETY: the block is the caller's, and at least so long.
            unsafe { block.write_bytes(0xA5, bytes) };
        }
        Some(block)
    }

    /// A block, and whether it is all zero.
    fn take_any(bytes: usize) -> Option<(NonNull<u8>, bool)> {
        let shift = shift_of(bytes)?;
        let block_bytes = 1_usize << shift;
        let mut pool = POOL.lock();
        let list = pool.free.get_mut((shift - MIN_SHIFT) as usize)?;
        let (block, is_zeroed) = if let Some(block) = *list {
            // SAFETY: blocks in a free list are whole blocks of the pool, unused, and hold a link.
            *list = unsafe { block.as_ref() }.next;
            (block.cast(), false)
        } else {
            (pool.cut(block_bytes)?, true)
        };
        HELD.fetch_add(block_bytes, Ordering::Relaxed);
        Some((block, is_zeroed))
    }

    /// Takes memory back.
    ///
    /// # Safety
    /// `block` came from [`take`](Self::take) or [`take_unwritten`](Self::take_unwritten) with the
    /// same `bytes`, and nothing uses it any more.
    pub unsafe fn give_back(block: NonNull<u8>, bytes: usize) {
        let Some(shift) = shift_of(bytes) else { return };
        let mut pool = POOL.lock();
        // SAFETY: the block is at least 64 bytes, aligned, and the pool's alone from now on.
        unsafe { pool.push(block, shift) };
        HELD.fetch_sub(1 << shift, Ordering::Relaxed);
        // Seldom: it looks at every free block.
        #[cfg(heapswitch_check)]
        if HELD.load(Ordering::Relaxed).is_multiple_of(PIECE_BYTES) {
            pool.verify();
        }
    }
}

impl Pool {
    fn add_piece(&mut self, start: NonNull<u8>, bytes: usize) {
        let piece = start.cast::<Piece>();
        // SAFETY: the mapping is new, aligned to a page, and longer than a record.
        unsafe {
            piece.write(Piece { next: self.pieces, bytes });
            self.cursor = Some(crate::pointers::forward(start, PIECE_RECORD_BYTES));
        }
        self.left = bytes - PIECE_RECORD_BYTES;
        self.pieces = Some(piece);
        #[cfg(heapswitch_check)]
        if core::iter::successors(self.pieces, |piece| {
            // SAFETY: a piece's record is written before the piece is on the list.
            unsafe { piece.as_ref() }.next
        })
        .count()
        .is_power_of_two()
        {
            self.verify();
        }
    }

    /// Aborts unless every free block lies whole in a piece, aligned as its size wants, the cursor
    /// is where the newest piece ends less what is left, and no more is free and held than there
    /// is.
    #[cfg(heapswitch_check)]
    fn verify(&self) {
        let broken = |what: &str| -> ! { crate::sys::abort_with(&["metadata: ", what]) };
        let mut total = 0;
        let mut next = self.pieces;
        while let Some(piece) = next {
            // SAFETY: a piece's record is written before the piece is on the list.
            let piece = unsafe { piece.as_ref() };
            total += piece.bytes - PIECE_RECORD_BYTES;
            next = piece.next;
        }
        let end = self.pieces.map(|newest| {
            // SAFETY: as above.
            newest.addr().get() + unsafe { newest.as_ref() }.bytes
        });
        if self.cursor.map(|cursor| cursor.addr().get() + self.left) != end {
            broken("the cursor is corrupted");
        }
        let mut free = 0;
        for (index, &first) in self.free.iter().enumerate() {
            let bytes = 1_usize << (index as u32 + MIN_SHIFT);
            let mut next = first;
            while let Some(block) = next {
                let start = block.addr().get();
                if !start.is_multiple_of(bytes.min(crate::units::PAGE_BYTES))
                    || !self.is_in_piece(start, bytes)
                {
                    broken("a free block is not one");
                }
                free += bytes;
                if free > total {
                    broken("more is free than there is: a list ends in itself");
                }
                // SAFETY: it lies in a piece, aligned, and blocks in a list hold a link.
                next = unsafe { block.as_ref() }.next;
            }
        }
        if free + self.left + HELD.load(Ordering::Relaxed) > total {
            broken("more is held and free than there is");
        }
    }

    #[cfg(heapswitch_check)]
    fn is_in_piece(&self, start: usize, bytes: usize) -> bool {
        let mut next = self.pieces;
        while let Some(piece) = next {
            let first = piece.addr().get() + PIECE_RECORD_BYTES;
            // SAFETY: a piece's record is written before the piece is on the list.
            let piece = unsafe { piece.as_ref() };
            if start >= first && start + bytes <= first - PIECE_RECORD_BYTES + piece.bytes {
                return true;
            }
            next = piece.next;
        }
        false
    }

    /// Puts a block into the free list of its size.
    ///
    /// # Safety
    /// It is a whole block of so many bytes (as a shift), aligned, and in nobody's use.
    unsafe fn push(&mut self, block: NonNull<u8>, shift: u32) {
        let Some(list) = self.free.get_mut((shift - MIN_SHIFT) as usize) else { return };
        let block = block.cast::<FreeBlock>();
        // SAFETY: the caller's contract.
        unsafe { block.write(FreeBlock { next: *list }) };
        *list = Some(block);
    }

    /// Frees what lies below the next multiple of an alignment, `padding` bytes further: in blocks
    /// of twice the length each, for that is how addresses are aligned there.
    ///
    /// # Safety
    /// It lies in a piece, aligned to 64 bytes, and is in nobody's use.
    unsafe fn free_padding(&mut self, start: NonNull<u8>, padding: usize) {
        let mut done = 0;
        while done < padding {
            // SAFETY: the caller's contract; the lowest bit of an address below a multiple of a
            // larger power of two is at most the distance to that.
            unsafe {
                let block = crate::pointers::forward(start, done);
                let shift = block.addr().get().trailing_zeros();
                self.push(block, shift);
                done += 1 << shift;
            }
        }
    }

    fn cut(&mut self, bytes: usize) -> Option<NonNull<u8>> {
        // The cursor stays aligned to 64; larger blocks skip to their own alignment, a page at
        // most.
        let alignment = bytes.min(crate::units::PAGE_BYTES);
        let padding = self.cursor.map_or(0, |cursor| crate::pointers::padding(cursor, alignment));
        if self.cursor.is_none() || self.left < padding + bytes {
            // A large block skips to the next page, behind the piece's record.
            let piece = (bytes + crate::units::PAGE_BYTES).max(PIECE_BYTES);
            // What is left of the old piece is given up: less than the request, at most 1 MiB.
            self.add_piece(memory::take_for_ever(piece).ok()?, piece);
            return self.cut(bytes);
        }
        let cursor = self.cursor?;
        // SAFETY: padding and block lie in the piece, as just checked.
        let (block, next) = unsafe {
            self.free_padding(cursor, padding);
            let block = crate::pointers::forward(cursor, padding);
            (block, crate::pointers::forward(block, bytes))
        };
        self.left -= padding + bytes;
        self.cursor = Some(next);
        Some(block)
    }
}

#[cfg(all(test, not(heapswitch_pass_through)))]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_zeroed_and_reused() {
        for bytes in [1, 64, 65, 4096, 5000, 1 << 20, 3 << 20] {
            let block = Metadata::take(bytes).unwrap();
            // SAFETY: the block is ours for `bytes`.
            unsafe {
                let slice = core::slice::from_raw_parts_mut(block.as_ptr(), bytes);
                assert!(slice.iter().all(|&byte| byte == 0));
                slice.fill(0xFF);
                Metadata::give_back(block, bytes);
            }
            let again = Metadata::take(bytes).unwrap();
            // SAFETY: the block is ours for `bytes`.
            unsafe {
                let slice = core::slice::from_raw_parts(again.as_ptr(), bytes);
                assert!(slice.iter().all(|&byte| byte == 0));
                Metadata::give_back(again, bytes);
            }
        }
    }
}
