//! The battery: what every allocator of the crate must do, as tests of any allocator.
//!
//! `battery!(name, constructor)` makes a module `name` of tests. The constructor is a function or
//! closure without captures from a [`TestSource`] to the allocator; a third argument, [`Limits`],
//! tells what the allocator documents that it does not serve.
//!
//! Each test checks at its end that the source got every range back.

mod actions;
mod source;

use std::alloc::Layout;
use std::hint::black_box;
use std::ptr::NonNull;

pub(crate) use actions::{failing_source, random, random_long};
use allocator_api2::alloc::Allocator;
pub(crate) use source::TestSource;

/// Makes the allocator: behind a pointer, for the tests would be compiled for each otherwise.
pub(crate) type Make<'a> = &'a dyn Fn(TestSource) -> Box<dyn Allocator>;

/// A [`Make`] of a constructor.
pub(crate) fn boxed<A: Allocator + 'static>(
    make: impl Fn(TestSource) -> A,
) -> impl Fn(TestSource) -> Box<dyn Allocator> {
    move |source| Box::new(make(source))
}

/// What an allocator documents that it does not serve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Alignments above this may be refused.
    pub(crate) max_align: usize,
    /// Sizes above this may be refused.
    pub(crate) max_size: usize,
    /// Whether it takes memory from the `TestSource` alone, so that that can run out.
    pub(crate) is_bounded: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_align: 2 << 20, max_size: isize::MAX as usize, is_bounded: true }
    }
}

/// See the module's page.
#[macro_export]
macro_rules! battery {
    ($name:ident, $make:expr) => {
        $crate::battery!($name, $make, $crate::battery::Limits::default());
    };
    ($name:ident, $make:expr, $limits:expr) => {
        mod $name {
            use super::*;

            $crate::battery!(@tests $make, $limits;
                zero_sizes every_small_size alignments both_ends_of_fits zeroed grow_and_shrink
                grow_zeroed_clears_the_new_part alignment_changes huge_sizes exhaustion collections
                random random_long failing_source);
        }
    };
    (@tests $make:expr, $limits:expr; $($test:ident)*) => {
        $(
            #[test]
            fn $test() {
                $crate::battery::$test(&$crate::battery::boxed($make), $limits);
            }
        )*
    };
}

/// Enough for every test but those of exhaustion.
const PLENTY: usize = 256 << 20;

/// A layout, with a message if it is none.
pub(crate) fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap_or_else(|_| panic!("{size} bytes by {align}"))
}

/// A block with what it was requested by.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) bytes: NonNull<[u8]>,
    pub(crate) layout: Layout,
    pub(crate) seed: u8,
}

/// The pattern's period: a prime, so that no shift by pages or powers of two goes unseen.
const PERIOD: usize = 4093;

/// Twice the pattern, so that a period from any place in it is one slice: comparing slices is fast
/// in slow builds too.
static PATTERN: [u8; 2 * PERIOD] = {
    let mut bytes = [0; 2 * PERIOD];
    let mut state = 1u32;
    let mut index = 0;
    while index < PERIOD {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes[index] = (state >> 24) as u8;
        bytes[index + PERIOD] = bytes[index];
        index += 1;
    }
    bytes
};

/// What a block with this seed is filled with, again and again.
fn pattern(seed: u8) -> &'static [u8] {
    &PATTERN[usize::from(seed) * 16..][..PERIOD]
}

/// Whether all are zero. Slices are compared: an iterator is a hundred times as slow unoptimized.
pub(crate) fn are_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|part| *part == ZEROS[..part.len()])
}

static ZEROS: [u8; 4096] = [0; 4096];

impl Block {
    /// Checks what came back from an allocator, and fills it.
    pub(crate) fn new(bytes: NonNull<[u8]>, layout: Layout, seed: u8) -> Self {
        assert!(bytes.len() >= layout.size(), "{} bytes for {layout:?}", bytes.len());
        assert_eq!(bytes.cast::<u8>().addr().get() % layout.align(), 0, "for {layout:?}");
        let mut block = Self { bytes, layout, seed };
        block.fill();
        block
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.bytes.cast()
    }

    pub(crate) fn contents(&self) -> &[u8] {
        // SAFETY: the block is allocated, and was filled.
        unsafe { self.bytes.as_ref() }
    }

    pub(crate) fn fill(&mut self) {
        // SAFETY: the block is allocated and this test's alone.
        let bytes = unsafe { self.bytes.as_mut() };
        let pattern = pattern(self.seed);
        bytes.chunks_mut(PERIOD).for_each(|part| part.copy_from_slice(&pattern[..part.len()]));
    }

