//! The top: the block that fresh memory is cut from.

use core::ptr::NonNull;

use super::bins::Taken;
use super::free_block::FreeBlock;
use super::record::Record;
use super::size_class::GRANULE;
use crate::pointers::{block, forward};

/// The top, see the [module](self).
#[derive(Debug)]
pub(super) struct Top {
    start: NonNull<u8>,
    end: usize,
    record: Option<NonNull<Record>>,
}

impl Top {
    pub(super) const fn new() -> Self {
        let start = NonNull::<u128>::dangling().cast();
        Self { start, end: GRANULE, record: None }
    }

    pub(super) fn of(taken: Taken) -> Self {
        let start = taken.block.cast::<u8>();
        Self { start, end: start.addr().get() + taken.length, record: Some(taken.record) }
    }

    #[inline]
    pub(super) fn length(&self) -> usize {
        self.end - self.start.addr().get()
    }

    pub(super) fn taken(&self) -> Option<Taken> {
        let length = self.length();
        if length == 0 {
            return None;
        }
        self.record.map(|record| Taken { block: self.start.cast::<FreeBlock>(), length, record })
    }

    #[inline]
    pub(super) fn is_in(&self, record: NonNull<Record>) -> bool {
        self.record == Some(record)
    }

    #[inline]
    pub(super) fn cut(&mut self, length: usize) -> Option<NonNull<[u8]>> {
        if length > self.length() {
            return None;
        }
        let start = self.start;
        self.start = unsafe { forward(start, length) };
        Some(block(start, length))
    }

    #[inline]
    pub(super) fn touches(&self, start: NonNull<u8>, length: usize) -> bool {
        (start.addr().get() + length == self.start.addr().get()) | (start.addr().get() == self.end)
    }

    #[inline]
    pub(super) fn starts_at(&self, address: NonNull<u8>, record: NonNull<Record>) -> bool {
        address == self.start && self.is_in(record)
    }

    pub(super) fn join(&mut self, first: NonNull<u8>, end: NonNull<u8>) {
        if end.addr() == self.start.addr() {
            self.start = first;
        } else {
            self.end = end.addr().get();
        }
    }
}
