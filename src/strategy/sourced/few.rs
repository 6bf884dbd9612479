//! The records of a few extents, sorted by address, in one array that is searched without a branch.
//!
//! Where a program frees at random in much memory, nobody can foresee which extent the next block
//! is in. Each wrong guess on the way to it is noticed only when the block's address has come from
//! memory, and until then the processor cannot go on with what follows: so looking for one block
//! costs as much as the memory's latency, many times over. Counting how many extents begin below an
//! address takes some thirty instructions and no guess.

use core::cell::Cell;
use core::ptr::NonNull;

use super::records::Record;
use crate::pointers;
use crate::units::CHUNK_SHIFT;

/// Records that have room: extents grow as memory does, so this is enough for many gigabytes.
const FEW: usize = 32;

/// What a start is compared by: its chunk's number, below 2^31 for every address of a program; 32
/// bits, of which the processor compares four at once.
type ChunkNumber = i32;

/// Behind every start.
const NOWHERE: ChunkNumber = ChunkNumber::MAX;

#[inline]
fn chunk_of(address: NonNull<u8>) -> ChunkNumber {
    (address.addr().get() >> CHUNK_SHIFT) as ChunkNumber
}

/// The record that is the only one here, with its extent's start and length; of no length where
/// there is none or another, so that one compare tells whether an address is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Alone {
    start: NonNull<u8>,
    bytes: usize,
    record: NonNull<Record>,
}

impl Alone {
    const NONE: Self = Self { start: NonNull::dangling(), bytes: 0, record: NonNull::dangling() };
}

/// Some records by address.
///
/// # Invariants
/// The first `count` records are in order of their extents' starts, and `starts` has the chunks of
/// these; behind them is [`NOWHERE`] and no record. If there is one, `alone` is that.
#[derive(Debug)]
pub(super) struct Few {
    alone: Cell<Alone>,
    starts: [Cell<ChunkNumber>; FEW],
    records: [Cell<Option<NonNull<Record>>>; FEW],
    count: Cell<usize>,
}

impl Few {
    pub(super) const fn new() -> Self {
        Self {
            alone: Cell::new(Alone::NONE),
            starts: [const { Cell::new(NOWHERE) }; FEW],
            records: [const { Cell::new(None) }; FEW],
            count: Cell::new(0),
        }
    }

    /// How many starts are in chunks up to that of an address.
    #[inline]
    fn rank(&self, address: NonNull<u8>) -> usize {
        let chunk = chunk_of(address);
        let behind: i32 = self.starts.iter().map(|start| i32::from(start.get() > chunk)).sum();
        FEW - behind as usize
    }

    /// The record whose extent an address lies in, if that is the only one here.
    #[inline]
    pub(super) fn alone(&self, address: NonNull<u8>) -> Option<NonNull<Record>> {
        let Alone { start, bytes, record } = self.alone.get();
        (pointers::distance(start, address) < bytes).then_some(record)
    }

    /// What `alone` is to be.
    fn who_is_alone(&self) -> Alone {
        match self.record(0) {
            Some(record) if self.count() == 1 => {
                // SAFETY: as in `candidate`.
                let extent = unsafe { &record.as_ref().extent };
                Alone { start: extent.start(), bytes: extent.length(), record }
            }
            _ => Alone::NONE,
        }
    }

    /// The record whose extent an address lies in, if it is here; or another, or none.
    #[inline]
    pub(super) fn candidate(&self, address: NonNull<u8>) -> Option<NonNull<Record>> {
        let mut rank = self.rank(address);
        loop {
            rank = rank.checked_sub(1)?;
            let record = self.records.get(rank)?.get()?;
            // SAFETY: records stay valid until they are removed.
            if unsafe { record.as_ref() }.extent.start() <= address {
                return Some(record);
            }
            // It begins in the same chunk, behind the address.
        }
    }

    /// Puts a record in if there is room.
    pub(super) fn insert(&self, record: NonNull<Record>, start: NonNull<u8>) {
        let count = self.count.get();
        if count == FEW {
            return;
        }
        let mut at = count;
        while let Some(before) = at.checked_sub(1)
            && let Some(other) = self.record(before)
            // SAFETY: as in `candidate`.
            && unsafe { other.as_ref() }.extent.start() > start
        {
            self.set(at, Some(other), self.start(before));
            at = before;
        }
        self.set(at, Some(record), chunk_of(start));
        self.count.set(count + 1);
        self.alone.set(self.who_is_alone());
    }

    /// Takes a record out if it is here.
    pub(super) fn remove(&self, record: NonNull<Record>) {
        let count = self.count.get();
        let Some(at) = (0..count).find(|&at| self.record(at) == Some(record)) else { return };
        for behind in at + 1..count {
            self.set(behind - 1, self.record(behind), self.start(behind));
        }
        self.set(count - 1, None, NOWHERE);
        self.count.set(count - 1);
        self.alone.set(self.who_is_alone());
    }

    /// Takes over what others are.
    pub(super) fn become_as(&self, others: &Self) {
        for at in 0..FEW {
            self.set(at, others.record(at), others.start(at));
        }
        self.count.set(others.count.get());
        self.alone.set(self.who_is_alone());
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count.get()
    }

    /// Whether this record is here.
    pub(super) fn has(&self, record: NonNull<Record>) -> bool {
        (0..self.count()).any(|at| self.record(at) == Some(record))
    }

    /// Whether the invariants hold, of records that are valid.
    pub(super) fn is_sound(&self) -> bool {
        let mut above = None;
        let are_sorted = (0..FEW).all(|at| match self.record(at) {
            Some(record) => {
                // SAFETY: as in `candidate`.
                let start = unsafe { record.as_ref() }.extent.start();
                let is_next = above.is_none_or(|above| above < start);
                above = Some(start);
                at < self.count() && is_next && self.start(at) == chunk_of(start)
            }
            None => at >= self.count() && self.start(at) == NOWHERE,
        });
        are_sorted && self.alone.get() == self.who_is_alone()
    }

    fn record(&self, at: usize) -> Option<NonNull<Record>> {
        self.records.get(at)?.get()
    }

    fn start(&self, at: usize) -> ChunkNumber {
        self.starts.get(at).map_or(NOWHERE, Cell::get)
    }

    fn set(&self, at: usize, record: Option<NonNull<Record>>, start: ChunkNumber) {
        if let (Some(slot), Some(key)) = (self.records.get(at), self.starts.get(at)) {
            slot.set(record);
            key.set(start);
        }
    }

    /// Swaps the first two, for the tests.
    #[cfg(test)]
    pub(super) fn damage(&self) {
        let [first, second] = [0, 1].map(|at| (self.record(at), self.start(at)));
        self.set(0, second.0, second.1);
        self.set(1, first.0, first.1);
    }
}
