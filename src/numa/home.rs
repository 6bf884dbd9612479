//! The home of a thread's memory: the node that it runs on, or where that has no memory the nearest
//! that has.
//!
//! A process that may use one node, and that is most, asks once and never again: homes are `None`
//! then, and nothing is set for any node. With several nodes, the home of the processor that a
//! thread runs on is looked up in a table, which the system fills a processor at a time; the C
//! library tells the processor without a system call.
//!
//! What the process may use is what its cpuset left it when it was first asked. A memory policy
//! that the process was started with (`numactl --membind=1`) is somebody's decision, and a policy
//! on ranges would overrule it: then there are no homes either. It is the policy of the thread that
//! asks first, and that is the main thread before `main`, where the allocator is the program's.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use super::topology::{nearest_of_system, nodes_with_memory_of_system};
use super::{Node, NodeSet};
use crate::sys::policy::{self, Mode, NODE_BITS};
use crate::sys::thread::PROCESSOR_BITS;

/// Not asked yet.
const UNKNOWN: u8 = 0;
/// This process may use one node, the system has no NUMA, or a policy was chosen for the process.
const ONE: u8 = 1;
/// It may use several.
const SEVERAL: u8 = 2;

static NODES: AtomicU8 = AtomicU8::new(UNKNOWN);

/// The nodes that the process may use, where those are several.
static USABLE: [AtomicU64; NODE_BITS / 64] = [const { AtomicU64::new(0) }; NODE_BITS / 64];

/// By processor: its home's number and one, or zero while that is not known.
static HOMES: [AtomicU16; PROCESSOR_BITS] = [const { AtomicU16::new(0) }; PROCESSOR_BITS];

/// Whether this process may allocate on several nodes, and nobody chose a policy for it. Asks the
/// system once: one call, three where that is forbidden, and one more where there are several.
#[inline]
pub(crate) fn has_several_nodes() -> bool {
    // Acquire pairs with the Release in `ask_for_nodes`: the set is there then.
    match NODES.load(Ordering::Acquire) {
        UNKNOWN => ask_for_nodes(),
        known => known == SEVERAL,
    }
}

#[cold]
fn ask_for_nodes() -> bool {
    let usable = match policy::allowed_nodes() {
        Ok(words) => NodeSet::from_words(words),
        // A sandbox may forbid the call and leave sysfs. Without NUMA there is neither.
        Err(_) => nodes_with_memory_of_system().unwrap_or(NodeSet::EMPTY),
    };
    // Two threads that come here at once write the same.
    for (word, bits) in USABLE.iter().zip(usable.as_words()) {
        word.store(*bits, Ordering::Relaxed);
    }
    let nodes = if usable.len() > 1 && !has_policy() { SEVERAL } else { ONE };
    NODES.store(nodes, Ordering::Release);
    nodes == SEVERAL
}

/// Whether this thread has a memory policy that names nodes.
fn has_policy() -> bool {
    policy::policy_of(None).is_ok_and(|policy| !matches!(policy.mode, Mode::Default | Mode::Local))
}

/// The nodes that the process may use; to be asked where those are several.
pub(crate) fn usable_nodes() -> NodeSet {
    let mut words = [0; NODE_BITS / 64];
    for (word, bits) in words.iter_mut().zip(&USABLE) {
        *word = bits.load(Ordering::Relaxed);
    }
    NodeSet::from_words(words)
}

/// Where memory of this thread should lie now. `None` where the process may use one node only, or
/// the system does not tell where the thread runs.
pub(crate) fn current_home() -> Option<Node> {
    if !has_several_nodes() {
        return None;
    }
    let known = policy::current_processor().and_then(|processor| HOMES.get(processor));
    // Relaxed: a number, valid in itself.
    match known.map_or(0, |home| home.load(Ordering::Relaxed)) {
        0 => ask_for_home(),
        successor => Node::new(usize::from(successor) - 1),
    }
}

#[cold]
fn ask_for_home() -> Option<Node> {
    let place = policy::current_place().ok()?;
    let node = Node::new(place.node)?;
    let usable = usable_nodes();
    let home = match usable.contains(node) {
        true => node,
        false => nearest_of_system(node, &usable).or(usable.first())?,
    };
    if let Some(slot) = HOMES.get(place.processor) {
        slot.store(home.number() as u16 + 1, Ordering::Relaxed);
    }
    Some(home)
}
