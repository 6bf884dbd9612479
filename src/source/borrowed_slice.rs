//! Ranges cut from a slice that somebody lends.
//!
//! ```text
//!   slice   │ pad │ taken │ free ──────┐│ taken │ free ──▶ end │ pad │
//!   first ─────────────────▲ next, length └──────▲
//! ```
//! The free parts are a list in the order of their addresses, kept in the free parts themselves:
//! where the next one is, and how long this one is. The first that fits serves a request; a part
//! that comes back joins its free neighbours at once, so no two free parts ever touch.
//!
//! Costs: taking and giving back walk the list, O(free parts). It is for few large ranges, or for
//! one request's scratch memory; put an [arena](super::ArenaMemorySource) on it for many equal
//! ones.

use core::alloc::Layout;
use core::cell::Cell;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use crate::allocator::{AllocError, MemoryRange, MemorySource};
use crate::pointers;
use crate::units::{round_down, round_up};

/// The unit in bytes: a free part holds a [`Free`].
const GRANULE: usize = size_of::<Free>();

/// What a free part starts with.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
struct Free {
    next: Option<NonNull<Free>>,
    length: usize,
}

/// A source over a borrowed slice, for one thread at a time. The source may move; the slice stays.
///
/// ```
/// use core::alloc::Layout;
/// use core::mem::MaybeUninit;
/// use heapswitch::allocator::MemorySource;
/// use heapswitch::source::BorrowedSliceSource;
///
/// let mut memory = [MaybeUninit::uninit(); 4096];
/// let source = BorrowedSliceSource::new(&mut memory);
/// let range = source.take(Layout::from_size_align(1000, 64).unwrap()).unwrap();
/// assert_eq!(range.length, 1008);
/// // SAFETY: taken above, and not used any more.
/// unsafe { source.give_back(range) };
/// ```
///
/// # Invariants
/// The list's parts lie in the slice, ascend, never overlap or touch each other or a taken range,
/// are multiples of 16 bytes long and aligned to 16.
#[derive(Debug)]
pub struct BorrowedSliceSource<'a> {
    first: Cell<Option<NonNull<Free>>>,
    free_bytes: Cell<usize>,
    usable_bytes: usize,
    slice: PhantomData<&'a mut [MaybeUninit<u8>]>,
}

// SAFETY: it is the only user of the slice's free parts, and holds nothing of a thread's own.
unsafe impl Send for BorrowedSliceSource<'_> {}

/// A place in the list: the part in front of it, if any, and the part there, if any.
#[derive(Clone, Copy)]
struct Place {
    before: Option<NonNull<Free>>,
    part: Option<NonNull<Free>>,
}

impl<'a> BorrowedSliceSource<'a> {
    /// A source over `slice`. Up to 15 bytes at each end stay unused, where they are not aligned.
    pub fn new(slice: &'a mut [MaybeUninit<u8>]) -> Self {
        let length = slice.len();
        let start = NonNull::from(slice).cast::<u8>();
        let front = pointers::padding(start, GRANULE);
        let usable_bytes = round_down(length.saturating_sub(front), GRANULE);
        let source = Self {
            first: Cell::new(None),
            free_bytes: Cell::new(usable_bytes),
            usable_bytes,
            slice: PhantomData,
        };
        if usable_bytes > 0 {
            // SAFETY: `front` is less than the slice's length, for something is left behind it;
            // what is left is aligned, and the source's alone for `'a`.
            unsafe {
                let part = pointers::forward(start, front).cast::<Free>();
                part.write(Free { next: None, length: usable_bytes });
                source.first.set(Some(part));
            }
        }
        source
    }

    /// The bytes that can be taken at all.
    pub fn usable_bytes(&self) -> usize {
        self.usable_bytes
    }

    /// The bytes that are not taken, perhaps in several parts.
    pub fn free_bytes(&self) -> usize {
        self.free_bytes.get()
    }

    /// Checks that the free parts are aligned, ascend, do not touch, and are as long together as is
    /// free; aborts if not. O(free parts).
    pub fn verify(&self) {
        if !self.is_sound() {
            crate::sys::abort_with(&["the free parts of a borrowed slice are corrupted"]);
        }
    }

