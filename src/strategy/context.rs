//! `LifetimeHint` and `ContextAllocator`: one of three strategies, chosen at run time.
//!
//! Costs a jump by the hint beside the chosen strategy's own: for a context of which is known how
//! long its objects live, but not when the program is compiled.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::Strategy;
use super::bit_set::{BitSet, BitSetAllocator};
use super::bump::{Bump, BumpAllocator};
use super::trees::{MultipleBinarySearchTree, MultipleBinarySearchTreeAllocator};
use crate::allocator::{AllocError, Allocator, LocalAllocator, MemorySource, MemoryUsage};

/// How long what a context allocates lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LifetimeHint {
    /// Until the context ends: a request. Bump.
    #[default]
    Short,
    /// Blocks of similar size come and go: a connection. Bit set.
    Medium,
    /// Blocks of all sizes come and go for long: a session, a cache. Trees.
    Long,
}

/// A bump, a bit set or trees on a memory source, as a [`LifetimeHint`] says.
///
/// It serves blocks while it is borrowed, as each of the three does; it is `Send` and not `Sync`.
///
#[cfg_attr(heapswitch_pass_through, doc = "```no_run")]
#[cfg_attr(not(heapswitch_pass_through), doc = "```")]
/// use allocator_api2::vec::Vec;
/// use heapswitch::source::MemoryMapSource;
/// use heapswitch::strategy::context::{ContextAllocator, LifetimeHint};
///
/// for hint in [LifetimeHint::Short, LifetimeHint::Medium, LifetimeHint::Long] {
///     let allocator = ContextAllocator::new(hint, MemoryMapSource::new());
///     let mut numbers = Vec::new_in(&allocator);
///     numbers.extend(0..1000);
///     assert_eq!(numbers.iter().sum::<u32>(), 499_500);
/// }
/// ```
#[derive(Debug)]
pub struct ContextAllocator<M: MemorySource> {
    chosen: Chosen<M>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "an allocator has no other to put itself into")]
enum Chosen<M: MemorySource> {
    Short(BumpAllocator<M>),
    Medium(BitSetAllocator<M>),
    Long(MultipleBinarySearchTreeAllocator<M>),
}

/// The expression with `$allocator` as the one that was chosen.
macro_rules! with_chosen {
    ($this:expr, $allocator:ident => $result:expr) => {
        match &$this.chosen {
            Chosen::Short($allocator) => $result,
            Chosen::Medium($allocator) => $result,
            Chosen::Long($allocator) => $result,
        }
    };
}

impl<M: MemorySource> ContextAllocator<M> {
    /// The strategy for the hint, with its default settings, on `source`. Takes nothing from the
    /// source yet.
    pub const fn new(hint: LifetimeHint, source: M) -> Self {
        let chosen = match hint {
            LifetimeHint::Short => Chosen::Short(BumpAllocator::new(source)),
            LifetimeHint::Medium => Chosen::Medium(BitSetAllocator::new(source)),
            LifetimeHint::Long => Chosen::Long(MultipleBinarySearchTreeAllocator::new(source)),
        };
        Self { chosen }
    }

    /// What it was chosen by.
    pub const fn hint(&self) -> LifetimeHint {
        match self.chosen {
            Chosen::Short(_) => LifetimeHint::Short,
            Chosen::Medium(_) => LifetimeHint::Medium,
            Chosen::Long(_) => LifetimeHint::Long,
        }
    }

    /// The name of its strategy.
    pub const fn strategy(&self) -> &'static str {
        match self.chosen {
            Chosen::Short(_) => <Bump<false>>::NAME,
            Chosen::Medium(_) => BitSet::NAME,
            Chosen::Long(_) => MultipleBinarySearchTree::NAME,
        }
    }

    /// The memory source.
    pub fn source(&self) -> &M {
        with_chosen!(self, allocator => allocator.source())
    }

    /// Checks every equation of the strategy's data structure; aborts with its name if one fails.
    pub fn verify(&self) {
        with_chosen!(self, allocator => allocator.verify());
    }
}

impl<M: MemorySource + Default> Default for ContextAllocator<M> {
    /// For short lives.
    fn default() -> Self {
        Self::new(LifetimeHint::default(), M::default())
    }
}

// SAFETY: every method is that of one allocator, the same one as long as this exists, whose
// contract this is; it may be moved, and is not Clone.
unsafe impl<M: MemorySource> Allocator for ContextAllocator<M> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        with_chosen!(self, allocator => allocator.allocate(layout))
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        with_chosen!(self, allocator => allocator.allocate_zeroed(layout))
    }

    #[inline]
    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        with_chosen!(self, allocator => unsafe { allocator.deallocate(block, layout) });
    }

    #[inline]
    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract is the same.
        with_chosen!(self, allocator => unsafe { allocator.grow(block, old, new) })
    }

    #[inline]
    unsafe fn grow_zeroed(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract is the same.
        with_chosen!(self, allocator => unsafe { allocator.grow_zeroed(block, old, new) })
    }

    #[inline]
    unsafe fn shrink(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's contract is the same.
        with_chosen!(self, allocator => unsafe { allocator.shrink(block, old, new) })
    }
}

// SAFETY: every method is that of one allocator, see above.
unsafe impl<M: MemorySource> LocalAllocator for ContextAllocator<M> {
    fn contains(&self, address: *const u8) -> bool {
        with_chosen!(self, allocator => allocator.contains(address))
    }

    fn block_length(&self, layout: Layout) -> Result<usize, AllocError> {
        with_chosen!(self, allocator => allocator.block_length(layout))
    }

    fn memory_usage(&self) -> MemoryUsage {
        with_chosen!(self, allocator => allocator.memory_usage())
    }

    fn release_unused(&self) {
        with_chosen!(self, allocator => allocator.release_unused());
    }
}
