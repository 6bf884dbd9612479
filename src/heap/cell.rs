//! A heap compiled for its strategy: allocating, freeing, collecting, closing.
//!
//! # The close, step by step
//! 1. What others freed is collected, and what the strategy caches put back, so that each run's
//!    count of blocks is exact as far as the runner can know.
//! 2. The runner becomes CLOSED and the foreign stack's head too; what it held is freed as usual. From
//!    here on every free by others goes to the entry's word and not to the stack.
//! 3. Runs without blocks go back. The others lose the pages in which nothing survived.
//! 4. Each surviving run's count is merged into its word. A run whose word thereby becomes zero was freed
//!    by others meanwhile, and goes back as well.
//! 5. The closer drops its own count of the header.
//!
//! After the merge another thread may free the run's last block at any moment, so the closer touches the
//! entry no more; likewise the header after its own count is dropped.

use core::alloc::Layout;
use core::cell::{Cell, UnsafeCell};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

use super::account::AccountHandle;
use super::check;
use super::foreign;
use super::header::{FastPath, HeapHeader, Operations};
use crate::allocator::{MemoryRange, MemoryUsage, RegionSource};
use crate::pointers::block;
use crate::region::{self, ChunkEntry, Metadata, Run};
use crate::strategy::{Extent, Strategy, extent_of};
use crate::sync::foreign_stack::BlockId;
use crate::sync::{ForeignStack, Runner};
use crate::sys;
use crate::units::{CHUNK_BYTES, CHUNK_SHIFT, PAGE_BYTES, chunks_for};

/// The largest request in bytes that a strategy serves inside a heap; larger ones take a run of chunks.
pub const MAX_STRATEGY_BYTES: usize = CHUNK_BYTES / 2;

/// The largest alignment that a strategy serves inside a heap.
pub const MAX_STRATEGY_ALIGN: usize = PAGE_BYTES;

/// `ChunkEntry::tag` of a run that a strategy cuts up.
const EXTENT: u8 = 1;
/// `ChunkEntry::tag` of a run that is one block.
const DIRECT: u8 = 2;
/// `ChunkEntry::tag` of a run of one chunk that waits to be an extent; `live` links to the next.
const SPARE: u8 = 3;

/// Runs without blocks that a heap keeps: of a strategy whose blocks come and go one by one (slab:
/// 256 KiB), and of any other.
const fn most_spares<S: Strategy>() -> u32 {
    if S::KEEPS_SPARES { 4 } else { 1 }
}

/// Whether a layout is served by a run of its own.
#[inline]
pub const fn is_direct(layout: Layout) -> bool {
    layout.size() > MAX_STRATEGY_BYTES || layout.align() > MAX_STRATEGY_ALIGN
}

/// What was still allocated when a heap was closed. All of it stays valid until it is freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EscapeReport {
    /// Blocks that were still allocated.
    pub blocks: usize,
    /// At most so many bytes of them, rounded up to whole chunks: what stays charged to the account.
    pub kept_bytes: usize,
    /// Bytes that went back to the source.
    pub returned_bytes: usize,
}

/// Header and strategy.
#[repr(C)]
pub struct HeapCell<S: Strategy> {
    header: HeapHeader,
    strategy: UnsafeCell<S>,
    settings: S::Settings,
}

type Header = NonNull<HeapHeader>;

/// The operations of heaps of one strategy.
struct OperationsOf<S>(core::marker::PhantomData<S>);

impl<S: Strategy + 'static> OperationsOf<S> {
    const TABLE: Operations = Operations {
        name: S::NAME,
        cell_bytes: size_of::<HeapCell<S>>(),
        allocate: allocate_checked::<S>,
        free: if cfg!(heapswitch_asan) { free_late::<S> } else { free::<S> },
        resize: resize::<S>,
        block_length: block_length::<S>,
        collect: collect::<S>,
        release_unused: release_unused::<S>,
        reset: reset::<S>,
        forget_blocks: forget_blocks::<S>,
        close: close::<S>,
        usage: usage::<S>,
        verify: verify::<S>,
        recreate: recreate::<S>,
    };
}

/// What heaps of a strategy can do.
pub fn operations<S: Strategy + 'static>() -> &'static Operations {
    &OperationsOf::<S>::TABLE
}

/// Makes a heap. `None` where there is no memory for its header.
pub fn create<S: Strategy + 'static>(
    settings: S::Settings,
    fast_path: FastPath,
    source: &'static dyn RegionSource,
    parent: Option<&AccountHandle>,
) -> Option<Header> {
    create_with::<S>(settings, fast_path, source, AccountHandle::new(parent)?)
}

