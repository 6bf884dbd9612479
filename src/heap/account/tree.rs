//! The tree of accounts, downwards: who is below whom.
//!
//! Upwards each node has its parent, which it keeps alive; charges go there and take no lock.
//! Downwards the links are for reports and for closing, change when an account is made or freed,
//! and belong to one lock, which is held for a few instructions. A walk takes it anew for each
//! step: it stops nobody, and sees an account that is made or freed meanwhile, or does not.

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::{Account, ContextName, Node, PROCESS};
use crate::heap::header::HeapHeader;
use crate::sys::SystemError;
use crate::sys::fork::{ForkEntry, Rank};
use crate::sys::lock::Lock;

/// Guards every node's links. No other lock is taken under it.
static TREE: Lock<()> = Lock::new(());

/// Takes the tree's lock around every fork from now on. Again is harmless.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn protect_fork() -> Result<(), SystemError> {
    static ENTRY: ForkEntry = ForkEntry::new();
    ENTRY.register(TREE.raw(), Rank::Heap)
}

/// A node's links. Used under the tree's lock.
#[derive(Debug)]
pub(super) struct Links {
    first_child: Cell<Option<NonNull<Node>>>,
    next: Cell<Option<NonNull<Node>>>,
    previous: Cell<Option<NonNull<Node>>>,
    /// The account's heap, until that is closed. Not the lock's: it is read as
    /// [`Inspection`](crate::sync::Inspection) says, or under the lock if the heap ends with its
    /// parent, whose closing then takes the lock.
    heap: AtomicPtr<HeapHeader>,
}

impl Links {
    pub(super) const fn new() -> Self {
        Self {
            first_child: Cell::new(None),
            next: Cell::new(None),
            previous: Cell::new(None),
            heap: AtomicPtr::new(core::ptr::null_mut()),
        }
    }
}

/// # Safety
/// The tree's lock is held, and the node was found through a link or is held by a count.
unsafe fn node<'a>(node: NonNull<Node>) -> &'a Node {
    // SAFETY: linked nodes are not freed before they are unlinked, under the lock.
    unsafe { node.as_ref() }
}

/// Takes a count of a linked node, unless its last one is gone already.
fn hold(node: &Node) -> Option<Account> {
    let mut holders = node.holders.load(Ordering::Relaxed);
    while holders != 0 {
        // Acquire and Release: as a clone's count is given up with AcqRel, nothing is needed to
        // take one; the lock ordered the link.
        let order = (Ordering::Relaxed, Ordering::Relaxed);
        match node.holders.compare_exchange_weak(holders, holders + 1, order.0, order.1) {
            Ok(_) => return Some(Account(NonNull::from(node))),
            Err(now) => holders = now,
        }
    }
    None
}

/// Takes a node without holders out of the tree.
pub(super) fn unlink(this: &Node) {
    let _tree = TREE.lock();
    let (next, previous) = (this.links.next.get(), this.links.previous.get());
    // SAFETY: the lock is held; neighbours and the parent are linked.
    unsafe {
        if let Some(next) = next {
            node(next).links.previous.set(previous);
        }
        match (previous, this.parent) {
            (Some(previous), _) => node(previous).links.next.set(next),
            (None, Some(parent)) => node(parent).links.first_child.set(next),
            (None, None) => {}
        }
    }
}

impl Account {
    /// Puts a new node into the tree.
    pub(super) fn link(&self) {
        let (this, _tree) = (self.node(), TREE.lock());
        let Some(parent) = this.parent else { return };
        // SAFETY: the lock is held; a node holds its parent.
        unsafe {
            let siblings = &node(parent).links.first_child;
            let next = siblings.replace(Some(self.0));
            this.links.next.set(next);
            if let Some(next) = next {
                node(next).links.previous.set(Some(self.0));
            }
        }
    }

    /// Names the account's heap, in place of the one before. One that ends with its parent is found
    /// by [`with_heap`](Self::with_heap) from now on.
    pub(crate) fn set_heap(&self, heap: NonNull<HeapHeader>, ends_with_parent: bool) {
        let node = self.node();
        let _tree = ends_with_parent.then(|| TREE.lock());
        // Release pairs with the Acquire in `Inspection::look`: who finds the heap sees it whole.
        node.links.heap.store(heap.as_ptr(), Ordering::Release);
        if ends_with_parent {
            node.ends_with_parent.store(true, Ordering::Relaxed);
        }
    }