    fn is_sound(&self) -> bool {
        let (mut bytes, mut at, mut span) = (0, self.first.get(), 0);
        let mut before: Option<NonNull<Free>> = None;
        while let Some(part) = at {
            let address = part.cast::<u8>();
            let is_apart = before.is_none_or(|before| end(before) < address);
            if !is_apart || !pointers::is_aligned(address, GRANULE) {
                return false;
            }
            let Free { next, length } = read(part);
            span += before.map_or(0, |before| pointers::distance(before.cast(), address));
            bytes += length;
            if length == 0 || !length.is_multiple_of(GRANULE) || span + length > self.usable_bytes {
                return false;
            }
            (before, at) = (Some(part), next);
        }
        bytes == self.free_bytes.get()
    }

    fn head(&self) -> Place {
        Place { before: None, part: self.first.get() }
    }

    /// Makes `part` follow `before`.
    fn link(&self, before: Option<NonNull<Free>>, part: Option<NonNull<Free>>) {
        match before {
            None => self.first.set(part),
            // SAFETY: `before` is in the list, so it is a free part of the slice.
            Some(before) => unsafe { (*before.as_ptr()).next = part },
        }
    }

    /// The first place whose part lies above `start`, or the end.
    fn place_above(&self, start: NonNull<u8>) -> Place {
        let mut place = self.head();
        while let Some(part) = place.part.filter(|part| part.cast() < start) {
            place = Place { before: Some(part), part: read(part).next };
        }
        place
    }

    /// Cuts `length` bytes out of a free part, `front` bytes behind its start.
    fn cut(&self, place: Place, part: NonNull<Free>, front: usize, length: usize) -> NonNull<u8> {
        let Free { mut next, length: whole } = read(part);
        let back = whole - front - length;
        // SAFETY: `front + length + back` is the part's length, each a multiple of the granule;
        // what is written to stays free, and an end is only written to where something is left
        // there.
        unsafe {
            let start = pointers::forward(part.cast(), front);
            if back > 0 {
                let rest = pointers::forward(start, length).cast::<Free>();
                rest.write(Free { next, length: back });
                next = Some(rest);
            }
            if front > 0 {
                part.write(Free { next, length: front });
            } else {
                self.link(place.before, next);
            }
            self.free_bytes.set(self.free_bytes.get() - length);
            start
        }
    }
}

/// What a part in the list says.
fn read(part: NonNull<Free>) -> Free {
    // SAFETY: every part in the list was written when it came there, and is the source's alone.
    unsafe { part.read() }
}

/// The end of a part in the list.
fn end(part: NonNull<Free>) -> NonNull<u8> {
    // SAFETY: the part lies in the slice, whole.
    unsafe { pointers::forward(part.cast(), read(part).length) }
}