/// # Safety
/// The heap is valid and of strategy `S`.
unsafe fn recreate<S: Strategy + 'static>(header: Header) -> Option<Header> {
    // SAFETY: the caller's contract; none of these change.
    let (this, settings) =
        unsafe { (header_of(header), header.cast::<HeapCell<S>>().as_ref().settings) };
    create_with::<S>(settings, this.fast_path, this.source, this.account.clone())
}

fn create_with<S: Strategy + 'static>(
    settings: S::Settings,
    fast_path: FastPath,
    source: &'static dyn RegionSource,
    account: AccountHandle,
) -> Option<Header> {
    let memory = Metadata::take(size_of::<HeapCell<S>>())?;
    let header = HeapHeader {
        runner: Runner::new(),
        fast_path,
        pins: Cell::new(0),
        operations: &OperationsOf::<S>::TABLE,
        source,
        first_run: Cell::new(0),
        first_spare: Cell::new(0),
        spares: Cell::new(0),
        held_bytes: Cell::new(0),
        peak_bytes: Cell::new(0),
        allocated_bytes: Cell::new(0),
        foreign: CachePadded::new(ForeignStack::new()),
        remaining: AtomicUsize::new(0),
        account,
        next_in_list: Cell::new(None),
        #[cfg(heapswitch_check)]
        unverified_steps: Cell::new(0),
        #[cfg(heapswitch_asan)]
        quarantine: super::quarantine::Quarantine::default(),
    };
    let cell = memory.cast::<HeapCell<S>>();
    // SAFETY: metadata blocks are powers of two, aligned to their size up to a page: the cell, aligned to
    // 128 at most, fits.
    unsafe {
        cell.write(HeapCell { header, strategy: UnsafeCell::new(S::new(settings)), settings })
    };
    Some(cell.cast())
}

/// The strategy of a heap.
///
/// # Safety
/// The header is the start of a `HeapCell<S>`; the caller runs the heap and holds no other reference
/// to the strategy.
#[inline]
pub unsafe fn strategy_of<'a, S: Strategy>(header: Header) -> &'a mut S {
    // SAFETY: by the contract the cell is of that type and the reference the only one.
    unsafe { &mut *header.cast::<HeapCell<S>>().as_ref().strategy.get() }
}

/// # Safety
/// The heap is valid as long as the reference is used.
#[inline]
unsafe fn header_of<'a>(header: Header) -> &'a HeapHeader {
    // SAFETY: the caller's contract.
    unsafe { header.as_ref() }
}

fn index_of(entry: &ChunkEntry) -> u32 {
    // Entries lie below the region's base, one after the other downwards.
    let distance = region::base().addr().get() - core::ptr::from_ref(entry).addr();
    (distance / region::ENTRY_BYTES) as u32 - 1
}

fn entry_of_index(index: u32) -> &'static ChunkEntry {
    // SAFETY: only indices of runs that heaps hold are kept.
    unsafe { region::entry_at((index as usize) << CHUNK_SHIFT) }
}

fn run_of(entry: &ChunkEntry) -> Run {
    let offset = (index_of(entry) as usize) << CHUNK_SHIFT;
    Run::at_offset(offset, entry.run_chunks.get() as usize, false)
}

fn range_of(run: Run) -> MemoryRange {
    MemoryRange { start: run.start(), length: run.bytes(), is_zeroed: run.is_zeroed }
}

fn count_held(this: &HeapHeader, change: isize) {
    let held = this.held_bytes.get().wrapping_add_signed(change);
    this.held_bytes.set(held);
    this.peak_bytes.set(this.peak_bytes.get().max(held));
}

/// Takes a run from the heap's source, charges it, and puts it on the heap's list.
///
/// # Safety
/// The caller runs the heap.
unsafe fn take_run(header: Header, request: Layout, tag: u8) -> Option<Run> {
    // SAFETY: the caller's contract.
    let this = unsafe { header_of(header) };
    let range = this.source.take(request).ok()?;
    let offset = region::offset_of(range.start.as_ptr())?;
    let run = Run::at_offset(offset, range.length >> CHUNK_SHIFT, range.is_zeroed);
    if !this.account.charge(run.bytes()) {
        // SAFETY: the range was just taken.
        unsafe { this.source.give_back(range) };
        return None;
    }
    for (distance, entry) in run.entries().enumerate() {
        entry.head_distance.set(distance as u32);
        // Relaxed: whoever gets a pointer to a block gets it through an edge that orders this.
        entry.owner.store(header.as_ptr().cast(), Ordering::Relaxed);
    }
    count_held(this, run.bytes() as isize);
    let entry = run.entry();
    entry.run_chunks.set(run.chunks() as u32);
    entry.live.set(0);
    entry.tag.set(tag);
    entry.word.reset();
    let next = this.first_run.get();
    entry.next.set(next);
    entry.previous.set(0);
    if next != 0 {
        entry_of_index(next).previous.set(run.first_chunk() as u32);
    }
    this.first_run.set(run.first_chunk() as u32);
    Some(run)
}