    /// Checks the first `length` bytes.
    pub(crate) fn check(&self, length: usize) {
        let pattern = pattern(self.seed);
        let wrong = self.contents()[..length]
            .chunks(PERIOD)
            .position(|part| *part != pattern[..part.len()]);
        assert_eq!(wrong, None, "the contents of {self:?} were changed, by {PERIOD} bytes");
    }

    /// The layout with the returned length: the other end of what fits.
    pub(crate) fn longest_layout(&self) -> Layout {
        layout(self.bytes.len(), self.layout.align())
    }

    /// Checks the contents and frees it, with the returned length as size if so asked.
    pub(crate) fn free(self, allocator: &dyn Allocator, by_length: bool) {
        self.check(self.bytes.len());
        let layout = if by_length { self.longest_layout() } else { self.layout };
        // SAFETY: the block is allocated here and both layouts fit it.
        unsafe { allocator.deallocate(self.start(), layout) };
    }
}

/// Allocates a block that must be served.
pub(crate) fn allocate(allocator: &dyn Allocator, layout: Layout, seed: u8) -> Block {
    match allocator.allocate(layout) {
        Ok(bytes) => Block::new(bytes, layout, seed),
        Err(_) => panic!("{layout:?} was refused"),
    }
}

/// Runs a test on a new allocator, and checks that its source got all ranges back.
fn with(make: Make<'_>, bytes: usize, test: impl FnOnce(&dyn Allocator)) {
    let source = TestSource::new(bytes);
    let allocator = make(source.clone());
    test(&*allocator);
    drop(allocator);
    source.assert_all_returned();
}

pub(crate) fn zero_sizes(make: Make<'_>, limits: Limits) {
    with(make, PLENTY, |allocator| {
        for align in powers(limits.max_align) {
            let empty = layout(0, align);
            let block = allocate(allocator, empty, 0);
            let zeroed = allocator.allocate_zeroed(empty).unwrap();
            // SAFETY: allocated here; a zero-sized block may grow to any size and shrink to it.
            unsafe {
                allocator.deallocate(zeroed.cast(), empty);
                let grown = allocator.grow(block.start(), empty, layout(100, align)).unwrap();
                let grown = Block::new(grown, layout(100, align), 3);
                let shrunk = allocator.shrink(grown.start(), grown.layout, empty).unwrap();
                let again = allocator.grow_zeroed(shrunk.cast(), empty, layout(50, align)).unwrap();
                assert!(are_zero(again.as_ref()));
                allocator.deallocate(again.cast(), layout(50, align));
            }
        }
    });
}

pub(crate) fn every_small_size(make: Make<'_>, _: Limits) {
    with(make, PLENTY, |allocator| {
        let blocks: Vec<Block> =
            (1..=4096).map(|size| allocate(allocator, layout(size, 1), size as u8)).collect();
        let (even, odd): (Vec<_>, Vec<_>) =
            blocks.into_iter().partition(|block| block.layout.size() % 2 == 0);
        even.into_iter().for_each(|block| block.free(allocator, false));
        for size in (1..=4096).rev().step_by(5) {
            allocate(allocator, layout(size, 8), 1).free(allocator, size % 2 == 0);
        }
        odd.into_iter().rev().for_each(|block| block.free(allocator, true));
    });
}

fn powers(max: usize) -> impl Iterator<Item = usize> {
    (0..usize::BITS).map(|shift| 1 << shift).take_while(move |&power| power <= max)
}

pub(crate) fn alignments(make: Make<'_>, limits: Limits) {
    with(make, PLENTY, |allocator| {
        let mut blocks = vec![];
        for align in powers(2 << 20) {
            for size in [1, 7, align / 2 + 1, align, align + 1, 3 * align] {
                let layout = layout(size, align);
                match allocator.allocate(layout) {
                    Ok(bytes) => blocks.push(Block::new(bytes, layout, align as u8)),
                    Err(_) => assert!(
                        align > limits.max_align || size > limits.max_size,
                        "{layout:?} was refused"
                    ),
                }
                // Every third is freed early, so that later ones meet holes.
                if blocks.len() % 3 == 0 && !blocks.is_empty() {
                    blocks.swap_remove(blocks.len() / 2).free(allocator, true);
                }
            }
        }
        blocks.into_iter().for_each(|block| block.free(allocator, false));
    });
}

