//! The records of a `SourcedAllocator`'s extents, and the tree that finds an address's record.
//!
//! The tree is a treap: a binary search tree by the extents' start that is also a heap by a hash of
//! it, so its depth is logarithmic whatever the order of insertion, without stored balance. It is
//! intrusive and its operations are loops: no memory, no stack. In front of it stand the first few
//! records in a sorted array, for a walk down a tree is a chain of wrong guesses where addresses
//! are random: see [`Few`].
//!
//! ```text
//!               ┌──────── range from the source ─────────────┐
//!               │ extent: blocks        │ metadata  │ Record │
//!               └───────────────────────┴───────────┴────────┘
//! ```

use core::cell::Cell;
use core::ptr::NonNull;

use super::super::Extent;
use super::few::Few;
use crate::allocator::MemoryRange;

type Link = Option<NonNull<Record>>;

/// What a `SourcedAllocator` keeps about one range from its source, at that range's end. What each
/// call needs comes first, in one cache line: as ranges are multiples of a chunk, all records'
/// lines compete for the same places in the caches.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Record {
    /// Blocks that are currently allocated in it: one in a direct one, else none where the strategy
    /// tells which are empty.
    pub(super) live_blocks: Cell<usize>,
    /// What the strategy sees.
    pub(super) extent: Extent,
    /// What the source gave.
    pub(super) range: MemoryRange,
    /// Whether the range serves one block, and the strategy knows nothing of it.
    pub(super) is_direct: bool,
    lower: Cell<Link>,
    higher: Cell<Link>,
}

impl Record {
    pub(super) const fn new(extent: Extent, range: MemoryRange) -> Self {
        Self {
            extent,
            range,
            live_blocks: Cell::new(0),
            is_direct: false,
            lower: Cell::new(None),
            higher: Cell::new(None),
        }
    }

    /// Of a range that serves one block, which is allocated.
    pub(super) const fn direct(extent: Extent, range: MemoryRange) -> Self {
        Self { is_direct: true, live_blocks: Cell::new(1), ..Self::new(extent, range) }
    }

    fn key(&self) -> usize {
        self.extent.start().addr().get()
    }

    /// The node with the larger one stands above; a hash of the key, so the keys' order is no
    /// guide.
    fn priority(&self) -> usize {
        // Fibonacci hashing; the multiplication leaves the low bits regular, the rotation mends it.
        self.key().wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
    }
}

/// The records by address.
///
/// # Invariants
/// - Every record in the tree is valid until it is removed, and in no other tree.
/// - Keys below a node's lower link are less than its own, below its higher link greater.
/// - Priorities do not grow downwards.
/// - Every record in `few` is in the tree.
#[derive(Debug)]
pub(super) struct Records {
    root: Cell<Link>,
    few: Few,
}

/// Reads a record.
///
/// # Safety
/// It is in the tree (or was just put there), so it is valid; the reference is not kept beyond
/// that.
unsafe fn at<'a>(record: NonNull<Record>) -> &'a Record {
    // SAFETY: the caller's contract. All that changes in a record is in cells.
    unsafe { record.as_ref() }
}

/// A tree that is taken apart and built anew, and whole when this is dropped.
struct Rebuilt<'records> {
    records: &'records Records,
    /// What was taken over.
    done: Records,
}

impl Rebuilt<'_> {
    /// Takes one record over into the new tree.
    fn take_over(&self) -> Link {
        let pointer = self.records.pop()?;
        // SAFETY: the record was in the tree, so it is valid, and now it is in none.
        unsafe { self.done.insert(pointer) };
        Some(pointer)
    }
}

impl Drop for Rebuilt<'_> {
    fn drop(&mut self) {
        while self.take_over().is_some() {}
        self.records.root.set(self.done.root.get());
        self.records.few.become_as(&self.done.few);
    }
}

impl Records {
    /// None.
    pub(super) const fn new() -> Self {
        Self { root: Cell::new(None), few: Few::new() }
    }

    /// The record of the extent that `address` lies in, if that is the only one.
    #[inline]
    pub(super) fn alone(&self, address: NonNull<u8>) -> Link {
        self.few.alone(address)
    }

    /// The record of the extent that `address` lies in.
    #[inline]
    pub(super) fn find(&self, address: NonNull<u8>) -> Link {
        if let Some(candidate) = self.few.candidate(address)
            // SAFETY: the record is in the tree.
            && unsafe { at(candidate) }.extent.contains(address)
        {
            return Some(candidate);
        }
        self.find_in_tree(address)
    }

