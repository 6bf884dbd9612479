//! The strategies and their peers, each on one buffer, behind the three calls that all have.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use allocator_api2::alloc::Allocator;
use heapswitch::strategy::Strategy;
use heapswitch::strategy::free_list::Settings;
use heapswitch::{
    BitSetAllocator, BorrowedSliceSource, BuddyAllocator, BumpAllocator, Fit, FreeListAllocator,
    Locked, MultipleBinarySearchTreeAllocator, SlabAllocator, SourcedAllocator, StripeAllocator,
};
use spinning_top::RawSpinlock;
use talc::source::Manual;
use talc::{TalcCell, TalcLock};

/// What no workload writes.
const MARK: u8 = 0xA5;

/// Memory that allocators are built on, one after the other.
pub struct Buffer(Box<[MaybeUninit<u8>]>);

impl Buffer {
    pub fn new(bytes: usize) -> Self {
        let mut memory = Box::new_uninit_slice(bytes);
        // Every page is there before anything is timed.
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = MaybeUninit::new(0));
        Self(memory)
    }

    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Makes each page tell whether it is written to from now on.
    pub fn mark(&mut self) {
        self.0.fill(MaybeUninit::new(MARK));
    }

    /// The pages that were written to since it was marked.
    pub fn written_pages(&self) -> usize {
        // SAFETY: every byte was written when it was marked, and what is written are bytes.
        let is_marked = |byte: &MaybeUninit<u8>| unsafe { byte.assume_init() } == MARK;
        self.0.chunks(4096).filter(|page| !page.iter().all(is_marked)).count()
    }

    /// The first byte, for allocators that are told addresses.
    fn start(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }

    fn source(&mut self) -> BorrowedSliceSource<'_> {
        BorrowedSliceSource::new(&mut self.0)
    }

    /// Which addresses its blocks may have.
    pub fn addresses(&self) -> std::ops::Range<usize> {
        let start = self.0.as_ptr().addr();
        start..start + self.0.len()
    }
}

/// What is measured. Null where a request is refused.
pub trait Peer {
    fn allocate(&self, layout: Layout) -> *mut u8;

    /// # Safety
    /// The block is allocated with that layout.
    unsafe fn free(&self, block: *mut u8, layout: Layout);

    /// # Safety
    /// The block is allocated with that layout; the size is not zero.
    unsafe fn resize(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8;
}

/// Through our trait.
pub struct ByTrait<A>(pub A);

fn or_null<E>(block: Result<NonNull<[u8]>, E>) -> *mut u8 {
    block.map_or(std::ptr::null_mut(), |block| block.as_ptr().cast())
}

impl<A: Allocator> Peer for ByTrait<A> {
    #[inline(always)] // measured: of some kinds of allocators calls would be inlined, of others not
    fn allocate(&self, layout: Layout) -> *mut u8 {
        or_null(self.0.allocate(layout))
    }

    #[inline(always)] // measured: as above
    unsafe fn free(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract; blocks are never null.
        unsafe { self.0.deallocate(NonNull::new_unchecked(block), layout) }
    }

    #[inline]
    unsafe fn resize(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract; the sizes are in the order asked for.
        unsafe {
            let new = Layout::from_size_align_unchecked(size, layout.align());
            let block = NonNull::new_unchecked(block);
            or_null(if size >= layout.size() {
                self.0.grow(block, layout, new)
            } else {
                self.0.shrink(block, layout, new)
            })
        }
    }
}

/// Through `GlobalAlloc`.
pub struct ByGlobal<G>(pub G);

impl<G: GlobalAlloc> Peer for ByGlobal<G> {
    #[inline]
    fn allocate(&self, layout: Layout) -> *mut u8 {
        // SAFETY: no workload asks for size zero.
        unsafe { self.0.alloc(layout) }
    }

    #[inline]
    unsafe fn free(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { self.0.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn resize(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe { self.0.realloc(block, layout, size) }
    }
}

/// A heap that one thread has to itself, as its crate offers it beside the one with a lock.
pub trait Heap {
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>>;

    /// # Safety
    /// The block is allocated with that layout.
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout);
}

impl Heap for buddy_system_allocator::Heap<33> {
    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.alloc(layout).ok()
    }

    #[inline]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { self.dealloc(block, layout) }
    }
}

impl Heap for linked_list_allocator::Heap {
    #[inline]
    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.allocate_first_fit(layout).ok()
    }

    #[inline]
    unsafe fn free(&mut self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { self.deallocate(block, layout) }
    }
}

/// Through a heap's own calls, without a lock. A block is resized as `GlobalAlloc` does it unless
/// told otherwise, and so as these crates do: by a new one.
pub struct ByHeap<H>(UnsafeCell<H>);

impl<H: Heap> ByHeap<H> {
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "the cell is this type's own and it is not Sync")]
    fn heap(&self) -> &mut H {
        // SAFETY: the type is not Sync, and each call asks once and calls nobody back.
        unsafe { &mut *self.0.get() }
    }
}

impl<H: Heap> Peer for ByHeap<H> {
    #[inline]
    fn allocate(&self, layout: Layout) -> *mut u8 {
        self.heap().allocate(layout).map_or(std::ptr::null_mut(), NonNull::as_ptr)
    }

