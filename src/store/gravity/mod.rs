//! Bytes by keys, in memory that is kept compact.
//!
//! A key says nothing of where its bytes are, so the store may move them: while the free space
//! suffices for a block, it is found, however scattered it is. Readers get the bytes where they
//! are, without a copy, and many at once; what they read stays in place until they let go of it.
//!
//! ```text
//!   key ──▶ record ──▶ memory │ block │ slot │ block │ block │ slot │ block │
//!   8 B      24 B             ▲ a span each, 24 B; slots in a treap as well
//! ```
//!
//! # Who waits for whom
//! | | takes a lock | waits for |
//! |---|---|---|
//! | reading | none | the end of a copy, if just this block is being moved or overwritten |
//! | letting go | none | |
//! | writing, freeing | a short one, not while bytes are copied | a mover disturbed 16 times |
//! | moving | the mover's, during the copies | copies and freeings under way, never a reader |
//!
//! A thread that writes while it holds a guard cannot wait for itself: where guards pin what would
//! have to move, the write fails with an error that says how many bytes are pinned, at the latest
//! after 48 searches, and at once where nobody is in the middle of a copy. Who waits for a copy
//! sleeps after a while, without a lock that the other needs to end it: so a thread of real-time
//! priority does not keep the processor from the one that copies. The locks do not lend priority.
//!
//! # When blocks move
//! When no slot is long enough, but all together are. What moves is chosen around the eight pairs
//! of slots that attract each other most (size times size by the square of the distance) and around
//! the largest slot: the stretch there of which least has to move, mostly at the strongest pair,
//! but not always. `plan` says how. [`GravityStore::compact_step`] does some of it ahead of time,
//! as much as one likes, and starts at the strongest pair.
//!
//! Where no stretch around those serves, all slots of the store are looked through, O(slots). Where
//! readers or copies hold blocks that are in the way, all blocks are, O(blocks and slots), and once
//! more for each block that moves of the stretch that is taken, O(blocks in it squared) at worst,
//! under the lock that all writers take: twice by each of up to 48 searches, where readers pin what
//! is in the way, and once by each where too little is free until copies end.
//!
//! # Costs, and what it is not for
//! 56 bytes beside each block, 76 beside each slot (with room for half as many slots as there are
//! of both), and the rounding to a granule; 9 KiB for each store, and 3 KiB more for each of at
//! most 16 stashes that freed blocks came to. Reading is an atomic
//! read-modify-write in a cache line of the thread's own, letting go a store: readers write to
//! nothing that other readers write to, also of one and the same block. Who frees or moves a block
//! looks through as many lines as threads have read at once, at most 63; further ones share them. A
//! thread that holds more than eight guards counts the others in the blocks, by two
//! read-modify-writes each. Freed blocks wait in stashes for a write of the same length, or of up
//! to a sixteenth less, which neither it nor the freeing then takes the store's lock for: else they
//! cost O(log slots), if sizes of slots do not follow addresses. Each stash keeps up to 256 blocks,
//! and a 32nd part of the store. What a block has beyond its bytes is not free: a hundredth of the
//! store where values of hundreds of lengths are replaced at random. There is such slack only
//! while, as far as is known, a sixteenth of the store is free, and all of it serves, O(blocks),
//! before a write moves anything or is refused. Only what a guard is counted in keeps its slack;
//! for that of blocks that others are copying to a write waits a tenth of a second before it is
//! refused.
//! A store that is full to the last granules has to gather crumbs from everywhere for each write:
//! up to 96 % fill hardly anything is moved, at 99 % half of a byte for each one written, and
//! beyond that soon more than all; at 97 % a write takes some nine times as long as at 90 %, at
//! 98 % some sixty times. Keep some of it free.
//!
//! The capacity is fixed, less than 2^32 - 1 granules, and a block is below 4 GiB. On a file the
//! bytes are in the file, but what says where is not: it is no data base.
//!
//! A child of `fork` does not have the parent's other threads. What those read at that moment stays
//! pinned in the child as long as its store exists; and what they were just writing, freeing or
//! moving they never finish, so a child may only read and write where none of them did that.

mod error;
mod give_back;
mod guard;
mod pairs;
mod plan;
mod reserve;
mod shared;
mod slack;
mod slots;
mod space;
mod stash;
mod table;
#[cfg(test)]
mod tests;
mod windows;

use core::alloc::Layout;
use core::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

pub use error::{GravityError, NoSuchKey, ReplaceError, WriteError};
pub use guard::ReadGuard;

use crate::allocator::{MemoryRange, MemorySource};
use crate::source::MemoryMapSource;
use shared::{ReplaceFailure, Shared};
use space::NoMemory;

