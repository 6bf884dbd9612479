//! The extents of a bit set on **shelves**, by their longest run: so that a request that the
//! current extent cannot serve finds one that can without a look at each.

use core::ptr::NonNull;

use super::BitSet;
use super::bins;
use super::cut::Cut;
use super::runs::Runs;
use crate::strategy::Extent;

/// Shelves: one for full extents, and one for each doubling of the longest run.
pub(super) const SHELVES: usize = 1 + bins::LAST.div_ceil(4);

/// Extents looked at on the one shelf where a look may be in vain, before better shelves are tried.
const SHORT_LOOK: usize = 4;

/// The shelf for extents whose longest run is in that bin. Does not fall as the bin grows.
#[inline]
pub(super) const fn shelf_of(bin: usize) -> usize {
    (bin + 3) >> 2
}

impl BitSet {
    /// Looks in the extents whose longest run is shorter than the current one's may be and yet
    /// surely long enough, the fullest first: what was freed there serves before memory that nobody
    /// has touched.
    #[inline(never)]
    pub(super) fn cut_from_fuller<const MUST_TELL: bool>(
        &mut self,
        current: Runs<'_>,
        blocks: usize,
    ) -> Option<Cut> {
        let surely = u32::MAX << shelf_of(bins::of(blocks)) << 1;
        // Each turn but the last puts an extent on a lower shelf: of a greater alignment one could
        // have room and not serve.
        loop {
            let fuller = self.occupied & surely & ((1 << current.header.shelf.get()) - 1);
            if fuller == 0 {
                return None;
            }
            let shelf = fuller.trailing_zeros() as usize;
            let cut = self.cut_from_shelf::<MUST_TELL>(shelf, 1, blocks, 1);
            if cut.is_some() {
                return cut;
            }
        }
    }

    /// Looks first in a few of the extents that perhaps have room, then in those that surely had
    /// when they were put on their shelf, last in all that perhaps have.
    pub(super) fn cut_from_shelves<const MUST_TELL: bool>(
        &mut self,
        blocks: usize,
        align: usize,
    ) -> Option<Cut> {
        let shelf = shelf_of(bins::of(blocks));
        if let Some(cut) = self.cut_from_shelf::<MUST_TELL>(shelf, SHORT_LOOK, blocks, align) {
            return Some(cut);
        }
        for better in shelf + 1..SHELVES {
            if self.occupied >> better & 1 != 0
                && let Some(cut) =
                    self.cut_from_shelf::<MUST_TELL>(better, usize::MAX, blocks, align)
            {
                return Some(cut);
            }
        }
        self.cut_from_shelf::<MUST_TELL>(shelf, usize::MAX, blocks, align)
    }

    fn cut_from_shelf<const MUST_TELL: bool>(
        &mut self,
        shelf: usize,
        mut looks: usize,
        blocks: usize,
        align: usize,
    ) -> Option<Cut> {
        let mut next = *self.shelves.get(shelf)?;
        while let Some(pointer) = next
            && looks > 0
        {
            looks -= 1;
            // SAFETY: every extent in a shelf's list was added and not removed.
            let (extent, runs) = unsafe { (pointer.as_ref(), Runs::of(pointer.as_ref())) };
            next = runs.header.next.get();
            let cut = self.cut_from::<MUST_TELL>(extent, runs, blocks, align);
            if cut.is_some() {
                self.current = Some(pointer);
                return cut;
            }
            self.set_shelf(extent, runs, shelf_of(runs.top_bin()));
        }
        None
    }

    /// Moves an extent to a higher shelf.
    #[inline(never)]
    pub(super) fn raise(&mut self, extent: &Extent, shelf: usize) {
        // SAFETY: only extents that were added and not removed are moved.
        let runs = unsafe { Runs::of(extent) };
        self.set_shelf(extent, runs, shelf);
    }

    /// Moves an extent to a shelf.
    fn set_shelf(&mut self, extent: &Extent, runs: Runs<'_>, shelf: usize) {
        if runs.header.shelf.get() != shelf {
            self.unshelve(runs);
            self.shelve(extent, runs, shelf);
        }
    }

    /// Puts an extent that is in no list into that of a shelf.
    pub(super) fn shelve(&mut self, extent: &Extent, runs: Runs<'_>, shelf: usize) {
        let Some(head) = self.shelves.get_mut(shelf) else { return };
        if let Some(next) = *head {
            // SAFETY: every extent in a shelf's list was added and not removed.
            unsafe { Runs::of(next.as_ref()) }.header.previous.set(Some(extent.into()));
        }
        runs.header.shelf.set(shelf);
        runs.header.previous.set(None);
        runs.header.next.set(*head);
        // INVARIANT: the extent is in this list now, and its shelf is occupied.
        *head = Some(extent.into());
        self.occupied |= 1 << shelf;
    }

    /// Takes an extent out of its list.
    pub(super) fn unshelve(&mut self, runs: Runs<'_>) {
        let shelf = runs.header.shelf.get();
        let (next, previous) = (runs.header.next.get(), runs.header.previous.get());
        if let Some(next) = next {
            // SAFETY: every extent in a shelf's list was added and not removed.
            unsafe { Runs::of(next.as_ref()) }.header.previous.set(previous);
        }
        if let Some(previous) = previous {
            // SAFETY: as above.
            unsafe { Runs::of(previous.as_ref()) }.header.next.set(next);
        } else if let Some(head) = self.shelves.get_mut(shelf) {
            *head = next;
            if next.is_none() {
                // INVARIANT: the list is empty now.
                self.occupied &= !(1 << shelf);
            }
        }
    }

    /// Calls `visit` with each extent.
    pub(super) fn visit_extents(&self, mut visit: impl FnMut(&Extent)) {
        for head in self.shelves {
            let mut next = head;
            while let Some(pointer) = next {
                // SAFETY: every extent in a shelf's list was added and not removed.
                let (extent, runs) = unsafe { (pointer.as_ref(), Runs::of(pointer.as_ref())) };
                next = runs.header.next.get();
                visit(extent);
            }
        }
    }

    /// Whether that is one of the extents, found without reading it.
    pub(super) fn is_shelved(&self, extent: NonNull<Extent>) -> bool {
        self.shelves.iter().any(|&head| {
            // SAFETY: every extent in a shelf's list was added and not removed.
            let next =
                |pointer: &NonNull<Extent>| unsafe { Runs::of(pointer.as_ref()).header.next.get() };
            core::iter::successors(head, next).any(|shelved| shelved == extent)
        })
    }
}
