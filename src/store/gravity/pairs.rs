//! The pull between neighbouring slots: a binary heap of gravities.
//!
//! The gravity of a slot and the one behind it is the product of their sizes, divided by the square
//! of the distance between them: large where moving few bytes joins much free space. The heap is an
//! array, each slot knows its place in it.
//!
//! Nobody asks for it until blocks have to move, which below 90 % fill is seldom, and each write
//! and free changes two or three gravities. So a change is only noted, and put right with the
//! others when the strongest are asked for: O(log n) for each slot that changed since, mostly
//! O(1), however often it did.
#![forbid(unsafe_code)]

use super::slots::{Slot, Slots};
use super::space::NoMemory;

/// How many of the strongest are asked for at once.
pub(super) const SEEDS: usize = 8;

/// The gravity of what is no slot: below all others.
pub(super) const NO_SLOT: f32 = -1.0;

/// # Invariants
/// - No entry of `heap` is above its parent, at `(index - 1) / 2`; the slot of the entry at `index`
///   has `pair_at == index`. There is one for each slot that ever was: those that are none any more
///   have a gravity below all others'.
/// - `noted` has exactly the slots that are marked as noted; the entries of all others have their
///   gravity.
#[derive(Debug)]
pub(super) struct Pairs {
    heap: Vec<(f32, u32)>,
    noted: Vec<u32>,
}

impl Pairs {
    pub(super) const fn new() -> Self {
        Self { heap: Vec::new(), noted: Vec::new() }
    }

    /// Makes room for so many slots.
    pub(super) fn make_room(&mut self, slots: usize) -> Result<(), NoMemory> {
        let more = slots.saturating_sub(self.heap.len());
        self.heap.try_reserve(more).map_err(|_| NoMemory)?;
        // Each is noted once.
        let more = slots.saturating_sub(self.noted.len());
        self.noted.try_reserve(more).map_err(|_| NoMemory)
    }

    /// Makes an entry for a slot that is to be, for which there is room, and tells its place: the
    /// last, where what is below all others is in order.
    pub(super) fn append(&mut self, slot: u32) -> u32 {
        self.heap.push((NO_SLOT, slot));
        self.heap.len() as u32 - 1
    }

    /// Notes that a slot's gravity may have changed.
    #[inline]
    pub(super) fn changed(&mut self, nodes: &mut [Slot], slot: u32) {
        let node = &mut nodes[slot as usize];
        if !node.is_noted {
            node.is_noted = true;
            self.noted.push(slot);
        }
    }

    /// Puts right what was noted.
    pub(super) fn update(&mut self, nodes: &mut [Slot]) {
        while let Some(slot) = self.noted.pop() {
            nodes[slot as usize].is_noted = false;
            let at = nodes[slot as usize].pair_at as usize;
            let gravity = Slots::gravity(nodes, slot);
            if self.heap[at].0 != gravity {
                self.heap[at].0 = gravity;
                self.settle(nodes, at);
            }
        }
    }

    /// The [`SEEDS`] slots of greatest gravity, in falling order, after an
    /// [`update`](Self::update).
    pub(super) fn strongest(&self) -> impl Iterator<Item = u32> + use<> {
        let (mut found, mut count) = ([0; SEEDS], 0);
        // What may come next: the children of what came already. Each that comes leaves its place
        // to one of them, so there are never more than can come.
        let (mut next, mut waiting) = ([0; SEEDS + 1], usize::from(!self.heap.is_empty()));
        while count < SEEDS && waiting > 0 {
            let mut best = 0;
            for other in 1..waiting {
                if self.heap[next[other]].0 > self.heap[next[best]].0 {
                    best = other;
                }
            }
            let at = next[best];
            if self.heap[at].0 == NO_SLOT {
                break;
            }
            (found[count], count) = (self.heap[at].1, count + 1);
            waiting -= 1;
            next[best] = next[waiting];
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() {
                    (next[waiting], waiting) = (child, waiting + 1);
                }
            }
        }
        found.into_iter().take(count)
    }

    /// Puts an entry where it belongs.
    fn settle(&mut self, nodes: &mut [Slot], at: usize) {
        if at > 0 && self.heap[at].0 > self.heap[(at - 1) / 2].0 {
            self.rise(nodes, at);
        } else {
            self.sink(nodes, at);
        }
    }

    fn rise(&mut self, nodes: &mut [Slot], mut at: usize) {
        let entry = self.heap[at];
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.heap[parent].0 >= entry.0 {
                break;
            }
            self.put(nodes, at, self.heap[parent]);
            at = parent;
        }
        self.put(nodes, at, entry);
    }

    fn sink(&mut self, nodes: &mut [Slot], mut at: usize) {
        let entry = self.heap[at];
        loop {
            let mut child = 2 * at + 1;
            if child + 1 < self.heap.len() && self.heap[child + 1].0 > self.heap[child].0 {
                child += 1;
            }
            if child >= self.heap.len() || self.heap[child].0 <= entry.0 {
                break;
            }
            self.put(nodes, at, self.heap[child]);
            at = child;
        }
        self.put(nodes, at, entry);
    }

    fn put(&mut self, nodes: &mut [Slot], at: usize, entry: (f32, u32)) {
        self.heap[at] = entry;
        nodes[entry.1 as usize].pair_at = at as u32;
    }

    #[cfg(any(test, heapswitch_check))]
    pub(super) fn verify(&self, nodes: &[Slot]) {
        assert_eq!(self.heap.len(), nodes.len(), "an entry for each slot");
        for (at, (gravity, slot)) in self.heap.iter().enumerate() {
            let node = &nodes[*slot as usize];
            assert_eq!(node.pair_at as usize, at, "the slot's place");
            let is_right = Slots::gravity(nodes, *slot) == *gravity;
            assert!(is_right || node.is_noted, "a gravity that changed is noted");
            assert!(at == 0 || self.heap[(at - 1) / 2].0 >= *gravity, "the heap's order");
        }
        assert!(self.noted.iter().all(|slot| nodes[*slot as usize].is_noted), "what is noted");
        let marked = nodes.iter().filter(|node| node.is_noted).count();
        assert_eq!(marked, self.noted.len(), "each is noted once");
    }
}
