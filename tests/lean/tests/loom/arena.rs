//! The arena's stack of free blocks. A cell stands for each block's contents: loom fails where two
//! threads reach one cell without an order between them, so where a block is handed out twice, or
//! before what its last user did is seen.

use heapswitch::source::arena::index_stack::{IndexStack, Links, Popped};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

use crate::model;

struct Arena {
    stack: IndexStack,
    links: Table,
    blocks: Vec<UnsafeCell<usize>>,
}

struct Table(Vec<AtomicU64>);

impl Links for Table {
    fn link(&self, index: u32) -> &AtomicU64 {
        &self.0[index as usize]
    }
}

// SAFETY: a block is reached by the owner of its number only, which is what the models check.
unsafe impl Sync for Arena {}
// SAFETY: as above.
unsafe impl Send for Arena {}

impl Arena {
    /// With blocks 0 up to `length`, all free, the last on top.
    fn new(length: usize) -> Arc<Self> {
        let arena = Self {
            stack: IndexStack::new(),
            links: Table((0..length).map(|_| AtomicU64::new(0)).collect()),
            blocks: (0..length).map(|_| UnsafeCell::new(0)).collect(),
        };
        for index in 0..length as u32 {
            arena.give_back(Popped { index, flag: true });
        }
        Arc::new(arena)
    }

    fn take(&self) -> Option<Popped> {
        let block = self.stack.pop(&self.links)?;
        self.write(block);
        Some(block)
    }

    fn give_back(&self, block: Popped) {
        self.write(block);
        self.stack.push(&self.links, block);
    }

    /// Uses the block, whole.
    fn write(&self, block: Popped) {
        self.blocks[block.index as usize].with_mut(|contents| {
            // SAFETY: the caller owns the block's number.
            unsafe { *contents += 1 }
        });
    }

    /// Takes all that are free now, and checks that each comes once.
    fn count_free(&self) -> usize {
        let mut seen = vec![false; self.blocks.len()];
        while let Some(block) = self.take() {
            assert!(!std::mem::replace(&mut seen[block.index as usize], true));
        }
        seen.into_iter().filter(|seen| *seen).count()
    }
}

#[test]
fn a_block_has_one_owner() {
    model(|| {
        let arena = Arena::new(1);
        let threads = [(); 2].map(|()| {
            let arena = Arc::clone(&arena);
            thread::spawn(move || {
                if let Some(block) = arena.take() {
                    arena.give_back(block);
                }
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(arena.count_free(), 1);
    });
}

/// One thread reads the top and its link; meanwhile the other takes both blocks and gives the first
/// back: the top is the same, its link is not.
#[test]
fn a_top_that_comes_back_is_another() {
    model(|| {
        let arena = Arena::new(2);
        let other = Arc::clone(&arena);
        let other = thread::spawn(move || {
            let (first, second) = (other.take(), other.take());
            if let Some(first) = first {
                other.give_back(first);
            }
            second
        });
        let mine = arena.take();
        let mine_too = arena.take();
        let theirs = other.join().unwrap();
        let owned: Vec<_> = [mine, mine_too, theirs].into_iter().flatten().collect();
        for block in &owned {
            arena.write(*block);
        }
        assert_eq!(arena.count_free() + owned.len(), 2);
    });
}

/// A release takes everything and pushes some back, while another thread takes and gives.
#[test]
fn a_release_owns_what_it_took() {
    model(|| {
        let arena = Arena::new(2);
        let user = Arc::clone(&arena);
        let user = thread::spawn(move || {
            if let Some(block) = user.take() {
                user.give_back(block);
            }
        });
        let mut released = 0;
        let mut chain = arena.stack.take_all();
        while let Some(block) = chain.next(&arena.links) {
            arena.write(block);
            if block.index == 0 {
                arena.give_back(block);
            } else {
                released += 1;
            }
        }
        user.join().unwrap();
        assert_eq!(arena.count_free() + released, 2);
    });
}
