//! Free blocks, and the lists of them by order.

use core::ptr::NonNull;

use super::extent::Record;
use crate::pointers;

/// log2 of the least block: what a free one needs for its words.
pub(super) const MIN_ORDER: usize = 5;

/// Orders from [`MIN_ORDER`] on: up to 2^46 bytes, which no process has in one piece.
pub(super) const ORDERS: usize = 42;

/// What lies in a listed block. Whether it is free, and of which order, its extent's map says.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    next: Option<NonNull<Block>>,
    previous: Option<NonNull<Block>>,
    /// The record of the extent that the block lies in.
    pub(super) record: NonNull<Record>,
}

const _: () = assert!(size_of::<Block>() <= 1 << MIN_ORDER);

/// The free blocks by order.
///
/// # Invariants
/// - Bit `n` of `occupied` is set exactly where the list of order `MIN_ORDER + n` has a block.
/// - A list's links agree in both directions, and every block in it is free and of its order.
#[derive(Debug)]
pub(super) struct Lists {
    occupied: u64,
    heads: [Option<NonNull<Block>>; ORDERS],
}

impl Lists {
    pub(super) const fn new() -> Self {
        Self { occupied: 0, heads: [None; ORDERS] }
    }

    /// Puts a block first in the list of its order.
    ///
    /// # Safety
    /// It is free, in no list, of an order that there is, and in the record's extent.
    #[inline]
    pub(super) unsafe fn push(
        &mut self,
        start: NonNull<u8>,
        order: usize,
        record: NonNull<Record>,
    ) {
        let Some(head) = self.heads.get_mut(order - MIN_ORDER) else { return };
        let block = start.cast::<Block>();
        // SAFETY: the block is free, and so are those in the list.
        unsafe {
            block.write(Block { next: *head, previous: None, record });
            if let Some(next) = *head {
                (*next.as_ptr()).previous = Some(block);
            }
        }
        // INVARIANT: the list has a block now.
        *head = Some(block);
        self.occupied |= 1 << (order - MIN_ORDER);
    }

    /// Takes the first block of the least order, from `order` on, that has one; and its order.
    #[inline]
    pub(super) fn pop(&mut self, order: usize) -> Option<(NonNull<Block>, usize)> {
        let rest = self.occupied & (u64::MAX << (order - MIN_ORDER));
        let block = (*self.heads.get(rest.trailing_zeros() as usize)?)?;
        let order = rest.trailing_zeros() as usize + MIN_ORDER;
        // SAFETY: the block is the first of its list.
        unsafe { self.unlink(block, order) };
        Some((block, order))
    }

    /// Takes a block out of its list.
    ///
    /// # Safety
    /// It is in that of the order.
    #[inline]
    pub(super) unsafe fn unlink(&mut self, block: NonNull<Block>, order: usize) {
        // SAFETY: the block is in a list, and so are those that it links.
        unsafe {
            let Block { next, previous, .. } = *block.as_ptr();
            if let Some(next) = next {
                (*next.as_ptr()).previous = previous;
            }
            if let Some(previous) = previous {
                (*previous.as_ptr()).next = next;
            } else if let Some(head) = self.heads.get_mut(order - MIN_ORDER) {
                *head = next;
                if next.is_none() {
                    // INVARIANT: the list is empty now.
                    self.occupied &= !(1 << (order - MIN_ORDER));
                }
            }
        }
    }

    /// How many blocks are in lists, or what is wrong with these.
    pub(super) fn count(&self) -> Result<usize, &'static str> {
        let mut blocks = 0;
        for (index, head) in self.heads.iter().enumerate() {
            if (self.occupied >> index & 1 != 0) != head.is_some() {
                return Err("an order's bit disagrees with its list");
            }
            let (mut previous, mut next) = (None, *head);
            while let Some(pointer) = next {
                // SAFETY: blocks in lists are free.
                let block = unsafe { *pointer.as_ptr() };
                if block.previous != previous {
                    return Err("a list reads differently backwards: freed memory was written to");
                }
                let order = index + MIN_ORDER;
                if !pointers::is_aligned(pointer.cast(), 1 << order) {
                    return Err("a block lies at no multiple of its length");
                }
                // SAFETY: a listed block's record is valid.
                if !unsafe { block.record.as_ref() }.is_listed(pointer.cast(), order) {
                    return Err("a listed block is not in the map");
                }
                blocks += 1;
                previous = next;
                next = block.next;
            }
        }
        Ok(blocks)
    }
}
