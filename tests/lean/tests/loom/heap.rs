//! A heap's foreign frees, its close and its handover, from the shipped `ForeignStack`, `ChunkWord`
//! and `Runner`. A block is a cell for what the program keeps in it, which becomes the link and the
//! names of other blocks when it is freed: loom fails where two threads reach one cell without an
//! order between them.

use heapswitch::sync::foreign_stack::BlockId;
use heapswitch::sync::runner::Token;
use heapswitch::sync::{ChunkWord, ForeignStack, Links, Runner};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::model;

/// Blocks of one heap in one run; block `id` is at `id - 1`.
struct Heap {
    runner: Runner,
    stack: ForeignStack,
    word: ChunkWord,
    blocks: Blocks,
    /// What belongs to the runner: the run's count of blocks.
    live: UnsafeCell<u32>,
    /// How often the run went back. A cell: whoever gives it back has it alone.
    given_back: UnsafeCell<u32>,
}

/// A link, or what the program or the runner keeps there, and the name of another block, or 0.
#[derive(Clone, Copy)]
struct Contents {
    word: u64,
    name: BlockId,
}

const EMPTY: Contents = Contents { word: 0, name: 0 };

struct Blocks(Vec<UnsafeCell<Contents>>);

/// Blocks that are freed together: each holder, with the block whose name it holds, if any.
type Chain = &'static [&'static [BlockId]];

/// Of each two threads that free: their chains.
const CHAINS: [[Chain; 2]; 3] =
    [[&[&[1]], &[&[2]]], [&[&[1], &[2]], &[&[3]]], [&[&[1, 2]], &[&[3]]]];

fn blocks_of(chain: Chain) -> u32 {
    chain.iter().map(|holder| holder.len() as u32).sum()
}

// SAFETY: cells are reached by whom the protocols let, which is what the models check.
unsafe impl Sync for Heap {}
// SAFETY: as above.
unsafe impl Send for Heap {}

// SAFETY: the link is stored in the block's cell, where `next` reads it.
unsafe impl Links for Blocks {
    unsafe fn set_next(&self, block: BlockId, next: BlockId) {
        self.change(block, |contents| contents.word = next);
    }
}

impl Blocks {
    fn change(&self, block: BlockId, change: impl FnOnce(&mut Contents)) {
        self.0[block as usize - 1].with_mut(|cell| {
            // SAFETY: the caller has the block alone.
            change(unsafe { &mut *cell });
        });
    }

    fn write(&self, block: BlockId, word: u64) {
        self.change(block, |contents| *contents = Contents { word, name: 0 });
    }

    fn read(&self, block: BlockId) -> Contents {
        self.0[block as usize - 1].with(|cell| {
            // SAFETY: the caller has the block alone.
            unsafe { *cell }
        })
    }
}

impl Heap {
    /// With blocks 1 up to `blocks`, all allocated; run by nobody.
    fn new(blocks: u32) -> Arc<Self> {
        Arc::new(Self {
            runner: Runner::new(),
            stack: ForeignStack::new(),
            word: ChunkWord::new(),
            blocks: Blocks((0..blocks).map(|_| UnsafeCell::new(EMPTY)).collect()),
            live: UnsafeCell::new(blocks),
            given_back: UnsafeCell::new(0),
        })
    }

    /// Frees a chain of blocks as anybody but the runner: uses each a last time, writes names and
    /// links as a thread's batch does, and pushes; where the heap is closed, counts each off the
    /// run. A block whose name is held is not written to.
    fn free_foreign(&self, chain: Chain) {
        let mut first = 0;
        for holder in chain {
            for &block in *holder {
                self.blocks.write(block, 77);
            }
            let contents = Contents { word: first, name: *holder.get(1).unwrap_or(&0) };
            self.blocks.change(holder[0], |block| *block = contents);
            first = holder[0];
        }
        // SAFETY: the blocks are this thread's, freed here, and linked.
        if unsafe { self.stack.push(first, chain[0][0], &self.blocks) } {
            return;
        }
        for _ in 0..blocks_of(chain) {
            self.count_off();
        }
    }

    fn count_off(&self) {
        if self.word.release(1) {
            self.give_back();
        }
    }

    /// The run's memory is used by the next heap from here on.
    fn give_back(&self) {
        self.given_back.with_mut(|count| {
            // SAFETY: only one thread comes here, which is what the models check.
            unsafe { *count += 1 }
        });
        for block in 1..=self.blocks.0.len() as u64 {
            self.blocks.write(block, 99);
        }
    }

    /// Frees a chain as the runner, and reuses each block, the holder last; how many.
    fn free_chain(&self, first: BlockId) -> u32 {
        let mut freed = 0;
        let mut next = first;
        while next != 0 {
            let holder = next;
            let contents = self.blocks.read(holder);
            next = contents.word;
            for block in [contents.name, holder] {
                if block != 0 {
                    self.blocks.write(block, 88);
                    self.change_live(|live| live - 1);
                    freed += 1;
                }
            }
        }
        freed
    }

    fn change_live(&self, change: impl Fn(u32) -> u32) -> u32 {
        self.live.with_mut(|live| {
            // SAFETY: the caller runs the heap.
            unsafe {
                *live = change(*live);
                *live
            }
        })
    }

    /// Closes as the runner: in the order of the shipped close.
    fn close(&self) {
        self.runner.close();
        self.free_chain(self.stack.close());
        if self.word.merge(self.change_live(|live| live)) {
            self.give_back();
        }
    }

