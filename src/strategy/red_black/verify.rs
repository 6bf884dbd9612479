//! The check of a red-black tree's invariants.

use core::ptr::NonNull;

use super::{Link, Node, RedBlackTree, Side, broken, child, is_red, parent_of};
#[cfg(test)]
use super::{outermost, side_of};

/// What is known about the nodes below some node, itself included.
struct Below<K> {
    nodes: usize,
    black_height: usize,
    /// The least and the greatest key; none where there is no node.
    keys: Option<(K, K)>,
}

impl<N: Node> RedBlackTree<N> {
    /// Checks the invariants, aborts where one fails, and gives the number of nodes.
    pub(crate) fn verify(&self) -> usize {
        // SAFETY: the root is in the tree.
        unsafe {
            if is_red(self.root) {
                broken::<N>("the root of a red-black tree is red");
            }
            if self.root.is_some_and(|root| parent_of(root).is_some()) {
                broken::<N>("the root of a red-black tree has a parent");
            }
            verify_below(self.root).nodes
        }
    }

    /// The node after `node` in order.
    ///
    /// # Safety
    /// `node` is in this tree.
    #[cfg(test)]
    pub(crate) unsafe fn next(&self, node: NonNull<N>) -> Link<N> {
        // SAFETY: `node` and what is linked from it are in the tree.
        unsafe {
            if let Some(right) = child(node, Side::Right) {
                return Some(outermost(right, Side::Left));
            }
            let mut node = node;
            while let Some(parent) = parent_of(node) {
                if side_of(parent, node) == Side::Left {
                    return Some(parent);
                }
                node = parent;
            }
            None
        }
    }

    /// Whether `node`, which is in some tree, is in this one: by its parents, in O(log n).
    ///
    /// # Safety
    /// `node` is in a tree.
    pub(crate) unsafe fn holds(&self, mut node: NonNull<N>) -> bool {
        // SAFETY: the parent of a node in a tree is in it.
        while let Some(parent) = unsafe { parent_of(node) } {
            node = parent;
        }
        self.root == Some(node)
    }
}

/// Checks the nodes from `node` on downwards. As deep a recursion as the tree: at most 128 levels
/// where the black heights agree, and the first branch where they do not is found on the way back.
///
/// # Safety
/// `node`, if any, is in a tree.
unsafe fn verify_below<N: Node>(node: Link<N>) -> Below<N::Key> {
    let Some(here) = node else { return Below { nodes: 0, black_height: 0, keys: None } };
    // SAFETY: `here` and its children are in the tree.
    unsafe {
        let key = N::key(here);
        let [left, right] = [Side::Left, Side::Right].map(|side| {
            let below = child(here, side);
            if below.is_some_and(|below| parent_of(below) != node) {
                broken::<N>("a node of a red-black tree has another parent than its parent");
            }
            if is_red(node) && is_red(below) {
                broken::<N>("a red node of a red-black tree has a red child");
            }
            verify_below(below)
        });
        if left.black_height != right.black_height {
            broken::<N>("the black heights of a red-black tree differ");
        }
        if left.keys.is_some_and(|(_, greatest)| greatest > key)
            || right.keys.is_some_and(|(least, _)| least < key)
        {
            broken::<N>("the keys of a red-black tree are out of order");
        }
        let least = left.keys.map_or(key, |(least, _)| least);
        let greatest = right.keys.map_or(key, |(_, greatest)| greatest);
        Below {
            nodes: left.nodes + right.nodes + 1,
            black_height: left.black_height + usize::from(!is_red(node)),
            keys: Some((least, greatest)),
        }
    }
}
