//! Records that were found lately, but those of one block, each by some bits of the addresses in
//! its extent.
//!
//! ```text
//!   address   │ ... │ slot: 8 bits │ shift: 14 bits or more │
//! ```
//! The bytes that a slot stands for grow with what is held, so that all slots together stand for at
//! least twice as much. Where blocks are freed at random in much memory, few of them then lie in a
//! slot that two ranges share: a wrong guess costs as much as the memory's latency. With slots of
//! 16 KiB for ever, 81 of 100 random frees among a million blocks of 64 bytes found another range's
//! record; with 64 slots that grow 16 did, and with these 4 do. Four times as many slots take no
//! less time. Tried with 64: two records in each, of which one is chosen without a branch. Then 2
//! of 100 do, and it took no less time.

use core::ptr::NonNull;

use super::records::Record;

/// Records that are remembered.
const SLOTS: usize = 256;

/// The least bytes for which one is, as a power of two: less than the shortest ranges, which often
/// begin and end within a chunk.
const LEAST_SHIFT: u32 = 14;

/// Some records of extents that are held.
pub(super) struct Found {
    slots: [Option<NonNull<Record>>; SLOTS],
    /// The bytes for which a slot stands, as a power of two.
    shift: u32,
}

impl Found {
    pub(super) const fn new() -> Self {
        Self { slots: [None; SLOTS], shift: LEAST_SHIFT }
    }

    #[inline]
    fn slot_of(&self, block: NonNull<u8>) -> usize {
        (block.addr().get() >> self.shift) % SLOTS
    }

    /// What is remembered for the address: the record of the extent that it is in, or another's.
    #[inline]
    pub(super) fn guess(&self, block: NonNull<u8>) -> Option<NonNull<Record>> {
        self.slots.get(self.slot_of(block)).copied().flatten()
    }

    pub(super) fn remember(&mut self, block: NonNull<u8>, record: NonNull<Record>) {
        let slot = self.slot_of(block);
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = Some(record);
        }
    }

    /// Forgets a record whose extent is held no more.
    pub(super) fn forget(&mut self, record: NonNull<Record>) {
        for slot in &mut self.slots {
            if *slot == Some(record) {
                *slot = None;
            }
        }
    }

    /// How many slots have a record.
    pub(super) fn count(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// How many slots have this record.
    pub(super) fn times(&self, record: NonNull<Record>) -> usize {
        self.slots.iter().filter(|slot| **slot == Some(record)).count()
    }

    /// Lets all slots together stand, from now on, for two to sixteen times `held_bytes`.
    pub(super) fn fit(&mut self, held_bytes: usize) {
        let mut shift = self.shift;
        while held_bytes >> shift > SLOTS / 2 {
            shift += 1;
        }
        while shift > LEAST_SHIFT && held_bytes >> shift < SLOTS / 16 {
            shift -= 1;
        }
        if shift != self.shift {
            *self = Self { slots: [None; SLOTS], shift };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_grow_with_what_is_held() {
        let mut found = Found::new();
        // Up to what is most, and down again.
        for held_bytes in [0, 64 << 10, 1 << 20, 100 << 20, 3 << 30, 100 << 20, 1 << 20, 0] {
            found.fit(held_bytes);
            assert!(SLOTS << found.shift >= 2 * held_bytes);
            assert!(SLOTS << found.shift <= (16 * held_bytes).max(SLOTS << LEAST_SHIFT));
        }
    }
}
