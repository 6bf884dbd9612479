//! The slab's front: by class a magazine of free blocks, which its heap's runner alone touches.
//!
//! The rest of the slab, [`Back`](super::Back), may be used by other threads under the heap's
//! lock; what lies in a magazine they never see, and its blocks count as used there.

use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::class::{self, CLASSES};

/// The bytes of blocks that a magazine holds, about; twice as many where it is [wide](Traffic).
const MAGAZINE_BYTES: usize = 32 << 10;

/// The blocks that an empty magazine is first filled with; each time twice as many, up to half of
/// what it holds. A thread that lives for a few hundred blocks then moves no thousands.
const FIRST_REFILL: usize = 8;

/// The blocks of a magazine that go first.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Which {
    Oldest,
    Newest,
}

/// The most blocks that a magazine holds if it is not wide, and the fewest.
const MAX_MAGAZINE: usize = 512;
pub(super) const MIN_MAGAZINE: usize = 4;
/// The most blocks that a wide one holds.
const MAX_WIDE: usize = 1280;

/// How often blocks have to turn back, between the magazine and the extents, before it is wide.
const TURNS: u8 = 8;

/// What the refills and spills of a magazine tell of what its program does.
#[derive(Clone, Copy)]
struct Traffic {
    last: Move,
    /// How often blocks turned back of which a wide magazine would have kept all; zero after more
    /// were moved one way than that keeps.
    turns: u8,
    /// The blocks that were moved since they turned.
    blocks: u16,
}

/// A way of blocks between a magazine and the extents.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Move {
    Refill,
    Spill,
}

impl Traffic {
    const NONE: Self = Self { last: Move::Refill, turns: 0, blocks: 0 };

    /// Whether the magazine may hold more: a few hundred objects are made and dropped, again and
    /// again. Where thousands are, a wide one would save little, and hand out first what was freed
    /// last of all of them, in whatever order that lies.
    fn is_wide(self) -> bool {
        self.turns == TURNS
    }

    fn note(&mut self, way: Move, blocks: usize, most: usize) {
        if way != self.last {
            self.turns += u8::from(self.turns != TURNS);
            (self.last, self.blocks) = (way, 0);
        }
        self.blocks = self.blocks.saturating_add(blocks as u16);
        if usize::from(self.blocks) > most {
            self.turns = 0;
        }
    }
}

/// The most blocks that the magazine of a class holds if it is not wide.
const fn narrow_of(class: usize) -> usize {
    let blocks = MAGAZINE_BYTES / class::computed_bytes(class);
    if blocks > MAX_MAGAZINE {
        MAX_MAGAZINE
    } else if blocks < MIN_MAGAZINE {
        MIN_MAGAZINE
    } else {
        blocks
    }
}

/// The slots of the magazine of a class.
const fn capacity_of(class: usize) -> usize {
    let (narrow, wide) = (narrow_of(class), 2 * MAGAZINE_BYTES / class::computed_bytes(class));
    if wide < narrow {
        narrow
    } else if wide > MAX_WIDE {
        MAX_WIDE
    } else {
        wide
    }
}

/// Where the magazine of each class starts among the slots; the last is where all end. No `static`,
/// for the reason that the table of classes is none.
const STARTS: &[u32; CLASSES + 1] = &{
    let mut starts = [0; CLASSES + 1];
    let mut class = 0;
    while class < CLASSES {
        starts[class + 1] = starts[class] + capacity_of(class) as u32;
        class += 1;
    }
    starts
};

/// The tops of empty magazines, and the limits of those that are as long as they may be, but not
/// wide.
const EMPTY_TOPS: [u32; CLASSES] = tops_at(0);
const NARROW: [u32; CLASSES] = tops_at(1);

const fn tops_at(filled: usize) -> [u32; CLASSES] {
    let (mut tops, mut class) = ([0; CLASSES], 0);
    while class < CLASSES {
        tops[class] = STARTS[class] + (filled * narrow_of(class)) as u32;
        class += 1;
    }
    tops
}

/// The slots of all magazines.
const SLOTS: usize = {
    let (mut slots, mut class) = (0, 0);
    while class < CLASSES {
        slots += capacity_of(class);
        class += 1;
    }
    slots
};