/// Takes a run off the heap's list and gives it back; the bytes.
///
/// # Safety
/// The caller runs the heap, and no block of the run is allocated.
unsafe fn return_run(header: Header, entry: &'static ChunkEntry) -> usize {
    // SAFETY: the caller's contract.
    let this = unsafe { header_of(header) };
    let (next, previous) = (entry.next.get(), entry.previous.get());
    if next != 0 {
        entry_of_index(next).previous.set(previous);
    }
    if previous != 0 {
        entry_of_index(previous).next.set(next);
    } else {
        this.first_run.set(next);
    }
    count_held(this, -(run_of(entry).bytes() as isize));
    // SAFETY: the caller's contract.
    unsafe { disown(this, entry) }
}

/// Gives back a run that is on no list any more; the bytes.
///
/// # Safety
/// No block of the run is allocated, and the caller alone reaches it.
unsafe fn disown(this: &HeapHeader, entry: &'static ChunkEntry) -> usize {
    let run = run_of(entry);
    check::run_returned(entry);
    for entry in run.entries() {
        entry.owner.store(core::ptr::null_mut(), Ordering::Relaxed);
        entry.tag.set(0);
    }
    // SAFETY: the run came from the heap's source and nothing uses it any more.
    unsafe { this.source.give_back(range_of(run)) };
    this.account.credit(run.bytes());
    run.bytes()
}

fn push_spare(this: &HeapHeader, entry: &ChunkEntry) {
    entry.tag.set(SPARE);
    entry.live.set(this.first_spare.get());
    this.first_spare.set(index_of(entry));
    this.spares.set(this.spares.get() + 1);
}

fn pop_spare(this: &HeapHeader) -> Option<&'static ChunkEntry> {
    let index = this.first_spare.get();
    if index == 0 {
        return None;
    }
    let entry = entry_of_index(index);
    this.first_spare.set(entry.live.replace(0));
    this.spares.set(this.spares.get() - 1);
    entry.tag.set(EXTENT);
    Some(entry)
}

/// Gives the strategy one more extent: a spare run, or a new one.
///
/// # Safety
/// The caller runs the heap.
unsafe fn add_extent<S: Strategy>(header: Header) -> Option<()> {
    // SAFETY: the caller's contract, here and below.
    let this = unsafe { header_of(header) };
    let run = match pop_spare(this) {
        None => {
            let chunk = Layout::from_size_align(CHUNK_BYTES, CHUNK_BYTES).ok()?;
            // SAFETY: the caller's contract.
            unsafe { take_run(header, chunk, EXTENT) }?
        }
        Some(spare) => run_of(spare),
    };
    // SAFETY: the caller runs the heap, and no reference to the strategy is held here.
    let strategy = unsafe { strategy_of::<S>(header) };
    let metadata_bytes = strategy.metadata_bytes(run.bytes());
    let metadata = match metadata_bytes {
        0 => NonNull::dangling(),
        bytes => match Metadata::take(bytes) {
            Some(metadata) => metadata,
            None => {
                push_spare(this, run.entry());
                return None;
            }
        },
    };
    let extent = Extent::new(run.start(), run.bytes(), metadata, run.is_zeroed);
    // SAFETY: the record space is the runner's; the extent is chunk-aligned, the strategy's alone,
    // and its record stays there until `remove_extent`.
    unsafe {
        run.entry().record.get().cast::<Extent>().write(extent);
        strategy.add_extent(extent_of(run.entry()));
    }
    Some(())
}

/// Takes an extent without blocks from the strategy.
///
/// # Safety
/// The caller runs the heap; the run is an extent of the strategy, without blocks.
unsafe fn remove_extent<S: Strategy>(header: Header, entry: &'static ChunkEntry) {
    // SAFETY: the caller's contract.
    unsafe {
        let strategy = strategy_of::<S>(header);
        strategy.remove_extent(extent_of(entry));
        give_back_metadata(strategy, entry);
    }
}

