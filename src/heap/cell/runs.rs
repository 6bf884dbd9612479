//! A heap's runs of chunks: taken from the source, cut up as extents, given back.
//!
//! ```text
//!   first_run ──▶ entry ◀──next, previous──▶ entry ◀──▶ entry     every run of the heap
//!                   EXTENT                     SPARE      DIRECT
//!   first_spare ──────────────────────────────▶ live ──▶ ...      those that wait to be either
//! ```
//!
//! The links are chunk indices in the entries of the runs' first chunks, so a run costs its heap
//! nothing beside its chunk-table entries, but for what the strategy asks for as metadata. None of
//! this is on the path of a small block: it costs locks and, at times, system calls.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::super::account::{Charge, Promise};
use super::super::check;
use super::super::header::{HeapHeader, attention};
use super::inspect::count_sometimes;
use super::{DIRECT, EXTENT, Header, SPARE, header_of, strategy_of};
use crate::allocator::MemoryRange;
use crate::region::class::{NO_CLASS, WHOLE_RUN};
use crate::region::label::Labelled;
use crate::region::{self, ChunkEntry, Metadata, Run, links};
use crate::strategy::{Extent, Strategy, extent_of};
use crate::sys;
use crate::units::{CHUNK_BYTES, CHUNK_SHIFT, round_up};

pub(super) fn index_of(entry: &ChunkEntry) -> u32 {
    // Entries lie below the region's base, one after the other downwards.
    let distance = region::base().addr().get() - core::ptr::from_ref(entry).addr();
    (distance / region::ENTRY_BYTES) as u32 - 1
}

pub(super) fn run_of(entry: &ChunkEntry) -> Run {
    let offset = (index_of(entry) as usize) << CHUNK_SHIFT;
    Run::at_offset(offset, entry.run_chunks.get() as usize, false)
}

pub(super) fn range_of(run: Run) -> MemoryRange {
    MemoryRange { start: run.start(), length: run.bytes(), is_zeroed: run.is_zeroed }
}

pub(super) fn count_held(this: &HeapHeader, change: isize) {
    let held = this.held_bytes.get().wrapping_add_signed(change);
    this.held_bytes.set(held);
    this.peak_bytes.set(this.peak_bytes.get().max(held));
}

/// Has the account promise what the heap is about to take. The reason is noted where a limit
/// refuses it.
fn promise(this: &HeapHeader, bytes: usize) -> Option<Promise<'_>> {
    let promise = this.account.promise(bytes, this.may_overdraw.get());
    promise.map_err(|refusal| this.refusal.set(refusal)).ok()
}

/// Has a charge that passed a limit told at the next safe point.
pub(super) fn note(this: &HeapHeader, charge: Charge) {
    if charge.is_noted {
        this.attend(attention::NOTED);
    }
}

/// Takes a run from the heap's source, charges it, and puts it on the heap's list.
///
/// # Safety
/// The caller runs the heap.
pub(super) unsafe fn take_run(header: Header, request: Layout, tag: u8) -> Option<Run> {
    // SAFETY: the caller's contract.
    let this = unsafe { header_of(header) };
    // Before the source is asked: its memory is touched for no request that a limit refuses, and a
    // limit is asked, too, where the source has nothing.
    let wanted = promise(this, round_up(request.size(), CHUNK_BYTES)?)?;
    let range = this.source.take(request).ok()?;
    let offset = region::offset_of(range.start.as_ptr())?;
    let run = Run::at_offset(offset, range.length >> CHUNK_SHIFT, range.is_zeroed);
    let promised = if wanted.bytes() == run.bytes() {
        Some(wanted)
    } else {
        // A source of blocks of its own length.
        drop(wanted);
        promise(this, run.bytes())
    };
    let Some(promised) = promised else {
        // SAFETY: the range was just taken.
        unsafe { this.source.give_back(range) };
        return None;
    };
    note(this, promised.keep());
    // SAFETY: the caller runs the heap, and took the run.
    unsafe { own(header, run, 0, tag) };
    count_held(this, run.bytes() as isize);
    let entry = run.entry();
    entry.run_chunks.set(run.chunks() as u32);
    entry.live.set(0);
    entry.tag.set(tag);
    if tag == DIRECT {
        entry.set_class(WHOLE_RUN);
    }
    entry.word.reset();
    links::link_before(this.first_run.get(), run.first_chunk() as u32);
    this.first_run.set(run.first_chunk() as u32);
    Some(run)
}

/// Makes the chunks of a run the heap's, from one at a distance from the run's start on.
///
/// # Safety
/// The caller runs the heap, which holds the run.
pub(super) unsafe fn own(header: Header, run: Run, from: usize, tag: u8) {
    // SAFETY: the caller's contract.
    let this = unsafe { header_of(header) };
    for (distance, entry) in run.entries().enumerate().skip(from) {
        entry.head_distance.set(distance as u32);
        label(this, entry, distance, tag);
        run.set_owner(distance, header.as_ptr().cast());
    }
}

/// Makes the chunks of a run nobody's, from one at a distance from the run's start on.
pub(super) fn abandon(run: Run, from: usize) {
    for (distance, entry) in run.entries().enumerate().skip(from) {
        run.set_owner(distance, core::ptr::null_mut());
        entry.label.clear();
        entry.tag.set(0);
    }
}

