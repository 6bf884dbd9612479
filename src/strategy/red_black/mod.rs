//! An intrusive red-black tree.
//!
//! The tree allocates nothing and owns nothing: the links lie in the nodes, which somebody else
//! keeps alive and in place. Nodes of equal keys are allowed, a later one comes after an earlier
//! one. Insert, remove and search take at most 2 log2(n + 1) steps; a node is removed without a
//! search, for it knows its parent.
//!
//! # Invariants
//! 1. Keys do not fall in order of the nodes.
//! 2. A child's parent is the node whose child it is; the root has none.
//! 3. The root is black, and so is every child of a red node.
//! 4. From a node down to every missing child the number of black nodes is the same.
//!
//! 3 and 4 bound the longest path to twice the shortest.

mod verify;

use core::ptr::NonNull;

use crate::sys::abort_with;

/// A pointer to a node, or none.
pub(crate) type Link<N> = Option<NonNull<N>>;

/// What a node keeps for the tree that it is in.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Links<N> {
    children: [Link<N>; 2],
    parent: Link<N>,
    is_red: bool,
}

/// What can be in a tree.
///
/// # Safety
/// For every node pointer that is passed in, `links` gives a pointer valid for reads and writes,
/// the same one each time and another one for each node, and `key` does not change while the node
/// is in a tree.
pub(crate) unsafe trait Node: Sized {
    /// What the nodes are ordered by.
    type Key: Copy + Ord;

    /// Whose nodes they are, for the message where a tree is broken.
    const OWNER: &'static str;

    /// Where the node's links are.
    ///
    /// # Safety
    /// `node` is valid for reads and writes.
    unsafe fn links(node: NonNull<Self>) -> NonNull<Links<Self>>;

    /// The node's key.
    ///
    /// # Safety
    /// `node` is valid for reads.
    unsafe fn key(node: NonNull<Self>) -> Self::Key;
}

/// Which child.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left = 0,
    Right = 1,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

/// A red-black tree, see the [module](self).
///
/// # Invariants
/// Every node reachable from `root` was inserted and not removed since, so by the contract of
/// [`insert`](Self::insert) it is valid for reads and writes. This is what the `SAFETY` comments
/// below mean by "in the tree".
#[derive(Debug)]
pub(crate) struct RedBlackTree<N> {
    root: Link<N>,
}

impl<N: Node> RedBlackTree<N> {
    /// A tree without nodes.
    pub(crate) const fn new() -> Self {
        Self { root: None }
    }

    /// Puts `node` in, after all nodes of equal keys.
    ///
    /// # Safety
    /// `node` is in no tree, and is valid for reads and writes, by this tree alone as far as its
    /// links go, until it is removed.
    pub(crate) unsafe fn insert(&mut self, node: NonNull<N>) {
        // SAFETY: `node` is valid by the contract, and whatever is reachable is in the tree.
        unsafe {
            let key = N::key(node);
            let (mut parent, mut side, mut at) = (None, Side::Left, self.root);
            while let Some(here) = at {
                parent = at;
                side = if key < N::key(here) { Side::Left } else { Side::Right };
                at = child(here, side);
            }
            N::links(node).write(Links { children: [None; 2], parent, is_red: true });
            match parent {
                Some(parent) => set_child(parent, side, Some(node)),
                None => self.root = Some(node),
            }
            self.repair_red_child(node);
        }
    }

    /// Takes `node` out.
    ///
    /// # Safety
    /// `node` is in this tree.
    pub(crate) unsafe fn remove(&mut self, node: NonNull<N>) {
        // SAFETY: `node` and what it links are in the tree.
        unsafe {
            let (left, right) = (child(node, Side::Left), child(node, Side::Right));
            // What takes the place of the node that leaves its level, where that is, and whether a
            // black node left it.
            let (moved_up, parent, side, lost_black);
            if let (Some(left), Some(right)) = (left, right) {
                let heir = outermost(right, Side::Left);
                lost_black = !is_red(Some(heir));
                moved_up = child(heir, Side::Right);
                if heir == right {
                    (parent, side) = (Some(heir), Side::Right);
                } else {
                    (parent, side) = (parent_of(heir), Side::Left);
                    self.replace_below(parent, heir, moved_up);
                    set_child(heir, Side::Right, Some(right));
                    set_parent(right, Some(heir));
                }
                set_child(heir, Side::Left, Some(left));
                set_parent(left, Some(heir));
                set_red(heir, is_red(Some(node)));
                self.replace_below(parent_of(node), node, Some(heir));
            } else {
                lost_black = !is_red(Some(node));
                moved_up = left.or(right);
                parent = parent_of(node);
                side = parent.map_or(Side::Left, |parent| side_of(parent, node));
                self.replace_below(parent, node, moved_up);
            }
            if lost_black {
                self.repair_lost_black(moved_up, parent, side);
            }
        }
    }