/// # Safety
/// The strategy uses the extent's metadata no more.
unsafe fn give_back_metadata<S: Strategy>(strategy: &S, entry: &ChunkEntry) {
    // SAFETY: the record was written by `add_extent`, the metadata taken there with this size.
    unsafe {
        let extent = extent_of(entry);
        let bytes = strategy.metadata_bytes(extent.length());
        if bytes != 0 {
            Metadata::give_back(extent.metadata(), bytes);
        }
    }
}

/// # Safety
/// As [`allocate`].
unsafe fn allocate_checked<S: Strategy>(
    header: Header,
    layout: Layout,
    is_zeroed: bool,
) -> Option<NonNull<[u8]>> {
    // SAFETY: the caller's contract.
    unsafe {
        verify_sometimes::<S>(header);
        let mut block = allocate::<S>(header, layout, is_zeroed);
        if block.is_none() && end_quarantine::<S>(header) {
            block = allocate::<S>(header, layout, is_zeroed);
        }
        // What is held without a block may be what the source or the budget lacks. To look for it
        // takes a look at each run, too much for each small request of a heap that stays full.
        let may_hold_more = || {
            let this = header_of(header);
            is_direct(layout) || this.spares.get() != 0 || !this.foreign.is_empty()
        };
        if block.is_none() && may_hold_more() && release_unused::<S>(header, 0) != 0 {
            block = allocate::<S>(header, layout, is_zeroed);
        }
        check::handed_out(block?.cast());
        block
    }
}

/// # Safety
/// The caller runs the heap, which is of strategy `S`; `layout` is not empty.
unsafe fn allocate<S: Strategy>(
    header: Header,
    layout: Layout,
    is_zeroed: bool,
) -> Option<NonNull<[u8]>> {
    // SAFETY: the caller's contract holds for each call below.
    unsafe {
        if is_direct(layout) {
            return allocate_direct(header, layout, is_zeroed);
        }
        if let Some(block) = cut::<S>(header, layout, is_zeroed) {
            return Some(block);
        }
        if !header_of(header).foreign.is_empty() {
            collect::<S>(header);
            if let Some(block) = cut::<S>(header, layout, is_zeroed) {
                return Some(block);
            }
        }
        // Blocks that are longer than a chunk, if the settings say so, never fit.
        if strategy_of::<S>(header).block_length(layout).ok()? > CHUNK_BYTES {
            return None;
        }
        add_extent::<S>(header)?;
        cut::<S>(header, layout, is_zeroed)
    }
}

/// # Safety
/// As [`allocate`].
#[inline]
unsafe fn cut<S: Strategy>(
    header: Header,
    layout: Layout,
    is_zeroed: bool,
) -> Option<NonNull<[u8]>> {
    // SAFETY: the caller runs the heap; the block lies in a run of the heap.
    unsafe {
        let strategy = strategy_of::<S>(header);
        let block = if is_zeroed {
            strategy.allocate_zeroed(layout)?
        } else {
            strategy.allocate(layout)?
        };
        if !S::COUNTS_BLOCKS {
            let this = header_of(header);
            let offset = region::offset_of(block.cast::<u8>().as_ptr())?;
            let live = &region::entry_at(offset).live;
            live.set(live.get() + 1);
            this.allocated_bytes.set(this.allocated_bytes.get() + block.len());
        }
        Some(block)
    }
}

/// # Safety
/// As [`allocate`].
unsafe fn allocate_direct(
    header: Header,
    layout: Layout,
    is_zeroed: bool,
) -> Option<NonNull<[u8]>> {
    let bytes = chunks_for(layout.size())? << CHUNK_SHIFT;
    let request = Layout::from_size_align(bytes, layout.align().max(CHUNK_BYTES)).ok()?;
    // SAFETY: the caller runs the heap.
    let (run, this) = unsafe { (take_run(header, request, DIRECT)?, header_of(header)) };
    run.entry().live.set(1);
    this.allocated_bytes.set(this.allocated_bytes.get() + run.bytes());
    if is_zeroed && !run.is_zeroed {
        // SAFETY: the run is the heap's alone.
        unsafe { run.start().write_bytes(0, run.bytes()) };
    }
    Some(block(run.start(), run.bytes()))
}