/// The store's memory is counted in granules.
type Units = u32;

/// No number.
const NONE: u32 = u32::MAX;

/// How many units so many bytes take, of `2^shift` bytes each.
fn units_for(bytes: usize, shift: u32) -> usize {
    // No division; and the last one is counted in.
    ((bytes.max(1) - 1) >> shift) + 1
}

/// Names bytes in the store that gave it. A key of another store, or one that was freed, is an
/// error to use, and never means somebody else's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    store: u32,
    index: u32,
    generation: u32,
}

/// How a store is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GravitySettings {
    /// How many bytes it holds, in blocks rounded up to granules. It is rounded down to granules
    /// itself.
    pub capacity_bytes: usize,
    /// The unit of blocks in bytes, and their alignment: a power of two up to 4096.
    pub granule_bytes: usize,
}

impl GravitySettings {
    /// So many bytes, with a granule of 8.
    pub const fn new(capacity_bytes: usize) -> Self {
        Self { capacity_bytes, granule_bytes: 8 }
    }
}

/// What a store holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GravityUsage {
    /// All of its memory.
    pub capacity_bytes: usize,
    /// What is in no block. Slack, see the [module](self), is in blocks, so not in this.
    pub free_bytes: usize,
    /// In blocks that were freed while they were read, and still are.
    pub withheld_bytes: usize,
    /// The largest slot: a block up to it is written without moving others.
    pub largest_slot_bytes: usize,
    /// How many slots the free bytes are in.
    pub slots: usize,
    /// How many blocks there are.
    pub blocks: usize,
    /// What was written since the store was made, without what was replaced in place.
    pub written_bytes: u64,
    /// What was moved since the store was made.
    pub moved_bytes: u64,
    /// How often anything was moved.
    pub compactions: u64,
}

/// A compacting store; see the [module](self).
///
/// ```
/// use heapswitch::store::{GravitySettings, GravityStore};
///
/// # if heapswitch::sys::IS_PASS_THROUGH { return; }
/// let store = GravityStore::new(GravitySettings::new(1 << 20)).unwrap();
/// let key = store.write(b"some bytes").unwrap();
/// let bytes = store.read(key).unwrap();
/// store.replace(key, b"other bytes").unwrap();
/// assert_eq!((&*bytes, &*store.read(key).unwrap()), (&b"some bytes"[..], &b"other bytes"[..]));
/// drop(bytes);
/// store.free(key).unwrap();
/// assert!(store.read(key).is_err());
/// ```
pub struct GravityStore<S: MemorySource = MemoryMapSource> {
    shared: Shared,
    range: MemoryRange,
    source: S,
}

// SAFETY: the range and what is shared belong to the store alone, wherever it is.
unsafe impl<S: MemorySource + Send> Send for GravityStore<S> {}
// SAFETY: the source is only used by who makes or drops the store; the rest is shared by design.
unsafe impl<S: MemorySource> Sync for GravityStore<S> {}

impl GravityStore {
    /// A store in a mapping of its own.
    ///
    /// # Errors
    /// Settings that no store can have, or the system has no memory.
    pub fn new(settings: GravitySettings) -> Result<Self, GravityError> {
        Self::new_in(MemoryMapSource::new(), settings)
    }
}

impl<S: MemorySource> GravityStore<S> {
    /// A store in one range of `source`.
    ///
    /// # Errors
    /// Settings that no store can have, or the source is exhausted.
    pub fn new_in(source: S, settings: GravitySettings) -> Result<Self, GravityError> {
        static STORES: AtomicU32 = AtomicU32::new(0);
        let GravitySettings { capacity_bytes, granule_bytes } = settings;
        let wrong = GravityError::Settings { capacity_bytes, granule_bytes };
        if !granule_bytes.is_power_of_two() || granule_bytes > 4096 {
            return Err(wrong);
        }
        let capacity = Units::try_from(capacity_bytes / granule_bytes).map_err(|_| wrong)?;
        let bytes = capacity as usize * granule_bytes;
        let layout = Layout::from_size_align(bytes, granule_bytes).map_err(|_| wrong)?;
        if bytes == 0 || capacity == NONE {
            return Err(wrong);
        }
        let range = source.take(layout).map_err(|_| GravityError::NoMemory { bytes })?;
        // Relaxed: only that no two are alike matters. After four thousand million stores some
        // are, and a key of one may be taken for one of the other; bytes are never out of bounds.
        let number = STORES.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the range is as long, and goes back when the store is dropped.
        match unsafe { Shared::new(range.start, granule_bytes, capacity, number) } {
            Ok(shared) => Ok(Self { shared, range, source }),
            Err(NoMemory) => {
                // SAFETY: the range was just taken, and nobody has it.
                unsafe { source.give_back(range) };
                Err(GravityError::NoMemory { bytes })
            }
        }
    }