    #[inline]
    unsafe fn free(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract; blocks are never null.
        unsafe { self.heap().free(NonNull::new_unchecked(block), layout) }
    }

    #[inline]
    unsafe fn resize(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the size is not zero, and rounded up to the alignment no overflow; both blocks
        // are allocated, and as long as what is copied.
        unsafe {
            let new = Layout::from_size_align_unchecked(size, layout.align());
            let moved = self.allocate(new);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, size.min(layout.size()));
                self.free(block, layout);
            }
            moved
        }
    }
}

pub fn trees(buffer: &mut Buffer) -> impl Peer {
    ByTrait(MultipleBinarySearchTreeAllocator::new(buffer.source()))
}

pub fn bits(buffer: &mut Buffer) -> impl Peer {
    ByTrait(BitSetAllocator::new(buffer.source()))
}

pub fn first_fit(buffer: &mut Buffer) -> impl Peer {
    let settings = Settings { fit: Fit::First };
    ByTrait(FreeListAllocator::with_settings(settings, buffer.source()))
}

pub fn free_list(buffer: &mut Buffer) -> impl Peer {
    ByTrait(FreeListAllocator::new(buffer.source()))
}

pub fn our_buddy(buffer: &mut Buffer) -> impl Peer {
    ByTrait(BuddyAllocator::new(buffer.source()))
}

pub fn locked_buddy(buffer: &mut Buffer) -> impl Peer + Sync {
    ByGlobal(Locked::new(BuddyAllocator::new(buffer.source())))
}

pub fn stripes(buffer: &mut Buffer) -> impl Peer {
    ByTrait(StripeAllocator::new(buffer.source()))
}

pub fn slab(buffer: &mut Buffer) -> impl Peer {
    ByTrait(SlabAllocator::new(buffer.source()))
}

pub fn bump(buffer: &mut Buffer) -> impl Peer {
    ByTrait(BumpAllocator::new(buffer.source()))
}

/// With the whole buffer for one range, as the others are given it; what is not said to be so takes
/// ranges as it needs them.
fn reserved<S: Strategy>(allocator: SourcedAllocator<S, BorrowedSliceSource<'_>>) -> impl Peer {
    // What the alignment of its start may cost.
    let bytes = allocator.source().free_bytes() - S::EXTENT_ALIGN;
    allocator.reserve(bytes).expect("nothing was taken");
    ByTrait(allocator)
}

pub fn reserved_trees(buffer: &mut Buffer) -> impl Peer {
    reserved(MultipleBinarySearchTreeAllocator::new(buffer.source()))
}

pub fn reserved_bits(buffer: &mut Buffer) -> impl Peer {
    reserved(BitSetAllocator::new(buffer.source()))
}

pub fn reserved_free_list(buffer: &mut Buffer) -> impl Peer {
    reserved(FreeListAllocator::new(buffer.source()))
}

pub fn reserved_buddy(buffer: &mut Buffer) -> impl Peer {
    reserved(BuddyAllocator::new(buffer.source()))
}

pub fn talc(buffer: &mut Buffer) -> impl Peer {
    let talc: TalcCell<Manual> = TalcCell::new(Manual);
    // SAFETY: the buffer outlives every use of the allocator, which is its only user meanwhile.
    unsafe { talc.claim(buffer.start(), buffer.bytes()) };
    ByGlobal(talc)
}

pub fn buddy(buffer: &mut Buffer) -> impl Peer {
    let mut heap = buddy_system_allocator::Heap::<33>::empty();
    // SAFETY: as above.
    unsafe { heap.init(buffer.start().expose_provenance(), buffer.bytes()) };
    ByHeap(UnsafeCell::new(heap))
}

pub fn spin_locked_buddy(buffer: &mut Buffer) -> impl Peer + Sync {
    let heap = buddy_system_allocator::LockedHeap::<33>::empty();
    // SAFETY: as above.
    unsafe { heap.lock().init(buffer.start().expose_provenance(), buffer.bytes()) };
    ByGlobal(heap)
}

pub fn linked_list(buffer: &mut Buffer) -> impl Peer {
    // SAFETY: as above.
    let heap = unsafe { linked_list_allocator::Heap::new(buffer.start(), buffer.bytes()) };
    ByHeap(UnsafeCell::new(heap))
}

pub fn spin_locked_linked_list(buffer: &mut Buffer) -> impl Peer + Sync {
    // SAFETY: as above.
    let heap = unsafe { linked_list_allocator::LockedHeap::new(buffer.start(), buffer.bytes()) };
    ByGlobal(heap)
}

pub fn locked_trees(buffer: &mut Buffer) -> impl Peer + Sync {
    ByGlobal(Locked::new(MultipleBinarySearchTreeAllocator::new(buffer.source())))
}

pub fn locked_slab(buffer: &mut Buffer) -> impl Peer + Sync {
    ByGlobal(Locked::new(SlabAllocator::new(buffer.source())))
}

pub fn locked_talc(buffer: &mut Buffer) -> impl Peer + Sync {
    let talc: TalcLock<RawSpinlock, Manual> = TalcLock::new(Manual);
    // SAFETY: as above.
    unsafe { talc.lock().claim(buffer.start(), buffer.bytes()) };
    ByGlobal(talc)
}