    #[cold]
    fn find_in_tree(&self, address: NonNull<u8>) -> Link {
        let mut link = self.root.get();
        while let Some(pointer) = link {
            // SAFETY: links of the tree.
            let record = unsafe { at(pointer) };
            if record.extent.contains(address) {
                return link;
            }
            let is_lower = address.addr().get() < record.key();
            link = if is_lower { record.lower.get() } else { record.higher.get() };
        }
        None
    }

    /// Puts a record in.
    ///
    /// # Safety
    /// It is valid until it is removed, in no tree, and its extent overlaps no other's.
    pub(super) unsafe fn insert(&self, new: NonNull<Record>) {
        // SAFETY: the caller's contract.
        let record = unsafe { at(new) };
        self.few.insert(new, record.extent.start());
        let mut slot = &self.root;
        // SAFETY: links of the tree, here and below.
        while let Some(node) = slot.get().map(|pointer| unsafe { at(pointer) })
            && node.priority() >= record.priority()
        {
            slot = if record.key() < node.key() { &node.lower } else { &node.higher };
        }
        // The subtree below the slot is split at the key into the new record's two subtrees: the
        // walk down it hands each node to the side it belongs to.
        let mut rest = slot.get();
        slot.set(Some(new));
        let (mut lower, mut higher) = (&record.lower, &record.higher);
        while let Some(pointer) = rest {
            // SAFETY: links of the tree.
            let node = unsafe { at(pointer) };
            if node.key() < record.key() {
                lower.set(rest);
                lower = &node.higher;
                rest = lower.get();
            } else {
                higher.set(rest);
                higher = &node.lower;
                rest = higher.get();
            }
        }
        lower.set(None);
        higher.set(None);
    }

    /// Takes a record out; nothing if it is not in the tree.
    pub(super) fn remove(&self, record: &Record) {
        self.few.remove(record.into());
        let mut slot = &self.root;
        // SAFETY: links of the tree.
        while let Some(node) = slot.get().map(|pointer| unsafe { at(pointer) }) {
            if node.key() == record.key() {
                Self::join(slot, node.lower.get(), node.higher.get());
                return;
            }
            slot = if record.key() < node.key() { &node.lower } else { &node.higher };
        }
    }

    /// Takes any record out.
    pub(super) fn pop(&self) -> Link {
        let root = self.root.get()?;
        // SAFETY: a link of the tree.
        let record = unsafe { at(root) };
        self.few.remove(root);
        Self::join(&self.root, record.lower.get(), record.higher.get());
        Some(root)
    }

    /// Calls `visit` with each record, in any order. The nodes are visited by taking the tree apart
    /// and building it anew, which needs neither a stack nor parent links. It is whole again when
    /// `visit` panics.
    pub(super) fn visit(&self, visit: &mut dyn FnMut(&Record)) {
        let rebuilt = Rebuilt { records: self, done: Self::new() };
        while let Some(pointer) = rebuilt.take_over() {
            // SAFETY: the record is in one of the two trees, so it is valid.
            visit(unsafe { at(pointer) });
        }
    }

    /// Whether the invariants hold. Calls `visit` with each record. On the stack, as deep as the
    /// tree, which is logarithmic.
    pub(super) fn is_sound(&self, visit: &mut dyn FnMut(NonNull<Record>)) -> bool {
        let all = Bounds { lowest: 0, highest: usize::MAX, priority: usize::MAX };
        let mut in_front = 0;
        let is_tree = is_sound_below(self.root.get(), all, &mut |record| {
            in_front += usize::from(self.few.has(record));
            visit(record);
        });
        // Those in front are read only where each is one of the tree's, and so valid.
        is_tree && in_front == self.few.count() && self.few.is_sound()
    }

    /// Puts into `slot` the tree of all records of two trees, the keys of the first below the
    /// second's.
    fn join(mut slot: &Cell<Link>, mut lower: Link, mut higher: Link) {
        // SAFETY: both are links of the tree, as are all below them.
        while let (Some(low), Some(high)) = (lower, higher) {
            // SAFETY: as above.
            let (low_record, high_record) = unsafe { (at(low), at(high)) };
            if low_record.priority() >= high_record.priority() {
                slot.set(lower);
                slot = &low_record.higher;
                lower = slot.get();
            } else {
                slot.set(higher);
                slot = &high_record.lower;
                higher = slot.get();
            }
        }
        slot.set(lower.or(higher));
    }
}

/// What the records below a link may be: keys, the last excluded, and the highest priority.
#[derive(Clone, Copy)]
struct Bounds {
    lowest: usize,
    highest: usize,
    priority: usize,
}