/// # Safety
/// The caller runs the heap, which is of strategy `S`; the block is of the run that starts at `entry`,
/// and `layout` fits it.
unsafe fn free<S: Strategy>(
    header: Header,
    entry: &'static ChunkEntry,
    address: NonNull<u8>,
    layout: Layout,
) {
    // SAFETY: the caller's contract holds for each call below.
    unsafe {
        let this = header_of(header);
        if entry.tag.get() == DIRECT {
            this.allocated_bytes.set(this.allocated_bytes.get() - run_of(entry).bytes());
            return_run(header, entry);
            return;
        }
        let strategy = strategy_of::<S>(header);
        if S::COUNTS_BLOCKS {
            if strategy.free(extent_of(entry), address, layout) {
                retire_emptied::<S>(header);
            }
            return;
        }
        let length = strategy.block_length(layout).unwrap_or(0);
        this.allocated_bytes.set(this.allocated_bytes.get().wrapping_sub(length));
        strategy.deallocate(extent_of(entry), address, layout);
        let live = entry.live.get() - 1;
        entry.live.set(live);
        if live == 0 {
            retire::<S>(header, entry);
        }
    }
}

/// As [`free`], when other blocks were freed after this one.
///
/// # Safety
/// As [`free`].
unsafe fn free_late<S: Strategy>(
    header: Header,
    entry: &'static ChunkEntry,
    block: NonNull<u8>,
    layout: Layout,
) {
    // SAFETY: the caller's contract.
    unsafe {
        #[cfg(heapswitch_asan)]
        if entry.tag.get() == EXTENT {
            let quarantine = &header_of(header).quarantine;
            while let Some(freed) = quarantine.next_due() {
                free_freed::<S>(header, freed);
            }
            if quarantine.admit(super::quarantine::Freed { block, layout }) {
                return;
            }
        }
        free::<S>(header, entry, block, layout);
    }
}

/// # Safety
/// The caller runs the heap and took the block from its quarantine.
#[cfg(heapswitch_asan)]
unsafe fn free_freed<S: Strategy>(header: Header, freed: super::quarantine::Freed) {
    if let Some(entry) = region::entry_of(freed.block.as_ptr()) {
        // SAFETY: the block was the program's until it was freed.
        unsafe { free::<S>(header, entry, freed.block, freed.layout) };
    }
}

/// Frees what waits in quarantine. Whether there was something.
///
/// # Safety
/// The caller runs the heap.
unsafe fn end_quarantine<S: Strategy>(header: Header) -> bool {
    #[cfg(heapswitch_asan)]
    // SAFETY: the caller's contract.
    unsafe {
        let mut is_any = false;
        while let Some(freed) = header_of(header).quarantine.take() {
            free_freed::<S>(header, freed);
            is_any = true;
        }
        is_any
    }
    #[cfg(not(heapswitch_asan))]
    {
        let _ = (header, S::NAME);
        false
    }
}

/// Checks every structure, in the `check` build, once in so many slow paths that the cost of each is
/// that of a few chunks.
///
/// # Safety
/// The caller runs the heap.
#[inline]
unsafe fn verify_sometimes<S: Strategy>(header: Header) {
    #[cfg(heapswitch_check)]
    // SAFETY: the caller's contract.
    unsafe {
        let this = header_of(header);
        let steps = this.unverified_steps.get() + 1;
        let is_due = steps * 4 * CHUNK_BYTES > this.held_bytes.get();
        this.unverified_steps.set(if is_due { 0 } else { steps });
        if is_due {
            verify::<S>(header);
        }
    }
    let _ = (header, S::NAME);
}

/// Keeps an extent without blocks as the spare, or gives it back.
///
/// # Safety
/// As [`remove_extent`].
#[cold]
unsafe fn retire<S: Strategy>(header: Header, entry: &'static ChunkEntry) {
    // SAFETY: the caller's contract.
    unsafe {
        verify_sometimes::<S>(header);
        remove_extent::<S>(header, entry);
        let this = header_of(header);
        if this.spares.get() < most_spares::<S>() {
            push_spare(this, entry);
        } else {
            return_run(header, entry);
        }
    }
}

/// Retires what a strategy that counts its blocks found empty.
///
/// # Safety
/// The caller runs the heap.
#[cold]
pub(super) unsafe fn retire_emptied<S: Strategy>(header: Header) {
    // SAFETY: the caller runs the heap; the strategy says that the extent holds no block.
    unsafe {
        while let Some(start) = strategy_of::<S>(header).next_emptied() {
            if let Some(entry) = region::entry_of(start.as_ptr()) {
                retire::<S>(header, entry);
            }
        }
    }
}

