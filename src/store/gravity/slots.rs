//! The free slots: a treap keyed by their start, a heap by their size, and links to neighbours.
//!
//! ```text
//!               40..60                largest slot on top: O(1)
//!              /      \               to the left what lies below, to the right what lies above
//!          10..15    80..88
//!             \                       links: 10..15 ⇄ 22..26 ⇄ 40..60 ⇄ 80..88: O(1)
//!            22..26
//! ```
//! As the sizes are the heap's order, the slots of at least a size are a connected part of the tree
//! around its root, and a slot that fits without much to spare is a leaf of that part. Equal sizes
//! are told apart by a scrambled number, so that the tree does not become a list where all slots
//! are alike. Where the sizes rise or fall with the addresses it does: the depth is that of
//! the sizes' order, O(log n) for sizes in no order, O(n) at the worst.
//!
//! Each slot also stands in a heap of gravities (see [`pairs`](super::pairs)), which is put in
//! order only when it is asked.
#![forbid(unsafe_code)]

use super::pairs::{NO_SLOT, Pairs};
use super::space::NoMemory;
use super::{NONE, Units};

/// How many of the slots that are long enough are looked at for the shortest one. A write that
/// takes it leaves longer slots whole: with one that lies on the way down the tree instead, a store
/// of which a thirtieth is free moves six times as many bytes.
pub(super) const MOST_LOOKS: usize = 64;

/// A free slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// The span that it is.
    pub(super) span: u32,
    pub(super) start: Units,
    /// 0 of a node that is unused.
    pub(super) length: Units,
    parent: u32,
    left: u32,
    right: u32,
    previous: u32,
    pub(super) next: u32,
    /// Where it stands in the heap of gravities; also while it is unused.
    pub(super) pair_at: u32,
    /// Whether the heap of gravities has noted that its own may have changed.
    pub(super) is_noted: bool,
}

impl Slot {
    pub(super) fn end(&self) -> Units {
        self.start + self.length
    }
}

/// All free slots of a store.
#[derive(Debug)]
pub(super) struct Slots {
    nodes: Vec<Slot>,
    /// Unused nodes, a list through `next`.
    unused: u32,
    root: u32,
    count: usize,
    pairs: Pairs,
}

impl Slots {
    pub(super) const fn new() -> Self {
        Self { nodes: Vec::new(), unused: NONE, root: NONE, count: 0, pairs: Pairs::new() }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn get(&self, slot: u32) -> &Slot {
        &self.nodes[slot as usize]
    }

    fn node(&mut self, slot: u32) -> &mut Slot {
        &mut self.nodes[slot as usize]
    }

    /// The largest slot. O(1).
    pub(super) fn largest(&self) -> Option<&Slot> {
        (self.root != NONE).then(|| self.get(self.root))
    }

    /// All slots, by their start. O(depth) before the first one.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Slot> {
        let get = |slot: u32| self.nodes.get(slot as usize);
        let mut lowest = get(self.root);
        while let Some(slot) = lowest.and_then(|slot| get(slot.left)) {
            lowest = Some(slot);
        }
        core::iter::successors(lowest, move |slot| get(slot.next))
    }

    /// The shortest slot of at least `length`, of the first [`MOST_LOOKS`] of them, from the
    /// largest on down and to the shorter child first: so of all, where there are no more, as in a
    /// full store; and from there on down to a leaf. O(depth), and O(1) for each look.
    pub(super) fn tight_fit(&self, length: Units) -> Option<u32> {
        let fits = |slot: &u32| *slot != NONE && self.get(*slot).length >= length;
        let mut next = Some(self.root).filter(fits);
        let mut best = next?;
        let (mut waiting, mut count, mut looks) = ([NONE; MOST_LOOKS], 0, 0);
        while let Some(slot) = next {
            looks += 1;
            let Slot { length: has, left, right, .. } = *self.get(slot);
            if has < self.get(best).length {
                best = slot;
            }
            if has == length {
                break;
            }
            let mut children = [left, right].into_iter().filter(fits);
            next = match (children.next(), children.next()) {
                (Some(left), Some(right)) => {
                    let is_left = self.get(left).length <= self.get(right).length;
                    let (shorter, longer) = if is_left { (left, right) } else { (right, left) };
                    if looks <= MOST_LOOKS {
                        (waiting[count], count) = (longer, count + 1);
                    }
                    Some(shorter)
                }
                (None, _) if count > 0 && looks < MOST_LOOKS => {
                    count -= 1;
                    Some(waiting[count])
                }
                (child, _) => child,
            };
        }
        Some(best)
    }

