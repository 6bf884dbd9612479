//! The blanks of all extents: a red-black tree by length and address, its nodes in the blanks.

use core::ptr::NonNull;

use super::Stripes;
use super::cell::{CELL_BYTES, Header, Kind, looked};
use crate::strategy::Strategy;
use crate::strategy::red_black::{Links, Node, RedBlackTree};

/// What lies at the start of a blank.
#[repr(C)]
#[derive(Debug)]
struct BlankNode {
    links: Links<BlankNode>,
    header: NonNull<Header>,
    index: usize,
    cells: usize,
}

const _: () = assert!(size_of::<BlankNode>() <= CELL_BYTES);

// SAFETY: the links are a field; a blank's length and place do not change while it is in the tree.
unsafe impl Node for BlankNode {
    /// Length in cells, then address.
    type Key = (usize, usize);

    const OWNER: &'static str = Stripes::NAME;

    #[inline]
    unsafe fn links(node: NonNull<Self>) -> NonNull<Links<Self>> {
        node.cast()
    }

    #[inline]
    unsafe fn key(node: NonNull<Self>) -> (usize, usize) {
        looked();
        // SAFETY: the node is valid.
        (unsafe { (*node.as_ptr()).cells }, node.addr().get())
    }
}

/// A blank that was taken out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blank {
    pub(super) header: NonNull<Header>,
    pub(super) index: usize,
    pub(super) cells: usize,
}

/// The blanks of all extents.
#[derive(Debug)]
pub(super) struct Blanks {
    tree: RedBlackTree<BlankNode>,
    count: usize,
}

impl Blanks {
    pub(super) const fn new() -> Self {
        Self { tree: RedBlackTree::new(), count: 0 }
    }

    /// Takes out the shortest blank of at least `cells`, among equals the first by address.
    pub(super) fn take(&mut self, cells: usize) -> Option<Blank> {
        let node = self.tree.first_from((cells, 0))?;
        // SAFETY: the node is in the tree.
        unsafe {
            self.tree.remove(node);
            self.count -= 1;
            let BlankNode { header, index, cells, .. } = *node.as_ptr();
            Some(Blank { header, index, cells })
        }
    }

    /// Makes cells a blank.
    ///
    /// # Safety
    /// They are free cells of the header's extent, and touch no blank.
    pub(super) unsafe fn put(&mut self, header: NonNull<Header>, index: usize, cells: usize) {
        // SAFETY: the cells are free, so their memory and their records may be written.
        unsafe {
            header.as_ref().write_run(index, cells, Kind::Blank);
            let node = header.as_ref().address(index).cast::<BlankNode>();
            (&raw mut (*node.as_ptr()).header).write(header);
            (&raw mut (*node.as_ptr()).index).write(index);
            (&raw mut (*node.as_ptr()).cells).write(cells);
            self.tree.insert(node);
        }
        self.count += 1;
    }

    /// Takes out the blank that begins at a cell.
    ///
    /// # Safety
    /// One begins there.
    pub(super) unsafe fn remove(&mut self, header: NonNull<Header>, index: usize) {
        // SAFETY: a blank's node is in the tree.
        unsafe { self.tree.remove(header.as_ref().address(index).cast()) };
        self.count -= 1;
    }

    /// How many there are, or that this cannot be told.
    pub(super) fn count(&self) -> Option<usize> {
        let nodes = self.tree.verify();
        (nodes == self.count).then_some(nodes)
    }
}
