//! Which heaps there are: each strategy, and the choice among three by lifetime.

use core::ptr::NonNull;

use super::account::AccountHandle;
use super::cell;
use super::header::{FastPath, HeapHeader, Operations};
use crate::allocator::RegionSource;
use crate::strategy::Strategy;
use crate::strategy::bit_set::{self, BitSet};
use crate::strategy::buddy::Buddy;
use crate::strategy::bump::Bump;
use crate::strategy::context::LifetimeHint;
use crate::strategy::free_list::FreeList;
use crate::strategy::slab::Slab;
use crate::strategy::stripes::Stripes;
use crate::strategy::trees::MultipleBinarySearchTree;

/// A kind of heap that the macro and the builder can choose.
///
/// # Safety
/// `create` gives a heap made by `heap::cell::create`, whose fast path is that of its strategy.
pub unsafe trait HeapKind: 'static {
    /// What can be chosen.
    type Settings: Copy;

    /// What its heaps can do.
    fn operations(settings: Self::Settings) -> &'static Operations;

    /// Makes a heap that is charged to `account`, which is its own. `None` where there is no memory
    /// for its header.
    fn create(
        settings: Self::Settings,
        source: &'static dyn RegionSource,
        account: AccountHandle,
    ) -> Option<NonNull<HeapHeader>>;
}

macro_rules! heap_kind {
    ($strategy:ty, $fast_path:ident) => {
        // SAFETY: the fast path is the one that `fast` implements for this strategy.
        unsafe impl HeapKind for $strategy {
            type Settings = <$strategy as Strategy>::Settings;

            fn operations(_: Self::Settings) -> &'static Operations {
                cell::operations::<$strategy>()
            }

            fn create(
                settings: Self::Settings,
                source: &'static dyn RegionSource,
                account: AccountHandle,
            ) -> Option<NonNull<HeapHeader>> {
                cell::create::<$strategy>(settings, FastPath::$fast_path, source, account)
            }
        }
    };
}

heap_kind!(Bump<true>, Bump);
heap_kind!(Slab, Slab);
heap_kind!(BitSet, None);
heap_kind!(MultipleBinarySearchTree, None);
heap_kind!(FreeList, None);
heap_kind!(Buddy, None);
heap_kind!(Stripes, None);

/// A heap for contexts whose strategy a [`LifetimeHint`] chooses.
#[derive(Clone, Copy, Debug)]
pub struct ContextChoice;

// SAFETY: forwards to the implementations above.
unsafe impl HeapKind for ContextChoice {
    type Settings = LifetimeHint;

    fn operations(hint: LifetimeHint) -> &'static Operations {
        match hint {
            LifetimeHint::Short => Bump::<true>::operations(()),
            LifetimeHint::Medium => BitSet::operations(bit_set::Settings::default()),
            LifetimeHint::Long => MultipleBinarySearchTree::operations(()),
        }
    }

    fn create(
        hint: LifetimeHint,
        source: &'static dyn RegionSource,
        account: AccountHandle,
    ) -> Option<NonNull<HeapHeader>> {
        match hint {
            LifetimeHint::Short => Bump::<true>::create((), source, account),
            LifetimeHint::Medium => BitSet::create(bit_set::Settings::default(), source, account),
            LifetimeHint::Long => MultipleBinarySearchTree::create((), source, account),
        }
    }
}
