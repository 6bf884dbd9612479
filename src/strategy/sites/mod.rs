//! `WithSites`: any strategy, with a record of where each block was asked for.
//!
//! ```text
//!   owner: a heap, or a SourcedAllocator               WithSites<S>
//!   allocate ───────────────────────────────────────▶  S: cuts the block
//!   sites().wants(bytes)?  ─────────────────────────▶  sampler
//!   capture the stack, nothing borrowed
//!   sites().note(block, stack) ─────────────────────▶  blocks: address ─▶ site, bytes
//!                                                      log:    site ─▶ stack, live blocks, bytes
//!   free: sites().forget(block) ────────────────────▶  both count down
//! ```
//!
//! A strategy of its own: others have no site notes, their owner's questions for them are
//! constants, and nothing of it is in their code. It has no inline fast path. Whoever frees a
//! block, the owner tells it when the free reaches the strategy, so what others freed leaves the
//! record when it is collected, at the latest at the close.
//!
//! # Where records are
//! In metadata memory, which no context's heap and no program reaches. The table of blocks is the
//! runner's alone. The log of sites may be read by anyone at any time: see [`log`].
//!
//! # Not for
//! A global allocator behind a lock, on systems with a glibc before 2.35: the stack is captured
//! under that lock then, and another thread may allocate under the loader's. Nor, on those systems,
//! a program that forks while other threads record: the child may find the loader's lock held for
//! ever.
//!
//! # Costs
//! A stack is captured for each recorded block, microseconds; see
//! [`call_stack`](crate::sys::call_stack). 24 bytes a recorded block, 512 a site. For finding out
//! what outlives a context or fills it, not for production at full rate:
//! [`SiteSampling::EveryBytes`] makes it cheap enough for that.

mod blocks;
pub mod log;
mod sampler;

use core::alloc::Layout;
use core::ptr::NonNull;

use self::blocks::{Block, Blocks};
use self::log::SiteLog;
use self::sampler::Sampler;
pub use self::sampler::SiteSampling;
use super::sourced::SourcedAllocator;
use super::{Extent, Strategy};
use crate::allocator::{AllocError, MemorySource};
use crate::sys::call_stack::CallStack;

/// The settings of a strategy with sites.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings<T> {
    /// The strategy's own.
    pub strategy: T,
    /// Which blocks are recorded.
    pub sampling: SiteSampling,
}

/// What is noted of the blocks of one strategy.
///
/// # Invariants
/// - `blocks` names each recorded block that is allocated, and no other; the log's counts of each
///   site are the sums of those.
#[derive(Debug)]
pub struct SiteNotes {
    sampler: Sampler,
    blocks: Blocks,
    log: Option<SiteLog>,
    /// Whether a stack is being captured: what is allocated meanwhile is not recorded.
    is_capturing: bool,
}

impl SiteNotes {
    const fn new(sampling: SiteSampling) -> Self {
        Self {
            sampler: Sampler::new(sampling),
            blocks: Blocks::new(),
            log: None,
            is_capturing: false,
        }
    }

    /// Whether a new block of so many bytes is to be recorded; then the stack is captured, and
    /// [`note`](Self::note) called.
    pub fn wants(&mut self, bytes: usize) -> bool {
        if self.is_capturing {
            return false;
        }
        self.is_capturing = self.sampler.takes(bytes);
        self.is_capturing
    }

    /// Records a block, of the context whose account has that number.
    pub fn note(&mut self, block: NonNull<[u8]>, context: u64, stack: &CallStack) {
        self.is_capturing = false;
        if self.log.is_none() {
            self.log = SiteLog::new(context, self.sampler.sampling());
        }
        let Some(log) = &self.log else { return };
        let weight = self.sampler.weight_of(block.len());
        let noted = log.site_of(stack).filter(|&site| {
            let (address, bytes) = (block.cast::<u8>().addr().get(), block.len());
            self.blocks.insert(Block { address, bytes, site, weight })
        });
        match noted {
            Some(site) => log.count_in(site, block.len(), weight),
            None => log.count_missed(),
        }
    }

    /// A block is freed.
    pub fn forget(&mut self, block: NonNull<u8>) {
        if let Some(Block { bytes, site, weight, .. }) = self.blocks.remove(block.addr().get())
            && let Some(log) = &self.log
        {
            log.count_off(site, bytes, weight);
        }
    }

    /// A block has another length now, and is where it was.
    pub fn resized(&mut self, block: NonNull<u8>, bytes: usize) {
        if let Some(block) = self.blocks.find(block.addr().get())
            && let Some(log) = &self.log
        {
            log.count_off(block.site, block.bytes, block.weight);
            log.count_in(block.site, bytes, block.weight);
            block.bytes = bytes;
        }
    }

    /// The sites, if a block was recorded yet. They stay readable when the strategy is gone.
    pub fn log(&self) -> Option<SiteLog> {
        self.log.clone()
    }
}

impl Drop for SiteNotes {
    fn drop(&mut self) {
        if let Some(log) = &self.log {
            log.end();
        }
    }
}

/// Records the stack of a block that was just allocated, if that is wanted. `notes` gives the notes
/// for one call each time, so that nothing is borrowed while the stack is captured.
#[cold]
#[inline(never)]
pub fn note_new<'a>(
    block: NonNull<[u8]>,
    context: u64,
    notes: impl Fn() -> Option<&'a mut SiteNotes>,
) {
    if notes().is_some_and(|notes| notes.wants(block.len())) {
        let stack = CallStack::capture();
        if let Some(notes) = notes() {
            notes.note(block, context, &stack);
        }
    }
}

/// A strategy, and where its blocks were asked for.
#[derive(Debug)]
pub struct WithSites<S> {
    strategy: S,
    notes: SiteNotes,
}

