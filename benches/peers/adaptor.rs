//! A peer through heapswitch's adaptor: as an allocator that is named, beside whatever else serves.
//! Included by the tests of the peers' programs.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;

use heapswitch::{Allocator, GlobalAllocToAllocatorAdaptor};

const SIZES: [usize; 6] = [1, 24, 100, 5000, 70_000, 3 << 20];
const ALIGNS: [usize; 4] = [1, 16, 64, 4096];

/// A block of the allocator, which the peer says is its own.
struct Block<'a, A: Allocator> {
    allocator: A,
    owns: &'a dyn Fn(*const u8) -> bool,
    start: NonNull<u8>,
    layout: Layout,
}

impl<A: Allocator> Block<'_, A> {
    /// Checks where it is, and that `kept` bytes are what `fill` wrote.
    fn check(&self, kept: usize) {
        let Self { start, layout, .. } = self;
        assert!((self.owns)(start.as_ptr()), "the peer did not serve {layout:?}");
        assert!(start.addr().get().is_multiple_of(layout.align()), "{layout:?}");
        assert!(self.bytes()[..kept].iter().all(|&byte| byte == 0x3C), "{layout:?}");
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the block is so long, and written as far as anybody looks.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    fn fill(&mut self) {
        // SAFETY: the block is so long.
        unsafe { self.start.write_bytes(0x3C, self.layout.size()) };
    }

    /// To so many bytes, with zeros behind what there was where it grows.
    fn resize(&mut self, size: usize) {
        let (old, new) = (self.layout, Layout::from_size_align(size, self.layout.align()).unwrap());
        // SAFETY: the block is allocated with the old layout, and from here on with the new one.
        let block = unsafe {
            if size >= old.size() {
                self.allocator.grow_zeroed(self.start, old, new)
            } else {
                self.allocator.shrink(self.start, old, new)
            }
        };
        (self.start, self.layout) = (block.unwrap().cast(), new);
        self.check(old.size().min(size));
        let added = self.bytes().get(old.size()..).unwrap_or_default();
        assert!(added.iter().all(|&byte| byte == 0), "{new:?}");
        self.fill();
    }
}

impl<A: Allocator> Drop for Block<'_, A> {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, by any copy of the allocator, and freed once.
        unsafe { self.allocator.deallocate(self.start, self.layout) };
    }
}

/// Blocks of all sizes come from the peer and stay whole while they grow and shrink; what no system
/// has is an error. `owns` says whether a block is the peer's.
pub fn serves(peer: &impl GlobalAlloc, owns: impl Fn(*const u8) -> bool) {
    let allocator = GlobalAllocToAllocatorAdaptor::new(peer);
    let mut blocks = Vec::new();
    for size in SIZES {
        for align in ALIGNS {
            let layout = Layout::from_size_align(size, align).unwrap();
            let start = allocator.allocate(layout).unwrap().cast();
            let mut block = Block { allocator, owns: &owns, start, layout };
            block.fill();
            for size in [2 * size + 1, size.div_ceil(2), 3 * size] {
                block.resize(size);
            }
            blocks.push(block);
        }
    }
    blocks.iter().for_each(|block| block.check(block.layout.size()));
    let empty = Layout::from_size_align(0, 64).unwrap();
    assert_eq!(allocator.allocate(empty).unwrap().len(), 0);
    let all = Layout::from_size_align(isize::MAX as usize - 4095, 1).unwrap();
    assert!(allocator.allocate(all).is_err());
}