/// The magazines of a slab.
///
/// # Invariants
/// - For each class `STARTS[class] < limits[class] <= STARTS[class + 1]`.
/// - For each class `STARTS[class] <= tops[class] < limits[class]`, and equal to the latter only
///   from a `push` that says so to the `spill` that has to follow.
/// - The slots from `STARTS[class]` to `tops[class]` hold blocks of the class that are free, of
///   extents of this slab, each once.
#[repr(C)]
pub struct Front {
    tops: [u32; CLASSES],
    limits: [u32; CLASSES],
    /// How often a magazine was refilled with less than half of what it holds.
    refills: [u8; CLASSES],
    traffic: [Traffic; CLASSES],
    slots: [MaybeUninit<NonNull<u8>>; SLOTS],
}

#[inline]
pub(super) fn start_of(class: usize) -> usize {
    STARTS.get(class).map_or(0, |&start| start as usize)
}

/// The blocks that stay in a wide magazine of so many when it is spilled: fewer go than a refill
/// brings, or it would never come to hold all that goes to and fro. Each spill moves what stays.
fn kept_wide(length: usize) -> usize {
    length - length.div_ceil(5)
}

/// The most blocks of a class that a magazine holds that is not wide.
fn narrow(class: usize) -> usize {
    NARROW.get(class).map_or(0, |&limit| limit as usize) - start_of(class)
}

/// The most blocks of a class that a magazine ever holds.
pub(super) fn capacity(class: usize) -> usize {
    STARTS.get(class + 1).map_or(0, |&end| end as usize) - start_of(class)
}

impl Front {
    /// Empty magazines.
    pub(super) const NEW: Self = Self {
        tops: EMPTY_TOPS,
        limits: NARROW,
        refills: [0; CLASSES],
        traffic: [Traffic::NONE; CLASSES],
        slots: [const { MaybeUninit::uninit() }; SLOTS],
    };

    /// Writes empty magazines to a place. Not a copy of [`NEW`](Self::NEW): that would be written
    /// whole, 118 KiB, and all of it be resident in each thread that allocates.
    ///
    /// # Safety
    /// The place is valid for writes and aligned, and nobody else uses it.
    pub(super) unsafe fn write_empty(place: *mut Self) {
        // SAFETY: the caller's contract; slots need no value.
        unsafe {
            (&raw mut (*place).tops).write(EMPTY_TOPS);
            (&raw mut (*place).limits).write(NARROW);
            (&raw mut (*place).refills).write([0; CLASSES]);
            (&raw mut (*place).traffic).write([Traffic::NONE; CLASSES]);
        }
    }

    /// Takes a block from the class's magazine. The fast path.
    ///
    /// # Safety
    /// `class` is below [`CLASSES`].
    #[inline]
    pub unsafe fn pop(&mut self, class: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller's contract; by the invariant a magazine that is not empty has its
        // newest block below its top.
        unsafe {
            let top = self.tops.get_unchecked_mut(class);
            if *top == *STARTS.get_unchecked(class) {
                return None;
            }
            *top -= 1;
            Some(self.slots.get_unchecked(*top as usize).assume_init())
        }
    }

    /// Puts a block into the class's magazine. True when that is full: then
    /// [`spill`](super::Slab::spill) has to be called. The fast path.
    ///
    /// # Safety
    /// `class` is below [`CLASSES`]; `block` was allocated from it and is freed by this call.
    #[inline]
    #[must_use]
    pub unsafe fn push(&mut self, class: usize, block: NonNull<u8>) -> bool {
        // SAFETY: the caller's contract; by the invariant the top is below the magazine's limit.
        unsafe {
            // Read once: the compiler does not see that a slot is no top.
            let top = *self.tops.get_unchecked(class);
            self.slots.get_unchecked_mut(top as usize).write(block);
            *self.tops.get_unchecked_mut(class) = top + 1;
            top + 1 == *self.limits.get_unchecked(class)
        }
    }

    /// Where the magazine of a class ends for now.
    pub(super) fn limit(&self, class: usize) -> usize {
        self.limits.get(class).map_or(0, |&limit| limit as usize)
    }

