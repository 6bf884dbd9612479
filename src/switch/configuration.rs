//! What the macro configures, and the one configuration that a process has installed.

use core::alloc::GlobalAlloc;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};

use super::environment::{self, Once};
use super::heap_placement::HeapPlacement;
use super::in_use::CurrentAllocatorInUse;
use super::{purge_thread, statistics};
use crate::allocator::RegionSource;
use crate::heap::kind::{ContextChoice, ContextChoiceWithSites};
use crate::heap::{HeapKind, LifetimeHint, SiteSampling};
use crate::numa::Node;
use crate::region::{self, HugePages, KindSettings, SegmentKind};
use crate::source::region_map::{RegionMapSource, source_of};
use crate::sys;
use crate::units::CHUNK_BYTES;

/// A program's allocator, as the macro generates it: its kinds of heaps, global allocator and
/// settings.
///
/// # Safety
/// Each function always gives the same allocator or source.
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
    /// Region, huge pages, placement, decay, statistics, call sites.
    const SETTINGS: Settings;

    /// The locked global allocator.
    fn global() -> &'static Self::Global;

    /// Where contexts' chunks come from: `None` for the region as the settings say.
    fn coroutine_source() -> Option<&'static dyn RegionSource> {
        None
    }

    /// The same of threads' heaps.
    fn thread_source() -> Option<&'static dyn RegionSource> {
        None
    }
}

/// Settings that are not strategies.
///
/// Beside the addresses to reserve and the recording of call sites, which the macro alone sets,
/// these are:
///
#[doc = include_str!("settings.md")]
///
/// A placement counts where the process may use several NUMA nodes and was not started under a
/// memory policy (`numactl --membind`), which decides then. `home` and `bind` need a
/// [home](crate::thread_home) for the thread; `home`, `bind` and `local` keep memory apart by it.
/// What the kernel refuses never keeps a program from starting: weighted interleaving becomes the
/// plain one, any other policy that of the process, and
/// [`RegionUsage::refused_placements`](crate::RegionUsage::refused_placements) counts it.
///
/// The environment stands above the macro. It is read when the allocator is used first, and not in
/// set-user-ID programs. A variable with a value that it does not take is reported on the standard
/// error, and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub(super) region_bytes: usize,
    pub(super) coroutine_huge_pages: HugePages,
    pub(super) thread_huge_pages: HugePages,
    pub(super) coroutine_placement: HeapPlacement,
    pub(super) thread_placement: HeapPlacement,
    pub(super) decay_milliseconds: u64,
    pub(super) has_purge_thread: bool,
    pub(super) has_statistics: bool,
    pub(super) starts_with_first_heap: bool,
    pub(super) call_sites: Option<SiteSampling>,
}

