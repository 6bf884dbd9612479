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
use super::table::Record;
use super::{NONE, Units};
use crate::sync::pins::Hold;

impl Shared {
    /// Makes slack free, where there may be some: O(blocks). Some is left where readers hold a
    /// block that was freed, or count as readers; and where somebody is in the middle of something:
    /// then true, and trying again helps.
    pub(super) fn take_slack_back(&self, space: &mut Space) -> bool {
        if !core::mem::replace(&mut space.has_slack, false) {
            return false;
        }
        let (mut is_unsettled, mut gone) = (false, 0);
        let mut span = space.first;
        while span != NONE {
            if let Content::Block(number) = space.get(span).content
                && let Some(record) = self.tables.records.get(number)
            {
                let hold = record.pins.look();
                is_unsettled |= hold == Hold::Busy;
                gone += usize::from(hold == Hold::Gone);
                if self.needed(record) != space.get(span).length {
                    if hold == Hold::Nothing && record.pins.claim().is_ok() {
                        span = self.shorten(space, number, record);
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

    /// The units that a block's bytes take.
    fn needed(&self, record: &Record) -> Units {
        self.units(record.place().bytes as usize) as Units
    }

    /// Makes a block as short as its bytes, which the caller has claimed; its span.
    fn shorten(&self, space: &mut Space, number: u32, record: &Record) -> u32 {
        let (span, needed) = (record.span(), self.needed(record));
        let slack = space.get(span).length - needed;
        if slack == 0 {
            return span;
        }
        if space.make_room(1).is_err() {
            space.has_slack = true;
            return span;
        }
        let front = space.split(span, needed);
        space.span(front).content = Content::Block(number);
        record.set_span(front);
        record.set_units(needed);
        space.free_units += slack;
        space.span(span).content = Content::Reserved;
        space.join(span);
        front
    }
}
