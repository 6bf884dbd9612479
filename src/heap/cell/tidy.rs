//! Putting a slab heap in order whose runner sleeps, or does other things: by any thread, under the
//! heap's lock.
//!
//! What others freed is collected. Of a heap whose runner did nothing since the last look all that
//! is empty goes back to the source, and so do the pages that lie between the blocks of its
//! extents. What its magazines hold stays, and pins its pages.

use super::close::drop_idle_pages;
use super::collect::collect;
use super::idle::{release_empty, retire_emptied};
use super::runs::runs;
use super::{EXTENT, Guard, Header, header_of, strategy_of};
use crate::strategy::extent_of;
use crate::strategy::slab::Back;

/// How much is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tidying {
    /// What is empty goes back where the runner did nothing since the last time.
    WhereIdle,
    /// What is empty goes back.
    Everywhere,
}

/// Puts a heap in order, unless its runner is at it; the bytes that went back to the source.
///
/// # Safety
/// The heap is of the slab strategy and is not closed meanwhile; the caller does not hold its lock.
pub unsafe fn tidy(header: Header, tidying: Tidying) -> usize {
    // SAFETY: the caller's contract; the lock is held for all that follows, which uses no more than
    // the slab's back.
    unsafe {
        let Some(_guard) = Guard::try_of_another(header) else { return 0 };
        let this = header_of(header);
        let is_idle = this.seen_steps.replace(this.guarded_steps.get()) == this.guarded_steps.get();
        let held_bytes = this.held_bytes.get();
        if !this.foreign.is_empty() {
            collect::<Back>(header);
            retire_emptied::<Back>(header);
            this.is_tidy.set(false);
        }
        if (is_idle || tidying == Tidying::Everywhere) && !this.is_tidy.get() {
            retire_emptied::<Back>(header);
            release_empty::<Back>(header, 0);
            for entry in runs(this).filter(|entry| entry.tag.get() == EXTENT) {
                drop_idle_pages(strategy_of::<Back>(header), extent_of(entry));
            }
            this.is_tidy.set(true);
        }
        held_bytes - this.held_bytes.get()
    }
}