impl Settings {
    /// The defaults: a region of 1 TiB, no huge pages for contexts, for threads past their first
    /// 16 MiB, both at their threads' homes, a decay of a second, without a thread of its own, and
    /// no statistics.
    pub const fn new() -> Self {
        Self {
            region_bytes: region::MAX_REGION_BYTES,
            coroutine_huge_pages: HugePages::Never,
            thread_huge_pages: HugePages::Grown,
            coroutine_placement: HeapPlacement::Home,
            thread_placement: HeapPlacement::Home,
            decay_milliseconds: region::DEFAULT_PERIOD_MILLISECONDS,
            has_purge_thread: false,
            has_statistics: false,
            starts_with_first_heap: true,
            call_sites: None,
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

    /// On which NUMA nodes contexts lie.
    #[must_use]
    pub const fn with_coroutine_placement(self, placement: HeapPlacement) -> Self {
        Self { coroutine_placement: placement, ..self }
    }

    /// On which NUMA nodes threads' heaps lie.
    #[must_use]
    pub const fn with_thread_placement(self, placement: HeapPlacement) -> Self {
        Self { thread_placement: placement, ..self }
    }

    /// How long memory lies free before its pages go back, in milliseconds; an hour at most.
    #[must_use]
    pub const fn with_decay_milliseconds(self, milliseconds: u64) -> Self {
        Self { decay_milliseconds: milliseconds, ..self }
    }

    /// Whether a thread of the allocator's own gives it back.
    #[must_use]
    pub const fn with_purge_thread(self, has_purge_thread: bool) -> Self {
        Self { has_purge_thread, ..self }
    }

    /// Whether the process writes what it held when it exits.
    #[must_use]
    pub const fn with_statistics(self, has_statistics: bool) -> Self {
        Self { has_statistics, ..self }
    }

    /// For an allocator that serves the dynamic linker, too: no thread is started until
    /// [`start_what_is_set`] is called.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_later_start(self) -> Self {
        Self { starts_with_first_heap: false, ..self }
    }

    /// Whether contexts' heaps record where blocks are asked for, and of which.
    #[must_use]
    pub const fn with_call_sites(self, call_sites: Option<SiteSampling>) -> Self {
        Self { call_sites, ..self }
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

type MakeHintedHeap = fn(
    LifetimeHint,
    &'static dyn RegionSource,
    crate::heap::AccountHandle,
) -> Option<core::ptr::NonNull<crate::heap::HeapHeader>>;

/// What library code needs to know of the installed configuration.
#[derive(Debug)]
pub struct Installed {
    /// Makes a context's heap.
    pub make_coroutine_heap: MakeHeap,
    /// Makes one for blocks that live about so long.
    pub make_hinted_heap: MakeHintedHeap,
    /// Which allocator is in use when a thread starts.
    pub default: CurrentAllocatorInUse,
    /// The settings.
    pub settings: Settings,
    /// Where contexts' chunks come from, if not from the region as the settings say.
    coroutine_source: ChosenSource,
    /// The same of threads' heaps.
    thread_source: ChosenSource,
}

type ChosenSource = fn() -> Option<&'static dyn RegionSource>;

impl Installed {
    /// The source that was chosen for contexts or for threads' heaps.
    fn source_of(&self, in_use: CurrentAllocatorInUse) -> Option<&'static dyn RegionSource> {
        match in_use {
            CurrentAllocatorInUse::CoroutineLocal => (self.coroutine_source)(),
            _ => (self.thread_source)(),
        }
    }
}

struct InstalledOf<C>(core::marker::PhantomData<C>);

impl<C: Configuration> InstalledOf<C> {
    const TABLE: Installed = Installed {
        // Chosen here, so that a program which records nothing has no code for it.
        make_coroutine_heap: match C::SETTINGS.call_sites {
            None => |source, account| C::Coroutine::create(C::COROUTINE, source, account),
            Some(_) => |source, account| {
                let sampling = C::SETTINGS.call_sites.unwrap_or_default();
                let settings = C::Coroutine::with_sites(C::COROUTINE, sampling);
                <C::Coroutine as HeapKind>::WithSites::create(settings, source, account)
            },
        },
        make_hinted_heap: match C::SETTINGS.call_sites {
            None => ContextChoice::create,
            Some(_) => |hint, source, account| {
                let sampling = C::SETTINGS.call_sites.unwrap_or_default();
                let settings = ContextChoice::with_sites(hint, sampling);
                ContextChoiceWithSites::create(settings, source, account)
            },
        },
        default: C::DEFAULT,
        settings: C::SETTINGS,
        coroutine_source: C::coroutine_source,
        thread_source: C::thread_source,
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
        check_granule(C::coroutine_source(), "coroutine_source");
        check_granule(C::thread_source(), "thread_source");
        region::limit_bytes(C::SETTINGS.region_bytes);
        environment::read();
        region::set_period_milliseconds(environment::over(C::SETTINGS).decay_milliseconds);
    }
}

/// Of a source of longer granules most of each range would be wasted, or taken for one chunk; one
/// of shorter ones never has a chunk.
fn check_granule(source: Option<&'static dyn RegionSource>, key: &str) {
    if source.is_some_and(|source| source.granule() != CHUNK_BYTES) {
        let advice = " has another granule than 64 KiB; give its arena blocks of 64 KiB";
        sys::abort_with(&["the source that the macro names as `", key, "`", advice]);
    }
}

/// Takes the locks of the sources that were chosen around every fork.
pub(super) fn protect_sources() {
    static ARE_PROTECTED: AtomicBool = AtomicBool::new(false);
    // Relaxed: to do it twice does no harm.
    if let Some(installed) = installed()
        && !ARE_PROTECTED.load(Ordering::Relaxed)
    {
        let chosen = [(installed.coroutine_source)(), (installed.thread_source)()];
        for source in chosen.into_iter().flatten() {
            // Without memory for the handlers, a child of a threaded process may find a lock held.
            let _ = source.protect_fork();
        }
        ARE_PROTECTED.store(true, Ordering::Relaxed);
    }
}

/// The settings that hold: the installed configuration's, and above them the environment's.
fn settings() -> Settings {
    environment::over(installed().map_or(Settings::new(), |installed| installed.settings))
}

/// Whether the allocator serves the dynamic linker, too.
pub(super) fn serves_linker() -> bool {
    installed().is_some_and(|installed| !installed.settings.starts_with_first_heap)
}

/// Starts what the settings want to run beside the program, at the first heap of a thread.
#[cold]
pub(super) fn start_with_first_heap() {
    if installed().is_some() && !serves_linker() {
        start_what_is_set();
    }
}

/// Starts what the settings want to run beside the program, once there is an environment.
#[doc(hidden)]
pub fn start_what_is_set() {
    static START: Once = Once::new();
    if environment::read() && START.is_first() {
        let settings = settings();
        region::set_period_milliseconds(settings.decay_milliseconds);
        if settings.has_statistics {
            statistics::write_at_exit();
        }
        if settings.has_purge_thread && purge_thread::start_purge_thread().is_err() {
            crate::sys::complain_with(&["the system has no thread left for purging"]);
        }
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

/// The kinds of segments that are in use, by what for and by home, each as its number and one; zero
/// while it was not made.
static KINDS: [[AtomicU8; HOMES]; 2] = [const { [const { AtomicU8::new(0) }; HOMES] }; 2];

/// Every node, and before them no node.
const HOMES: usize = Node::LIMIT + 1;

/// The source of contexts or of threads' heaps, for a thread with this home: that which was chosen,
/// or the region.
pub fn source_for(in_use: CurrentAllocatorInUse, home: Option<Node>) -> &'static dyn RegionSource {
    match installed().and_then(|installed| installed.source_of(in_use)) {
        Some(chosen) => chosen,
        None => region_for(in_use, home),
    }
}

/// Runs of the region with the huge pages and the placement that were configured, for a thread with
/// this home.
pub(super) fn region_for(
    in_use: CurrentAllocatorInUse,
    home: Option<Node>,
) -> &'static RegionMapSource {
    let is_thread = in_use != CurrentAllocatorInUse::CoroutineLocal;
    let place = home.map_or(0, |node| node.number() + 1);
    let slot = KINDS.get(usize::from(is_thread)).and_then(|kinds| kinds.get(place));
    // Relaxed: a number, valid in itself; the kind's registry has a lock.
    let known = slot.and_then(|slot| slot.load(Ordering::Relaxed).checked_sub(1));
    let kind = match known {
        Some(index) => SegmentKind::from_index(index),
        None => {
            let kind = make_kind(is_thread, home);
            // Until an allocator is installed, what it configures is not known.
            if let (Some(slot), true) = (slot, is_installed()) {
                slot.store(kind.index() + 1, Ordering::Relaxed);
            }
            kind
        }
    };
    source_of(kind)
}

/// Where all kinds are in use, that of threads' heaps on any node.
#[cold]
fn make_kind(is_thread: bool, home: Option<Node>) -> SegmentKind {
    let settings = settings();
    let (name, huge_pages, chosen) = match is_thread {
        true => (c"heapswitch-thread", settings.thread_huge_pages, settings.thread_placement),
        false => {
            (c"heapswitch-context", settings.coroutine_huge_pages, settings.coroutine_placement)
        }
    };
    let kind = KindSettings { huge_pages, placement: chosen.at(home), ..KindSettings::new(name) };
    let general = if is_thread { SegmentKind::THREAD } else { SegmentKind::CONTEXT };
    region::register_kind_apart(kind, chosen.kept_apart_by(home)).unwrap_or(general)
}

/// The home by which heaps of ended threads are kept apart for the next: a thread takes over none
/// that is better on another node.
pub(super) fn thread_heaps_kept_apart_by(home: Option<Node>) -> Option<Node> {
    // A source that was chosen is one for all nodes.
    if installed().is_some_and(|installed| (installed.thread_source)().is_some()) {
        return None;
    }
    home.and_then(|home| settings().thread_placement.kept_apart_by(Some(home)))
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
    /// Times that a thread was found on another node than its heap's.
    pub moved_threads: AtomicU64,
}

/// The process's.
pub static GLOBAL_COUNTERS: GlobalCounters = GlobalCounters {
    live_bytes: AtomicU64::new(0),
    total_bytes: AtomicU64::new(0),
    live_blocks: AtomicU64::new(0),
    overflow_blocks: AtomicU64::new(0),
    leaked_heaps: AtomicU64::new(0),
    moved_threads: AtomicU64::new(0),
};
