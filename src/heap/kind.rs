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
use crate::strategy::memory_map::MemoryMap;
use crate::strategy::sites::{self, SiteSampling, WithSites};
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

    /// The same kind, recording where blocks are asked for.
    type WithSites: HeapKind;

    /// The settings of that kind.
    fn with_sites(
        settings: Self::Settings,
        sampling: SiteSampling,
    ) -> <Self::WithSites as HeapKind>::Settings;

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
            type WithSites = WithSites<$strategy>;

            fn with_sites(
                strategy: Self::Settings,
                sampling: SiteSampling,
            ) -> sites::Settings<Self::Settings> {
                sites::Settings { strategy, sampling }
            }

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

        // SAFETY: it has no fast path.
        unsafe impl HeapKind for WithSites<$strategy> {
            type Settings = <Self as Strategy>::Settings;
            type WithSites = Self;

            fn with_sites(settings: Self::Settings, sampling: SiteSampling) -> Self::Settings {
                Self::Settings { sampling, ..settings }
            }

            fn operations(_: Self::Settings) -> &'static Operations {
                cell::operations::<Self>()
            }

            fn create(
                settings: Self::Settings,
                source: &'static dyn RegionSource,
                account: AccountHandle,
            ) -> Option<NonNull<HeapHeader>> {
                cell::create::<Self>(settings, FastPath::None, source, account)
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
heap_kind!(MemoryMap, None);

/// A heap for contexts whose strategy a [`LifetimeHint`] chooses.
#[derive(Clone, Copy, Debug)]
pub struct ContextChoice;

// SAFETY: forwards to the implementations above.
unsafe impl HeapKind for ContextChoice {
    type Settings = LifetimeHint;
    type WithSites = ContextChoiceWithSites;

    fn with_sites(hint: LifetimeHint, sampling: SiteSampling) -> sites::Settings<LifetimeHint> {
        sites::Settings { strategy: hint, sampling }
    }

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

/// [`ContextChoice`], recording where blocks are asked for.
#[derive(Clone, Copy, Debug)]
pub struct ContextChoiceWithSites;

type Short = WithSites<Bump<true>>;
type Medium = WithSites<BitSet>;
type Long = WithSites<MultipleBinarySearchTree>;

// SAFETY: forwards to the implementations above.
unsafe impl HeapKind for ContextChoiceWithSites {
    type Settings = sites::Settings<LifetimeHint>;
    type WithSites = Self;

    fn with_sites(settings: Self::Settings, sampling: SiteSampling) -> Self::Settings {
        Self::Settings { sampling, ..settings }
    }

    fn operations(settings: Self::Settings) -> &'static Operations {
        match settings.strategy {
            LifetimeHint::Short => cell::operations::<Short>(),
            LifetimeHint::Medium => cell::operations::<Medium>(),
            LifetimeHint::Long => cell::operations::<Long>(),
        }
    }

    fn create(
        settings: Self::Settings,
        source: &'static dyn RegionSource,
        account: AccountHandle,
    ) -> Option<NonNull<HeapHeader>> {
        let sampling = settings.sampling;
        match settings.strategy {
            LifetimeHint::Short => {
                Short::create(sites::Settings { strategy: (), sampling }, source, account)
            }
            LifetimeHint::Medium => {
                let strategy = bit_set::Settings::default();
                Medium::create(sites::Settings { strategy, sampling }, source, account)
            }
            LifetimeHint::Long => {
                Long::create(sites::Settings { strategy: (), sampling }, source, account)
            }
        }
    }
}
