//! The log of sites: for each place that blocks were asked for, its stack and what of it is live.
//!
//! ```text
//!   SiteLog ─▶ Node ── first segment:   16 sites ┐
//!                   ── second segment:  32 sites ├─ never moved, so anyone may read while the
//!                   ── ...                       ┘  runner adds
//!   every log of the process is on one list
//! ```
//!
//! The runner alone adds sites and counts. A site's stack does not change once the number of sites
//! says that it is there; its counts are relaxed atomics, each right in itself. A log outlives its
//! strategy as long as somebody reads it, and is on the list as long as it is held.

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::SiteSampling;
use crate::region::Metadata;
use crate::sys::SystemError;
use crate::sys::call_stack::{CallStack, MOST_FRAMES};
use crate::sys::fork::{ForkEntry, Rank};
use crate::sys::lock::Lock;

const FIRST_SITES: usize = 16;
const SEGMENTS: usize = 12;

/// The most sites of a log: 65,520. What comes from others is counted as missed.
const MOST_SITES: usize = FIRST_SITES * ((1 << SEGMENTS) - 1);

/// For how many blocks a recorded one stands, in steps of 1/256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(u32);

impl Weight {
    /// For itself.
    pub(super) const ONE: Self = Self(256);

    pub(super) fn new(blocks: f64) -> Self {
        Self((blocks * 256.0).round().clamp(256.0, f64::from(u32::MAX)) as u32)
    }

    #[cfg(test)]
    pub(super) fn as_f64(self) -> f64 {
        f64::from(self.0) / 256.0
    }

    fn times(self, bytes: usize) -> u64 {
        (bytes as u128 * u128::from(self.0) / 256) as u64
    }
}

/// One place.
#[repr(C)]
struct Site {
    blocks: AtomicU64,
    bytes: AtomicU64,
    /// In 256ths.
    estimated_blocks: AtomicU64,
    estimated_bytes: AtomicU64,
    hash: u64,
    depth: usize,
    frames: [usize; MOST_FRAMES],
}

const _: () = assert!(size_of::<Site>() == 512);

/// What is live of one place.
#[derive(Clone, Copy, Debug)]
pub struct SiteView<'a> {
    /// Recorded blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The blocks that those stand for.
    pub estimated_blocks: u64,
    /// The bytes of those.
    pub estimated_bytes: u64,
    /// Addresses in the code, innermost first.
    pub frames: &'a [usize],
}

/// A log's record.
///
/// # Invariants
/// - `holders` counts the handles. The links belong to the list's lock.
/// - The first `count` sites are written and do not change but for their counts.
struct Node {
    holders: AtomicUsize,
    context: u64,
    sampling: SiteSampling,
    count: AtomicU32,
    missed: AtomicU64,
    is_ended: AtomicBool,
    segments: [AtomicPtr<Site>; SEGMENTS],
    /// By hash, the number of each site and one: the runner's. A power of two, or none.
    index: Cell<Option<NonNull<[u32]>>>,
    next: Cell<Option<NonNull<Node>>>,
    previous: Cell<Option<NonNull<Node>>>,
}

/// The first of all logs. Nothing else is locked under it.
static LOGS: Lock<First> = Lock::new(First(None));

struct First(Option<NonNull<Node>>);

// SAFETY: nodes are reached through it under the lock, and held by those who keep them.
unsafe impl Send for First {}

/// Takes the list's lock around every fork from now on. Again is harmless.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn protect_fork() -> Result<(), SystemError> {
    static ENTRY: ForkEntry = ForkEntry::new();
    ENTRY.register(LOGS.raw(), Rank::Heap)
}

/// A counted handle of a log. It keeps the log, not the heap.
#[derive(Debug)]
pub struct SiteLog(NonNull<Node>);

// SAFETY: a node consists of atomics, constants, links under a lock, and the index, which only the
// runner uses: whoever has the strategy, and so `add` and `site_of` for it.
unsafe impl Send for SiteLog {}
// SAFETY: as above.
unsafe impl Sync for SiteLog {}

