//! Requests' contexts: heaps from a pool, each with the budget; an account above them all; and how
//! many run at once, so that the sum of the budgets bounds the service.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use heapswitch::{
    Account, AllocError, ContextError, FutureExt as _, Heap, HeapError, HeapPool, LimitPolicy,
    PooledHeap, copy_out,
};
use tokio::sync::Semaphore;

/// Whether requests have budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Each in a heap of its own, with a limit.
    Budgets,
    /// As on any other allocator: what the service is compared with.
    Unlimited,
}

/// What all requests share.
#[derive(Debug)]
pub struct Contexts {
    /// `None` where there are no budgets.
    heaps: Option<Arc<HeapPool>>,
    permits: Semaphore,
    at_once: usize,
    /// Requests since the start.
    started: AtomicU64,
    /// Of those, such that were ended for their budget.
    over_budget: AtomicU64,
}

/// What the pool's heaps are made with. A pool's maker is a plain function, hence the static.
#[derive(Debug)]
struct Budget {
    requests: Account,
    bytes: usize,
}

static BUDGET: OnceLock<Budget> = OnceLock::new();

fn make_heap() -> Result<Heap, HeapError> {
    let Budget { requests, bytes } = BUDGET.get().ok_or(HeapError::from(AllocError))?;
    Heap::builder().name("request").charged_to(requests).limit(*bytes).build()
}

impl Contexts {
    /// Contexts of `budget_bytes` each for `at_once` requests. The first call's budget is the
    /// process's.
    ///
    /// # Panics
    /// There is no memory for the account.
    pub fn new(kind: Kind, budget_bytes: usize, at_once: usize) -> Self {
        let heaps = (kind == Kind::Budgets).then(|| {
            BUDGET.get_or_init(|| Budget {
                requests: Account::new("requests").expect("a record fits into memory"),
                bytes: budget_bytes,
            });
            Arc::new(HeapPool::with_maker(make_heap).keep_at_most(at_once))
        });
        Self {
            heaps,
            permits: Semaphore::new(at_once),
            at_once,
            started: AtomicU64::new(0),
            over_budget: AtomicU64::new(0),
        }
    }

    /// How many requests came.
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// How many were ended for their budget.
    pub fn over_budget(&self) -> u64 {
        self.over_budget.load(Ordering::Relaxed)
    }

    /// Whether no request is worked on.
    pub fn is_idle(&self) -> bool {
        self.permits.available_permits() == self.at_once
    }

    /// How many requests are worked on.
    pub fn at_work(&self) -> usize {
        self.at_once - self.permits.available_permits()
    }

    /// Counts an answer that tells of a budget.
    pub(crate) fn count_over_budget(&self) {
        self.over_budget.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs a request's work in a context, once its turn has come.
    ///
    /// # Errors
    /// Why the context was ended; or there is no memory for it.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, ContextError> {
        self.started.fetch_add(1, Ordering::Relaxed);
        // Nobody closes the semaphore.
        let _permit = self.permits.acquire().await;
        match &self.heaps {
            Some(heaps) => {
                let heap: PooledHeap<Arc<HeapPool>> = heaps.take_shared()?;
                work.in_heap(heap).await
            }
            None => Ok(work.await),
        }
    }

    /// An answer as it is to leave its context: copied, for one that stays there keeps its chunk.
    pub(crate) fn leave(&self, answer: Vec<u8>) -> Result<Vec<u8>, HeapError> {
        match self.heaps {
            Some(_) => copy_out(&answer),
            None => Ok(answer),
        }
    }

    /// A heap below the current context's that gives null at its limit, half of the budget: for
    /// code that asks with `try_reserve`. `None` where there are no budgets.
    pub(crate) fn strict_heap(&self) -> Result<Option<Heap>, HeapError> {
        let (Some(_), Some(budget)) = (&self.heaps, BUDGET.get()) else { return Ok(None) };
        let heap = Heap::builder().name("rows").parent_current();
        heap.limit(budget.bytes / 2).policy(LimitPolicy::Fail).build().map(Some)
    }
}
