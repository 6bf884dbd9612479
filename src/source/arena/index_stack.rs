//! A lock-free stack of small numbers: the arena's free blocks.
//!
//! # Operations
//! ```text
//!   head  ┌──────────┬─────────┐      links   4 ──▶ 9 ──▶ 2 ──▶ end
//!         │ tag      │ top = 4 │      depth   3     2     1
//!         └──────────┴─────────┘
//!   push 7       link of 7 := (4, depth 4); compare and swap the head to (tag, 7)
//!   pop          read the link of 4; compare and swap the head to (tag + 1, 9)
//!   take all     compare and swap the head to (tag + 1, end); the chain is then the caller's
//! ```
//! The links lie apart from what the numbers stand for, and stay readable for as long as the stack
//! is used: a thread that lags behind reads an old link, never freed memory.
//!
//! # Why the tag
//! A thread reads top 4 and its link 9, and sleeps. Others pop 4 and 9 and push 4 back. The top is
//! 4 again, but 9 is in use; without the tag the sleeper would make it the top. Each pop makes the
//! tag one larger, so the sleeper's comparison fails. The tag has 38 bits: it repeats only after
//! 2^38 pops within one thread's pop, above an hour at 50 million a second.
//!
//! # Why the depth
//! Each link knows how many lie below it, so that a push tells how many are free. A separate
//! counter would be a second contended word, and never agree with the stack.
#![forbid(unsafe_code)]

use crate::sync::{AtomicU64, Ordering, weakened};

/// Orderings that the loom model shows to be needed, each by failing without it.
mod orderings {
    use super::{Ordering, weakened};

    /// A pop or a push reads the head: pairs with [`push`], so that the link of the top, and what
    /// its last user wrote into the block, is seen.
    #[inline]
    pub(super) fn read_head() -> Ordering {
        weakened!("arena_pop", Ordering::Relaxed, Ordering::Acquire)
    }

    /// A push publishes its link and the block's contents: pairs with [`read_head`]. Pops in
    /// between are read-modify-writes, so they carry it on.
    #[inline]
    pub(super) fn push() -> Ordering {
        weakened!("arena_push", Ordering::Relaxed, Ordering::Release)
    }

    /// What a pop adds to the head's tag.
    #[inline]
    pub(super) fn tag_step() -> u64 {
        weakened!("arena_tag", 0, super::TAG_ONE)
    }
}
use orderings::{push, read_head, tag_step};

/// Bits of a number plus one; zero is the end.
const INDEX_BITS: u32 = 26;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
const TAG_ONE: u64 = 1 << INDEX_BITS;

/// In a link: the payload bit, and where the depth starts.
const FLAG: u64 = 1 << INDEX_BITS;
const DEPTH_SHIFT: u32 = 32;

/// The most numbers: 0 up to this, exclusive.
pub const MAXIMUM_INDICES: usize = (1 << INDEX_BITS) - 1;

/// Where a stack keeps its links: one word for each number, zero at first, that nothing else
/// writes.
pub trait Links {
    /// The word of `index`, one of those that were pushed.
    fn link(&self, index: u32) -> &AtomicU64;
}

/// A number from the stack, and the bit that was pushed with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Popped {
    /// The number.
    pub index: u32,
    /// The bit.
    pub flag: bool,
}

/// The stack's head. Every call on one stack is given the same [`Links`].
///
/// # Invariants
/// - The head is `tag << 26 | (top + 1)`, or `tag << 26` where the stack is empty.
/// - The link of each number in it is `depth << 32 | flag << 26 | (next + 1)`; `depth` is one more
///   than that of `next`.
/// - A number is in it at most once: whoever pushes one owns it.
#[derive(Debug)]
pub struct IndexStack {
    head: AtomicU64,
}

impl IndexStack {
    /// An empty stack.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { head: AtomicU64::new(0) }
    }

    /// An empty stack.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { head: AtomicU64::new(0) }
    }

    /// Pushes a number that the caller owns; how many are in the stack then.
    #[inline]
    pub fn push(&self, links: &impl Links, pushed: Popped) -> usize {
        let link = links.link(pushed.index);
        let flag = if pushed.flag { FLAG } else { 0 };
        let mut head = self.head.load(read_head());
        loop {
            let depth = 1 + index_of(head).map_or(0, |top| {
                // Relaxed: the read head saw the top's push. If it was popped since, the depth is
                // nonsense, and the exchange fails.
                links.link(top).load(Ordering::Relaxed) >> DEPTH_SHIFT
            });
            // Relaxed: the push publishes it.
            link.store(depth << DEPTH_SHIFT | flag | (head & INDEX_MASK), Ordering::Relaxed);
            let new = (head & !INDEX_MASK) | (u64::from(pushed.index) + 1);
            match self.head.compare_exchange_weak(head, new, push(), read_head()) {
                Ok(_) => return depth as usize,
                Err(current) => head = current,
            }
        }
    }

    /// Pops the number that was pushed last.
    #[inline]
    pub fn pop(&self, links: &impl Links) -> Option<Popped> {
        let mut head = self.head.load(read_head());
        loop {
            let index = index_of(head)?;
            // Relaxed: the read head saw the push of the top. If another thread popped it since,
            // this may be a newer link, and the exchange fails by the tag.
            let link = links.link(index).load(Ordering::Relaxed);
            let new = next_tag(head) | (link & INDEX_MASK);
            match self.head.compare_exchange_weak(head, new, read_head(), read_head()) {
                Ok(_) => return Some(Popped { index, flag: link & FLAG != 0 }),
                Err(current) => head = current,
            }
        }
    }

    /// Takes everything: the caller owns every number of the chain, see [`Chain`].
    pub fn take_all(&self) -> Chain {
        let mut head = self.head.load(read_head());
        loop {
            // A weak exchange to the same word is fine for an empty stack, too.
            match self.head.compare_exchange_weak(head, next_tag(head), read_head(), read_head()) {
                Ok(_) => return Chain { top: head },
                Err(current) => head = current,
            }
        }
    }
}

