//! Locks across `fork`: every registered lock is taken before a fork and released after it, in the
//! parent and in the child, so that no lock stays held by a thread that the child does not have.
//!
//! # The order
//! By [`Rank`], ascending, and within a rank by registration. A lock that is taken while another is
//! held has the higher rank, or the same rank and was registered later:
//!
//! ```text
//!   Watches  ▶  Allocator  ▶  Heap  ▶  Source  ▶  Region
//!   who is      a Locked      a heap's   an arena's   the runs of
//!   told        allocator     lists      ranges       chunks
//! ```
//!
//! # How to take part
//! Keep a [`ForkEntry`] beside the lock, both `'static`, and call [`ForkEntry::register`] once. The
//! entries are a list through themselves: registering allocates nothing of ours (`pthread_atfork`
//! may). A thread must not fork while it holds a registered lock itself.
//!
//! The thread that forks passes through the locks meanwhile ([`is_here`]): handlers that the
//! program registered before ours run while all are held, and may come to them. They are consistent
//! then, and that thread is the only one that reaches what they guard.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use super::SystemError;
use super::lock::RawLock;
use super::thread;

/// What is locked, outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Who is told of limits; what is noted there is allocated meanwhile.
    Watches,
    /// A whole allocator behind a lock; it takes those below while it is held.
    Allocator,
    /// A heap's or the heaps' shared lists.
    Heap,
    /// A memory source; one over another source is registered before that.
    Source,
    /// The region's runs of chunks.
    Region,
}

/// A lock's place in the list.
#[derive(Debug)]
pub struct ForkEntry {
    is_listed: AtomicBool,
    /// INVARIANT: read and written only under `REGISTRY`.
    place: UnsafeCell<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    lock: Option<&'static RawLock>,
    rank: Rank,
    next: Option<&'static ForkEntry>,
}

// SAFETY: `place` is reached under `REGISTRY` only.
unsafe impl Sync for ForkEntry {}
// SAFETY: as above; an entry that is listed is borrowed for ever and cannot be sent.
unsafe impl Send for ForkEntry {}

/// Guards the list. The first lock that a fork takes and the last that it releases.
static REGISTRY: RawLock = RawLock::new();

/// The list's head: an entry of the lowest rank without a lock, so that there is always a
/// predecessor.
static HEAD: ForkEntry = ForkEntry::new();

/// The entry that was listed last, or null: what is listed in one go finds its place at once.
/// Under `REGISTRY`.
static LATEST: AtomicPtr<ForkEntry> = AtomicPtr::new(core::ptr::null_mut());

static IS_HANDLING: AtomicBool = AtomicBool::new(false);

static GENERATION: AtomicU64 = AtomicU64::new(0);

/// The thread whose fork holds the locks, or [`NOBODY`].
static FORKER: AtomicUsize = AtomicUsize::new(NOBODY);

/// No thread.
const NOBODY: usize = 0;

/// Forks that handlers of the one that holds the locks are at: those take and open nothing. Only
/// its thread reads and writes it.
static NESTED: AtomicUsize = AtomicUsize::new(0);

impl ForkEntry {
    /// An entry that is not listed.
    pub const fn new() -> Self {
        Self {
            is_listed: AtomicBool::new(false),
            place: UnsafeCell::new(Place { lock: None, rank: Rank::Watches, next: None }),
        }
    }

    /// Lists `lock`: from now on every fork takes and releases it. Again is harmless and without
    /// effect.
    ///
    /// # Errors
    /// `ENOMEM`: the handlers of `fork` could not be set; the lock is not listed.
    pub fn register(&'static self, lock: &'static RawLock, rank: Rank) -> Result<(), SystemError> {
        handle_forks()?;
        REGISTRY.lock();
        if !self.is_listed.swap(true, Ordering::Relaxed) {
            // SAFETY: REGISTRY is held.
            unsafe { self.insert(lock, rank) };
        }
        // SAFETY: taken above.
        unsafe { REGISTRY.unlock() };
        Ok(())
    }

