//! A thread of a random program: what it has, and how it chooses what to do next.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use heapswitch::{Coroutine, InHeap, Scope, Yielder};

use super::block::Block;
use super::random::Random;
use super::world::{Kept, World, is_child};
use super::{carried, contexts, heaps, questions};

/// How deep scopes are nested, in a thread or in a coroutine.
const MOST_DEPTH: usize = 5;

/// A panic that belongs to the program, and the block that goes with it.
struct Planned(#[expect(dead_code, reason = "is freed with the panic")] Block);

/// A context that is suspended, with the heap at its base.
pub(crate) struct Saved {
    pub(crate) context: heapswitch::SavedContext,
    pub(crate) kept: Option<Rc<Kept>>,
}

pub(crate) type LocalTask = Pin<Box<InHeap<Pin<Box<dyn Future<Output = ()>>>>>>;

/// What a thread has. Each list is borrowed for moments only: nothing is dropped within.
pub(crate) struct Thread {
    pub(crate) world: Arc<World>,
    pub(crate) random: Random,
    pub(crate) blocks: RefCell<Vec<Block>>,
    pub(crate) heaps: RefCell<Vec<Rc<Kept>>>,
    pub(crate) coroutines: RefCell<Vec<Coroutine<(), (), ()>>>,
    pub(crate) contexts: RefCell<Vec<Saved>>,
    pub(crate) tasks: RefCell<Vec<LocalTask>>,
    /// Guards that are dropped anywhere, and in any order.
    pub(crate) strays: RefCell<Vec<Scope<'static>>>,
    steps_left: Cell<usize>,
}

/// Where a program is: how deep, and in which coroutine.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) thread: &'a Rc<Thread>,
    depth: usize,
    /// Whether a guard that is forgotten here stands below no other's.
    pub(crate) is_root: bool,
    pub(crate) yielder: Option<&'a Yielder<'a, (), ()>>,
}

std::thread_local! {
    /// Changes whenever a scope may end where it did not begin, or a heap that a forgotten guard
    /// left in use may be closed.
    static DISORDER: Cell<u64> = const { Cell::new(0) };
    /// What the thread's end drops.
    static LAST: RefCell<Vec<(Option<Block>, Option<Kept>)>> = const { RefCell::new(Vec::new()) };
}

/// Not inlined, for what coroutines call may not keep the address of a thread's variable.
#[inline(never)]
pub(crate) fn note_disorder() {
    DISORDER.set(DISORDER.get() + 1);
}

#[inline(never)]
pub(crate) fn disorder() -> u64 {
    DISORDER.get()
}

impl Thread {
    fn new(world: Arc<World>, random: Random, steps: usize) -> Rc<Self> {
        Rc::new(Self {
            world,
            random,
            blocks: RefCell::default(),
            heaps: RefCell::default(),
            coroutines: RefCell::default(),
            contexts: RefCell::default(),
            tasks: RefCell::default(),
            strays: RefCell::default(),
            steps_left: Cell::new(steps),
        })
    }

    /// The whole life of a thread.
    pub(crate) fn run(world: Arc<World>, random: Random, steps: usize) {
        let thread = Self::new(world, random, steps);
        let frame = Frame { thread: &thread, depth: 0, is_root: true, yielder: None };
        while thread.steps_left.get() != 0 {
            frame.catch(|frame| frame.steps());
        }
        thread.end();
    }

    fn end(&self) {
        drop(self.strays.take());
        // Bodies hold this thread, and may fill its lists while they are unwound.
        for _ in 0..3 {
            drop(self.coroutines.take());
            drop(self.contexts.take());
            drop(self.tasks.take());
        }
        for block in self.blocks.take() {
            match self.random.below(6) {
                0 => drop(block),
                1 => LAST.with_borrow_mut(|last| last.push((Some(block), None))),
                _ => self.world.blocks.put(block),
            }
        }
        for kept in self.heaps.take() {
            let Ok(kept) = Rc::try_unwrap(kept) else { continue };
            match self.random.below(4) {
                0 => drop(kept),
                1 => LAST.with_borrow_mut(|last| last.push((None, Some(kept)))),
                _ => self.world.heaps.put(kept),
            }
        }
    }

    pub(crate) fn keep_block(&self, block: Block) {
        self.blocks.borrow_mut().push(block);
    }

    pub(crate) fn take_block(&self) -> Option<Block> {
        self.random.take(&mut self.blocks.borrow_mut())
    }