/// # Safety
/// As [`free`]; the address is aligned to `new.align()`, and neither layout is empty.
unsafe fn resize<S: Strategy>(
    header: Header,
    entry: &'static ChunkEntry,
    address: NonNull<u8>,
    old: Layout,
    new: Layout,
) -> Option<usize> {
    // SAFETY: the caller's contract holds for each call below.
    unsafe {
        if entry.tag.get() == DIRECT {
            return if is_direct(new) { resize_direct(header, entry, new) } else { None };
        }
        if is_direct(new) {
            return None;
        }
        let strategy = strategy_of::<S>(header);
        let old_length = strategy.block_length(old).ok()?;
        let new_length = strategy.block_length(new).ok()?;
        if old_length == new_length {
            return Some(new_length);
        }
        let extent = extent_of(entry);
        let length = if new.size() >= old.size() {
            strategy.grow_in_place(extent, address, old, new)
        } else {
            strategy.shrink_in_place(extent, address, old, new)
        }?;
        if !S::COUNTS_BLOCKS {
            let this = header_of(header);
            let bytes = this.allocated_bytes.get().wrapping_sub(old_length).wrapping_add(length);
            this.allocated_bytes.set(bytes);
        }
        Some(length)
    }
}

/// # Safety
/// As [`resize`]; the block is a run of its own.
unsafe fn resize_direct(header: Header, entry: &'static ChunkEntry, new: Layout) -> Option<usize> {
    let old_run = run_of(entry);
    let bytes = chunks_for(new.size())? << CHUNK_SHIFT;
    if bytes <= old_run.bytes() {
        // A run is not split: below half of it, moving gives the rest back. The length must be the
        // one that the new layout has anywhere, so only an equal one stays.
        return (bytes == old_run.bytes()).then_some(bytes);
    }
    // SAFETY: the caller runs the heap.
    let this = unsafe { header_of(header) };
    let extra = bytes - old_run.bytes();
    if !this.account.charge(extra) {
        return None;
    }
    // SAFETY: the run is taken from this source.
    let Ok(range) = (unsafe { this.source.grow(range_of(old_run), bytes) }) else {
        this.account.credit(extra);
        return None;
    };
    let run = Run::at_offset(old_run.offset(), range.length >> CHUNK_SHIFT, false);
    for (distance, entry) in run.entries().enumerate().skip(old_run.chunks()) {
        entry.head_distance.set(distance as u32);
        entry.owner.store(header.as_ptr().cast(), Ordering::Relaxed);
    }
    entry.run_chunks.set(run.chunks() as u32);
    count_held(this, extra as isize);
    this.allocated_bytes.set(this.allocated_bytes.get() + extra);
    Some(run.bytes())
}

/// # Safety
/// The heap is valid and of strategy `S`.
unsafe fn block_length<S: Strategy>(header: Header, layout: Layout) -> Option<usize> {
    if is_direct(layout) {
        return Some(chunks_for(layout.size())? << CHUNK_SHIFT);
    }
    // SAFETY: the settings do not change, so anyone may read them.
    let settings = unsafe { header.cast::<HeapCell<S>>().as_ref().settings };
    S::length_with(settings, layout).ok().filter(|&length| length <= CHUNK_BYTES)
}

/// # Safety
/// The caller runs the heap.
unsafe fn collect<S: Strategy>(header: Header) {
    // SAFETY: the caller's contract.
    unsafe {
        free_chain::<S>(header, header_of(header).foreign.take_all());
        end_quarantine::<S>(header);
        verify_sometimes::<S>(header);
    }
}

/// # Safety
/// The caller runs the heap and took the chain off its foreign stack.
unsafe fn free_chain<S: Strategy>(header: Header, first: BlockId) {
    let mut next = first;
    let mut blocks = 0;
    while next != 0 {
        // SAFETY: the chain's blocks were pushed and are ours now.
        let decoded = unsafe { foreign::decode(next) };
        let entry = decoded.and_then(|block| region::entry_of(block.address.as_ptr()));
        let (Some(block), Some(entry)) = (decoded, entry) else { corrupted() };
        if entry.owner.load(Ordering::Relaxed) != header.as_ptr().cast() {
            corrupted();
        }
        next = block.next;
        sys::poison::unpoison(block.address, block.layout.size());
        // SAFETY: the block is allocated as far as this heap knows, and of this run.
        unsafe { free::<S>(header, entry, block.address, block.layout) };
        blocks += 1;
    }
    // SAFETY: the caller runs the heap.
    unsafe { header_of(header) }.account.count_foreign_frees(blocks);
}

#[cold]
fn corrupted() -> ! {
    sys::abort_with(&[
        "a block was written to after it was freed, or freed twice, by another thread",
    ])
}

