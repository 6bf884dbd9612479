//! The extents of a slab: by class those with free blocks, those without a class, those without
//! blocks.
//!
//! ```text
//!   heads[class]  extent ⇄ extent ⇄ ...       with a free block, or room for a new one
//!   unassigned    extent ─▶ extent ─▶ ...     that no class has yet
//!   emptied       extent ─▶ extent ─▶ ...     whose last block was given back
//! ```
//!
//! The last listed extent of a class stays listed when it loses its last block, for a class in use
//! mostly needs one again at once. [`MOST_KEPT`] extents without blocks stay so, of all classes
//! together; the next one sends the one away that has been empty for longest.
//!
//! All links are words of the extents' records. Every operation is O(1) but removing an extent that
//! is unassigned or emptied.

use super::class::{CLASSES, block_bytes};
use crate::strategy::Extent;
use crate::sys::abort_with;

/// Extents without blocks that stay with their classes.
const MOST_KEPT: usize = 4;

/// Which word of an extent holds what. `HEAD` is its slab's own.
pub(super) const HEAD: usize = 0;
const COUNTS: usize = 1;
const NEXT: usize = 2;
const PREVIOUS: usize = 3;
/// Class in the low 8 bits, whether it is listed by its class in bit 8; from bit 32 on one more
/// than the count of free blocks when the pages between blocks were dropped last.
const STATE: usize = 4;
/// Whose extent it is, and of which class: see [`Back::mark`](super::Back::mark). 0 for an extent
/// without a class, and for those of a slab for use on its own.
const OWNER: usize = 5;

const IS_LISTED: usize = 1 << 8;
const DROPPED_SHIFT: u32 = 32;
const CARVED_SHIFT: u32 = 32;
const USED_MASK: usize = (1 << CARVED_SHIFT) - 1;

/// The most blocks of an extent that are counted.
pub(super) const MOST_BLOCKS: usize = USED_MASK;

pub(super) fn class_of_extent(extent: &Extent) -> usize {
    extent.words[STATE].get() & 0xFF
}

/// Whose extent it is.
#[inline]
pub(super) fn owner(extent: &Extent) -> usize {
    extent.words[OWNER].get()
}

pub(super) fn set_owner(extent: &Extent, owner: usize) {
    extent.words[OWNER].set(owner);
}

fn is_listed(extent: &Extent) -> bool {
    extent.words[STATE].get() & IS_LISTED != 0
}

/// Blocks that were carved from the extent so far, whoever has them now.
pub(super) fn carved(extent: &Extent) -> usize {
    extent.words[COUNTS].get() >> CARVED_SHIFT
}

/// Blocks that the extent has back.
pub(super) fn free(extent: &Extent) -> usize {
    // Where the counts are damaged this is more than any extent has, and is told as such.
    carved(extent).wrapping_sub(used(extent))
}

/// Blocks that are allocated, or kept in front of the extents.
pub(super) fn used(extent: &Extent) -> usize {
    extent.words[COUNTS].get() & USED_MASK
}

pub(super) fn count_carved(extent: &Extent, blocks: usize) {
    let counts = &extent.words[COUNTS];
    counts.set(counts.get() + (blocks << CARVED_SHIFT) + blocks);
    forget_drop(extent);
}

pub(super) fn count_taken(extent: &Extent, blocks: usize) {
    let counts = &extent.words[COUNTS];
    counts.set(counts.get() + blocks);
    forget_drop(extent);
}

fn forget_drop(extent: &Extent) {
    let state = &extent.words[STATE];
    state.set(state.get() & ((1 << DROPPED_SHIFT) - 1));
}

/// Notes that the pages between the extent's blocks are being dropped. Whether there may be some
/// that were not yet.
pub(super) fn note_drop(extent: &Extent) -> bool {
    let (state, mark) = (&extent.words[STATE], free(extent) + 1);
    let is_new = state.get() >> DROPPED_SHIFT != mark;
    forget_drop(extent);
    state.set(state.get() | mark << DROPPED_SHIFT);
    is_new
}

pub(super) fn used_bytes(extent: &Extent) -> usize {
    used(extent) * block_bytes(class_of_extent(extent))
}

