//! What blocks have beyond their need.
//!
//! A write that finds a freed block of a little more than its length takes it as it is. So most
//! writes of long values find one, though they have hundreds of lengths. That is so only while, as
//! far as is known, a sixteenth of the store is free, and all slack is taken back before a write
//! moves anything, or is refused: it lies behind the bytes, so readers of those are not in the way.
#![forbid(unsafe_code)]

use super::give_back::unclaim;
use super::shared::Shared;
use super::space::{Content, Space};
use super::table::{Linked, Record};
use super::{NONE, Units};
use crate::sync::pins::Hold;

impl Shared {
    /// Makes slack free, where there may be some: O(blocks). Some is left where a guard counts as
    /// a reader, or there is no memory for the slot; and where somebody is in the middle of
    /// something: then true, and trying again helps.
    pub(super) fn take_slack_back(&self, space: &mut Space) -> bool {
        if !core::mem::replace(&mut space.has_slack, false) {
            return false;
        }
        // Nobody owns what is withheld, so nobody but who has the lock does anything with it.
        let mut number = space.withheld;
        while let Some(record) = self.tables.records.get(number).filter(|_| number != NONE) {
            space.withheld_units -= self.shorten(space, number, record);
            number = record.next();
        }
        let (mut is_unsettled, mut gone) = (false, 0);
        let mut span = space.first;
        while span != NONE {
            let length = space.get(span).length;
            if let Content::Block(number) = space.get(span).content
                && let Some(record) = self.tables.records.get(number)
            {
                let hold = record.pins.look();
                // A longer one was in no stash.
                is_unsettled |= hold == Hold::Busy && length <= self.stashes.longest();
                gone += usize::from(hold == Hold::Gone);
                if space.needed(record) != length {
                    if hold == Hold::Nothing && record.pins.claim().is_ok() {
                        let slack = self.shorten(space, number, record);
                        record.set_units(length - slack);
                        span = record.span();
                        // Not freed meanwhile: that takes the lock.
                        unclaim(space, &self.tables, &[number]);
                    } else {
                        // Held by nothing and not claimed: somebody was faster.
                        is_unsettled |= hold == Hold::Nothing;
                        space.has_slack = true;
                    }
                }
            }
            span = space.get(span).next;
        }
        // Of what is not owned the others were just taken from a stash, or are on their way there.
        is_unsettled |= gone > space.withheld_count;
        space.has_slack |= is_unsettled;
        is_unsettled
    }

    /// Makes a block as short as its bytes, which nobody else claims or frees meanwhile; by how
    /// many units.
    fn shorten(&self, space: &mut Space, number: u32, record: &Record) -> Units {
        let (span, needed) = (record.span(), space.needed(record));
        let slack = space.get(span).length - needed;
        if slack == 0 {
            return 0;
        }
        if space.make_room(1).is_err() {
            space.has_slack = true;
            return 0;
        }
        let front = space.split(span, needed);
        space.span(front).content = Content::Block(number);
        record.set_span(front);
        space.free_units += slack;
        space.span(span).content = Content::Reserved;
        space.join(span);
        slack
    }
}