/// Tells whoever looks at the region what the chunk at a distance from its run's start is.
pub(super) fn label(this: &HeapHeader, entry: &ChunkEntry, distance: usize, tag: u8) {
    let is_whole_block = tag == DIRECT;
    let labelled = Labelled {
        account: this.account.id().number(),
        fill: is_whole_block.then_some(1.0),
        is_whole_block,
        is_first: distance == 0,
        ..Labelled::default()
    };
    entry.label.set(labelled, this.strategy_number);
}

/// Takes a run off the heap's list and gives it back; the bytes.
///
/// # Safety
/// The caller runs the heap, and no block of the run is allocated.
pub(super) unsafe fn return_run(header: Header, entry: &'static ChunkEntry) -> usize {
    // SAFETY: the caller's contract.
    let this = unsafe { header_of(header) };
    if let Some(next) = links::unlink(entry) {
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
pub(super) unsafe fn disown(this: &HeapHeader, entry: &'static ChunkEntry) -> usize {
    let run = run_of(entry);
    check::run_returned(entry);
    entry.set_class(NO_CLASS);
    abandon(run, 0);
    // The source may hand it out as it is, an arena say.
    sys::poison::unpoison(run.start(), run.bytes());
    // SAFETY: the run came from the heap's source and nothing uses it any more.
    unsafe { this.source.give_back(range_of(run)) };
    this.account.credit(run.bytes());
    run.bytes()
}

pub(super) fn push_spare(this: &HeapHeader, entry: &ChunkEntry) {
    entry.tag.set(SPARE);
    entry.live.set(this.first_spare.get());
    this.first_spare.set(index_of(entry));
    this.spares.set(this.spares.get() + 1);
}

pub(super) fn pop_spare(this: &HeapHeader) -> Option<&'static ChunkEntry> {
    let index = this.first_spare.get();
    if index == 0 {
        return None;
    }
    let entry = links::entry(index);
    this.first_spare.set(entry.live.replace(0));
    this.spares.set(this.spares.get() - 1);
    entry.tag.set(EXTENT);
    let run = run_of(entry);
    sys::poison::unpoison(run.start(), run.bytes());
    Some(entry)
}

/// A spare chunk as a block of its own.
pub(super) fn spare_as_block(this: &HeapHeader) -> Option<Run> {
    let entry = pop_spare(this)?;
    entry.tag.set(DIRECT);
    entry.set_class(WHOLE_RUN);
    label(this, entry, 0, DIRECT);
    Some(run_of(entry))
}

/// A chunk that was a block of its own as a spare. It keeps its class, which all threads count
/// together: it mostly becomes a block again.
pub(super) fn block_as_spare(this: &HeapHeader, entry: &ChunkEntry) {
    label(this, entry, 0, SPARE);
    let run = run_of(entry);
    sys::poison::poison(run.start(), run.bytes());
    push_spare(this, entry);
}

/// Gives the strategy one more extent: a spare run, or a new one.
///
/// # Safety
/// The caller runs the heap.
pub(super) unsafe fn add_extent<S: Strategy>(header: Header) -> Option<()> {
    // SAFETY: the caller's contract, here and below.
    let this = unsafe { header_of(header) };
    // SAFETY: the caller's contract.
    unsafe { super::retire_emptied::<S>(header) };
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
    // SAFETY: the record space is the runner's; the extent is chunk-aligned, the strategy's alone,
    // and its record stays there until `remove_extent`, after which it is not used.
    unsafe {
        let extent = Extent::new(run.start(), run.bytes(), metadata, run.is_zeroed);
        run.entry().record.get().cast::<Extent>().write(extent);
        strategy.add_extent(extent_of(run.entry()));
        count_sometimes::<S>(header);
    }
    Some(())
}

/// Takes an extent without blocks from the strategy.
///
/// # Safety
/// The caller runs the heap; the run is an extent of the strategy, without blocks.
pub(super) unsafe fn remove_extent<S: Strategy>(header: Header, entry: &'static ChunkEntry) {
    // SAFETY: the caller's contract.
    unsafe {
        let strategy = strategy_of::<S>(header);
        strategy.remove_extent(extent_of(entry));
        give_back_metadata(strategy, entry);
    }
}

/// # Safety
/// The strategy uses the extent's metadata no more.
pub(super) unsafe fn give_back_metadata<S: Strategy>(strategy: &S, entry: &ChunkEntry) {
    // SAFETY: the record was written by `add_extent`, the metadata taken there with this size.
    unsafe {
        let extent = extent_of(entry);
        let bytes = strategy.metadata_bytes(extent.length());
        if bytes != 0 {
            Metadata::give_back(extent.metadata(), bytes);
        }
    }
}

/// The runs of a heap.
pub(super) fn runs(this: &HeapHeader) -> impl Iterator<Item = &'static ChunkEntry> {
    let entry = |index: u32| (index != 0).then(|| links::entry(index));
    // The successor is read before the item is handed out, so the item may be given back.
    let mut next = entry(this.first_run.get());
    core::iter::from_fn(move || {
        let current = next?;
        next = entry(current.next.get());
        Some(current)
    })
}