    /// The [`SEEDS`](super::pairs::SEEDS) slots that the one behind pulls most, the strongest of
    /// all first; fewer where there are no more.
    pub(super) fn strongest(&mut self) -> impl Iterator<Item = u32> + use<> {
        self.pairs.update(&mut self.nodes);
        self.pairs.strongest()
    }

    /// Makes room for so many slots at once.
    pub(super) fn make_room(&mut self, slots: usize) -> Result<(), NoMemory> {
        let more = slots.saturating_sub(self.nodes.len());
        self.nodes.try_reserve(more).map_err(|_| NoMemory)?;
        self.pairs.make_room(slots)
    }

    /// Adds a slot, for which there is room. Its neighbours do not touch it. O(depth).
    pub(super) fn insert(&mut self, span: u32, start: Units, length: Units) -> u32 {
        let (parent, previous, next) = self.place_of(start);
        let node = Slot {
            span,
            start,
            length,
            parent,
            left: NONE,
            right: NONE,
            previous,
            next,
            pair_at: NONE,
            is_noted: false,
        };
        let slot = self.store(node);
        if parent == NONE {
            self.root = slot;
        } else if start < self.get(parent).start {
            self.node(parent).left = slot;
        } else {
            self.node(parent).right = slot;
        }
        if previous != NONE {
            self.node(previous).next = slot;
        }
        if next != NONE {
            self.node(next).previous = slot;
        }
        self.count += 1;
        self.rise(slot);
        self.pull_changed(slot);
        self.pull_changed(previous);
        slot
    }

    /// Takes a slot out. O(depth).
    pub(super) fn remove(&mut self, slot: u32) {
        loop {
            let Slot { left, right, .. } = *self.get(slot);
            match (left, right) {
                (NONE, NONE) => break,
                (child, NONE) | (NONE, child) => self.rotate(child),
                (left, right) if self.is_above(left, right) => self.rotate(left),
                (_, right) => self.rotate(right),
            }
        }
        let Slot { parent, previous, next, .. } = *self.get(slot);
        self.put_below(parent, slot, NONE);
        if previous != NONE {
            self.node(previous).next = next;
        }
        if next != NONE {
            self.node(next).previous = previous;
        }
        self.count -= 1;
        let unused = self.unused;
        let node = self.node(slot);
        (node.length, node.next) = (0, unused);
        self.unused = slot;
        self.pull_changed(slot);
        self.pull_changed(previous);
    }

    /// Moves a slot's borders, which does not change its place in the order. O(depth).
    pub(super) fn resize(&mut self, slot: u32, start: Units, length: Units) {
        let node = self.node(slot);
        let has_grown = length > node.length;
        (node.start, node.length) = (start, length);
        if has_grown {
            self.rise(slot);
        } else {
            self.sink(slot);
        }
        self.pull_changed(slot);
        self.pull_changed(self.get(slot).previous);
    }

    /// Where a slot at `start` goes: its parent, and the slots in front of and behind it.
    fn place_of(&self, start: Units) -> (u32, u32, u32) {
        let (mut parent, mut previous, mut next) = (NONE, NONE, NONE);
        let mut slot = self.root;
        while slot != NONE {
            parent = slot;
            let node = self.get(slot);
            if start < node.start {
                next = slot;
                slot = node.left;
            } else {
                previous = slot;
                slot = node.right;
            }
        }
        (parent, previous, next)
    }

    fn store(&mut self, node: Slot) -> u32 {
        if self.unused == NONE {
            let slot = self.nodes.len() as u32;
            self.nodes.push(Slot { pair_at: self.pairs.append(slot), ..node });
            return slot;
        }
        let slot = self.unused;
        let Slot { next, pair_at, is_noted, .. } = *self.get(slot);
        self.unused = next;
        *self.node(slot) = Slot { pair_at, is_noted, ..node };
        slot
    }

    /// The heap's order: by size, equal ones by their scrambled numbers.
    fn is_above(&self, a: u32, b: u32) -> bool {
        let scrambled = |slot: u32| slot.wrapping_mul(0x9e37_79b1);
        let key = |slot: u32| (self.get(slot).length, scrambled(slot));
        key(a) > key(b)
    }