/// The runs of a heap.
fn runs(this: &HeapHeader) -> impl Iterator<Item = &'static ChunkEntry> {
    let entry = |index: u32| (index != 0).then(|| entry_of_index(index));
    // The successor is read before the item is handed out, so the item may be given back.
    let mut next = entry(this.first_run.get());
    core::iter::from_fn(move || {
        let current = next?;
        next = entry(current.next.get());
        Some(current)
    })
}

/// The blocks of a run that are allocated, as far as the runner knows.
///
/// # Safety
/// The caller runs the heap, and the run is the heap's.
unsafe fn live_blocks<S: Strategy>(header: Header, entry: &'static ChunkEntry) -> u32 {
    let blocks = match entry.tag.get() {
        SPARE => 0,
        // SAFETY: the caller's contract.
        EXTENT if S::COUNTS_BLOCKS => unsafe {
            strategy_of::<S>(header).live_blocks(extent_of(entry))
        },
        _ => entry.live.get(),
    };
    check::counted(entry, blocks);
    blocks
}

/// Collects, and gives back runs without blocks but for `kept`, which stay as spares; the bytes.
///
/// # Safety
/// The caller runs the heap.
unsafe fn release_unused<S: Strategy>(header: Header, kept: u32) -> usize {
    // SAFETY: the caller's contract.
    unsafe {
        collect::<S>(header);
        release_empty::<S>(header, kept)
    }
}

/// As [`release_unused`], without collecting: the foreign stack may be closed.
///
/// # Safety
/// The caller runs the heap.
unsafe fn release_empty<S: Strategy>(header: Header, kept: u32) -> usize {
    let mut bytes = 0;
    // SAFETY: the caller's contract holds for each call below.
    unsafe {
        let this = header_of(header);
        for entry in runs(this) {
            if entry.tag.get() == EXTENT && live_blocks::<S>(header, entry) == 0 {
                remove_extent::<S>(header, entry);
                push_spare(this, entry);
            }
        }
        while this.spares.get() > kept {
            let Some(spare) = pop_spare(this) else { break };
            bytes += return_run(header, spare);
        }
    }
    bytes
}

/// Gives everything back but one run, if no block is allocated; the bytes, as `Err` if one is.
///
/// # Safety
/// The caller runs the heap.
unsafe fn reset<S: Strategy>(header: Header) -> Result<usize, usize> {
    // SAFETY: the caller's contract holds for each call below.
    unsafe {
        let this = header_of(header);
        collect::<S>(header);
        this.peak_bytes.set(this.held_bytes.get());
        // Most contexts need one run and leave nothing in it: that is kept as it is.
        if let Some(only) = runs(this).next()
            && only.next.get() == 0
            && only.tag.get() == EXTENT
            && strategy_of::<S>(header).rewind(extent_of(only))
        {
            return Ok(0);
        }
        let bytes = release_empty::<S>(header, 1);
        if runs(this).all(|entry| entry.tag.get() == SPARE) { Ok(bytes) } else { Err(bytes) }
    }
}

/// # Safety
/// The caller runs the heap, and nothing that was allocated in it is used or freed any more.
unsafe fn forget_blocks<S: Strategy>(header: Header) {
    // SAFETY: no block is in use, so the strategy may be made anew and every run goes back.
    unsafe {
        let this = header_of(header);
        // What lies on the foreign stack is dropped with its chunks.
        this.foreign.take_all();
        end_quarantine::<S>(header);
        let settings = header.cast::<HeapCell<S>>().as_ref().settings;
        for entry in runs(this) {
            check::forgotten(entry);
            if entry.tag.get() == EXTENT {
                give_back_metadata(strategy_of::<S>(header), entry);
            }
        }
        *strategy_of::<S>(header) = S::new(settings);
        for entry in runs(this) {
            return_run(header, entry);
        }
        this.first_spare.set(0);
        this.spares.set(0);
        this.allocated_bytes.set(0);
    }
}

/// # Safety
/// The caller runs the heap, and nobody else enters, closes or allocates from it ever again.
unsafe fn close<S: Strategy>(header: Header) -> EscapeReport {
    let mut report = EscapeReport::default();
    // SAFETY: the caller's contract; each step touches only what the module's description allows.
    unsafe {
        let this = header_of(header);
        end_quarantine::<S>(header);
        this.runner.close();
        free_chain::<S>(header, this.foreign.close());
        report.returned_bytes = release_empty::<S>(header, 0);
        let mut survivors = 1 + this.pins.get() as usize;
        for entry in runs(this) {
            survivors += 1;
            report.blocks += live_blocks::<S>(header, entry) as usize;
            report.kept_bytes += run_of(entry).bytes();
            if entry.tag.get() == EXTENT {
                drop_idle_pages(strategy_of::<S>(header), extent_of(entry));
            }
        }
        this.account.count_escapees(report.blocks as u64);
        // Relaxed: the merges below publish it.
        this.remaining.store(survivors, Ordering::Relaxed);
        for entry in runs(this) {
            let live = live_blocks::<S>(header, entry);
            if entry.tag.get() == EXTENT {
                give_back_metadata(strategy_of::<S>(header), entry);
            }
            if entry.word.merge(live) {
                return_orphan(header, entry);
            }
        }
        drop_remaining(header);
    }
    report
}

