//! The check of every equation of the stripes.

use core::ptr::NonNull;

use super::cell::{Cell, Header};
use super::{STRIDES, Stripes};

impl Stripes {
    /// What is wrong, if anything is.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let Some(listed_blanks) = self.blanks.count() else {
            return Some("the tree has not as many blanks as were put in");
        };
        let (mut blanks, mut open) = (0, 0);
        let (mut previous, mut next) = (None, self.headers);
        while let Some(pointer) = next {
            // SAFETY: headers in the list are of extents that were added and not removed.
            let header = unsafe { pointer.as_ref() };
            if header.previous != previous {
                return Some("the list of extents reads differently backwards");
            }
            if let Some(fault) = extent_fault(header, &mut blanks, &mut open) {
                return Some(fault);
            }
            previous = next;
            next = header.next;
        }
        if blanks != listed_blanks {
            return Some("the records and the tree have different blanks");
        }
        match self.count_listed() {
            Err(fault) => Some(fault),
            Ok(listed) if listed != open => Some("a stripe that has room is in no list"),
            Ok(_) => self.waiting_fault(),
        }
    }

    /// The stripes in the lists, or what is wrong with these.
    fn count_listed(&self) -> Result<usize, &'static str> {
        let mut listed = 0;
        for steps in 1..=STRIDES {
            let mut previous: Option<NonNull<Cell>> = None;
            let mut next = self.open.get(steps - 1).copied().flatten();
            while let Some(pointer) = next {
                // SAFETY: stripes in lists are valid.
                let head = unsafe { pointer.as_ref() };
                if head.previous != previous {
                    return Err("a list reads differently backwards");
                }
                if head.open_steps() != Some(steps) {
                    return Err("a stripe is in a list that has no room or another stride");
                }
                if head.is_empty() && (head.next.is_some() || previous.is_some()) {
                    return Err("a stripe without a block is kept beside another");
                }
                listed += 1;
                previous = next;
                next = head.next;
            }
        }
        Ok(listed)
    }
}

/// Checks the runs of an extent, and counts its blanks and the stripes with room.
fn extent_fault(header: &Header, blanks: &mut usize, open: &mut usize) -> Option<&'static str> {
    let (mut end, mut was_blank, mut taken) = (0, false, 0);
    for (index, cells, head) in header.runs() {
        if index != end || cells == 0 {
            return Some("the runs of an extent do not follow each other");
        }
        if head.is_blank() && was_blank {
            return Some("two blanks touch");
        }
        was_blank = head.is_blank();
        *blanks += usize::from(was_blank);
        taken += usize::from(head.is_taken_head());
        *open += usize::from(head.open_steps().is_some());
        end = index + cells;
    }
    if taken != header.heads() {
        return Some("a cell within a run says that it is a head");
    }
    (end != header.cells()).then_some("the runs of an extent do not fill it")
}
