//! Blocks that nobody means any more go back to the free slots, at once or when the last reader is
//! done. Nothing here needs memory: to free always succeeds.
#![forbid(unsafe_code)]

use super::NONE;
use super::space::Space;
use super::table::{Linked, Record, Tables};

/// Ends the claims on blocks, and gives those back that were freed meanwhile; whether there were
/// any.
pub(super) fn unclaim(space: &mut Space, tables: &Tables, claimed: &[u32]) -> bool {
    let mut were_freed = false;
    for number in claimed {
        if let Some(record) = tables.records.get(*number)
            && record.pins.unclaim()
        {
            withhold_or_give_back(space, tables, *number);
            were_freed = true;
        }
    }
    were_freed
}

/// Gives back the block of a record that nobody owns, and that counts as withheld, once no reader
/// announces it.
pub(super) fn withhold_or_give_back(space: &mut Space, tables: &Tables, number: u32) {
    let Some(record) = tables.records.get(number) else { return };
    if !tables.lanes.announces(number) {
        return give_back_one_withheld(space, tables, record, number);
    }
    withhold(space, record, number);
    // A reader that is done does not say so. Each time the list has doubled since the last time it
    // is looked through, so that costs O(1) for each block.
    if space.withheld_count >= space.most_withheld {
        give_back_withheld(space, tables);
        space.most_withheld = 2 * space.withheld_count + 8;
    }
}

fn withhold(space: &mut Space, record: &Record, number: u32) {
    record.set_next(space.withheld);
    space.withheld = number;
    space.withheld_count += 1;
}

/// Gives back what is withheld and not read any more.
pub(super) fn give_back_withheld(space: &mut Space, tables: &Tables) {
    if space.withheld == NONE {
        return;
    }
    let announced = tables.announced();
    let mut number = core::mem::replace(&mut space.withheld, NONE);
    space.withheld_count = 0;
    while let Some(record) = tables.records.get(number).filter(|_| number != NONE) {
        let next = record.next();
        if announced.has(number) {
            withhold(space, record, number);
        } else {
            give_back_one_withheld(space, tables, record, number);
        }
        number = next;
    }
}

fn give_back_one_withheld(space: &mut Space, tables: &Tables, record: &Record, number: u32) {
    space.withheld_units -= space.get(record.span()).length;
    give_back(space, tables, record, number);
}

/// Gives back the block of a record that nobody owns or reads.
pub(super) fn give_back(space: &mut Space, tables: &Tables, record: &Record, number: u32) {
    let span = record.span();
    space.free_units += space.get(span).length;
    space.blocks -= 1;
    space.join(span);
    space.records.give_back(&tables.records, number);
}