    /// The first node whose key is at least `key`.
    pub(crate) fn first_from(&self, key: N::Key) -> Link<N> {
        let (mut best, mut at) = (None, self.root);
        while let Some(here) = at {
            // SAFETY: `here` is in the tree.
            unsafe {
                if N::key(here) < key {
                    at = child(here, Side::Right);
                } else {
                    best = at;
                    at = child(here, Side::Left);
                }
            }
        }
        best
    }

    /// Restores invariant 3 where `node` is red and its parent may be too.
    ///
    /// # Safety
    /// `node` is in this tree.
    unsafe fn repair_red_child(&mut self, mut node: NonNull<N>) {
        // SAFETY: only nodes in the tree are reached, along links from one of them.
        unsafe {
            loop {
                let Some(parent) = parent_of(node) else { return set_red(node, false) };
                if !is_red(Some(parent)) {
                    return;
                }
                let Some(grand) = parent_of(parent) else { return set_red(parent, false) };
                let side = side_of(grand, parent);
                if let Some(uncle) = child(grand, side.other())
                    && is_red(Some(uncle))
                {
                    set_red(parent, false);
                    set_red(uncle, false);
                    set_red(grand, true);
                    node = grand;
                    continue;
                }
                let mut top = parent;
                if side_of(parent, node) != side {
                    self.rotate(parent, side);
                    top = node;
                }
                set_red(top, false);
                set_red(grand, true);
                return self.rotate(grand, side.other());
            }
        }
    }

    /// Restores invariant 4 where the paths through the child of `parent` on `side`, which is
    /// `node`, have one black node too few.
    ///
    /// # Safety
    /// `parent` is in this tree and has that child; or is none, and `node` is the root.
    unsafe fn repair_lost_black(&mut self, node: Link<N>, parent: Link<N>, side: Side) {
        let (mut node, mut parent, mut side) = (node, parent, side);
        // SAFETY: only nodes in the tree are reached, along links from one of them.
        unsafe {
            loop {
                if let Some(node) = node
                    && (is_red(Some(node)) || parent.is_none())
                {
                    return set_red(node, false);
                }
                let Some(above) = parent else { return };
                let mut sibling = sibling_of(above, side);
                if is_red(Some(sibling)) {
                    set_red(sibling, false);
                    set_red(above, true);
                    self.rotate(above, side);
                    sibling = sibling_of(above, side);
                }
                let near = child(sibling, side);
                if !is_red(child(sibling, side.other())) {
                    let Some(near) = near.filter(|near| is_red(Some(*near))) else {
                        set_red(sibling, true);
                        node = parent;
                        parent = parent_of(above);
                        side = parent.map_or(Side::Left, |parent| side_of(parent, above));
                        continue;
                    };
                    set_red(near, false);
                    set_red(sibling, true);
                    self.rotate(sibling, side.other());
                    sibling = near;
                }
                set_red(sibling, is_red(parent));
                set_red(above, false);
                if let Some(far) = child(sibling, side.other()) {
                    set_red(far, false);
                }
                return self.rotate(above, side);
            }
        }
    }