    /// Where the account's heap stands until it is closed.
    pub(crate) fn heap_place(&self) -> &AtomicPtr<HeapHeader> {
        &self.node().links.heap
    }

    /// Whether it has a heap that is not closed.
    pub(crate) fn names_heap(&self) -> bool {
        !self.heap_place().load(Ordering::Relaxed).is_null()
    }

    /// Its heap no longer ends when the parent does. Takes the tree's lock.
    pub(crate) fn outlive_parent(&self) {
        let _tree = TREE.lock();
        self.node().ends_with_parent.store(false, Ordering::Relaxed);
    }

    /// The heap to be closed with the parent, given to `act` under the tree's lock: it is not freed
    /// meanwhile. `act` takes no lock and waits for nobody.
    pub(crate) fn with_heap<T>(&self, act: impl FnOnce(NonNull<HeapHeader>) -> T) -> Option<T> {
        let (node, _tree) = (self.node(), TREE.lock());
        // Relaxed: set under the lock, as the heap was of one that ends with its parent.
        if !node.ends_with_parent.load(Ordering::Relaxed) {
            return None;
        }
        NonNull::new(node.links.heap.load(Ordering::Relaxed)).map(act)
    }

    /// The node after this one below `root`, parents first.
    fn following(&self, root: &Account) -> Option<Account> {
        let _tree = TREE.lock();
        let mut at = self.0;
        let mut may_descend = true;
        loop {
            // SAFETY: the lock is held; the walk began at a node that is held, whose ancestors are
            // too, and follows links.
            let (links, parent) = unsafe { (&node(at).links, node(at).parent) };
            let descended = if may_descend { links.first_child.get() } else { None };
            let next = match descended {
                Some(child) => Some(child),
                None if at == root.0 => return None,
                None => links.next.get(),
            };
            match next {
                Some(next) => {
                    at = next;
                    may_descend = true;
                    // SAFETY: as above. A node without holders has no children, and is passed.
                    if let Some(account) = hold(unsafe { node(next) }) {
                        return Some(account);
                    }
                }
                None => {
                    at = parent?;
                    may_descend = false;
                }
            }
        }
    }
}

/// An account and all below it, parents first.
#[derive(Debug)]
pub struct Subtree {
    root: Account,
    next: Option<Account>,
}

impl Iterator for Subtree {
    type Item = Account;

    fn next(&mut self) -> Option<Account> {
        let current = self.next.take()?;
        self.next = current.following(&self.root);
        Some(current)
    }
}

/// An account and all below it, parents first. Stops nobody: what is made or freed meanwhile is
/// seen or not.
pub fn subtree(root: &Account) -> Subtree {
    Subtree { root: root.clone(), next: Some(root.clone()) }
}

/// Every account of the process.
pub fn accounts() -> Subtree {
    subtree(&Account::process())
}

impl Account {
    /// This account and all below it, parents first.
    pub fn subtree(&self) -> Subtree {
        subtree(self)
    }

    /// Those directly below it.
    pub fn children(&self) -> impl Iterator<Item = Account> {
        let parent = self.clone();
        subtree(self)
            .filter(move |account| account.node().parent.is_some_and(|above| above == parent.0))
    }

    /// The accounts of this name in this account's subtree.
    pub fn named(&self, name: &str) -> impl Iterator<Item = Account> {
        let name = ContextName::new(name);
        subtree(self).filter(move |account| account.name() == name)
    }

    /// Whether it is the process's.
    pub fn is_process(&self) -> bool {
        core::ptr::eq(self.node(), &PROCESS)
    }
}

/// The `count` accounts of a walk whose own heaps hold most, largest first, with the bytes that are
/// in this order: an account that is asked again may hold others by then.
pub fn largest(accounts: impl Iterator<Item = Account>, count: usize) -> Vec<(usize, Account)> {
    let mut largest: Vec<(usize, Account)> = Vec::with_capacity(count.min(64).saturating_add(1));
    for account in accounts {
        let held = account.node().own.load(Ordering::Relaxed);
        if held == 0 {
            continue;
        }
        let place = largest.partition_point(|&(other, _)| other >= held);
        if place < count {
            largest.insert(place, (held, account));
            largest.truncate(count);
        }
    }
    largest
}