    fn rise(&mut self, slot: u32) {
        loop {
            let parent = self.get(slot).parent;
            if parent == NONE || !self.is_above(slot, parent) {
                return;
            }
            self.rotate(slot);
        }
    }

    fn sink(&mut self, slot: u32) {
        loop {
            let Slot { left, right, .. } = *self.get(slot);
            let child = match (left, right) {
                (NONE, NONE) => return,
                (child, NONE) | (NONE, child) => child,
                (left, right) if self.is_above(left, right) => left,
                (_, right) => right,
            };
            if !self.is_above(child, slot) {
                return;
            }
            self.rotate(child);
        }
    }

    /// Makes `slot` the parent of its parent.
    fn rotate(&mut self, slot: u32) {
        let parent = self.get(slot).parent;
        let grandparent = self.get(parent).parent;
        let moved = if self.get(parent).left == slot {
            let moved = self.get(slot).right;
            self.node(parent).left = moved;
            self.node(slot).right = parent;
            moved
        } else {
            let moved = self.get(slot).left;
            self.node(parent).right = moved;
            self.node(slot).left = parent;
            moved
        };
        if moved != NONE {
            self.node(moved).parent = parent;
        }
        self.put_below(grandparent, parent, slot);
        self.node(parent).parent = slot;
        self.node(slot).parent = grandparent;
    }

    /// Puts `new` where `old` is below `parent`.
    fn put_below(&mut self, parent: u32, old: u32, new: u32) {
        if parent == NONE {
            self.root = new;
        } else if self.get(parent).left == old {
            self.node(parent).left = new;
        } else {
            self.node(parent).right = new;
        }
    }

    /// A slot's size, or the distance to the next one, has changed.
    fn pull_changed(&mut self, slot: u32) {
        if slot != NONE {
            self.pairs.changed(&mut self.nodes, slot);
        }
    }

    /// The gravity between a slot and the one behind it: the product of their sizes, divided by the
    /// square of the distance between them. 0 for the last.
    pub(super) fn gravity(nodes: &[Slot], slot: u32) -> f32 {
        let node = &nodes[slot as usize];
        if node.length == 0 {
            return NO_SLOT;
        }
        let Some(next) = nodes.get(node.next as usize) else { return 0.0 };
        let distance = next.start.saturating_sub(node.end()).max(1) as f32;
        node.length as f32 * next.length as f32 / (distance * distance)
    }

    /// The gravity of a slot; for tests.
    #[cfg(test)]
    pub(super) fn gravity_of(&self, slot: u32) -> f32 {
        Self::gravity(&self.nodes, slot)
    }

    /// The depth of the tree; for tests. O(n).
    #[cfg(test)]
    pub(super) fn depth(&self) -> usize {
        let mut deepest = 0;
        let mut left = vec![(self.root, 1)];
        while let Some((slot, depth)) = left.pop() {
            if slot != NONE {
                deepest = deepest.max(depth);
                left.push((self.get(slot).left, depth + 1));
                left.push((self.get(slot).right, depth + 1));
            }
        }
        deepest
    }

    /// Panics where an invariant is broken; returns the slots' spans in order.
    #[cfg(any(test, heapswitch_check))]
    pub(super) fn verify(&self) -> Vec<u32> {
        let mut in_order = Vec::new();
        let mut left = Vec::new();
        let mut slot = self.root;
        while slot != NONE || !left.is_empty() {
            while slot != NONE {
                for child in [self.get(slot).left, self.get(slot).right] {
                    if child != NONE {
                        assert_eq!(self.get(child).parent, slot, "a child's parent");
                        assert!(self.is_above(slot, child), "the heap's order");
                    }
                }
                left.push(slot);
                slot = self.get(slot).left;
            }
            if let Some(top) = left.pop() {
                in_order.push(top);
                slot = self.get(top).right;
            }
        }
        assert_eq!(in_order.len(), self.count, "the number of slots");
        for pair in in_order.windows(2) {
            assert!(self.get(pair[0]).end() < self.get(pair[1]).start, "slots in order and apart");
            assert_eq!(self.get(pair[0]).next, pair[1], "the link to the next");
            assert_eq!(self.get(pair[1]).previous, pair[0], "the link back");
        }
        self.pairs.verify(&self.nodes);
        in_order.iter().map(|slot| self.get(*slot).span).collect()
    }
}