/// Ends the process where a block goes back that is not out.
#[cold]
#[inline(never)]
pub(super) fn freed_twice() -> ! {
    abort_with(&["slab: a block was freed twice, or the records of free blocks are corrupted"])
}

/// The record behind a pointer that a slab keeps.
fn record_at(pointer: *const Extent) -> Option<&'static Extent> {
    // SAFETY: a slab keeps records only from `add_extent` to `remove_extent`.
    unsafe { pointer.as_ref() }
}

fn record(extent: &Extent, word: usize) -> Option<&'static Extent> {
    let address = extent.words.get(word).map_or(0, core::cell::Cell::get);
    record_at(core::ptr::with_exposed_provenance(address))
}

fn set_record(extent: &Extent, word: usize, to: Option<&Extent>) {
    if let Some(cell) = extent.words.get(word) {
        cell.set(to.map_or(0, |record| core::ptr::from_ref(record).expose_provenance()));
    }
}

fn as_pointer(extent: Option<&Extent>) -> *const Extent {
    extent.map_or(core::ptr::null(), core::ptr::from_ref)
}

/// The extents of a slab, by what they have.
///
/// # Invariants
/// - The pointers, and the links of the extents that they lead to, are null or records of extents
///   that were added and not removed since.
/// - Every listed extent that had blocks and has none is one of `kept`.
#[derive(Debug)]
pub(super) struct Partials {
    heads: [*const Extent; CLASSES],
    unassigned: *const Extent,
    emptied: *const Extent,
    /// Those that stayed with their class although they lost their last block, the latest first;
    /// perhaps they have blocks again. The rest is null.
    kept: [*const Extent; MOST_KEPT],
}

impl Partials {
    pub(super) const fn new() -> Self {
        Self {
            heads: [core::ptr::null(); CLASSES],
            unassigned: core::ptr::null(),
            emptied: core::ptr::null(),
            kept: [core::ptr::null(); MOST_KEPT],
        }
    }