/// A strategy's name and what is added to it.
const fn named(name: &str) -> ([u8; 48], usize) {
    const ADDED: &[u8] = b" with sites";
    let (mut bytes, name) = ([0; 48], name.as_bytes());
    let mut length = 0;
    while length < name.len() + ADDED.len() && length < bytes.len() {
        bytes[length] = if length < name.len() { name[length] } else { ADDED[length - name.len()] };
        length += 1;
    }
    (bytes, length)
}

impl<S: Strategy> WithSites<S> {
    const NAMED: ([u8; 48], usize) = named(S::NAME);
}

impl<S: Strategy, M: MemorySource> SourcedAllocator<WithSites<S>, M> {
    /// Where its blocks were asked for; `None` before the first one was recorded.
    pub fn site_log(&self) -> Option<SiteLog> {
        self.with_strategy(|strategy| strategy.notes.log())
    }
}

// SAFETY: every block is the inner strategy's, whose contract is the same; records are kept in
// memory that no extent has.
unsafe impl<S: Strategy> Strategy for WithSites<S> {
    type Settings = Settings<S::Settings>;

    const NAME: &'static str = {
        let (bytes, length) = &Self::NAMED;
        match core::str::from_utf8(bytes.split_at(*length).0) {
            Ok(name) => name,
            Err(_) => S::NAME,
        }
    };
    const COUNTS_BLOCKS: bool = S::COUNTS_BLOCKS;
    const COUNTS_ON_SOURCES: bool = S::COUNTS_ON_SOURCES;
    const KEEPS_SPARES: bool = S::KEEPS_SPARES;
    const PARKS_LAST: bool = S::PARKS_LAST;
    const HAS_NO_EXTENTS: bool = S::HAS_NO_EXTENTS;
    const TELLS_EMPTY: bool = S::TELLS_EMPTY;
    const EXTENT_ALIGN: usize = S::EXTENT_ALIGN;
    const EXTENT_DIVISOR: usize = S::EXTENT_DIVISOR;
    const MOST_RANGE_BYTES: usize = S::MOST_RANGE_BYTES;
    const DEFAULT: Self = Self { strategy: S::DEFAULT, notes: SiteNotes::new(SiteSampling::All) };
    const DIRECT_BYTES: usize = S::DIRECT_BYTES;

    fn new(settings: Self::Settings) -> Self {
        Self { strategy: S::new(settings.strategy), notes: SiteNotes::new(settings.sampling) }
    }

    fn sites(&mut self) -> Option<&mut SiteNotes> {
        Some(&mut self.notes)
    }

    fn metadata_bytes(&self, extent_bytes: usize) -> usize {
        self.strategy.metadata_bytes(extent_bytes)
    }

    fn extent_bytes(&self, layout: Layout) -> Option<usize> {
        self.strategy.extent_bytes(layout)
    }

    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        self.strategy.block_length(layout)
    }

    #[inline]
    fn length_of_block(&self, layout: Layout) -> usize {
        self.strategy.length_of_block(layout)
    }

    fn length_with(settings: Self::Settings, layout: Layout) -> Result<usize, AllocError> {
        S::length_with(settings.strategy, layout)
    }

    fn allocate(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        self.strategy.allocate(layout)
    }

    fn allocate_zeroed(&mut self, layout: Layout) -> Option<NonNull<[u8]>> {
        self.strategy.allocate_zeroed(layout)
    }

    unsafe fn deallocate(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's contract, here and below.
        unsafe { self.strategy.deallocate(extent, block, layout) }
    }

    unsafe fn free(&mut self, extent: &Extent, block: NonNull<u8>, layout: Layout) -> bool {
        // SAFETY: the caller's contract.
        unsafe { self.strategy.free(extent, block, layout) }
    }

    fn is_empty(&self, extent: &Extent) -> bool {
        self.strategy.is_empty(extent)
    }

    fn next_emptied(&mut self) -> Option<NonNull<u8>> {
        self.strategy.next_emptied()
    }

    fn kept_extents(&mut self) -> u32 {
        self.strategy.kept_extents()
    }

    fn live_blocks(&mut self, extent: &Extent) -> u32 {
        self.strategy.live_blocks(extent)
    }

    fn used_bytes(&self, extent: &Extent) -> usize {
        self.strategy.used_bytes(extent)
    }

    fn used(&self) -> (usize, usize) {
        self.strategy.used()
    }

    unsafe fn grow_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        // SAFETY: the caller's contract.
        unsafe { self.strategy.grow_in_place(extent, block, old, new) }
    }

    unsafe fn shrink_in_place(
        &mut self,
        extent: &Extent,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<usize> {
        // SAFETY: the caller's contract.
        unsafe { self.strategy.shrink_in_place(extent, block, old, new) }
    }

    unsafe fn add_extent(&mut self, extent: &Extent) {
        // SAFETY: the caller's contract.
        unsafe { self.strategy.add_extent(extent) }
    }

    unsafe fn remove_extent(&mut self, extent: &Extent) {
        // SAFETY: the caller's contract.
        unsafe { self.strategy.remove_extent(extent) }
    }

    fn rewind(&mut self, extent: &Extent) -> bool {
        self.strategy.rewind(extent)
    }

    unsafe fn became_empty(&mut self, extent: &Extent) {
        // SAFETY: the caller's contract.
        unsafe { self.strategy.became_empty(extent) }
    }

    fn visit_idle(&self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        self.strategy.visit_idle(extent, visit);
    }

    fn visit_unallocated(&mut self, extent: &Extent, visit: &mut dyn FnMut(NonNull<[u8]>)) {
        self.strategy.visit_unallocated(extent, visit);
    }

    fn verify(&self) {
        self.strategy.verify();
        self.notes.blocks.verify();
    }
}
