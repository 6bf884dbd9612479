//! The pull between neighbouring slots: a binary heap of gravities.
//!
//! The gravity of a slot and the one behind it is the product of their sizes, divided by the square
//! of the distance between them: large where moving few bytes joins much free space. The heap is an
//! array, each slot knows its place in it, and a change costs O(log n), mostly O(1).
#![forbid(unsafe_code)]

use super::NONE;
use super::slots::{Slot, Slots};

#[derive(Debug)]
pub(super) struct Pairs {
    /// INVARIANT: no entry is above its parent, at `(index - 1) / 2`; the slot of the entry at
    /// `index` has `pair_at == index`.
    heap: Vec<(f32, u32)>,
}

impl Pairs {
    pub(super) const fn new() -> Self {
        Self { heap: Vec::new() }
    }

    pub(super) fn insert(&mut self, nodes: &mut [Slot], slot: u32) {
        self.heap.push((Slots::gravity(nodes, slot), slot));
        self.rise(nodes, self.heap.len() - 1);
    }

    pub(super) fn remove(&mut self, nodes: &mut [Slot], slot: u32) {
        let at = nodes[slot as usize].pair_at as usize;
        nodes[slot as usize].pair_at = NONE;
        let Some(last) = self.heap.pop() else { return };
        if at < self.heap.len() {
            self.heap[at] = last;
            self.settle(nodes, at);
        }
    }

    pub(super) fn changed(&mut self, nodes: &mut [Slot], slot: u32) {
        let at = nodes[slot as usize].pair_at as usize;
        let gravity = Slots::gravity(nodes, slot);
        // A slot that is just being made has no entry yet.
        if let Some(entry) = self.heap.get_mut(at)
            && entry.0 != gravity
        {
            entry.0 = gravity;
            self.settle(nodes, at);
        }
    }

    /// The `count` slots of greatest gravity, in falling order.
    pub(super) fn strongest(&self, count: usize) -> Vec<u32> {
        let mut found = Vec::with_capacity(count);
        // What may come next: the children of what came already.
        let mut next: Vec<usize> = if self.heap.is_empty() { Vec::new() } else { vec![0] };
        while found.len() < count {
            let best = (0..next.len())
                .max_by(|a, b| self.heap[next[*a]].0.total_cmp(&self.heap[next[*b]].0));
            let Some(best) = best else { break };
            let at = next.swap_remove(best);
            found.push(self.heap[at].1);
            next.extend([2 * at + 1, 2 * at + 2].into_iter().filter(|at| *at < self.heap.len()));
        }
        found
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
    pub(super) fn verify(&self, nodes: &[Slot], count: usize) {
        assert_eq!(self.heap.len(), count, "a gravity for each slot");
        for (at, (gravity, slot)) in self.heap.iter().enumerate() {
            assert_eq!(nodes[*slot as usize].pair_at as usize, at, "the slot's place");
            assert_eq!(Slots::gravity(nodes, *slot), *gravity, "the gravity");
            assert!(at == 0 || self.heap[(at - 1) / 2].0 >= *gravity, "the heap's order");
        }
    }
}