    /// Moves `node` down to `side`, and the child on its other side into its place.
    ///
    /// ```text
    ///       node                 pivot          to the left; to the right
    ///      /    \               /     \         is the mirror image
    ///     a     pivot    →    node     c
    ///          /     \       /    \
    ///         b       c     a      b
    /// ```
    ///
    /// # Safety
    /// `node` is in this tree.
    unsafe fn rotate(&mut self, node: NonNull<N>, side: Side) {
        // SAFETY: `node` and what it links are in the tree.
        unsafe {
            let pivot = sibling_of(node, side);
            let inner = child(pivot, side);
            set_child(node, side.other(), inner);
            if let Some(inner) = inner {
                set_parent(inner, Some(node));
            }
            self.replace_below(parent_of(node), node, Some(pivot));
            set_child(pivot, side, Some(node));
            set_parent(node, Some(pivot));
        }
    }

    /// Makes `new` what `old` is below `parent`: one of its children, or the root.
    ///
    /// # Safety
    /// All are in this tree, and `parent` is the parent of `old`.
    unsafe fn replace_below(&mut self, parent: Link<N>, old: NonNull<N>, new: Link<N>) {
        // SAFETY: the nodes are in the tree by the contract.
        unsafe {
            match parent {
                Some(parent) => set_child(parent, side_of(parent, old), new),
                None => self.root = new,
            }
            if let Some(new) = new {
                set_parent(new, parent);
            }
        }
    }
}

/// Ends the process where a tree contradicts itself.
#[cold]
fn broken<N: Node>(what: &str) -> ! {
    abort_with(&[N::OWNER, ": ", what])
}

/// # Safety
/// `node` is in a tree.
unsafe fn child<N: Node>(node: NonNull<N>, side: Side) -> Link<N> {
    // SAFETY: a node in a tree is valid for reads.
    unsafe { (*N::links(node).as_ptr()).children[side as usize] }
}

/// # Safety
/// `node` is in a tree.
unsafe fn set_child<N: Node>(node: NonNull<N>, side: Side, child: Link<N>) {
    // SAFETY: a node in a tree is valid for writes.
    unsafe { (*N::links(node).as_ptr()).children[side as usize] = child }
}

/// # Safety
/// `node` is in a tree.
unsafe fn parent_of<N: Node>(node: NonNull<N>) -> Link<N> {
    // SAFETY: a node in a tree is valid for reads.
    unsafe { (*N::links(node).as_ptr()).parent }
}

/// # Safety
/// `node` is in a tree.
unsafe fn set_parent<N: Node>(node: NonNull<N>, parent: Link<N>) {
    // SAFETY: a node in a tree is valid for writes.
    unsafe { (*N::links(node).as_ptr()).parent = parent }
}

/// # Safety
/// `node` is in a tree.
unsafe fn set_red<N: Node>(node: NonNull<N>, red: bool) {
    // SAFETY: a node in a tree is valid for writes.
    unsafe { (*N::links(node).as_ptr()).is_red = red }
}

/// A missing child counts as black.
///
/// # Safety
/// `node`, if any, is in a tree.
unsafe fn is_red<N: Node>(node: Link<N>) -> bool {
    // SAFETY: a node in a tree is valid for reads.
    node.is_some_and(|node| unsafe { (*N::links(node).as_ptr()).is_red })
}

/// # Safety
/// `parent` is in a tree and is the parent of `node`.
unsafe fn side_of<N: Node>(parent: NonNull<N>, node: NonNull<N>) -> Side {
    // SAFETY: the parent is in a tree.
    if unsafe { child(parent, Side::Left) } == Some(node) { Side::Left } else { Side::Right }
}

/// The child of `parent` that is not on `side`; by invariant 4 it exists wherever this is called.
///
/// # Safety
/// `parent` is in a tree.
unsafe fn sibling_of<N: Node>(parent: NonNull<N>, side: Side) -> NonNull<N> {
    // SAFETY: the parent is in a tree.
    match unsafe { child(parent, side.other()) } {
        Some(sibling) => sibling,
        None => broken::<N>("a red-black tree's black heights differ"),
    }
}

/// # Safety
/// `node` is in a tree.
unsafe fn outermost<N: Node>(mut node: NonNull<N>, side: Side) -> NonNull<N> {
    // SAFETY: the children of a node in a tree are in it.
    while let Some(further) = unsafe { child(node, side) } {
        node = further;
    }
    node
}

#[cfg(test)]
mod tests;