    /// The most blocks that the magazine of a class holds for now.
    pub(super) fn length(&self, class: usize) -> usize {
        self.limit(class) - start_of(class)
    }

    /// Notes that blocks go one way, for how wide the magazine may be.
    pub(super) fn note(&mut self, class: usize, way: Move, blocks: usize) {
        if let Some(traffic) = self.traffic.get_mut(class) {
            traffic.note(way, blocks, kept_wide(capacity(class)));
        }
    }

    fn is_wide(&self, class: usize) -> bool {
        let may_be_wide = capacity(class) > narrow(class);
        may_be_wide && self.traffic.get(class).is_some_and(|traffic| traffic.is_wide())
    }

    /// The blocks that stay in the magazine of a class when it is spilled that should hold so many
    /// at most: half of them, or of a wide one [most](kept_wide).
    pub(super) fn kept(&self, class: usize, length: usize) -> usize {
        let length = length.min(self.length(class));
        if self.is_wide(class) { kept_wide(length) } else { length / 2 }
    }

    /// The most blocks that the magazine of a class should hold, as its traffic is.
    pub(super) fn longest(&self, class: usize) -> usize {
        if self.is_wide(class) { capacity(class) } else { narrow(class) }
    }

    /// Lets the magazine of a class hold up to so many blocks, within what its traffic allows, and
    /// more than it holds.
    pub(super) fn set_length(&mut self, class: usize, blocks: usize) {
        let held = self.magazine(class).len();
        let length = blocks.min(self.longest(class)).max(held + 1).min(capacity(class));
        if let Some(limit) = self.limits.get_mut(class) {
            *limit = (start_of(class) + length) as u32;
        }
    }

    pub(super) fn top(&self, class: usize) -> usize {
        self.tops.get(class).map_or(0, |&top| top as usize)
    }

    /// The blocks in the class's magazine, the oldest first.
    pub(super) fn magazine(&self, class: usize) -> &[NonNull<u8>] {
        let slots = self.slots.get(start_of(class)..self.top(class)).unwrap_or(&[]);
        // SAFETY: by the invariant these slots are initialized; the types have the same layout.
        unsafe { &*(core::ptr::from_ref(slots) as *const [NonNull<u8>]) }
    }

    /// Forgets blocks of a magazine, which the caller has put elsewhere.
    pub(super) fn drop_blocks(&mut self, class: usize, blocks: usize, which: Which) {
        let (start, top) = (start_of(class), self.top(class));
        let Some(slots) = self.slots.get_mut(start..top) else { return };
        let blocks = blocks.min(slots.len());
        if which == Which::Oldest && blocks != slots.len() {
            slots.copy_within(blocks.., 0);
        }
        if let Some(top) = self.tops.get_mut(class) {
            *top -= blocks as u32;
        }
    }

    /// The slots of an empty magazine that are to be filled: half of what it may hold, or fewer at
    /// first.
    pub(super) fn unfilled(&mut self, class: usize) -> Option<&mut [MaybeUninit<NonNull<u8>>]> {
        let (start, half) = (start_of(class), self.length(class).div_ceil(2));
        let at_first = FIRST_REFILL << *self.refills.get(class)?;
        self.slots.get_mut(start..start + half.min(at_first))
    }

    /// Notes that the last `blocks` of those slots were filled.
    ///
    /// # Safety
    /// They were, with free blocks of the class, and the magazine was empty.
    pub(super) unsafe fn fill(&mut self, class: usize, blocks: usize) {
        let start = start_of(class);
        let half = self.length(class).div_ceil(2);
        let Some(slots) = self.unfilled(class) else { return };
        let (wanted, unfilled) = (slots.len(), slots.len() - blocks);
        if unfilled != 0 {
            slots.copy_within(unfilled.., 0);
        }
        if let (Some(top), Some(refills)) = (self.tops.get_mut(class), self.refills.get_mut(class))
        {
            *top = (start + blocks) as u32;
            *refills += u8::from(wanted < half);
        }
    }

    /// Lets the next refills of all magazines be small ones.
    pub(super) fn start_small(&mut self) {
        self.refills = [0; CLASSES];
    }

