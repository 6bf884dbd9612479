//! What a heap holds, counted, and whether its structures are sound.
//!
//! Both walk every run: for reports and the `check` build, not for each allocation.

use super::collect::end_quarantine;
use super::idle::live_blocks;
use super::retire_emptied;
use super::runs::{index_of, run_of, runs};
use super::{DIRECT, EXTENT, Guard, Header, SPARE, header_of, strategy_of};
use crate::allocator::MemoryUsage;
use crate::heap::account;
use crate::numa::Residence;
use crate::region::ChunkEntry;
use crate::region::owners::ChunkPlace;
use crate::strategy::sites::log::SiteLog;
use crate::strategy::slab::{Back, Slab};
use crate::strategy::{Strategy, extent_of};
use crate::sys::{self, SystemError};
use crate::units::CHUNK_BYTES;

/// # Safety
/// The caller runs the heap, or nobody does and nobody enters it meanwhile.
pub(super) unsafe fn usage<S: Strategy>(header: Header) -> MemoryUsage {
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
            note_fill::<S>(header, entry);
        }
        // Counting may have put blocks back whose extents are thereby empty.
        retire_emptied::<S>(header);
        this.account.set_allocated(usage.allocated_bytes, usage.allocated_blocks);
        this.uncounted_steps.set(0);
        usage
    }
}

/// How often the lock of a heap is tried whose runner may be at it, for some hundred instructions
/// mostly.
const MOST_TRIES: u32 = 1000;

/// Tells the account what is allocated in a thread's heap that others run, unless its runner is at
/// it: all that is behind the front, which holds some of it.
///
/// # Safety
/// The heap is of the slab strategy, and is neither closed nor reset meanwhile.
pub unsafe fn count_behind_front(header: Header) {
    // SAFETY: the caller's contract; the lock is held for what follows.
    unsafe {
        // Not for ever: in a child of a fork a thread that is not there may hold it.
        let guard = (0..MOST_TRIES).find_map(|_| {
            core::hint::spin_loop();
            Guard::try_of_another(header)
        });
        let Some(_guard) = guard else { return };
        let (this, (blocks, bytes)) = (header_of(header), strategy_of::<Back>(header).used());
        let direct_blocks = this.direct_blocks.get() as usize;
        this.account.set_allocated(bytes + this.allocated_bytes.get(), blocks + direct_blocks);
    }
}

/// Tells the account what is allocated, once in so many new extents that each costs a look at no
/// more than four runs. Not of strategies that keep lists of free blocks, which counting would put
/// back.
///
/// # Safety
/// The caller runs the heap.
pub(super) unsafe fn count_sometimes<S: Strategy>(header: Header) {
    if S::KEEPS_SPARES || !account::IS_ACCOUNTED {
        return;
    }
    // SAFETY: the caller's contract.
    unsafe {
        let this = header_of(header);
        let steps = this.uncounted_steps.get() + 1;
        this.uncounted_steps.set(steps);
        if steps as usize * 4 * CHUNK_BYTES < this.held_bytes.get() {
            return;
        }
        this.uncounted_steps.set(0);
        let (mut bytes, mut blocks) = (this.allocated_bytes.get(), 0);
        for entry in runs(this) {
            blocks += live_blocks::<S>(header, entry) as usize;
            if S::COUNTS_BLOCKS && entry.tag.get() == EXTENT {
                let used_bytes = strategy_of::<S>(header).used_bytes(extent_of(entry));
                bytes += used_bytes;
                // The extent that is new is empty, and will not stay so.
                if used_bytes != 0 {
                    entry.label.set_fill(used_bytes, CHUNK_BYTES);
                }
            }
        }
        this.account.set_allocated(bytes, blocks);
    }
}

/// Tells whoever looks at the region how full an extent is: all that is not known to hold no block.
/// Costs a walk through the extent's free parts.
///
/// # Safety
/// The caller runs the heap, and the run is the heap's.
pub(super) unsafe fn note_fill<S: Strategy>(header: Header, entry: &'static ChunkEntry) {
    let used_bytes = match entry.tag.get() {
        SPARE => 0,
        // SAFETY: the caller's contract.
        EXTENT => unsafe {
            let (strategy, extent) = (strategy_of::<S>(header), extent_of(entry));
            let mut idle_bytes = 0;
            strategy.visit_idle(extent, &mut |idle| idle_bytes += idle.len());
            let most = if S::COUNTS_BLOCKS { strategy.used_bytes(extent) } else { CHUNK_BYTES };
            most.min(extent.length().saturating_sub(idle_bytes))
        },
        _ => return,
    };
    entry.label.set_fill(used_bytes, CHUNK_BYTES);
}

/// Where its blocks were asked for, if that is recorded.
///
/// # Safety
/// The caller runs the heap.
pub(super) unsafe fn sites<S: Strategy>(header: Header) -> Option<SiteLog> {
    if S::HAS_FRONT {
        return None; // It records nothing, and its lock is not held here.
    }
    // SAFETY: the caller's contract.
    unsafe {
        strategy_of::<S>(header).sites()?;
        end_quarantine::<S>(header);
        strategy_of::<S>(header).sites()?.log()
    }
}

/// # Safety
/// The caller runs the heap.
pub(super) unsafe fn verify<S: Strategy>(header: Header) {
    // SAFETY: the caller's contract holds for each call below.
    unsafe {
        strategy_of::<S>(header).verify();
        let mut previous = 0;
        for entry in runs(header_of(header)) {
            // All tables name the heap, of every chunk, and one class.
            let owner = header.as_ptr().cast();
            let is_owned = run_of(entry).entries().map(|entry| (entry, ChunkPlace::of(entry))).all(
                |(entry, place)| {
                    (entry.owner(), place.owner()) == (owner, owner)
                        && entry.class() == place.class()
                },
            );
            let is_linked = entry.previous.get() == previous
                && is_owned
                && matches!(entry.tag.get(), EXTENT | DIRECT | SPARE);
            if !is_linked {
                sys::abort_with(&["the runs of a heap are corrupted: ", S::NAME]);
            }
            previous = index_of(entry);
        }
    }
}

/// Checks every structure, in the `check` build, once in so many slow paths that the cost of each
/// is that of a few chunks.
///
/// # Safety
/// The caller runs the heap.
#[inline]
pub(super) unsafe fn verify_sometimes<S: Strategy>(header: Header) {
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

/// On which NUMA nodes the pages of a heap's runs lie, beside where its source wants them.
///
/// # Errors
/// The system's: `ENOSYS` where it has no NUMA, `EPERM` where a sandbox forbids to ask.
///
/// # Safety
/// The caller runs the heap.
pub unsafe fn residence(header: Header) -> Result<Residence, SystemError> {
    // SAFETY: the caller's contract.
    let this = unsafe { header_of(header) };
    // SAFETY: the caller runs the heap; one whose strategy has no front needs no lock, and may have
    // it taken.
    let _guard = unsafe { Guard::of::<Slab>(header) };
    let mut residence = Residence::wanted(this.source.placement().policy);
    for entry in runs(this) {
        let run = run_of(entry);
        residence.count_range(run.start(), run.bytes())?;
    }
    residence.look_up_backing_where(|mapping| {
        runs(this).map(run_of).any(|run| {
            let start = run.start().addr().get();
            mapping.start < start + run.bytes() && start < mapping.end
        })
    });
    Ok(residence)
}