/// Drops the pages of an extent in which no block is allocated, adjacent ones together.
fn drop_idle_pages<S: Strategy>(strategy: &mut S, extent: &Extent) {
    let page_bytes = sys::page_bytes();
    let base = extent.start().addr().get();
    let mut pending = 0..0;
    let drop_pages = |range: core::ops::Range<usize>| {
        let start = range.start.next_multiple_of(page_bytes);
        let end = crate::units::round_down(range.end, page_bytes);
        if start < end {
            // SAFETY: the pages lie in the extent and hold no block; a refusal only keeps them.
            let _ = unsafe {
                let first = crate::pointers::forward(extent.start(), start - base);
                sys::memory::give_back_pages(first, end - start)
            };
        }
    };
    strategy.visit_unallocated(extent, &mut |idle| {
        let start = idle.cast::<u8>().addr().get();
        if start != pending.end {
            drop_pages(pending.clone());
            pending.start = start;
        }
        pending.end = start + idle.len();
    });
    drop_pages(pending);
}

/// Counts a block of a closed heap off its run; gives the run back if it was the last.
///
/// # Safety
/// The heap's foreign stack is closed, and the block is one that was allocated in the run.
pub unsafe fn free_orphan(header: Header, entry: &'static ChunkEntry) {
    if entry.word.release(1) {
        // SAFETY: the run's last block is gone, and it pinned the header.
        unsafe { return_orphan(header, entry) };
    }
}

/// # Safety
/// The caller made the run's word merged and zero.
#[cold]
unsafe fn return_orphan(header: Header, entry: &'static ChunkEntry) {
    // SAFETY: the run is the caller's alone now; it pinned the header until `drop_remaining`.
    unsafe {
        disown(header_of(header), entry);
        drop_remaining(header);
    }
}

/// Gives up one of the counts that keep a closed heap's header.
///
/// # Safety
/// The caller holds one of the counts of `remaining` and touches the header no more.
pub(super) unsafe fn drop_remaining(header: Header) {
    // SAFETY: the count is held until the subtraction.
    let this = unsafe { header_of(header) };
    let bytes = this.operations.cell_bytes;
    // AcqRel: everybody's use of the header happens before it is freed.
    if this.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
        // SAFETY: the last count is gone; strategies own nothing beside their extents' metadata.
        unsafe {
            core::ptr::drop_in_place(header.as_ptr());
            Metadata::give_back(header.cast(), bytes);
        }
    }
}

/// # Safety
/// The caller runs the heap, or nobody does and nobody enters it meanwhile.
unsafe fn usage<S: Strategy>(header: Header) -> MemoryUsage {
    // SAFETY: the caller's contract holds for each call below.
    unsafe {
        end_quarantine::<S>(header);
        let this = header_of(header);
        let mut usage = MemoryUsage {
            committed_bytes: this.held_bytes.get(),
            peak_committed_bytes: this.peak_bytes.get(),
            allocated_bytes: this.allocated_bytes.get(),
            ..MemoryUsage::default()
        };
        for entry in runs(this) {
            usage.allocated_blocks += live_blocks::<S>(header, entry) as usize;
            if S::COUNTS_BLOCKS && entry.tag.get() == EXTENT {
                usage.allocated_bytes += strategy_of::<S>(header).used_bytes(extent_of(entry));
            }
        }
        usage
    }
}

/// # Safety
/// The caller runs the heap.
unsafe fn verify<S: Strategy>(header: Header) {
    // SAFETY: the caller's contract holds for each call below.
    unsafe {
        strategy_of::<S>(header).verify();
        let mut previous = 0;
        for entry in runs(header_of(header)) {
            let is_linked = entry.previous.get() == previous
                && entry.owner.load(Ordering::Relaxed) == header.as_ptr().cast()
                && matches!(entry.tag.get(), EXTENT | DIRECT | SPARE);
            if !is_linked {
                sys::abort_with(&["the runs of a heap are corrupted: ", S::NAME]);
            }
            previous = index_of(entry);
        }
    }
}