    /// Whether all magazines are empty.
    pub(super) fn is_empty(&self) -> bool {
        self.tops == EMPTY_TOPS
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZero;

    use super::*;

    /// A magazine's traffic after blocks of so many went to and fro so often.
    fn after(turns: usize, blocks: usize) -> Traffic {
        let mut traffic = Traffic::NONE;
        for turn in 0..turns {
            let way = if turn % 2 == 0 { Move::Spill } else { Move::Refill };
            (0..4).for_each(|_| traffic.note(way, blocks / 4, 1280));
        }
        traffic
    }

    #[test]
    fn a_magazine_is_wide_while_what_turns_back_fits() {
        assert!(!after(7, 1000).is_wide());
        assert!(after(8, 1000).is_wide());
        assert!(after(1000, 1280).is_wide());
        assert!(!after(1000, 1284).is_wide());
        let mut traffic = after(100, 1000);
        (0..100_000).for_each(|_| traffic.note(Move::Spill, 128, 1280));
        assert!(!traffic.is_wide());
        assert_eq!(traffic.turns, 0);
    }

    /// Puts blocks into a magazine until it has to be spilled, or it holds so many.
    fn push_up_to(front: &mut Front, class: usize, blocks: usize) -> bool {
        (front.magazine(class).len()..blocks).any(|number| {
            let block = NonNull::without_provenance(NonZero::new(8 * number + 8).unwrap());
            // SAFETY: the class exists; nobody reads the block, which is none.
            unsafe { front.push(class, block) }
        })
    }

    /// As `Slab::spill_half`, without extents.
    fn spill(front: &mut Front, class: usize, length: usize) {
        let length = length.min(front.longest(class));
        let kept = front.kept(class, length);
        let spilled = front.magazine(class).len().saturating_sub(kept);
        front.note(class, Move::Spill, spilled);
        front.drop_blocks(class, spilled, Which::Oldest);
        front.set_length(class, length);
        assert!(front.top(class) < front.limit(class), "class {class}: no room after a spill");
        assert!(front.length(class) <= capacity(class));
    }

    fn make_wide(front: &mut Front, class: usize) {
        for turn in 0..=TURNS {
            front.note(class, if turn % 2 == 0 { Move::Spill } else { Move::Refill }, 1);
        }
        front.set_length(class, usize::MAX);
    }

    #[test]
    fn a_wide_magazine_gets_narrow_again_however_full_it_is() {
        for class in 0..CLASSES {
            for filled in [0, 1, narrow(class) / 2, narrow(class), capacity(class)] {
                let mut front = Front::NEW;
                make_wide(&mut front, class);
                assert_eq!(front.is_wide(class), capacity(class) > narrow(class));
                assert_eq!(front.length(class), capacity(class));
                if push_up_to(&mut front, class, filled) {
                    spill(&mut front, class, usize::MAX);
                    assert_eq!(front.is_wide(class), capacity(class) > narrow(class));
                }
                // More goes one way than it holds: it is narrow, and has room as soon as it has to.
                front.note(class, Move::Refill, 1);
                front.note(class, Move::Refill, 2 * capacity(class));
                assert!(!front.is_wide(class));
                front.set_length(class, usize::MAX);
                assert!(front.top(class) < front.limit(class));
                assert!(push_up_to(&mut front, class, usize::MAX));
                spill(&mut front, class, usize::MAX);
                assert_eq!(front.length(class), narrow(class));
                // And where the extents ask for a short one.
                assert!(push_up_to(&mut front, class, usize::MAX));
                spill(&mut front, class, MIN_MAGAZINE);
                assert_eq!(front.length(class), MIN_MAGAZINE);
            }
        }
    }

    #[test]
    fn a_wide_magazine_spills_less_than_a_refill_brings() {
        for class in (0..CLASSES).filter(|&class| capacity(class) > 8) {
            let mut front = Front::NEW;
            assert_eq!(front.kept(class, usize::MAX), narrow(class) / 2);
            make_wide(&mut front, class);
            let (length, kept) = (front.length(class), front.kept(class, usize::MAX));
            let brought = length.div_ceil(2);
            assert!(kept < length && 2 * (length - kept) <= brought, "class {class}: {kept}");
        }
    }
}
