//! What the threads of a program share: everything that goes from one to another.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use heapswitch::sys::lock::Lock;
use heapswitch::{
    Account, ContextError, Heap, HeapPool, InHeap, LimitPolicy, Limits, PooledHeap, PressureWatch,
    SendCoroutine,
};

use super::block::Block;
use super::random::Random;

/// Every account of a program has a name that begins so.
pub(crate) const NAME: &str = "random";

/// A heap, and what must not be expected of it.
pub(crate) struct Kept {
    pub(crate) heap: Heap,
    /// It, or what is above it, gives null above its limit.
    pub(crate) refuses: bool,
    /// The thread's heap may serve in its place.
    pub(crate) spills: bool,
}

/// An account that heaps are charged to.
pub(crate) struct Above {
    pub(crate) account: Account,
    pub(crate) refuses: bool,
    pub(crate) spills: bool,
}

pub(crate) type Body = Pin<Box<dyn Future<Output = Block> + Send>>;

/// A future that any thread may poll.
pub(crate) enum Task {
    Own(InHeap<Body>),
    Pooled(InHeap<Body, PooledHeap<Arc<HeapPool>>>),
}

/// Work that any thread may do.
pub(crate) type Work = Box<dyn FnOnce() -> Result<Block, ContextError> + Send>;

/// Whether this is a forked child, where other threads may have held the locks.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_child() -> bool {
    IS_CHILD.load(Ordering::Relaxed)
}

pub(crate) fn note_child() {
    IS_CHILD.store(true, Ordering::Relaxed);
}

/// A list that threads put things into and take them out of.
pub(crate) struct Bag<T>(Lock<Vec<T>>);

impl<T> Bag<T> {
    pub(crate) const fn new() -> Self {
        Self(Lock::new(Vec::new()))
    }

    pub(crate) fn put(&self, item: T) {
        if !is_child() {
            self.0.lock().push(item);
        }
    }

    pub(crate) fn take(&self, random: &Random) -> Option<T> {
        if is_child() { None } else { random.take(&mut self.0.lock()) }
    }

    /// All that is in it.
    pub(crate) fn take_all(&self) -> Vec<T> {
        core::mem::take(&mut *self.0.lock())
    }
}

pub(crate) struct World {
    pub(crate) accounts: Vec<Above>,
    pub(crate) pool: Arc<HeapPool>,
    pub(crate) blocks: Bag<Block>,
    pub(crate) heaps: Bag<Kept>,
    pub(crate) pooled: Bag<PooledHeap<Arc<HeapPool>>>,
    pub(crate) tasks: Bag<Task>,
    pub(crate) work: Bag<Work>,
    pub(crate) coroutines: Bag<SendCoroutine<(), (), Block>>,
    pub(crate) watches: Bag<PressureWatch>,
}

fn any_limits(random: &Random, refuses: bool) -> Limits {
    let bytes = |random: &Random| random.once_in(2).then(|| 1 + random.below(1 << 20));
    let policy = match (refuses, random.below(2)) {
        (true, _) => LimitPolicy::Fail,
        (false, 0) => LimitPolicy::Overdraft,
        (false, _) => LimitPolicy::Spill,
    };
    Limits { soft_bytes: bytes(random), hard_bytes: bytes(random), policy }
}

impl World {
    pub(crate) fn new(random: &Random) -> Self {
        let mut accounts: Vec<Above> = Vec::new();
        for number in 0..4 {
            let above = if random.once_in(2) { accounts.last() } else { None };
            let account = match above {
                Some(above) => above.account.child("random account").unwrap(),
                None => Account::new("random account").unwrap(),
            };
            let refuses = above.is_some_and(|above| above.refuses) || number == 3;
            account.set_limits(any_limits(random, refuses));
            account.set_limits_each(any_limits(random, refuses));
            accounts.push(Above { account, refuses, spills: true });
        }
        let pool = HeapPool::with_maker(|| Heap::builder().name("random pooled").build());
        Self {
            accounts,
            pool: Arc::new(pool.keep_at_most(random.below(20))),
            blocks: Bag::new(),
            heaps: Bag::new(),
            pooled: Bag::new(),
            tasks: Bag::new(),
            work: Bag::new(),
            coroutines: Bag::new(),
            watches: Bag::new(),
        }
    }

    /// Ends everything that is left.
    pub(crate) fn clear(&self) {
        // What ends may leave something behind.
        for _ in 0..3 {
            drop(self.watches.take_all());
            drop(self.coroutines.take_all());
            drop(self.tasks.take_all());
            drop(self.work.take_all());
            drop(self.pooled.take_all());
            drop(self.heaps.take_all());
            drop(self.blocks.take_all());
            self.pool.clear();
        }
    }
}
