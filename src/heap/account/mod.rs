//! What heaps hold and may hold, counted in whole chunks: a tree of accounts.
//!
//! ```text
//!   process ── limit of everything
//!     ├── thread                    a thread's own heap
//!     ├── requests                  an account alone, which heaps are charged to
//!     │     ├── request 1 ◀── heap
//!     │     └── request 2 ◀── heap ── child ◀── heap
//!     └── ...
//! ```
//!
//! Accounts are nodes apart from heap headers, because they outlive them: an orphaned run is
//! credited to its heap's account, and so to every ancestor, when its last block is freed.
//!
//! # What it costs
//! Nothing on the paths of small blocks: a charge is made when a heap takes or gives back a run of
//! chunks, a few atomic additions for each ancestor, and if one has a limit another for each, or a
//! compare-and-swap. Making an account takes two locks for moments.

mod charge;
mod limits;
mod name;
mod tree;
mod usage;

use core::ptr::NonNull;
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

pub(crate) use self::charge::Promise;
#[cfg(feature = "corosensei")]
pub(crate) use self::charge::set_unrefused;
pub(crate) use self::charge::unrefused;
pub use self::charge::{Charge, process_limit, set_process_limit, signal};
pub use self::limits::{LimitPolicy, Limits, Refusal};
pub use self::name::ContextName;
pub(crate) use self::tree::protect_fork;
pub use self::tree::{Subtree, accounts, largest};
pub use self::usage::{AccountId, AccountReport, AccountUsage};

use self::limits::{UNLIMITED, as_set, whole_chunks};
use self::tree::Links;
use crate::allocator::AllocError;
use crate::region::Metadata;
use crate::sync::{Signals, Tally};
use crate::units::CHUNK_SHIFT;

/// A node of the tree of accounts.
///
/// # Invariants
/// - `holders` counts the handles: the heap's header, each child account, and whoever asked.
/// - What is `held` is the sum of the runs of the heap, of its orphans, and of all descendants;
///   `own` of those without the descendants. Promises become held, or are withdrawn, by whoever
///   asked for them.
/// - `links` belongs to the tree's lock.
///
/// All counters are relaxed: anyone may read them, and nobody concludes anything about memory from
/// them.
#[derive(Debug)]
#[repr(C)]
pub struct Node {
    // One cache line: what closing, resetting, polling and most charges look at.
    holders: AtomicUsize,
    /// Bits of [`signal`].
    signals: Signals,
    parent: Option<NonNull<Node>>,
    /// In chunks.
    held: Tally,
    own: AtomicUsize,
    peak: AtomicUsize,
    soft: AtomicUsize,
    hard: AtomicUsize,
    // And the rest.
    total: AtomicU64,
    charges: AtomicU64,
    id: AccountId,
    name: ContextName,
    /// Whether a heap was ever charged to it directly.
    has_heap: AtomicBool,
    /// Whether its heap ends when the parent does. Under the tree's lock.
    ends_with_parent: AtomicBool,
    policy: AtomicU8,
    /// What children begin with: policy, soft, hard.
    policy_each: AtomicU8,
    /// The lower half of what `overdrafts` was at the heap's last reset.
    overdrafts_before: AtomicU32,
    soft_each: AtomicUsize,
    hard_each: AtomicUsize,
    overdraft_peak: AtomicUsize,
    overdrafts: AtomicU64,
    refusals: AtomicU64,
    spilled: AtomicU64,
    foreign_frees: AtomicU64,
    escapees: AtomicU64,
    /// As the heap's runner told last.
    allocated_bytes: AtomicUsize,
    allocated_blocks: AtomicUsize,
    /// The next in a thread's list of accounts that wait for a safe point.
    next_waiting: AtomicPtr<Node>,
    links: Links,
}

/// A heap has one, so a million heaps have a million.
const _: () = assert!(size_of::<Node>() <= 256);

// SAFETY: a node consists of atomics, constants, pointers to nodes that it keeps alive, and links
// that are only used under the tree's lock.
unsafe impl Sync for Node {}

/// A counted handle of an account: its figures, its limits, its place in the tree.
///
/// It keeps the account alive, not the heap. `Send`, `Sync` and cheap to clone: for a `static`, a
/// service's state, a monitoring thread.
///
/// ```
/// use heapswitch::{Account, Heap};
///
/// let requests = Account::new("requests")?.with_limit(64 << 20).with_limit_each(4 << 20);
/// let heap = Heap::builder().name("request 1").charged_to(&requests).build()?;
/// assert_eq!(heap.account().hard_limit_bytes, Some(4 << 20));
/// drop(heap);
/// assert_eq!(requests.usage().committed_bytes, 0);
/// # Ok::<(), heapswitch::HeapError>(())
/// ```
pub struct Account(NonNull<Node>);

/// What the layers below the public API call it.
pub type AccountHandle = Account;