fn is_sound_below(link: Link, bounds: Bounds, visit: &mut dyn FnMut(NonNull<Record>)) -> bool {
    let Some(pointer) = link else { return true };
    // SAFETY: a link of the tree.
    let record = unsafe { at(pointer) };
    let (key, priority) = (record.key(), record.priority());
    visit(pointer);
    let is_placed = bounds.lowest <= key && key < bounds.highest && priority <= bounds.priority;
    is_placed
        && is_sound_below(record.lower.get(), Bounds { highest: key, priority, ..bounds }, visit)
        && is_sound_below(
            record.higher.get(),
            Bounds { lowest: key + 1, priority, ..bounds },
            visit,
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pointers;

    #[test]
    fn a_visitor_that_panics_leaves_the_tree_whole() {
        const LENGTH: usize = 64;
        let mut memory = vec![0_u8; 100 * LENGTH];
        let base = NonNull::new(memory.as_mut_ptr()).unwrap();
        let record = |slot: usize| {
            // SAFETY: within the vector.
            let start = unsafe { pointers::forward(base, slot * LENGTH) };
            let range = MemoryRange { start, length: LENGTH, is_zeroed: false };
            // SAFETY: no strategy gets it.
            Record::new(unsafe { Extent::new(start, LENGTH, base, false) }, range)
        };
        let records: Vec<Record> = (0..100).map(record).collect();
        let tree = Records::new();
        // SAFETY: the records live as long as the tree and do not overlap.
        records.iter().for_each(|record| unsafe { tree.insert(NonNull::from(record)) });
        for before in 0..100 {
            let mut visited = 0;
            let visit = std::panic::AssertUnwindSafe(|| {
                tree.visit(&mut |_| {
                    visited += 1;
                    if visited > before {
                        std::panic::resume_unwind(Box::new(()));
                    }
                });
            });
            assert!(std::panic::catch_unwind(visit).is_err());
            let mut found = 0;
            assert!(tree.is_sound(&mut |_| found += 1), "after {before}");
            assert_eq!(found, 100, "after {before}");
        }
    }

    /// The records' memory outlives the tree here, and nothing reads the extents' memory.
    #[test]
    fn finds_each_address_through_inserts_and_removes() {
        const LENGTH: usize = 64;
        let mut memory = vec![0u8; 400 * LENGTH];
        let Some(base) = NonNull::new(memory.as_mut_ptr()) else { return };
        // SAFETY: within the vector.
        let start = |slot: usize| unsafe { pointers::forward(base, slot * 2 * LENGTH) };
        let records: Vec<Record> = (0..200)
            .map(|slot| {
                let range = MemoryRange { start: start(slot), length: LENGTH, is_zeroed: false };
                // SAFETY: no strategy gets it.
                let extent = unsafe { Extent::new(start(slot), LENGTH, base, false) };
                Record::new(extent, range)
            })
            .collect();
        let tree = Records::new();
        let mut present = [false; 200];
        let mut seed = 1usize;
        for _ in 0..4000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let slot = (seed >> 33) % 200;
            let record = &records[slot];
            if present[slot] {
                tree.remove(record);
            } else {
                // SAFETY: the records live as long as the tree and do not overlap.
                unsafe { tree.insert(record.into()) };
            }
            present[slot] = !present[slot];
            let mut count = 0;
            assert!(tree.is_sound(&mut |_| count += 1));
            assert_eq!(count, present.iter().filter(|&&present| present).count());
            for (probe, present) in present.iter().enumerate().step_by(7) {
                // SAFETY: within the vector.
                let last = unsafe { pointers::forward(start(probe), LENGTH - 1) };
                let found = tree.find(last);
                assert_eq!(found, present.then(|| (&records[probe]).into()));
            }
        }
        // Each kind of damage is seen, and undone.
        // SAFETY: a record of this test.
        let root = unsafe { at(tree.root.get().unwrap()) };
        let (lower, higher) = (root.lower.get(), root.higher.get());
        for damaged in [(higher, lower), (lower, lower), (tree.root.get(), None)] {
            if damaged.0 != tree.root.get() {
                root.lower.set(damaged.0);
                root.higher.set(damaged.1);
                assert!(!tree.is_sound(&mut |_| ()));
            }
        }
        root.lower.set(lower);
        root.higher.set(higher);
        assert!(tree.is_sound(&mut |_| ()));
        tree.few.damage();
        assert!(!tree.is_sound(&mut |_| ()));
        tree.few.damage();
        let mut left = present.iter().filter(|&&present| present).count();
        while tree.pop().is_some() {
            left -= 1;
        }
        assert_eq!(left, 0);
    }
}
