//! What the macro configures, and the one configuration that a process has installed.

use core::alloc::GlobalAlloc;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use super::in_use::CurrentAllocatorInUse;
use crate::allocator::RegionSource;
use crate::heap::HeapKind;
use crate::region::{self, HugePages, KindSettings};
use crate::source::region_map::{CONTEXT_SOURCE, RegionMapSource, THREAD_SOURCE};

/// What the macro generates.
///
/// # Safety
/// `global` always gives the same allocator.
pub unsafe trait Configuration: 'static {
    /// The kind of heap that [`Heap::new`](crate::Heap::new) makes.
    type Coroutine: HeapKind;
    /// The kind of each thread's own heap.
    type Thread: HeapKind;
    /// The locked global allocator.
    type Global: GlobalAlloc + Sync + 'static;

    /// How contexts' heaps are made.
    const COROUTINE: <Self::Coroutine as HeapKind>::Settings;
    /// How threads' heaps are made.
    const THREAD: <Self::Thread as HeapKind>::Settings;
    /// Which allocator is in use when a thread starts.
    const DEFAULT: CurrentAllocatorInUse;
    /// The rest.
    const SETTINGS: Settings;

    /// The locked global allocator.
    fn global() -> &'static Self::Global;
}

/// Settings that are not strategies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    region_bytes: usize,
    coroutine_huge_pages: HugePages,
    thread_huge_pages: HugePages,
}

impl Settings {
    /// The defaults: a region of 1 TiB, no huge pages for contexts, the system's for threads.
    pub const fn new() -> Self {
        Self {
            region_bytes: region::MAX_REGION_BYTES,
            coroutine_huge_pages: HugePages::Never,
            thread_huge_pages: HugePages::System,
        }
    }

    /// The most address space to reserve, in bytes.
    #[must_use]
    pub const fn with_region_bytes(self, bytes: usize) -> Self {
        Self { region_bytes: bytes, ..self }
    }

    /// Huge pages for contexts.
    #[must_use]
    pub const fn with_coroutine_huge_pages(self, huge_pages: HugePages) -> Self {
        Self { coroutine_huge_pages: huge_pages, ..self }
    }

    /// Huge pages for threads' heaps.
    #[must_use]
    pub const fn with_thread_huge_pages(self, huge_pages: HugePages) -> Self {
        Self { thread_huge_pages: huge_pages, ..self }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::new()
    }
}

type MakeHeap = fn(
    &'static dyn RegionSource,
    crate::heap::AccountHandle,
) -> Option<core::ptr::NonNull<crate::heap::HeapHeader>>;

/// What library code needs to know of the installed configuration.
#[derive(Debug)]
pub struct Installed {
    /// Makes a context's heap.
    pub make_coroutine_heap: MakeHeap,
    /// Which allocator is in use when a thread starts.
    pub default: CurrentAllocatorInUse,
    /// The settings.
    pub settings: Settings,
}

struct InstalledOf<C>(core::marker::PhantomData<C>);

impl<C: Configuration> InstalledOf<C> {
    const TABLE: Installed = Installed {
        make_coroutine_heap: |source, account| C::Coroutine::create(C::COROUTINE, source, account),
        default: C::DEFAULT,
        settings: C::SETTINGS,
    };
}

static INSTALLED: AtomicPtr<Installed> = AtomicPtr::new(core::ptr::null_mut());

/// Installs a configuration, unless one is. The first to allocate wins.
pub fn install<C: Configuration>() {
    let table: &'static Installed = &InstalledOf::<C>::TABLE;
    let table = core::ptr::from_ref(table).cast_mut();
    // Release pairs with the Acquire in `installed`.
    let order = (Ordering::Release, Ordering::Relaxed);
    if INSTALLED.compare_exchange(core::ptr::null_mut(), table, order.0, order.1).is_ok() {
        region::limit_bytes(C::SETTINGS.region_bytes);
    }
}