// SAFETY: nodes are `Sync`; they are counted by an atomic.
unsafe impl Send for Account {}
// SAFETY: as above.
unsafe impl Sync for Account {}

/// The root: what every heap of the process holds.
static PROCESS: Node =
    Node { policy: AtomicU8::new(LimitPolicy::Fail as u8), ..Node::of(None, 0, PROCESS_NAME) };
/// Whether accounts are kept. `--cfg heapswitch_unaccounted` is for measuring what that costs
/// (`benches/peers/accounting`) and nothing else: in such a build nothing is charged, so no limit
/// binds.
pub(crate) const IS_ACCOUNTED: bool = !cfg!(heapswitch_unaccounted);

const PROCESS_NAME: ContextName = ContextName::of_bytes(b"process");

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Node {
    const fn of(parent: Option<NonNull<Node>>, id: u64, name: ContextName) -> Self {
        Self {
            holders: AtomicUsize::new(1),
            parent,
            id: AccountId(id),
            name,
            has_heap: AtomicBool::new(false),
            ends_with_parent: AtomicBool::new(false),
            held: Tally::new(),
            overdrafts_before: AtomicU32::new(0),
            own: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            total: AtomicU64::new(0),
            charges: AtomicU64::new(0),
            soft: AtomicUsize::new(UNLIMITED),
            hard: AtomicUsize::new(UNLIMITED),
            policy: AtomicU8::new(LimitPolicy::Overdraft as u8),
            soft_each: AtomicUsize::new(UNLIMITED),
            hard_each: AtomicUsize::new(UNLIMITED),
            policy_each: AtomicU8::new(LimitPolicy::Overdraft as u8),
            signals: Signals::new(),
            overdraft_peak: AtomicUsize::new(0),
            overdrafts: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            spilled: AtomicU64::new(0),
            foreign_frees: AtomicU64::new(0),
            escapees: AtomicU64::new(0),
            allocated_bytes: AtomicUsize::new(0),
            allocated_blocks: AtomicUsize::new(0),
            next_waiting: AtomicPtr::new(core::ptr::null_mut()),
            links: Links::new(),
        }
    }

    /// Bytes in the runs that are held.
    fn committed_bytes(&self) -> usize {
        (self.held.held() as usize) << CHUNK_SHIFT
    }

    /// This account and those above it.
    fn ancestors(&self) -> impl Iterator<Item = &Node> {
        core::iter::successors(Some(self), |node| {
            // SAFETY: an account holds a count of its parent's.
            node.parent.map(|parent| unsafe { parent.as_ref() })
        })
    }
}

impl Account {
    /// An account of its own, below the process's: for heaps to be charged to.
    ///
    /// # Errors
    /// There is no memory for its record.
    pub fn new(name: &str) -> Result<Self, AllocError> {
        Self::make(None, ContextName::new(name)).ok_or(AllocError)
    }

    /// An account below this one.
    ///
    /// # Errors
    /// There is no memory for its record.
    pub fn child(&self, name: &str) -> Result<Self, AllocError> {
        Self::make(Some(self), ContextName::new(name)).ok_or(AllocError)
    }

    /// The account of the whole process, which all others are below.
    pub fn process() -> Self {
        PROCESS.holders.fetch_add(1, Ordering::Relaxed);
        Self(NonNull::from(&PROCESS))
    }

    /// A new account below `parent`, or the process's. `None` where there is no memory.
    pub(crate) fn make(parent: Option<&Account>, name: ContextName) -> Option<Self> {
        let memory = Metadata::take(size_of::<Node>())?.cast::<Node>();
        let parent = parent.map_or_else(Self::process, Account::clone);
        let above = parent.node();
        let node = Node::of(Some(parent.0), NEXT_ID.fetch_add(1, Ordering::Relaxed), name);
        node.soft.store(above.soft_each.load(Ordering::Relaxed), Ordering::Relaxed);
        node.hard.store(above.hard_each.load(Ordering::Relaxed), Ordering::Relaxed);
        node.policy.store(above.policy_each.load(Ordering::Relaxed), Ordering::Relaxed);
        // SAFETY: metadata blocks are at least 64 bytes, aligned, and this one is ours.
        unsafe { memory.write(node) };
        let account = Self(memory);
        // The node has the count of the handle from here on.
        core::mem::forget(parent);
        account.link();
        Some(account)
    }

    #[inline]
    pub(crate) fn node(&self) -> &Node {
        // SAFETY: the handle holds a count, so the account is valid.
        unsafe { self.0.as_ref() }
    }

    /// The account above; `None` for the process's.
    pub fn parent(&self) -> Option<Account> {
        let parent = self.node().parent?;
        // SAFETY: an account holds a count of its parent's.
        unsafe { parent.as_ref() }.holders.fetch_add(1, Ordering::Relaxed);
        Some(Self(parent))
    }

    /// Its name.
    pub fn name(&self) -> ContextName {
        self.node().name
    }