impl Default for IndexStack {
    fn default() -> Self {
        Self::new()
    }
}

/// A head's tag, one step on, with an empty stack.
#[inline]
fn next_tag(head: u64) -> u64 {
    (head & !INDEX_MASK).wrapping_add(tag_step())
}

/// The number that the low bits of a head or a link stand for.
#[inline]
fn index_of(word: u64) -> Option<u32> {
    (word & INDEX_MASK).checked_sub(1).map(|index| index as u32)
}

/// What [`IndexStack::take_all`] took, from the top down.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The low bits are those of a head.
    top: u64,
}

impl Chain {
    /// How many numbers it has, as the top's link tells.
    pub fn depth(&self, links: &impl Links) -> usize {
        // Relaxed: the chain is the caller's.
        let link = |top| links.link(top).load(Ordering::Relaxed);
        index_of(self.top).map_or(0, |top| (link(top) >> DEPTH_SHIFT) as usize)
    }

    /// Splits the top off. Its link is read first: the caller may push it at once.
    pub fn next(&mut self, links: &impl Links) -> Option<Popped> {
        let index = index_of(self.top)?;
        // Relaxed: the chain is the caller's.
        let link = links.link(index).load(Ordering::Relaxed);
        self.top = link & INDEX_MASK;
        Some(Popped { index, flag: link & FLAG != 0 })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    struct Table(Vec<AtomicU64>);

    impl Links for Table {
        fn link(&self, index: u32) -> &AtomicU64 {
            &self.0[index as usize]
        }
    }

    fn table(length: usize) -> Table {
        Table((0..length).map(|_| AtomicU64::new(0)).collect())
    }

    fn number(index: u32) -> Popped {
        Popped { index, flag: index % 2 == 1 }
    }

    #[test]
    fn is_a_stack_that_knows_its_depth() {
        let (stack, links) = (IndexStack::new(), table(4));
        assert_eq!(stack.pop(&links), None);
        for index in 0..4 {
            assert_eq!(stack.push(&links, number(index)), index as usize + 1);
        }
        assert_eq!(stack.pop(&links), Some(number(3)));
        assert_eq!(stack.push(&links, number(3)), 4);
        for index in (0..4).rev() {
            assert_eq!(stack.pop(&links), Some(number(index)));
        }
        assert_eq!(stack.pop(&links), None);
    }

    #[test]
    fn a_chain_may_be_pushed_back_while_it_is_walked() {
        let (stack, links) = (IndexStack::new(), table(8));
        for index in 0..8 {
            stack.push(&links, number(index));
        }
        let mut chain = stack.take_all();
        assert_eq!(stack.pop(&links), None);
        while let Some(popped) = chain.next(&links) {
            assert_eq!(popped, number(popped.index));
            if popped.index % 4 == 0 {
                stack.push(&links, popped);
            }
        }
        assert_eq!(stack.pop(&links), Some(number(0)));
        assert_eq!(stack.pop(&links), Some(number(4)));
        assert_eq!(stack.pop(&links), None);
        assert!(stack.take_all().next(&links).is_none());
    }

    #[test]
    fn threads_never_hold_one_number_twice() {
        let (stack, links) = (IndexStack::new(), table(6));
        let owners: Vec<AtomicU64> = (0..6).map(|_| AtomicU64::new(0)).collect();
        for index in 0..6 {
            stack.push(&links, number(index));
        }
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let (stack, links, owners) = (&stack, &links, &owners);
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        let Some(popped) = stack.pop(links) else { continue };
                        let owner = &owners[popped.index as usize];
                        assert_eq!(owner.swap(thread, Ordering::Relaxed), 0);
                        assert_eq!(owner.swap(0, Ordering::Relaxed), thread);
                        assert!(stack.push(links, popped) <= 6);
                    }
                });
            }
        });
        assert_eq!(core::iter::from_fn(|| stack.pop(&links)).count(), 6);
    }
}