    /// The first extent that the class lists.
    pub(super) fn first(&self, class: usize) -> Option<&'static Extent> {
        record_at(*self.heads.get(class)?)
    }

    /// The one that the class lists after this one.
    pub(super) fn next(extent: &Extent) -> Option<&'static Extent> {
        record(extent, NEXT)
    }

    /// Gives the class an extent that has none yet, if there is one.
    pub(super) fn assign(&mut self, class: usize) -> Option<&'static Extent> {
        let extent = record_at(self.unassigned)?;
        self.unassigned = as_pointer(record(extent, NEXT));
        extent.words[NEXT].set(0);
        extent.words[STATE].set(class);
        self.list(extent);
        Some(extent)
    }

    fn list(&mut self, extent: &Extent) {
        let Some(head) = self.heads.get_mut(class_of_extent(extent)) else { return };
        let first = record_at(*head);
        set_record(extent, NEXT, first);
        set_record(extent, PREVIOUS, None);
        if let Some(first) = first {
            set_record(first, PREVIOUS, Some(extent));
        }
        *head = extent;
        extent.words[STATE].set(extent.words[STATE].get() | IS_LISTED);
    }

    /// Takes an extent off its class's list, if it is there.
    pub(super) fn unlist(&mut self, extent: &Extent) {
        if !is_listed(extent) {
            return;
        }
        let (next, previous) = (record(extent, NEXT), record(extent, PREVIOUS));
        if let Some(next) = next {
            set_record(next, PREVIOUS, previous);
        }
        match previous {
            Some(previous) => set_record(previous, NEXT, next),
            None => {
                if let Some(head) = self.heads.get_mut(class_of_extent(extent)) {
                    *head = as_pointer(next);
                }
            }
        }
        extent.words[STATE].set(extent.words[STATE].get() & !IS_LISTED);
        extent.words[NEXT].set(0);
        extent.words[PREVIOUS].set(0);
    }

    /// Counts blocks that the extent has back. Whether there are more extents without blocks than
    /// before, set aside as emptied, or kept with their class.
    #[inline]
    pub(super) fn count_back(&mut self, extent: &Extent, blocks: usize) -> bool {
        let Some(used) = used(extent).checked_sub(blocks) else { freed_twice() };
        extent.words[COUNTS].set(extent.words[COUNTS].get() - blocks);
        if !is_listed(extent) {
            self.list(extent);
        }
        used == 0 && self.note_emptied(extent)
    }

    /// As [`count_back`](Self::count_back), of an extent that has lost its last block.
    #[cold]
    #[inline(never)]
    fn note_emptied(&mut self, extent: &Extent) -> bool {
        if extent.words[NEXT].get() == 0 && extent.words[PREVIOUS].get() == 0 {
            return self.keep(extent);
        }
        self.set_aside(extent);
        true
    }

    fn set_aside(&mut self, extent: &Extent) {
        self.unlist(extent);
        set_record(extent, NEXT, record_at(self.emptied));
        self.emptied = extent;
    }

    /// Keeps an extent without blocks with its class, perhaps instead of the one that was kept
    /// first. False where it was one of those that are kept.
    fn keep(&mut self, extent: &Extent) -> bool {
        let mut moved: *const Extent = extent;
        for slot in &mut self.kept {
            core::mem::swap(slot, &mut moved);
            if core::ptr::eq(moved, extent) {
                return false;
            }
        }
        if let Some(first) = record_at(moved).filter(|first| is_listed(first) && used(first) == 0) {
            self.set_aside(first);
        }
        true
    }

    /// How many extents without blocks are kept with their classes; those that have blocks again
    /// are forgotten.
    pub(super) fn kept(&mut self) -> usize {
        self.retain_kept(|extent| is_listed(extent) && used(extent) == 0)
    }

    fn retain_kept(&mut self, is_kept: impl Fn(&Extent) -> bool) -> usize {
        let mut kept = [core::ptr::null(); MOST_KEPT];
        let found = self.kept.iter().filter(|&&slot| record_at(slot).is_some_and(&is_kept));
        let count = kept.iter_mut().zip(found).map(|(slot, &extent)| *slot = extent).count();
        self.kept = kept;
        count
    }

    /// Whether an extent may be without blocks and listed.
    pub(super) fn is_kept(&self, extent: &Extent) -> bool {
        self.kept.iter().any(|&kept| core::ptr::eq(kept, extent))
    }

    /// One that was set aside, each once.
    pub(super) fn next_emptied(&mut self) -> Option<&'static Extent> {
        let extent = record_at(self.emptied)?;
        self.emptied = as_pointer(record(extent, NEXT));
        extent.words[NEXT].set(0);
        Some(extent)
    }

    pub(super) fn take_in(&mut self, extent: &Extent) {
        set_record(extent, NEXT, record_at(self.unassigned));
        self.unassigned = extent;
    }

    pub(super) fn remove(&mut self, extent: &Extent) {
        self.unlist(extent);
        if self.is_kept(extent) {
            self.retain_kept(|kept| !core::ptr::eq(kept, extent));
        }
        for list in [&mut self.unassigned, &mut self.emptied] {
            let mut previous: Option<&Extent> = None;
            let mut next = record_at(*list);
            while let Some(current) = next {
                next = record(current, NEXT);
                if core::ptr::eq(current, extent) {
                    match previous {
                        Some(previous) => set_record(previous, NEXT, next),
                        None => *list = as_pointer(next),
                    }
                    break;
                }
                previous = Some(current);
            }
        }
        for word in &extent.words {
            word.set(0);
        }
    }

    /// Calls `visit` with each extent that the class lists, when its links and class agree with
    /// that; `broken` is called where they do not.
    pub(super) fn verify(
        &self,
        class: usize,
        visit: &mut dyn FnMut(&Extent),
        broken: fn(&str) -> !,
    ) {
        let mut previous: Option<&Extent> = None;
        let mut next = self.first(class);
        while let Some(extent) = next {
            let before = record(extent, PREVIOUS).map(core::ptr::from_ref);
            let is_linked =
                is_listed(extent) && before == previous.map(core::ptr::from_ref::<Extent>);
            if !is_linked || class_of_extent(extent) != class {
                broken("the list of extents with free blocks is corrupted");
            }
            if carved(extent) != 0 && used(extent) == 0 && !self.is_kept(extent) {
                broken("more extents without blocks are kept than stated");
            }
            visit(extent);
            previous = next;
            next = record(extent, NEXT);
        }
    }
}