/// The installed configuration.
pub fn installed() -> Option<&'static Installed> {
    // Acquire pairs with the Release in `install`. SAFETY: only references to statics are stored.
    unsafe { INSTALLED.load(Ordering::Acquire).as_ref() }
}

/// Lets the program's allocator install itself, if it is one of this crate and nothing was
/// allocated yet: in constructors that run before `main`, a heap may be the first thing that is
/// asked for.
///
/// Not to be called from within the allocator.
#[inline]
pub(super) fn settle() {
    if INSTALLED.load(Ordering::Relaxed).is_null() {
        probe();
    }
}

/// Allocates once a process, for the allocator's sake.
#[cold]
fn probe() {
    static WAS_PROBED: AtomicBool = AtomicBool::new(false);
    // Relaxed: a second probe does no harm.
    if !WAS_PROBED.load(Ordering::Relaxed) {
        drop(core::hint::black_box(std::boxed::Box::new(0_u64)));
        WAS_PROBED.store(true, Ordering::Relaxed);
    }
}

/// Whether an allocator of this crate is the program's, or serves by hand: true from its first
/// allocation on. Until then heaps and scopes work, and route nothing.
///
/// ```
/// #[global_allocator]
/// static GLOBAL: heapswitch::HeapSwitch = heapswitch::HeapSwitch;
///
/// # fn main() {
/// drop(Box::new(1));
/// assert!(heapswitch::is_installed());
/// # }
/// ```
pub fn is_installed() -> bool {
    installed().is_some()
}

/// The source of contexts or of threads' heaps, with the huge pages that were configured.
pub fn source_for(in_use: CurrentAllocatorInUse) -> &'static dyn RegionSource {
    static CONTEXT: SourceSlot = SourceSlot::new();
    static THREAD: SourceSlot = SourceSlot::new();
    let settings = installed().map_or(Settings::new(), |installed| installed.settings);
    match in_use {
        CurrentAllocatorInUse::CoroutineLocal => match settings.coroutine_huge_pages {
            HugePages::Never => &CONTEXT_SOURCE,
            huge_pages => CONTEXT.get(huge_pages, c"heapswitch-context"),
        },
        _ => match settings.thread_huge_pages {
            HugePages::System => &THREAD_SOURCE,
            huge_pages => THREAD.get(huge_pages, c"heapswitch-thread"),
        },
    }
}

/// A source that is made at its first use.
struct SourceSlot(std::sync::OnceLock<RegionMapSource>);

impl SourceSlot {
    const fn new() -> Self {
        Self(std::sync::OnceLock::new())
    }

    fn get(
        &'static self,
        huge_pages: HugePages,
        name: &'static core::ffi::CStr,
    ) -> &'static dyn RegionSource {
        self.0.get_or_init(|| {
            let settings = KindSettings { huge_pages, name, is_dumped: true };
            RegionMapSource::new(settings).unwrap_or(THREAD_SOURCE)
        })
    }
}

/// What the locked global allocator served, in blocks and bytes.
#[derive(Debug, Default)]
pub struct GlobalCounters {
    /// Bytes allocated, less bytes freed.
    pub live_bytes: AtomicU64,
    /// Bytes allocated since the start.
    pub total_bytes: AtomicU64,
    /// Blocks allocated, less blocks freed.
    pub live_blocks: AtomicU64,
    /// Blocks that came from here because the heap in use had no memory.
    pub overflow_blocks: AtomicU64,
    /// Heaps that were dropped while they ran on another thread, and leaked.
    pub leaked_heaps: AtomicU64,
}

/// The process's.
pub static GLOBAL_COUNTERS: GlobalCounters = GlobalCounters {
    live_bytes: AtomicU64::new(0),
    total_bytes: AtomicU64::new(0),
    live_blocks: AtomicU64::new(0),
    overflow_blocks: AtomicU64::new(0),
    leaked_heaps: AtomicU64::new(0),
};