    fn times_given_back(&self) -> u32 {
        self.given_back.with(|count| {
            // SAFETY: all other threads have ended.
            unsafe { *count }
        })
    }
}

/// A block that one thread frees, the runner may reuse: what was written to it before the free
/// comes first, and no block is lost or comes twice. Single blocks and chains.
#[test]
fn what_others_free_the_runner_reuses() {
    for chains in CHAINS {
        model(move || {
            let blocks = chains.map(blocks_of).iter().sum();
            let heap = Heap::new(blocks);
            let threads = chains.map(|chain| {
                let heap = Arc::clone(&heap);
                thread::spawn(move || heap.free_foreign(chain))
            });
            // Without this loom lets no push come first: it does not try what a load that finds the
            // stack empty would find later.
            thread::yield_now();
            let early = heap.free_chain(heap.stack.take_all());
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(early + heap.free_chain(heap.stack.take_all()), blocks);
        });
    }
}

/// The close against frees by two others: the run goes back once, by whoever comes last, when
/// nobody uses its blocks any more.
#[test]
fn a_closed_heap_gives_its_run_back_once() {
    for chains in CHAINS {
        model(move || {
            let heap = Heap::new(chains.map(blocks_of).iter().sum());
            let threads = chains.map(|chain| {
                let heap = Arc::clone(&heap);
                thread::spawn(move || heap.free_foreign(chain))
            });
            heap.close();
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(heap.times_given_back(), 1);
        });
    }
}

/// A free that finds the runner closed counts its block off although the stack is not closed yet.
#[test]
fn a_free_may_look_at_the_runner_instead_of_the_stack() {
    model(|| {
        let heap = Heap::new(2);
        let threads = CHAINS[0].map(|chain| {
            let heap = Arc::clone(&heap);
            thread::spawn(move || {
                if heap.runner.is_closed() {
                    heap.blocks.write(chain[0][0], 77);
                    heap.count_off();
                } else {
                    heap.free_foreign(chain);
                }
            })
        });
        heap.close();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(heap.times_given_back(), 1);
    });
}

/// The runner collects, then closes, while a batch comes in two pushes.
#[test]
fn batches_meet_collection_and_close() {
    model(|| {
        let heap = Heap::new(3);
        let other = Arc::clone(&heap);
        let other = thread::spawn(move || {
            other.free_foreign(&[&[1, 2]]);
            other.free_foreign(&[&[3]]);
        });
        thread::yield_now();
        heap.free_chain(heap.stack.take_all());
        heap.close();
        other.join().unwrap();
        assert_eq!(heap.times_given_back(), 1);
    });
}

/// One thread leaves the heap and publishes that by nothing but the runner's word: who enters sees
/// what it did. A heap whose guard was leaked and whose handle is shared that way has no other
/// order.
#[test]
fn who_enters_sees_what_the_last_runner_did() {
    model(|| {
        let heap = Heap::new(1);
        let first = Token::from_number(0);
        assert!(heap.runner.try_enter(first));
        let next = Arc::clone(&heap);
        let next = thread::spawn(move || {
            let second = Token::from_number(1);
            assert!(!next.runner.is(second));
            if next.runner.try_enter(second) {
                assert!(next.runner.is(second));
                next.change_live(|live| live + 1);
                next.runner.leave();
            }
        });
        assert!(heap.runner.is(first));
        heap.change_live(|live| live + 1);
        heap.runner.leave();
        next.join().unwrap();
        assert!(heap.runner.try_enter(first));
        assert!(heap.change_live(|live| live) >= 2);
    });
}

/// The handle moves between threads through a lock, while a third thread frees: the owner test of a
/// thread that does not run the heap never succeeds, and the new runner finds what was pushed.
#[test]
fn a_handle_moves_while_another_thread_frees() {
    model(|| {
        let heap = Heap::new(1);
        let handle = Arc::new(loom::sync::Mutex::new(Some(Token::from_number(0))));
        let free = Arc::clone(&heap);
        let free = thread::spawn(move || {
            assert!(!free.runner.is(Token::from_number(2)));
            free.free_foreign(&[&[1]]);
        });
        let (next, moved) = (Arc::clone(&heap), Arc::clone(&handle));
        let next = thread::spawn(move || run_once(&next, &moved, Token::from_number(1)));
        let mut freed = run_once(&heap, &handle, Token::from_number(0));
        freed += next.join().unwrap();
        free.join().unwrap();
        freed += heap.free_chain(heap.stack.take_all());
        assert_eq!(freed, 1);
    });
}

/// Takes the handle, runs the heap, collects, and puts the handle back.
fn run_once(heap: &Heap, handle: &loom::sync::Mutex<Option<Token>>, token: Token) -> u32 {
    let Some(taken) = handle.lock().unwrap().take() else { return 0 };
    assert!(heap.runner.try_enter(token));
    let freed = heap.free_chain(heap.stack.take_all());
    heap.runner.leave();
    *handle.lock().unwrap() = Some(taken);
    freed
}

/// A closed heap lets nobody in, whichever token the closer had.
#[test]
fn nobody_enters_a_closed_heap() {
    model(|| {
        let heap = Heap::new(1);
        assert!(heap.runner.try_enter(Token::CLOSER));
        let other = Arc::clone(&heap);
        let other = thread::spawn(move || {
            assert!(!other.runner.try_enter(Token::from_number(0)));
            other.free_foreign(&[&[1]]);
        });
        heap.close();
        assert!(heap.runner.is_closed() && heap.runner.is_busy());
        other.join().unwrap();
        assert_eq!(heap.times_given_back(), 1);
    });
}