pub(crate) fn both_ends_of_fits(make: Make<'_>, limits: Limits) {
    with(make, PLENTY, |allocator| {
        for size in (1..600).chain([1000, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20]) {
            for align in [1, 8, 64, 4096] {
                if size > limits.max_size || align > limits.max_align {
                    continue;
                }
                let length = allocate(allocator, layout(size, align), 1);
                let fitting = [size, length.bytes.len(), (size + length.bytes.len()) / 2];
                let returned = length.bytes.len();
                length.free(allocator, false);
                for asked in fitting {
                    let block = allocate(allocator, layout(asked, align), 2);
                    assert_eq!(block.bytes.len(), returned, "{asked} for {size} by {align}");
                    block.free(allocator, true);
                }
                // The next larger size is another block's, or the length said too little.
                if returned < limits.max_size {
                    let next = allocate(allocator, layout(returned + 1, align), 3);
                    assert!(next.bytes.len() > returned);
                    next.free(allocator, false);
                }
            }
        }
    });
}

pub(crate) fn zeroed(make: Make<'_>, limits: Limits) {
    with(make, PLENTY, |allocator| {
        for round in 0..3 {
            let mut blocks = vec![];
            for size in [1, 8, 31, 32, 33, 100, 1000, 5000, 70_000, 300_000] {
                if size > limits.max_size {
                    continue;
                }
                for layout in [layout(size, 8), layout(size, 128)] {
                    let bytes = allocator.allocate_zeroed(layout).unwrap();
                    // SAFETY: allocated and, being zeroed, written.
                    assert!(are_zero(unsafe { bytes.as_ref() }), "{layout:?}");
                    blocks.push(Block::new(bytes, layout, 0xff));
                    blocks.push(allocate(allocator, layout, 0xfe));
                }
                if round == 1 {
                    blocks.swap_remove(0).free(allocator, true);
                }
            }
            blocks.into_iter().for_each(|block| block.free(allocator, round == 0));
        }
    });
}

/// Grows or shrinks, whichever the sizes say, and checks what must be kept.
pub(crate) fn resize(
    allocator: &dyn Allocator,
    block: Block,
    new: Layout,
    by_length: bool,
) -> Block {
    let is_growth = new.size() >= block.layout.size();
    // A layout with the returned length fits too, but it may be larger than the new size.
    let old = if by_length && (!is_growth || new.size() >= block.bytes.len()) {
        block.longest_layout()
    } else {
        block.layout
    };
    let kept = old.size().min(new.size());
    // SAFETY: allocated here, `old` fits the block, and the sizes are in the order asked for.
    let resized = unsafe {
        if is_growth {
            allocator.grow(block.start(), old, new)
        } else {
            allocator.shrink(block.start(), old, new)
        }
    };
    let Ok(bytes) = resized else {
        block.check(block.bytes.len());
        return block;
    };
    assert!(bytes.len() >= new.size());
    let moved = Block { bytes, layout: new, seed: block.seed };
    moved.check(kept);
    Block::new(bytes, new, block.seed.wrapping_add(1))
}

pub(crate) fn grow_and_shrink(make: Make<'_>, limits: Limits) {
    let sizes = [1, 5, 8, 9, 31, 33, 64, 100, 500, 2048, 2049, 5000, 66_000, 300_000];
    with(make, PLENTY, |allocator| {
        for by_length in [false, true] {
            let mut neighbours = vec![];
            for from in sizes.into_iter().filter(|&size| size <= limits.max_size) {
                for to in sizes.into_iter().filter(|&size| size <= limits.max_size) {
                    let block = allocate(allocator, layout(from, 8), 9);
                    if to % 2 == 1 {
                        neighbours.push(allocate(allocator, layout(24, 8), 4));
                    }
                    let block = resize(allocator, block, layout(to, 8), by_length);
                    assert_eq!(block.layout.size(), to, "from {from}");
                    resize(allocator, block, layout(from, 8), by_length).free(allocator, by_length);
                }
            }
            neighbours.into_iter().for_each(|block| block.free(allocator, by_length));
        }
    });
}

