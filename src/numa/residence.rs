//! Where pages lie, as the kernel says: the proof that a placement worked.
//!
//! Asking moves nothing and touches no page. It costs one system call for 64 pages, so it is for
//! tests, reports and now and then a look, not for a hot path.

use core::fmt;
use core::ptr::NonNull;

use super::mappings::{self, Backing};
use super::{Node, NodeSet, Placement, Policy};
use crate::sys;
use crate::sys::SystemError;
use crate::sys::policy::{self, PAGES_AT_ONCE};

/// Pages by node, of one range or several; of 4 KiB itself.
///
/// Counts are of the system's pages (4096 bytes on x86-64), also where larger ones back them, and
/// saturate at 2^32, 16 TiB a node.
///
/// ```
/// use heapswitch::numa::Residence;
///
/// # if heapswitch::sys::IS_PASS_THROUGH { return Ok(()); }
/// let table = vec![1_u8; 1 << 20];
/// let mut residence = Residence::new();
/// match residence.count_slice(&table) {
///     Ok(()) => println!("{residence}"),
///     Err(refusal) => println!("the system does not tell: {refusal}"),
/// }
/// # Ok::<(), heapswitch::sys::SystemError>(())
/// ```
#[derive(Clone)]
pub struct Residence {
    pages: [u32; Node::LIMIT],
    not_resident: usize,
    unknown: usize,
    wanted: Policy,
    backing: Option<Backing>,
}

impl Residence {
    /// Of no page yet, and without a wish where they shall lie.
    pub const fn new() -> Self {
        Self::wanted(Policy::Default)
    }

    /// Of no page yet; what lies outside the policy's nodes will be [misplaced](Self::misplaced).
    pub const fn wanted(policy: Policy) -> Self {
        Self { pages: [0; Node::LIMIT], not_resident: 0, unknown: 0, wanted: policy, backing: None }
    }

    /// Of a range, beside the policy that the kernel has for it.
    ///
    /// # Errors
    /// The system's: `ENOSYS` where it has no NUMA, `EPERM` where a sandbox forbids the call.
    pub fn of_range(start: NonNull<u8>, bytes: usize) -> Result<Self, SystemError> {
        let mut residence = Self::wanted(Placement::of_range(start)?.policy);
        residence.count_range(start, bytes)?;
        residence.look_up_backing(start, bytes);
        Ok(residence)
    }

    /// Counts the pages that a range touches.
    ///
    /// # Errors
    /// As [`of_range`](Self::of_range); some of the pages may be counted then.
    pub fn count_range(&mut self, start: NonNull<u8>, bytes: usize) -> Result<(), SystemError> {
        let page = sys::page_bytes();
        let first = start.addr().get() / page;
        let end = (start.addr().get().saturating_add(bytes)).div_ceil(page);
        let mut next = first;
        while next < end {
            let count = (end - next).min(PAGES_AT_ONCE);
            let mut addresses = [0; PAGES_AT_ONCE];
            for (index, address) in addresses.iter_mut().take(count).enumerate() {
                *address = (next + index) * page;
            }
            let nodes = policy::nodes_of_pages(&addresses, count)?;
            nodes.iter().take(count).for_each(|&status| self.count_page(status));
            next += count;
        }
        Ok(())
    }

    /// Counts the pages that a slice touches.
    ///
    /// # Errors
    /// As [`of_range`](Self::of_range).
    pub fn count_slice<T>(&mut self, slice: &[T]) -> Result<(), SystemError> {
        self.count_range(NonNull::from(slice).cast(), size_of_val(slice))
    }

    /// Looks up what pages back the mappings that a range lies in; see [`backing`](Self::backing).
    /// Without effect where `/proc` is not mounted.
    pub fn look_up_backing(&mut self, start: NonNull<u8>, bytes: usize) {
        if let Ok(backing) = mappings::backing_of(start, bytes) {
            self.backing = Some(self.backing.map_or(backing, |old| old.and(backing)));
        }
    }

    /// As [`look_up_backing`](Self::look_up_backing), of every mapping for whose addresses
    /// `is_wanted` holds, in one pass.
    #[cfg(not(loom))]
    pub(crate) fn look_up_backing_where(
        &mut self,
        is_wanted: impl FnMut(core::ops::Range<usize>) -> bool,
    ) {
        self.backing = mappings::backing_where(is_wanted).ok();
    }

    fn count_page(&mut self, status: i32) {
        match usize::try_from(status) {
            Ok(node) => match self.pages.get_mut(node) {
                Some(pages) => *pages = pages.saturating_add(1),
                None => self.unknown += 1,
            },
            Err(_) if policy::is_not_resident(status) => self.not_resident += 1,
            Err(_) => self.unknown += 1,
        }
    }

    /// Pages on a node.
    pub fn on(&self, node: Node) -> usize {
        self.pages.get(node.number()).map_or(0, |&pages| pages as usize)
    }

    /// The nodes that have pages, and how many.
    pub fn nodes(&self) -> impl Iterator<Item = (Node, usize)> + '_ {
        (0..Node::LIMIT)
            .filter_map(Node::new)
            .map(|node| (node, self.on(node)))
            .filter(|&(_, pages)| pages != 0)
    }

    /// Pages that have memory.
    pub fn resident(&self) -> usize {
        self.pages.iter().map(|&pages| pages as usize).sum()
    }

    /// Pages that were never written, or went back: they get memory, and a node, when they are
    /// touched.
    pub fn not_resident(&self) -> usize {
        self.not_resident
    }

    /// Pages of which the kernel tells nothing: of a device, or in migration.
    pub fn unknown(&self) -> usize {
        self.unknown
    }

    /// What the pages lie beside: where they were wanted.
    pub fn policy(&self) -> Policy {
        self.wanted
    }

    /// Resident pages on nodes that the [policy](Self::policy) does not name; none where it names
    /// no node.
    pub fn misplaced(&self) -> usize {
        match self.wanted.nodes() {
            NodeSet::EMPTY => 0,
            nodes => self.outside(&nodes),
        }
    }

    /// Resident pages on other nodes than these.
    pub fn outside(&self, nodes: &NodeSet) -> usize {
        self.nodes().filter(|(node, _)| !nodes.contains(*node)).map(|(_, pages)| pages).sum()
    }

    /// What pages back the mappings that the ranges lie in, as a whole: they may be longer than the
    /// ranges. `None` where that was not looked up, or `/proc` is not mounted.
    pub fn backing(&self) -> Option<Backing> {
        self.backing
    }
}

impl Default for Residence {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Residence {
    /// `node 0: 12 pages, node 2: 3 pages, 5 not resident, 3 misplaced`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (node, pages) in self.nodes() {
            write!(formatter, "node {node}: {pages} pages, ")?;
        }
        write!(formatter, "{} not resident, {} misplaced", self.not_resident, self.misplaced())
    }
}

impl fmt::Debug for Residence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Residence({self})")
    }
}
