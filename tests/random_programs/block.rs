//! A block that knows what is in it and whose it is, and looks before it is freed.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::ptr::NonNull;

use heapswitch::{HeapId, owner_of, usable_size};

use super::random::Random;

/// What is written to the bytes that rounding added.
const BEYOND: u8 = 0xEE;

pub(crate) struct Block {
    place: NonNull<u8>,
    layout: Layout,
    seed: u8,
    owner: Option<HeapId>,
    /// Whether growing it may be refused: its heap has a limit above which it gives null.
    is_refused: bool,
}

// SAFETY: the block is its only owner's, and blocks may be freed anywhere.
unsafe impl Send for Block {}

fn any_size(random: &Random) -> usize {
    let most = match random.below(100) {
        0..60 => 256,
        60..86 => 4096,
        86..97 => 40_000,
        97..99 => 200_000,
        _ => 1 << 20,
    };
    1 + random.below(most)
}

fn any_layout(random: &Random) -> Layout {
    let align = match random.below(100) {
        0..85 => 1 << random.below(5),
        85..96 => 1 << random.below(9),
        96..99 => 1 << random.below(13),
        _ => 1 << random.below(18),
    };
    Layout::from_size_align(any_size(random), align).unwrap()
}

/// Which bytes are written and read: all of a short block, some of each page of a long one.
fn places(size: usize) -> impl Iterator<Item = usize> {
    let dense = size.min(600);
    (0..dense).chain((dense..size).step_by(509)).chain(size.saturating_sub(20).max(dense)..size)
}

impl Block {
    /// `None` where the allocator has nothing to give.
    pub(crate) fn make(random: &Random) -> Option<Self> {
        Self::of_layout(random, any_layout(random))
    }

    pub(crate) fn of_layout(random: &Random, layout: Layout) -> Option<Self> {
        let is_zeroed = random.once_in(4);
        // SAFETY: no size is zero.
        let place = unsafe { if is_zeroed { alloc_zeroed(layout) } else { alloc(layout) } };
        let place = NonNull::new(place)?;
        assert_eq!(place.addr().get() % layout.align(), 0, "{layout:?}");
        let seed = random.next() as u8;
        let mut block =
            Self { place, layout, seed, owner: owner_of(place.as_ptr()), is_refused: false };
        if is_zeroed {
            // SAFETY: within the block.
            let byte = |at| unsafe { place.add(at).read() };
            assert!(places(layout.size()).all(|at| byte(at) == 0), "not zeroed: {layout:?}");
        }
        block.fill(random);
        Some(block)
    }

    pub(crate) fn address(&self) -> *const u8 {
        self.place.as_ptr()
    }

    pub(crate) fn owner(&self) -> Option<HeapId> {
        self.owner
    }

    /// From a heap that may refuse.
    pub(crate) fn of_refusing(self) -> Self {
        // Not by the fields, for it has a destructor.
        let mut this = self;
        this.is_refused = true;
        this
    }

    fn expected(&self, at: usize) -> u8 {
        self.seed.wrapping_add(at as u8).wrapping_mul(31) ^ (at >> 8) as u8
    }

    fn fill(&mut self, random: &Random) {
        let size = self.layout.size();
        for at in places(size) {
            // SAFETY: within the block.
            unsafe { self.place.add(at).write(self.expected(at)) };
        }
        // SAFETY: the block is allocated with the layout.
        let usable = unsafe { usable_size(self.place, self.layout) };
        assert!(usable >= size, "{usable} of {:?}", self.layout);
        if random.once_in(2) {
            // SAFETY: these bytes may be used.
            unsafe { self.place.add(size).write_bytes(BEYOND, (usable - size).min(100)) };
        }
    }

    fn is_filled_to(&self, size: usize) -> bool {
        // SAFETY: within the block.
        places(size).all(|at| unsafe { self.place.add(at).read() } == self.expected(at))
    }

    /// Nothing in it changed, and it is still whose it was.
    pub(crate) fn check(&self) {
        let (size, place) = (self.layout.size(), self.place);
        assert!(self.is_filled_to(size), "{:?} at {place:?} was written to", self.layout);
        // SAFETY: within the block.
        for at in [place, unsafe { place.add(size - 1) }] {
            assert_eq!(owner_of(at.as_ptr()), self.owner, "{:?} at {place:?}", self.layout);
        }
    }

    /// Grows or shrinks it. Where that is refused it is as it was.
    pub(crate) fn resize(&mut self, random: &Random) {
        self.check();
        let old = self.layout.size();
        let size = match random.below(4) {
            0 => any_size(random),
            1 => old + 1 + random.below(old),
            2 => (old - random.below(old)).max(1),
            _ => old + 1 + random.below(64),
        };
        // SAFETY: allocated with the layout; the size is not zero and far from overflow.
        let place = unsafe { realloc(self.place.as_ptr(), self.layout, size) };
        let Some(place) = NonNull::new(place) else {
            assert!(self.is_refused, "{:?} was not resized to {size}", self.layout);
            self.check();
            return;
        };
        self.place = place;
        self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        self.owner = owner_of(place.as_ptr());
        assert_eq!(place.addr().get() % self.layout.align(), 0, "{:?}", self.layout);
        let kept = old.min(size);
        // What was written of a long block differs by its size, and was written to the least.
        let is_right = places(old).filter(|&at| at < kept).all(|at| {
            // SAFETY: within the block.
            unsafe { self.place.add(at).read() == self.expected(at) }
        });
        assert!(is_right, "{old} bytes resized to {size} are others");
        self.seed = random.next() as u8;
        self.fill(random);
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.check();
        // SAFETY: allocated with the layout, and not used afterwards.
        unsafe { dealloc(self.place.as_ptr(), self.layout) };
    }
}