    pub(crate) fn keep_heap(&self, kept: Rc<Kept>) {
        self.heaps.borrow_mut().push(kept);
    }

    pub(crate) fn take_heap(&self) -> Option<Rc<Kept>> {
        self.random.take(&mut self.heaps.borrow_mut())
    }

    /// One of its heaps, which stays in the list.
    pub(crate) fn share_heap(&self) -> Option<Rc<Kept>> {
        let heaps = self.heaps.borrow();
        if heaps.is_empty() {
            return None;
        }
        Some(Rc::clone(&heaps[self.random.below(heaps.len())]))
    }
}

impl<'a> Frame<'a> {
    /// Of a body that begins on a stack of its own.
    pub(crate) fn of_body(thread: &'a Rc<Thread>, yielder: &'a Yielder<'a, (), ()>) -> Self {
        Self { thread, depth: 2, is_root: true, yielder: Some(yielder) }
    }

    /// Within a context that ends with all scopes in it.
    pub(crate) fn rooted(self) -> Self {
        Self { depth: self.depth + 1, is_root: true, ..self }
    }

    pub(crate) fn deeper(self) -> Self {
        Self { depth: self.depth + 1, is_root: false, ..self }
    }

    /// Whether a guard may be forgotten here. The check build ends a program whose guards end in
    /// the wrong order.
    pub(crate) fn may_forget(&self) -> bool {
        !cfg!(heapswitch_check) || self.is_root
    }

    /// Some steps.
    pub(crate) fn steps(self) {
        let thread = self.thread;
        if self.depth > MOST_DEPTH {
            return;
        }
        for _ in 0..2 + thread.random.below(14) {
            let Some(left) = thread.steps_left.get().checked_sub(1) else { return };
            thread.steps_left.set(left);
            self.step();
        }
    }

    /// Some steps, of which a coroutine that is here takes no part: it is not suspended by them,
    /// and what panics in them ends in them.
    pub(crate) fn steps_on_this_stack(self) {
        Self { yielder: None, ..self }.catch(|frame| frame.deeper().steps());
    }

    fn step(self) {
        match self.thread.random.below(100) {
            0..34 => self.block_step(),
            34..54 => contexts::step(self),
            54..66 => heaps::step(self),
            66..80 => carried::step(self),
            80..84 => self.catch(|frame| frame.deeper().steps()),
            84..86 => self.panic(),
            86..89 => {
                if let Some(yielder) = self.yielder {
                    yielder.suspend(());
                }
            }
            _ => questions::step(self),
        }
    }

    /// A panic of the program ends here; any other, as that by which a coroutine is unwound, goes
    /// on.
    fn catch(self, act: impl FnOnce(Self)) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| act(self)))
            && !payload.is::<Planned>()
        {
            resume_unwind(payload);
        }
    }

    fn panic(self) {
        let block = Block::make(&self.thread.random).unwrap();
        resume_unwind(Box::new(Planned(block)));
    }

    fn block_step(self) {
        let Thread { world, random, blocks, .. } = &**self.thread;
        match random.below(11) {
            0..5 => self.thread.keep_block(Block::make(random).unwrap()),
            5 => {
                if let Some(mut block) = self.thread.take_block() {
                    block.resize(random);
                    self.thread.keep_block(block);
                }
            }
            6 => drop(self.thread.take_block()),
            7 => {
                if let Some(block) = self.thread.take_block() {
                    world.blocks.put(block);
                }
            }
            8 => {
                if let Some(block) = world.blocks.take(random) {
                    self.thread.keep_block(block);
                }
            }
            9 => drop(world.blocks.take(random)),
            _ => {
                blocks.borrow().iter().for_each(Block::check);
                if blocks.borrow().len() > 60 {
                    let half = blocks.borrow_mut().split_off(30);
                    drop(half);
                }
            }
        }
    }
}

/// A panic of the program, from where there is no frame.
pub(crate) fn panic_with(block: Block) -> ! {
    resume_unwind(Box::new(Planned(block)))
}

/// Whether a payload is the program's.
pub(crate) fn is_planned(payload: &(dyn std::any::Any + Send)) -> bool {
    payload.is::<Planned>()
}

impl Drop for Thread {
    fn drop(&mut self) {
        assert!(is_child() || self.coroutines.get_mut().is_empty(), "a coroutine is left");
    }
}
