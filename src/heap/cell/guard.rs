//! Letting others at a heap whose runner sleeps.
//!
//! A strategy with a front ([`Strategy::HAS_FRONT`], the slab) serves nearly every request from
//! that, which only the runner touches, without a lock. For all the rest, the extents, the heap's
//! runs, its spares and the header's cells, the runner takes the heap's lock, a few hundred
//! instructions apart at most. So another thread that has the lock may collect what was freed and
//! give back what is empty ([`super::tidy`]), although the runner may wake up at any time. Blocks
//! in the front are out of its reach.
//!
//! Heaps of other strategies have no lock to take: nobody but their runner ever enters them, or who
//! counts their blocks while nobody runs them.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::super::check;
use super::super::decay;
use super::{Header, blocks, collect, header_of, idle, inspect, is_direct, strategy_pointer};
use crate::allocator::MemoryUsage;
use crate::region::ChunkEntry;
use crate::strategy::Strategy;
use crate::sys::lock::RawLock;

/// The lock of a heap, held; or nothing, for a strategy without a front.
#[must_use]
pub struct Guard<'a> {
    lock: Option<&'a RawLock>,
}

impl Guard<'_> {
    /// Takes the lock as the runner.
    ///
    /// # Safety
    /// The caller runs the heap, which is of strategy `S` and outlives the guard, and does not hold
    /// the lock.
    #[inline]
    pub unsafe fn of<S: Strategy>(header: Header) -> Self {
        if !S::HAS_FRONT {
            return Self { lock: None };
        }
        // SAFETY: the caller's contract.
        let this = unsafe { header_of(header) };
        this.guard.lock();
        this.guarded_steps.set(this.guarded_steps.get().wrapping_add(1));
        this.is_tidy.set(false);
        Self { lock: Some(&this.guard) }
    }

    /// Takes the lock as anybody, if it is free.
    ///
    /// # Safety
    /// The heap is of a strategy with a front and outlives the guard.
    pub unsafe fn try_of_another(header: Header) -> Option<Self> {
        // SAFETY: the caller's contract.
        let this = unsafe { header_of(header) };
        // Made only where the lock was taken: dropping it opens the lock.
        this.guard.try_lock().then(|| Self { lock: Some(&this.guard) })
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(lock) = self.lock {
            // SAFETY: the guard was made by whoever took the lock.
            unsafe { lock.unlock() };
        }
    }
}

/// # Safety
/// The caller runs the heap, which is of strategy `S`; `layout` is not empty.
pub(super) unsafe fn allocate<S: Strategy>(
    header: Header,
    layout: Layout,
    is_zeroed: bool,
) -> Option<NonNull<[u8]>> {
    // SAFETY: the caller's contract.
    unsafe {
        // What has a run of its own by its alignment has a class by its size, and must not get it.
        if S::HAS_FRONT
            && !is_direct(layout)
            && let Some(block) = S::pop_front(strategy_pointer(header), layout)
        {
            check::handed_out(block.cast());
            if is_zeroed {
                block.cast::<u8>().write_bytes(0, block.len());
            }
            return Some(block);
        }
        let block = {
            let _guard = Guard::of::<S>(header);
            blocks::allocate_checked::<S>(header, layout, is_zeroed)
        };
        decay::step(header_of(header));
        block
    }
}

/// # Safety
/// The caller runs the heap, which is of strategy `S`; the block is of the run that starts at
/// `entry`, and `layout` fits it.
pub(super) unsafe fn free<S: Strategy>(
    header: Header,
    entry: &'static ChunkEntry,
    block: NonNull<u8>,
    layout: Layout,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let _guard = Guard::of::<S>(header);
        if cfg!(heapswitch_asan) {
            collect::free_late::<S>(header, entry, block, layout);
        } else {
            blocks::free::<S>(header, entry, block, layout);
        }
    }
}

/// # Safety
/// The caller runs the heap, which is of strategy `S`.
pub(super) unsafe fn collect<S: Strategy>(header: Header) {
    // SAFETY: the caller's contract.
    unsafe {
        let _guard = Guard::of::<S>(header);
        collect::collect::<S>(header);
    }
}

/// # Safety
/// As [`collect`].
pub(super) unsafe fn release_unused<S: Strategy>(header: Header, kept: u32) -> usize {
    // SAFETY: the caller's contract.
    unsafe {
        let _guard = Guard::of::<S>(header);
        idle::release_unused::<S>(header, kept)
    }
}

/// # Safety
/// As [`inspect::usage`].
pub(super) unsafe fn usage<S: Strategy>(header: Header) -> MemoryUsage {
    // SAFETY: the caller's contract.
    unsafe {
        let _guard = Guard::of::<S>(header);
        inspect::usage::<S>(header)
    }
}

/// # Safety
/// As [`collect`].
pub(super) unsafe fn verify<S: Strategy>(header: Header) {
    // SAFETY: the caller's contract.
    unsafe {
        let _guard = Guard::of::<S>(header);
        inspect::verify::<S>(header);
    }
}
