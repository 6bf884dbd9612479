//! The slab's front: by class a magazine of free blocks, which its heap's runner alone touches.
//!
//! The rest of the slab, [`Back`](super::Back), may be used by other threads under the heap's
//! lock; what lies in a magazine they never see, and its blocks count as used there.

use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::class::{self, CLASSES};

/// The bytes of blocks that a magazine holds, about.
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

/// The most blocks that a magazine holds, and the fewest.
const MAX_MAGAZINE: usize = 512;
pub(super) const MIN_MAGAZINE: usize = 4;

/// The most blocks that the magazine of a class holds.
const fn capacity_of(class: usize) -> usize {
    let blocks = MAGAZINE_BYTES / class::computed_bytes(class);
    if blocks > MAX_MAGAZINE {
        MAX_MAGAZINE
    } else if blocks < MIN_MAGAZINE {
        MIN_MAGAZINE
    } else {
        blocks
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

/// The tops of empty magazines, and the limits of those that are as long as they may be.
const EMPTY_TOPS: [u32; CLASSES] = starts_from(0);
const LONGEST: [u32; CLASSES] = starts_from(1);

const fn starts_from(first: usize) -> [u32; CLASSES] {
    let (mut starts, mut class) = ([0; CLASSES], 0);
    while class < CLASSES {
        starts[class] = STARTS[class + first];
        class += 1;
    }
    starts
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
    slots: [MaybeUninit<NonNull<u8>>; SLOTS],
}

#[inline]
pub(super) fn start_of(class: usize) -> usize {
    STARTS.get(class).map_or(0, |&start| start as usize)
}

#[inline]
fn end_of(class: usize) -> usize {
    STARTS.get(class + 1).map_or(0, |&start| start as usize)
}

/// The most blocks of a class that a magazine ever holds.
pub(super) fn capacity(class: usize) -> usize {
    end_of(class) - start_of(class)
}

impl Front {
    /// Empty magazines.
    pub(super) const NEW: Self = Self {
        tops: EMPTY_TOPS,
        limits: LONGEST,
        refills: [0; CLASSES],
        slots: [const { MaybeUninit::uninit() }; SLOTS],
    };

    /// Writes empty magazines to a place. Not a copy of [`NEW`](Self::NEW): that would be written
    /// whole, 52 KiB, and all of it be resident in each thread that allocates.
    ///
    /// # Safety
    /// The place is valid for writes and aligned, and nobody else uses it.
    pub(super) unsafe fn write_empty(place: *mut Self) {
        // SAFETY: the caller's contract; slots need no value.
        unsafe {
            (&raw mut (*place).tops).write(EMPTY_TOPS);
            (&raw mut (*place).limits).write(LONGEST);
            (&raw mut (*place).refills).write([0; CLASSES]);
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

    /// Lets the magazine of a class hold up to so many blocks, within what it has slots for, and
    /// more than it holds.
    pub(super) fn set_length(&mut self, class: usize, blocks: usize) {
        let held = self.magazine(class).len();
        let length = blocks.max(held + 1).min(capacity(class));
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