    /// Names it for the life of the process; never reused.
    pub fn id(&self) -> AccountId {
        self.node().id
    }

    /// Its limits.
    pub fn limits(&self) -> Limits {
        let node = self.node();
        Limits {
            soft_bytes: as_set(node.soft.load(Ordering::Relaxed)),
            hard_bytes: as_set(node.hard.load(Ordering::Relaxed)),
            policy: LimitPolicy::from_code(node.policy.load(Ordering::Relaxed)),
        }
    }

    /// Sets its limits, from its next charge on. What is held already stays.
    pub fn set_limits(&self, limits: Limits) {
        let node = self.node();
        node.soft.store(whole_chunks(limits.soft_bytes), Ordering::Relaxed);
        node.hard.store(whole_chunks(limits.hard_bytes), Ordering::Relaxed);
        node.policy.store(limits.policy as u8, Ordering::Relaxed);
    }

    /// Sets what each account that is made below it from now on begins with.
    pub fn set_limits_each(&self, limits: Limits) {
        let node = self.node();
        node.soft_each.store(whole_chunks(limits.soft_bytes), Ordering::Relaxed);
        node.hard_each.store(whole_chunks(limits.hard_bytes), Ordering::Relaxed);
        node.policy_each.store(limits.policy as u8, Ordering::Relaxed);
    }

    /// The same with a hard limit in bytes; descendants together are bound by it.
    ///
    /// Whoever takes the memory that passes it is the one that the policy is for, and it need not
    /// be the one that holds most: a modest context may be ended because its neighbours have taken
    /// all. Limits of the [contexts below](Self::with_limit_each) keep them from that, where their
    /// sum is at most this one; or a callback [cancels](Self::cancel) another in time.
    #[must_use]
    pub fn with_limit(self, bytes: usize) -> Self {
        self.set_limits(Limits { hard_bytes: Some(bytes), ..self.limits() });
        self
    }

    /// The same with a soft limit in bytes.
    #[must_use]
    pub fn with_soft_limit(self, bytes: usize) -> Self {
        self.set_limits(Limits { soft_bytes: Some(bytes), ..self.limits() });
        self
    }

    /// The same with what happens above its hard limit.
    #[must_use]
    pub fn with_policy(self, policy: LimitPolicy) -> Self {
        self.set_limits(Limits { policy, ..self.limits() });
        self
    }

    /// The same with a hard limit in bytes for each account that is made directly below it.
    #[must_use]
    pub fn with_limit_each(self, bytes: usize) -> Self {
        let policy = LimitPolicy::from_code(self.node().policy_each.load(Ordering::Relaxed));
        let soft_bytes = as_set(self.node().soft_each.load(Ordering::Relaxed));
        self.set_limits_each(Limits { soft_bytes, hard_bytes: Some(bytes), policy });
        self
    }

    /// Whether `other` is this account or one above it.
    pub fn is_within(&self, other: &Account) -> bool {
        self.node().ancestors().any(|node| core::ptr::eq(node, other.node()))
    }

    /// Whether a heap was ever charged to it directly.
    pub(crate) fn has_heap(&self) -> bool {
        self.node().has_heap.load(Ordering::Relaxed)
    }

    /// Notes that it is a heap's.
    pub(crate) fn belongs_to_heap(&self) {
        self.node().has_heap.store(true, Ordering::Relaxed);
    }

    /// Whether something may be below it. Cheap: while only its heap holds it, nothing is.
    pub(crate) fn may_have_children(&self) -> bool {
        self.node().holders.load(Ordering::Acquire) != 1
    }

    /// What the steps of [`child`](crate::sync::child) are taken on.
    #[inline]
    pub(crate) fn bits(&self) -> &Signals {
        &self.node().signals
    }
}

impl Clone for Account {
    fn clone(&self) -> Self {
        // Relaxed: whoever clones holds a count already.
        self.node().holders.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl PartialEq for Account {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Account {}

impl core::fmt::Debug for Account {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_struct("Account")
            .field("name", &self.name())
            .field("id", &self.id())
            .field("usage", &self.last_usage())
            .finish()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut account = self.0;
        loop {
            // SAFETY: a count is held: this handle's, or the child's that was just freed.
            let node = unsafe { account.as_ref() };
            // AcqRel: everybody's use of the node happens before it is freed. Not Release and a
            // fence by the last one: ThreadSanitizer knows no fences.
            if node.holders.fetch_sub(1, Ordering::AcqRel) != 1 {
                return;
            }
            // The process's account is held for ever, so this one has a parent.
            let Some(parent) = node.parent else { return };
            tree::unlink(node);
            // SAFETY: the last count is gone and nobody finds the node in the tree any more; the
            // memory came from `take` with this size.
            unsafe { Metadata::give_back(account.cast(), size_of::<Node>()) };
            account = parent;
        }
    }
}