    /// Stores a copy of `bytes`. O(log slots), and the copy; where no slot is long enough, blocks
    /// are moved.
    ///
    /// # Errors
    /// There is not so much free space, or guards pin what would have to move, or the system has no
    /// memory for what is noted of blocks; see [`WriteError`]. It never waits for a guard.
    pub fn write(&self, bytes: &[u8]) -> Result<Key, WriteError> {
        self.shared.write(bytes)
    }

    /// The bytes of a key, which stay where and as they are while the guard exists, also if the key
    /// is freed or given others. O(1), without a lock.
    ///
    /// # Errors
    /// The key was freed, or is of another store.
    #[inline]
    pub fn read(&self, key: Key) -> Result<ReadGuard<'_>, NoSuchKey> {
        let (pin, bytes) = self.shared.pin(key)?;
        // SAFETY: the block is pinned, and its bytes were written.
        Ok(unsafe { ReadGuard::new(&self.shared, pin, bytes) })
    }

    /// Frees the bytes of a key. Where guards still read them, their space is free when the last of
    /// those is dropped. O(log slots).
    ///
    /// # Errors
    /// The key was freed before, or is of another store.
    pub fn free(&self, key: Key) -> Result<(), NoSuchKey> {
        self.shared.free(key)
    }

    /// Gives a key other bytes, which whoever reads it from now on gets. In place if they take as
    /// many granules as the old ones and no guard reads those; else there must be room for both.
    ///
    /// # Errors
    /// The key was freed, or is of another store; or there is no room, as for
    /// [`write`](Self::write): the key has its old bytes then.
    pub fn replace(&self, key: Key, bytes: &[u8]) -> Result<(), ReplaceError> {
        self.shared.replace(key, bytes).map_err(|failure| match failure {
            ReplaceFailure::NoSuchKey => ReplaceError::NoSuchKey(NoSuchKey),
            ReplaceFailure::Write(error) => ReplaceError::Write(error),
        })
    }

    /// Whether a key means bytes of this store. May be outdated as soon as it is known.
    pub fn contains(&self, key: Key) -> bool {
        self.shared.contains(key)
    }

    /// Brings the slots of greatest gravity together, or closer, by moving at most `most_bytes`, or
    /// one block if that is longer: so that later writes need not. How many bytes it moved, in
    /// whole granules, of which an empty value takes one; 0 where there is nothing to do, guards
    /// are in the way, there is no memory for a plan, or other threads changed what it was about
    /// to move.
    ///
    /// Called until it gives 0 it leaves one slot, if nothing is pinned and nobody else writes.
    pub fn compact_step(&self, most_bytes: usize) -> usize {
        let units = most_bytes / self.shared.granule();
        self.shared.compact_step(Units::try_from(units).unwrap_or(Units::MAX))
    }

    /// What it holds and did.
    pub fn usage(&self) -> GravityUsage {
        let granule = self.shared.granule();
        let bytes = |units: Units| units as usize * granule;
        let space = self.shared.settled_space();
        GravityUsage {
            capacity_bytes: bytes(space.capacity),
            free_bytes: bytes(space.free_units),
            withheld_bytes: bytes(space.withheld_units),
            largest_slot_bytes: bytes(space.slots.largest().map_or(0, |slot| slot.length)),
            slots: space.slots.count(),
            blocks: space.blocks,
            written_bytes: space.totals.written * granule as u64,
            moved_bytes: space.totals.moved * granule as u64,
            compactions: space.totals.compactions,
        }
    }

    /// Panics where an invariant is broken. Nothing may be going on.
    #[cfg(any(test, heapswitch_check))]
    fn verify(&self) {
        self.shared.verify();
    }
}

impl<S: MemorySource> Drop for GravityStore<S> {
    fn drop(&mut self) {
        #[cfg(heapswitch_check)]
        if !std::thread::panicking() {
            self.verify();
        }
        // SAFETY: the range was taken for the store, and guards borrow that.
        unsafe { self.source.give_back(self.range) };
    }
}

impl<S: MemorySource> fmt::Debug for GravityStore<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("GravityStore").field(&self.usage()).finish()
    }
}

/// Waits for the end of a copy: a little, then gives the time to others, and then sleeps. For a
/// thread of real-time priority gives its time to none of lower, one of which may be who copies.
#[cold]
fn wait(waited: u32) {
    match waited {
        0..64 => core::hint::spin_loop(),
        64..1024 => std::thread::yield_now(),
        _ => std::thread::sleep(core::time::Duration::from_micros(100)),
    }
}
