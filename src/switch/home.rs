//! Where a thread's memory is at home: the NUMA node that it ran on at its first use.
//!
//! A thread keeps its home when the scheduler moves it, and so do its heap and the contexts that it
//! made: their memory stays where it is. That a thread is away is noticed on slow paths and
//! counted; [`rehome_thread`] gives it a heap where it runs now, if its
//! heaps have homes at all.
//!
//! With one node there are no homes, and all this is one load on a slow path. Nor are there any
//! where whoever started the process chose a memory policy for it.

use core::sync::atomic::Ordering;

use super::configuration::GLOBAL_COUNTERS;
use super::state::{Phase, ThreadState, state};
use crate::heap::abandoned;
use crate::numa::{self, Node};
use crate::region;
use crate::units::SEGMENT_BYTES;

/// The least of the region for each node that the process may use, in bytes, for heaps to be kept
/// apart by node: 16 segments. Threads' heaps and contexts take a segment on each node at least;
/// what is free in them serves no other node, and a region that is full of such segments would send
/// allocations to the global allocator.
const LEAST_NODE_BYTES: usize = 16 * SEGMENT_BYTES;

/// The thread's home, found out at the first use.
#[inline]
pub(super) fn of_thread(state: &ThreadState) -> Option<Node> {
    if !numa::has_several_nodes() {
        return None;
    }
    state.home.get().or_else(|| settle(state))
}

#[cold]
fn settle(state: &ThreadState) -> Option<Node> {
    let least_bytes = LEAST_NODE_BYTES * numa::usable_nodes().len();
    if !region::ensure_reserved() || region::bytes() < least_bytes {
        return None;
    }
    let home = numa::current_home();
    state.home.set(home);
    home
}

/// Counts a thread that is found away from its home; once, until it is back.
#[cold]
#[inline(never)]
pub(super) fn notice(state: &ThreadState, home: Node) {
    let is_away = numa::current_home().is_some_and(|current| current != home);
    if is_away && !state.is_away.get() {
        GLOBAL_COUNTERS.moved_threads.fetch_add(1, Ordering::Relaxed);
    }
    state.is_away.set(is_away);
}

/// Makes the NUMA node that this thread runs on now its home, and gives it a heap there at its next
/// allocation; the home, or `None` where [`thread_home`] is.
///
/// What the thread allocated before stays where it is and valid; its old heap waits for the next
/// thread that starts on the old node. A [`WorkerBuilder`](crate::WorkerBuilder) does this once a
/// worker is pinned. Other threads that are pinned after their first allocation, or that the
/// scheduler moved for good ([`ProcessUsage::moved_threads`](crate::ProcessUsage::moved_threads)),
/// should.
pub fn rehome_thread() -> Option<Node> {
    let state = state();
    let old = of_thread(state)?;
    let home = numa::current_home()?;
    if home == old || state.phase.get() != Phase::Running {
        return Some(old);
    }
    state.home.set(Some(home));
    state.is_away.set(false);
    if let Some(heap) = state.thread_heap.take() {
        state.batches.flush();
        state.own_slab.set(None);
        state.apply_top();
        // SAFETY: the thread runs the heap, its state names it no more, and after `publish` it
        // touches it no more.
        unsafe {
            (heap.as_ref().operations.release_unused)(heap, 0);
            abandoned::publish(heap);
        }
    }
    Some(home)
}

/// The NUMA node that this thread's heap, and the contexts that it makes, have their memory on,
/// unless the [settings](crate::Settings) `thread_placement` and `coroutine_placement` spread it;
/// `None` where the process may use one node only, where it was started under a memory policy
/// (`numactl --interleave`, `--membind`), which then decides, where the region is smaller than 512
/// MiB for each node, for each needs segments of its own, and where the system does not tell on
/// which node a thread runs. Of more than 60 nodes, the memory of those used last is kept together
/// and follows the policy of whoever touches it.
pub fn thread_home() -> Option<Node> {
    of_thread(state())
}