pub(crate) fn grow_zeroed_clears_the_new_part(make: Make<'_>, limits: Limits) {
    with(make, PLENTY, |allocator| {
        let sizes = [1, 20, 32, 40, 100, 1000, 5000, 100_000];
        let dirt: Vec<Block> =
            (0..100).map(|seed| allocate(allocator, layout(3000, 8), seed)).collect();
        dirt.into_iter().for_each(|block| block.free(allocator, false));
        for (index, &from) in sizes.iter().enumerate() {
            for &to in sizes[index..].iter().filter(|&&size| size <= limits.max_size) {
                let block = allocate(allocator, layout(from, 8), 7);
                let new = layout(to, 8);
                // SAFETY: allocated here with that layout, and the new size is not smaller.
                let bytes = unsafe { allocator.grow_zeroed(block.start(), block.layout, new) };
                let grown = Block { bytes: bytes.unwrap(), layout: new, seed: 7 };
                grown.check(from);
                // The trait would let the old block's tail stay as it was; here that is true only
                // of what nobody asked for.
                let (asked, more) = grown.contents().split_at(to);
                let tail = block.bytes.len().saturating_sub(to).min(more.len());
                let are_new_parts_zero = are_zero(&asked[from..]) && are_zero(&more[tail..]);
                assert!(are_new_parts_zero, "{from} to {to}");
                Block::new(grown.bytes, new, 8).free(allocator, true);
            }
        }
    });
}

pub(crate) fn alignment_changes(make: Make<'_>, limits: Limits) {
    with(make, PLENTY, |allocator| {
        for from in powers(limits.max_align.min(16384)) {
            for to in powers(limits.max_align.min(16384)) {
                for (old, new) in [(100, 300), (300, 100), (200, 200), (5000, 6000)] {
                    let padding = allocate(allocator, layout(40, 8), 5);
                    let block = allocate(allocator, layout(old, from), 6);
                    let block = resize(allocator, block, layout(new, to), false);
                    assert_eq!(block.layout, layout(new, to));
                    block.free(allocator, true);
                    padding.free(allocator, false);
                }
            }
        }
    });
}

pub(crate) fn huge_sizes(make: Make<'_>, _: Limits) {
    with(make, PLENTY, |allocator| {
        let kept = allocate(allocator, layout(100, 8), 1);
        for below in (0..200).chain([4095, 4096, 65_535, 65_536, 1 << 20, 1 << 40]) {
            for align in [1usize, 8, 4096, 2 << 20] {
                let size = isize::MAX as usize - (align - 1) - below;
                // Hidden from the compiler, which may take a block that nobody uses for served.
                assert!(black_box(allocator.allocate(layout(size, align))).is_err());
                assert!(black_box(allocator.allocate_zeroed(layout(size, align))).is_err());
                // SAFETY: allocated here with that layout; a refused growth leaves it as it is.
                let grown =
                    unsafe { allocator.grow(kept.start(), kept.layout, layout(size, align)) };
                assert!(black_box(grown).is_err());
            }
        }
        kept.free(allocator, true);
    });
}

pub(crate) fn exhaustion(make: Make<'_>, limits: Limits) {
    if !limits.is_bounded {
        return;
    }
    with(make, 1 << 20, |allocator| {
        let fill = |size: usize| {
            let mut blocks = vec![];
            while let Ok(bytes) = allocator.allocate(layout(size, 8)) {
                blocks.push(Block::new(bytes, layout(size, 8), blocks.len() as u8));
            }
            blocks
        };
        let first = fill(1000);
        let used: usize = first.iter().map(|block| block.bytes.len()).sum();
        assert!(used > 600_000, "only {used} of 1 MiB were served");
        assert!(allocator.allocate(layout(1 << 20, 8)).is_err());
        let count = first.len();
        first.into_iter().for_each(|block| block.free(allocator, false));
        let second = fill(1000);
        assert!(second.len() * 10 >= count * 9, "{} after {count}", second.len());
        second.into_iter().rev().for_each(|block| block.free(allocator, true));
        fill(8).into_iter().for_each(|block| block.free(allocator, true));
        let large = allocate(allocator, layout(100_000.min(limits.max_size), 8), 2);
        large.free(allocator, false);
    });
}

pub(crate) fn collections(make: Make<'_>, limits: Limits) {
    // The map's table takes about 50 bytes an entry, in one block.
    let count = (limits.max_size / 64).min(20_000) as u64;
    with(make, PLENTY, |allocator| {
        let mut numbers = allocator_api2::vec::Vec::new_in(allocator);
        let mut map = hashbrown::HashMap::new_in(allocator);
        for number in 0..count {
            numbers.push(number);
            map.insert(number, allocator_api2::boxed::Box::new_in(number * 3, allocator));
            if number % 3 == 0 {
                map.remove(&(number / 2));
            }
        }
        assert!(numbers.iter().copied().eq(0..count));
        assert!(map.iter().all(|(key, value)| **value == key * 3));
        numbers.truncate(100);
        numbers.shrink_to_fit();
        map.retain(|key, _| key % 64 == 0);
        map.shrink_to_fit();
        assert!(numbers.iter().copied().eq(0..100));
    });
}