impl Clone for SiteLog {
    fn clone(&self) -> Self {
        // Relaxed: a handle is there, so the log is.
        self.node().holders.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl SiteLog {
    /// A log of a context; `None` where there is no memory.
    pub(super) fn new(context: u64, sampling: SiteSampling) -> Option<Self> {
        let memory = Metadata::take(size_of::<Node>())?.cast::<Node>();
        let node = Node {
            holders: AtomicUsize::new(1),
            context,
            sampling,
            count: AtomicU32::new(0),
            missed: AtomicU64::new(0),
            is_ended: AtomicBool::new(false),
            segments: [const { AtomicPtr::new(core::ptr::null_mut()) }; SEGMENTS],
            index: Cell::new(None),
            next: Cell::new(None),
            previous: Cell::new(None),
        };
        // SAFETY: the memory is ours, and as long; metadata is aligned to 64.
        unsafe { memory.write(node) };
        let mut logs = LOGS.lock();
        // SAFETY: the lock is held; listed nodes are valid.
        unsafe {
            if let Some(next) = logs.0 {
                next.as_ref().previous.set(Some(memory));
                memory.as_ref().next.set(Some(next));
            }
        }
        logs.0 = Some(memory);
        Some(Self(memory))
    }

    fn node(&self) -> &Node {
        // SAFETY: the handle holds a count.
        unsafe { self.0.as_ref() }
    }

    /// The number of the account of the heap that it is of; 0 outside a heap.
    pub fn context(&self) -> u64 {
        self.node().context
    }

    /// Which blocks are recorded.
    pub fn sampling(&self) -> SiteSampling {
        self.node().sampling
    }

    /// Blocks that were to be recorded and were not, for want of memory or of room for sites.
    pub fn missed(&self) -> u64 {
        self.node().missed.load(Ordering::Relaxed)
    }

    /// Whether its strategy is gone: what it says is as of then.
    pub fn is_ended(&self) -> bool {
        self.node().is_ended.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.node().is_ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn count_missed(&self) {
        self.node().missed.fetch_add(1, Ordering::Relaxed);
    }

    /// The site of that number, if its segment is there.
    fn site(&self, index: usize) -> Option<&Site> {
        let (segment, place) = place_of(index);
        // Acquire pairs with the Release in `add_site`.
        let first = self.node().segments.get(segment)?.load(Ordering::Acquire);
        let first = NonNull::new(first)?;
        // SAFETY: the segment is there, and as long; zeroed memory is a valid site.
        Some(unsafe {
            crate::pointers::forward(first.cast::<u8>(), place * size_of::<Site>())
                .cast::<Site>()
                .as_ref()
        })
    }

    /// The number of the site with that stack, a new one if need be. By the runner.
    pub(super) fn site_of(&self, stack: &CallStack) -> Option<u32> {
        let node = self.node();
        let hash = hash_of(stack.frames());
        let count = node.count.load(Ordering::Relaxed);
        let slots = node.index.get().map_or(0, |index| index.len());
        if (count as usize + 1) * 2 > slots {
            self.grow_index()?;
        }
        // SAFETY: the index is the runner's, and metadata memory of that length.
        let index = unsafe { node.index.get()?.as_mut() };
        let mask = index.len() - 1;
        let mut slot = hash as usize & mask;
        while let Some(number) = index.get(slot)?.checked_sub(1) {
            let site = self.site(number as usize)?;
            if site.hash == hash && site.frames.get(..site.depth)? == stack.frames() {
                return Some(number);
            }
            slot = (slot + 1) & mask;
        }
        self.add_site(count, hash, stack)?;
        *index.get_mut(slot)? = count + 1;
        Some(count)
    }

    #[cold]
    fn add_site(&self, number: u32, hash: u64, stack: &CallStack) -> Option<()> {
        if number as usize >= MOST_SITES {
            return None;
        }
        let node = self.node();
        let (segment, place) = place_of(number as usize);
        let slot = node.segments.get(segment)?;
        let mut first = slot.load(Ordering::Relaxed);
        if first.is_null() {
            first = Metadata::take(segment_bytes(segment))?.as_ptr().cast();
            // Release pairs with the Acquire in `site`: the segment is zeroed.
            slot.store(first, Ordering::Release);
        }
        let mut frames = [0; MOST_FRAMES];
        let depth = stack.frames().len();
        frames.get_mut(..depth)?.copy_from_slice(stack.frames());
        let zero = || AtomicU64::new(0);
        let site = Site {
            blocks: zero(),
            bytes: zero(),
            estimated_blocks: zero(),
            estimated_bytes: zero(),
            hash,
            depth,
            frames,
        };
        // SAFETY: the site lies in its segment, and nobody reads it before the store below.
        unsafe {
            let first = NonNull::new(first)?.cast::<u8>();
            crate::pointers::forward(first, place * size_of::<Site>()).cast::<Site>().write(site);
        }
        // Release pairs with the Acquire in `for_each`: the site is written.
        node.count.store(number + 1, Ordering::Release);
        Some(())
    }

    /// Makes the index twice as long. By the runner.
    #[cold]
    fn grow_index(&self) -> Option<()> {
        let node = self.node();
        let old = node.index.get();
        let length = old.map_or(FIRST_SITES * 4, |index| index.len() * 2);
        let memory = Metadata::take(length * size_of::<u32>())?;
        let mut grown = NonNull::slice_from_raw_parts(memory.cast::<u32>(), length);
        // SAFETY: the memory is ours, zeroed, and as long.
        let slots = unsafe { grown.as_mut() };
        for number in 0..node.count.load(Ordering::Relaxed) {
            let mut slot = self.site(number as usize)?.hash as usize & (length - 1);
            while slots.get(slot).is_some_and(|&taken| taken != 0) {
                slot = (slot + 1) & (length - 1);
            }
            *slots.get_mut(slot)? = number + 1;
        }
        node.index.set(Some(grown));
        give_back_index(old);
        Some(())
    }

    /// Counts a block. By the runner.
    pub(super) fn count_in(&self, site: u32, bytes: usize, weight: Weight) {
        self.change(site, bytes, weight, u64::wrapping_add);
    }

    /// Counts a block off, as it was counted. By the runner.
    pub(super) fn count_off(&self, site: u32, bytes: usize, weight: Weight) {
        self.change(site, bytes, weight, u64::wrapping_sub);
    }

    fn change(&self, site: u32, bytes: usize, weight: Weight, by: fn(u64, u64) -> u64) {
        let Some(site) = self.site(site as usize) else { return };
        let counts = [
            (&site.blocks, 1),
            (&site.bytes, bytes as u64),
            (&site.estimated_blocks, u64::from(weight.0)),
            (&site.estimated_bytes, weight.times(bytes)),
        ];
        for (count, change) in counts {
            // Relaxed, and no read-modify-write: the runner alone changes them.
            count.store(by(count.load(Ordering::Relaxed), change), Ordering::Relaxed);
        }
    }

    /// Calls `visit` with each site of which a block is live. For anyone.
    pub fn for_each(&self, mut visit: impl FnMut(SiteView<'_>)) {
        // Acquire pairs with the Release in `add_site`.
        let count = self.node().count.load(Ordering::Acquire);
        for site in (0..count).filter_map(|number| self.site(number as usize)) {
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            let view = SiteView {
                blocks: read(&site.blocks),
                bytes: read(&site.bytes),
                estimated_blocks: read(&site.estimated_blocks).div_ceil(256),
                estimated_bytes: read(&site.estimated_bytes),
                frames: site.frames.get(..site.depth).unwrap_or(&[]),
            };
            if view.blocks != 0 {
                visit(view);
            }
        }
    }

    /// The log listed after this one.
    fn following(&self) -> Option<Self> {
        let _logs = LOGS.lock();
        hold(self.node().next.get())
    }
}

/// A handle of the first of some listed logs that is held still. Under the list's lock.
fn hold(mut next: Option<NonNull<Node>>) -> Option<SiteLog> {
    while let Some(at) = next {
        // SAFETY: the lock is held, so a listed node is not freed.
        let node = unsafe { at.as_ref() };
        let mut holders = node.holders.load(Ordering::Relaxed);
        while holders != 0 {
            // Relaxed: the lock ordered the link.
            let order = (Ordering::Relaxed, Ordering::Relaxed);
            match node.holders.compare_exchange_weak(holders, holders + 1, order.0, order.1) {
                Ok(_) => return Some(SiteLog(at)),
                Err(now) => holders = now,
            }
        }
        next = node.next.get();
    }
    None
}

/// Every log of the process, newest first. Stops nobody: what is made or ends meanwhile is seen or
/// not.
pub fn site_logs() -> impl Iterator<Item = SiteLog> {
    let first = hold(LOGS.lock().0);
    core::iter::successors(first, SiteLog::following)
}

impl Drop for SiteLog {
    fn drop(&mut self) {
        // AcqRel: everybody's use happens before it is freed.
        if self.node().holders.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let node = self.node();
        let mut logs = LOGS.lock();
        let (next, previous) = (node.next.get(), node.previous.get());
        // SAFETY: the lock is held; neighbours are listed.
        unsafe {
            if let Some(next) = next {
                next.as_ref().previous.set(previous);
            }
            match previous {
                Some(previous) => previous.as_ref().next.set(next),
                None => logs.0 = next,
            }
        }
        drop(logs);
        for (index, segment) in node.segments.iter().enumerate() {
            if let Some(first) = NonNull::new(segment.load(Ordering::Relaxed)) {
                // SAFETY: nobody holds the log any more.
                unsafe { Metadata::give_back(first.cast(), segment_bytes(index)) };
            }
        }
        give_back_index(node.index.get());
        // SAFETY: the last handle is gone, and the node is on no list.
        unsafe { Metadata::give_back(self.0.cast(), size_of::<Node>()) };
    }
}

fn give_back_index(index: Option<NonNull<[u32]>>) {
    if let Some(index) = index {
        // SAFETY: it was taken with that length, and is used no more.
        unsafe { Metadata::give_back(index.cast(), index.len() * size_of::<u32>()) };
    }
}

/// The segment of a site, and its place there.
fn place_of(index: usize) -> (usize, usize) {
    let segment = (index / FIRST_SITES + 1).ilog2() as usize;
    (segment, index - FIRST_SITES * ((1 << segment) - 1))
}

fn segment_bytes(segment: usize) -> usize {
    (FIRST_SITES << segment) * size_of::<Site>()
}

fn hash_of(frames: &[usize]) -> u64 {
    let mut hash = 0x9E37_79B9_7F4A_7C15_u64;
    for &frame in frames {
        hash = (hash ^ frame as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        hash ^= hash >> 32;
    }
    hash
}

#[cfg(all(test, not(heapswitch_pass_through)))]
mod tests;
