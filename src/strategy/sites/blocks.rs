//! The recorded blocks: from an address to its site.
//!
//! An open hash table in metadata memory, at most three quarters full; what is removed leaves no
//! mark, for those that follow move up. The runner's alone.

use core::ptr::NonNull;

use super::log::Weight;
use crate::region::Metadata;
use crate::sys;

/// A recorded block. Address 0 is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) address: usize,
    pub(super) bytes: usize,
    pub(super) site: u32,
    pub(super) weight: Weight,
}

const FIRST_CAPACITY: usize = 64;

/// The table.
///
/// # Invariants
/// - `slots` is `capacity` blocks of metadata memory, a power of two, or dangling where that is 0.
/// - `count` of them have an address, each once, and between the slot that its hash names and its
///   own there is no empty one.
#[derive(Debug)]
pub(super) struct Blocks {
    slots: NonNull<Block>,
    capacity: usize,
    count: usize,
}

// SAFETY: the slots are the table's own.
unsafe impl Send for Blocks {}

impl Blocks {
    pub(super) const fn new() -> Self {
        Self { slots: NonNull::dangling(), capacity: 0, count: 0 }
    }

    fn slots(&mut self) -> &mut [Block] {
        // SAFETY: by the invariant the memory is the table's; zeroed memory is empty slots.
        unsafe { core::slice::from_raw_parts_mut(self.slots.as_ptr(), self.capacity) }
    }

    fn slots_ref(&self) -> &[Block] {
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts(self.slots.as_ptr(), self.capacity) }
    }

    /// The slot that an address' hash names. Not of an empty table.
    fn home_of(address: usize, capacity: usize) -> usize {
        // Addresses are multiples of 8; the product's high bits depend on all of them.
        let hash = (address as u64 >> 3).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (hash >> 32) as usize & (capacity - 1)
    }

    /// Where the address is, or the empty slot where it would be.
    fn place_of(&self, address: usize) -> Option<usize> {
        let slots = self.slots_ref();
        let mask = self.capacity.checked_sub(1)?;
        let mut index = Self::home_of(address, self.capacity);
        while slots.get(index).is_some_and(|slot| slot.address != 0 && slot.address != address) {
            index = (index + 1) & mask;
        }
        Some(index)
    }

    /// Adds a block; false where there is no memory for it.
    pub(super) fn insert(&mut self, block: Block) -> bool {
        if (self.count + 1) * 4 > self.capacity * 3 && !self.grow() {
            return false;
        }
        let Some(index) = self.place_of(block.address) else { return false };
        match self.slots().get_mut(index) {
            Some(slot) => {
                let is_new = slot.address == 0;
                *slot = block;
                self.count += usize::from(is_new);
                true
            }
            None => false,
        }
    }

    /// The block at an address.
    pub(super) fn find(&mut self, address: usize) -> Option<&mut Block> {
        let index = self.place_of(address)?;
        self.slots().get_mut(index).filter(|slot| slot.address == address)
    }

    /// Takes the block at an address out.
    pub(super) fn remove(&mut self, address: usize) -> Option<Block> {
        let capacity = self.capacity;
        let mut hole = self.place_of(address)?;
        let slots = self.slots();
        let removed = *slots.get(hole).filter(|slot| slot.address == address)?;
        let mut next = hole;
        loop {
            next = (next + 1) & (capacity - 1);
            let Some(&follower) = slots.get(next).filter(|slot| slot.address != 0) else { break };
            // It may move up if its way from home leads over the hole.
            let home = Self::home_of(follower.address, capacity);
            let from_home = next.wrapping_sub(home) & (capacity - 1);
            let from_hole = next.wrapping_sub(hole) & (capacity - 1);
            if from_home >= from_hole {
                if let Some(slot) = slots.get_mut(hole) {
                    *slot = follower;
                }
                hole = next;
            }
        }
        if let Some(slot) = slots.get_mut(hole) {
            slot.address = 0;
        }
        self.count -= 1;
        Some(removed)
    }

    #[cold]
    fn grow(&mut self) -> bool {
        let capacity = (self.capacity * 2).max(FIRST_CAPACITY);
        let Some(memory) = Metadata::take(capacity * size_of::<Block>()) else { return false };
        let larger = Self { slots: memory.cast(), capacity, count: 0 };
        let smaller = core::mem::replace(self, larger);
        for &block in smaller.slots_ref().iter().filter(|slot| slot.address != 0) {
            self.insert(block);
        }
        true
    }

    /// Aborts where the invariant is broken.
    pub(super) fn verify(&self) {
        let used = self.slots_ref().iter().enumerate().filter(|(_, slot)| slot.address != 0);
        let is_found = |(index, slot): (usize, &Block)| {
            self.place_of(slot.address).is_some_and(|place| place == index)
        };
        if used.clone().count() != self.count || !used.clone().all(is_found) {
            sys::abort_with(&["the record of blocks' call sites is corrupted"]);
        }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        if self.capacity != 0 {
            // SAFETY: by the invariant the memory was taken with that length, and is used no more.
            unsafe { Metadata::give_back(self.slots.cast(), self.capacity * size_of::<Block>()) };
        }
    }
}

#[cfg(all(test, not(heapswitch_pass_through)))]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn agrees_with_a_plain_map() {
        let (mut blocks, mut model) = (Blocks::new(), HashMap::new());
        let mut state = 1_u64;
        for step in 0..20_000_u32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Few addresses, so that they come again, and neighbours among them.
            let address = 0x1000 + (state >> 33) as usize % 700 * 8;
            if state >> 63 == 0 || step % 5000 > 4000 {
                let removed = blocks.remove(address).map(|block| (block.bytes, block.site));
                assert_eq!(removed, model.remove(&address));
            } else {
                let bytes = step as usize;
                assert!(blocks.insert(Block { address, bytes, site: step, weight: Weight::ONE }));
                model.insert(address, (bytes, step));
            }
            if step % 100 == 0 {
                blocks.verify();
                assert_eq!(blocks.count, model.len());
            }
        }
        for (address, (bytes, site)) in model {
            let found = blocks.find(address).unwrap();
            assert_eq!((found.bytes, found.site), (bytes, site));
        }
        assert!(blocks.find(8).is_none());
    }
}