// SAFETY: a range is cut from a free part, which overlaps no taken range, and leaves the list
// whole; its memory is the slice's, which is lent for longer than the source lives. Nothing
// allocates or unwinds.
unsafe impl MemorySource for BorrowedSliceSource<'_> {
    fn take(&self, request: Layout) -> Result<MemoryRange, AllocError> {
        let length = round_up(request.size().max(1), GRANULE).ok_or(AllocError)?;
        let alignment = request.align().max(GRANULE);
        let mut place = self.head();
        while let Some(part) = place.part {
            let front = pointers::padding(part.cast(), alignment);
            let free = read(part);
            if free.length.checked_sub(front).is_some_and(|left| left >= length) {
                let start = self.cut(place, part, front, length);
                return Ok(MemoryRange { start, length, is_zeroed: false });
            }
            place = Place { before: Some(part), part: free.next };
        }
        Err(AllocError)
    }

    unsafe fn give_back(&self, range: MemoryRange) {
        #[cfg(heapswitch_check)]
        self.verify();
        let Place { before, part: after } = self.place_above(range.start);
        self.free_bytes.set(self.free_bytes.get() + range.length);
        let part = range.start.cast::<Free>();
        let mut free = Free { next: after, length: range.length };
        // SAFETY: the range is taken and nothing uses it, so it is the source's; its end and those
        // of its neighbours lie in, or at the end of, the slice.
        unsafe {
            if let Some(after) = after
                && pointers::forward(range.start, range.length) == after.cast()
            {
                let joined = read(after);
                free = Free { next: joined.next, length: free.length + joined.length };
            }
            match before {
                Some(before) if end(before) == range.start => {
                    let length = read(before).length + free.length;
                    before.write(Free { next: free.next, length });
                }
                _ => {
                    part.write(free);
                    self.link(before, Some(part));
                }
            }
        }
    }

    unsafe fn grow(&self, range: MemoryRange, length: usize) -> Result<MemoryRange, AllocError> {
        let length = round_up(length, GRANULE).ok_or(AllocError)?;
        let more = length.checked_sub(range.length).ok_or(AllocError)?;
        if more > 0 {
            let place = self.place_above(range.start);
            let part = place.part.ok_or(AllocError)?;
            let is_next = pointers::distance(range.start, part.cast()) == range.length;
            if !is_next || read(part).length < more {
                return Err(AllocError);
            }
            self.cut(place, part, 0, more);
        }
        Ok(MemoryRange { length, is_zeroed: false, ..range })
    }

    fn granule(&self) -> usize {
        GRANULE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn request(bytes: usize, alignment: usize) -> Layout {
        Layout::from_size_align(bytes, alignment).unwrap()
    }

    #[test]
    fn serves_the_whole_slice_and_joins_what_comes_back() {
        let mut memory = [MaybeUninit::uninit(); 1024 + 30];
        for skipped in 0..16 {
            let source = BorrowedSliceSource::new(&mut memory[skipped..skipped + 1024]);
            let usable = source.usable_bytes();
            assert!((1024 - 30..=1024).contains(&usable));
            let count = usable / 16;
            let ranges: Vec<_> = (0..count).map(|_| source.take(request(1, 1)).unwrap()).collect();
            assert_eq!((source.take(request(0, 1)), source.free_bytes()), (Err(AllocError), 0));
            // Odd ones first, then the even ones from the back: each joins both neighbours.
            let odd = ranges.iter().skip(1).step_by(2);
            for range in odd.chain(ranges.iter().step_by(2).rev()) {
                // SAFETY: taken above.
                unsafe { source.give_back(*range) };
            }
            let all = source.take(request(usable, 16)).unwrap();
            assert_eq!((all.start, all.length), (ranges[0].start, usable));
        }
    }

    #[test]
    fn slices_too_short_for_anything_give_nothing() {
        let mut memory = [MaybeUninit::uninit(); 64];
        for length in 0..16 {
            let source = BorrowedSliceSource::new(&mut memory[..length]);
            assert!(source.take(request(0, 1)).is_err());
        }
        let source = BorrowedSliceSource::new(&mut memory);
        assert!(source.take(request(isize::MAX as usize - 15, 16)).is_err());
    }

    #[test]
    fn grows_into_a_free_neighbour_only() {
        let mut memory = [MaybeUninit::uninit(); 1024];
        let source = BorrowedSliceSource::new(&mut memory);
        let first = source.take(request(64, 16)).unwrap();
        let second = source.take(request(64, 16)).unwrap();
        // SAFETY: all taken above, and not used after being given back.
        unsafe {
            assert!(source.grow(first, 80).is_err());
            assert!(source.grow(first, 32).is_err());
            let second = source.grow(second, 100).unwrap();
            assert_eq!(second.length, 112);
            let free = source.free_bytes();
            assert!(source.grow(second, 112 + free + 1).is_err());
            source.give_back(second);
            let first = source.grow(first, source.usable_bytes()).unwrap();
            assert_eq!(source.free_bytes(), 0);
            source.give_back(first);
        }
        assert_eq!(source.free_bytes(), source.usable_bytes());
    }

    #[test]
    fn tells_whether_its_free_parts_are_sound() {
        let mut memory = [MaybeUninit::uninit(); 1024];
        let source = BorrowedSliceSource::new(&mut memory);
        let ranges = [(); 4].map(|()| source.take(request(100, 1)).unwrap());
        // SAFETY: taken above.
        [0, 2].into_iter().for_each(|which| unsafe { source.give_back(ranges[which]) });
        source.verify();
        let first = source.first.get().unwrap();
        let damaged = |damage: &dyn Fn()| {
            let kept = (read(first), source.free_bytes.get());
            damage();
            let is_sound = source.is_sound();
            // SAFETY: the first free part of the slice, here and below.
            unsafe { first.write(kept.0) };
            source.free_bytes.set(kept.1);
            assert!(source.is_sound());
            !is_sound
        };
        assert!(damaged(&|| source.free_bytes.set(source.free_bytes() + 16)));
        // SAFETY: as above.
        let write = |free: Free| unsafe { first.write(free) };
        let Free { next, length } = read(first);
        assert!(damaged(&|| write(Free { next, length: length - 8 })));
        assert!(damaged(&|| write(Free { next, length: 0 })));
        // They touch, and go round.
        assert!(damaged(&|| write(Free { next, length: length + ranges[1].length })));
        assert!(damaged(&|| write(Free { next: Some(first), length })));
        // One is lost.
        assert!(damaged(&|| write(Free { next: None, length })));
    }

    #[derive(Clone, Debug)]
    enum Action {
        Take { bytes: usize, alignment_shift: u32 },
        GiveBack { which: usize },
        Grow { which: usize, bytes: usize },
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            3 => (0_usize..600, 0_u32..9)
                .prop_map(|(bytes, alignment_shift)| Action::Take { bytes, alignment_shift }),
            2 => any::<usize>().prop_map(|which| Action::GiveBack { which }),
            1 => (any::<usize>(), 0_usize..300)
                .prop_map(|(which, bytes)| Action::Grow { which, bytes }),
        ]
    }

    /// Fills a range with its own mark, so that an overlap is seen.
    fn fill(range: MemoryRange, mark: u8) {
        // SAFETY: the range is taken.
        unsafe { range.start.write_bytes(mark, range.length) };
    }

    fn is_filled(range: MemoryRange, length: usize, mark: u8) -> bool {
        // SAFETY: the range is taken and was filled.
        let bytes = unsafe { range.as_slice().as_ref() };
        bytes[..length].iter().all(|byte| *byte == mark)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]
        #[test]
        fn any_order_of_calls_keeps_contents_and_loses_nothing(
            actions in prop::collection::vec(action(), 0..80),
        ) {
            let mut memory = [MaybeUninit::uninit(); 4096];
            let source = BorrowedSliceSource::new(&mut memory);
            let mut taken: Vec<(MemoryRange, u8)> = Vec::new();
            for (mark, action) in actions.into_iter().enumerate() {
                let mark = mark as u8;
                source.verify();
                match action {
                    Action::Take { bytes, alignment_shift } => {
                        let layout = request(bytes, 1 << alignment_shift);
                        if let Ok(range) = source.take(layout) {
                            prop_assert!(range.length >= bytes && range.length % 16 == 0);
                            prop_assert!(pointers::is_aligned(range.start, layout.align()));
                            fill(range, mark);
                            taken.push((range, mark));
                        }
                    }
                    Action::GiveBack { which } if !taken.is_empty() => {
                        let (range, mark) = taken.swap_remove(which % taken.len());
                        prop_assert!(is_filled(range, range.length, mark));
                        // SAFETY: taken, and forgotten here.
                        unsafe { source.give_back(range) };
                    }
                    Action::Grow { which, bytes } if !taken.is_empty() => {
                        let which = which % taken.len();
                        let (range, old) = taken[which];
                        // SAFETY: taken; the old range is replaced by the new one.
                        if let Ok(grown) = unsafe { source.grow(range, range.length + bytes) } {
                            prop_assert_eq!(grown.start, range.start);
                            prop_assert!(is_filled(grown, range.length, old));
                            fill(grown, mark);
                            taken[which] = (grown, mark);
                        }
                    }
                    _ => {}
                }
                let sum: usize = taken.iter().map(|(range, _)| range.length).sum();
                prop_assert_eq!(source.free_bytes() + sum, source.usable_bytes());
            }
            for (range, mark) in taken {
                prop_assert!(is_filled(range, range.length, mark));
                // SAFETY: taken, and forgotten here.
                unsafe { source.give_back(range) };
            }
            prop_assert!(source.take(request(source.usable_bytes(), 1)).is_ok());
        }
    }
}