    /// # Safety
    /// `REGISTRY` is held, and the entry is not in the list yet.
    unsafe fn insert(&'static self, lock: &'static RawLock, rank: Rank) {
        // SAFETY: REGISTRY is held, so nobody else reaches a place; only listed entries are noted.
        unsafe {
            let latest: Option<&'static Self> = LATEST.load(Ordering::Relaxed).as_ref();
            let is_before = |latest: &&'static Self| (*latest.place.get()).rank <= rank;
            let mut before = latest.filter(is_before).unwrap_or(&HEAD);
            while let Some(next) = (*before.place.get()).next {
                if (*next.place.get()).rank > rank {
                    break;
                }
                before = next;
            }
            let next = (*before.place.get()).next;
            *self.place.get() = Place { lock: Some(lock), rank, next };
            (*before.place.get()).next = Some(self);
            LATEST.store(core::ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
        }
    }
}

impl Default for ForkEntry {
    fn default() -> Self {
        Self::new()
    }
}

/// How many forks lie between this process and the first one that registered a lock: it differs
/// between a parent and its child, so what was made under another generation has threads that this
/// process does not have.
#[inline]
pub fn generation() -> u64 {
    // Relaxed: it changes only in a child, before that has a second thread.
    GENERATION.load(Ordering::Relaxed)
}

/// Whether this thread is between the handlers of a fork that hold the locks.
#[inline]
pub fn is_here() -> bool {
    // Relaxed: it is this thread only if this thread wrote it last, or its parent did.
    FORKER.load(Ordering::Relaxed) == this_thread()
}

/// What tells threads apart, and a child's first from no other: not [`NOBODY`].
#[cfg(all(target_os = "linux", not(heapswitch_pass_through)))]
fn this_thread() -> usize {
    // SAFETY: always to be called; the place of errno is a thread's own, and the same in a child.
    unsafe { libc::__errno_location() }.addr()
}

/// Nothing is taken around a fork here.
#[cfg(any(not(target_os = "linux"), heapswitch_pass_through))]
fn this_thread() -> usize {
    !NOBODY
}

/// Sets the handlers, once a process and its children.
///
/// # Errors
/// `ENOMEM`.
fn handle_forks() -> Result<(), SystemError> {
    // Not under REGISTRY: `pthread_atfork` may allocate, and the allocator may register a lock.
    if IS_HANDLING.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    thread::on_fork(before_fork, after_fork_in_parent, after_fork_in_child)
        .inspect_err(|_| IS_HANDLING.store(false, Ordering::Relaxed))
}

/// # Safety
/// `REGISTRY` is held by this thread, or was when it forked.
unsafe fn for_each_lock(visit: impl Fn(&'static RawLock)) {
    let mut entry = Some(&HEAD);
    while let Some(current) = entry {
        // SAFETY: REGISTRY is held, so nobody writes a place.
        let place = unsafe { *current.place.get() };
        if let Some(lock) = place.lock {
            visit(lock);
        }
        entry = place.next;
    }
}

unsafe extern "C" fn before_fork() {
    if is_here() {
        NESTED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    REGISTRY.lock();
    // SAFETY: taken above.
    unsafe { for_each_lock(RawLock::lock) };
    FORKER.store(this_thread(), Ordering::Relaxed);
    // SAFETY: taken above, and nobody but this thread passes through it.
    unsafe { for_each_lock(RawLock::keep_for_fork) };
    REGISTRY.keep_for_fork();
}

unsafe extern "C" fn after_fork_in_parent() {
    if is_here() && NESTED.load(Ordering::Relaxed) != 0 {
        NESTED.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    // A lock that was listed meanwhile is not the fork's, and stays as it is.
    // SAFETY: `before_fork` took REGISTRY on this thread.
    unsafe { for_each_lock(RawLock::open_after_fork) };
    FORKER.store(NOBODY, Ordering::Relaxed);
    REGISTRY.open_after_fork();
}

unsafe extern "C" fn after_fork_in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    // SAFETY: as in the parent; the child's only thread is a copy of the one that took them.
    unsafe { after_fork_in_parent() };
}

#[cfg(all(test, target_os = "linux", not(heapswitch_pass_through)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    static LOCKS: [RawLock; 4] = [const { RawLock::new() }; 4];
    static ENTRIES: [ForkEntry; 4] = [const { ForkEntry::new() }; 4];

    #[test]
    fn lists_by_rank_and_registration_and_frees_all_on_both_sides() {
        let ranks = [Rank::Region, Rank::Allocator, Rank::Source, Rank::Allocator];
        for ((entry, lock), rank) in ENTRIES.iter().zip(&LOCKS).zip(ranks) {
            entry.register(lock, rank).unwrap();
            entry.register(lock, rank).unwrap();
        }
        let order = std::cell::RefCell::new(Vec::new());
        REGISTRY.lock();
        // SAFETY: REGISTRY is held.
        unsafe {
            for_each_lock(|lock| {
                order.borrow_mut().extend(LOCKS.iter().position(|mine| core::ptr::eq(mine, lock)));
            });
            REGISTRY.unlock();
        }
        assert_eq!(order.into_inner(), [1, 3, 2, 0]);

        // SAFETY: the child only tries locks and ends at once.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let are_free = LOCKS.iter().all(RawLock::try_lock) && generation() == 1;
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(!are_free)) };
        }
        let mut status = 0;
        // SAFETY: waits for the child that was made above.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(status, 0);
        assert!(LOCKS.iter().all(RawLock::try_lock));
        assert_eq!(generation(), 0);
        for lock in &LOCKS {
            // SAFETY: taken above.
            unsafe { lock.unlock() };
        }
    }
}
