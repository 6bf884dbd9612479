//! Kinds of segments: what is set on their memory as a whole.
//!
//! A policy, a name or a protection for every heap would exceed the kernel's limit on mappings
//! (65,530 by default), so these go on segments, and heaps choose among a few kinds.

use core::ffi::CStr;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use super::RegionUsage;
use super::runs::Runs;
use crate::numa::{self, Node, Placement, Policy};
use crate::sys::SystemError;
use crate::sys::lock::Lock;
use crate::sys::memory::{self, Advice};

/// The most kinds that a process can have: two for each of 60 nodes, and some of the program's own.
pub const MAX_KINDS: usize = 128;

/// How the kernel may back memory with huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// As the system is set.
    #[default]
    System,
    /// Never: each touched chunk would cost 2 MiB where the system says `always`.
    Never,
    /// Transparent ones wanted, also where the system says `madvise`; but not from when memory is
    /// given back until the kind has grown again.
    Transparent,
    /// The same past the first 16 MiB of the kind's memory, which have none, also where the system
    /// says `always`: a large process takes fewer faults and fewer walks of page tables, a small
    /// one stays small. Nor have the next 16 MiB, and so on, while less than half of the last are
    /// resident, and what is taken is shorter than a huge page: many small heaps are no large
    /// process. What was left so has them when it is nearly full.
    Grown,
}

/// What is set on the segments of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindSettings {
    /// Huge pages.
    pub huge_pages: HugePages,
    /// The mappings' name in `/proc/self/maps`, where the kernel has names (Linux 5.17).
    pub name: &'static CStr,
    /// Whether core dumps hold the memory.
    pub is_dumped: bool,
    /// On which NUMA nodes the pages shall lie.
    pub placement: Placement,
}

impl KindSettings {
    /// Mappings of this name, everything else as the system does it.
    pub const fn new(name: &'static CStr) -> Self {
        Self { huge_pages: HugePages::System, name, is_dumped: true, placement: Placement::DEFAULT }
    }
}

/// One of the process's kinds of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentKind(u8);

impl SegmentKind {
    /// For contexts: never huge pages.
    pub const CONTEXT: Self = Self(0);
    /// For thread heaps: huge pages as the system is set.
    pub const THREAD: Self = Self(1);

    /// The kind of this number, one that was made.
    pub(crate) const fn from_index(index: u8) -> Self {
        Self(index)
    }

    /// Its number, below [`MAX_KINDS`].
    pub const fn index(self) -> u8 {
        self.0
    }

    /// Sets what the kind asks for, but for huge pages; where the kernel refuses, the memory serves
    /// without it.
    ///
    /// # Safety
    /// The range is committed segments of the region that nobody uses yet.
    pub(super) unsafe fn prepare(self, start: NonNull<u8>, bytes: usize) {
        let settings = settings_of(self);
        if let Some(error) = settings.placement.apply(start, bytes).error() {
            figures_of(self).refuse_placement(error);
        }
        if !settings.is_dumped {
            // SAFETY: the range is the caller's alone. A refusal only loses the wish.
            let advised = unsafe { memory::apply_advice(start, bytes, Advice::NoCoreDump) };
            if let Err(error) = advised {
                refuse_advice(self, error);
            }
        }
        // Many kernels have no names, and nothing depends on them: not counted.
        // SAFETY: the range is the caller's alone.
        let _ = unsafe { memory::name_mapping(start, bytes, settings.name) };
    }
}

struct Registry {
    made: [Option<Made>; MAX_KINDS],
}

/// A kind that was made.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Made {
    settings: KindSettings,
    /// The node whose threads its memory serves and no others, where several kinds have the same
    /// settings.
    apart: Option<Node>,
}

impl Made {
    const fn new(settings: KindSettings) -> Self {
        Self { settings, apart: None }
    }
}

const CONTEXT_SETTINGS: KindSettings =
    KindSettings { huge_pages: HugePages::Never, ..KindSettings::new(c"heapswitch-context") };
const THREAD_SETTINGS: KindSettings = KindSettings::new(c"heapswitch-thread");

/// What is counted of a kind, without its locks.
struct Figures {
    /// The number of the one node that the kind is wanted on and one; 0 where there is none.
    home: AtomicU16,
    /// Runs that were taken by a thread on another node.
    away_runs: AtomicU64,
    /// Segments whose placement the kernel refused or replaced, and in the low 16 bits the error
    /// number of the last.
    refused_placements: AtomicU64,
    /// The same of advice: on huge pages, on core dumps.
    refused_advice: AtomicU64,
}

static FIGURES: [Figures; MAX_KINDS] = [const {
    Figures {
        home: AtomicU16::new(0),
        away_runs: AtomicU64::new(0),
        refused_placements: AtomicU64::new(0),
        refused_advice: AtomicU64::new(0),
    }
}; MAX_KINDS];

/// Counts a refusal in such a word.
fn count_refusal(word: &AtomicU64, error: SystemError) {
    // Relaxed, as all of them: figures for a reader, they order nothing. Called under the kind's
    // lock, so no count is lost.
    let times = (word.load(Ordering::Relaxed) >> 16) + 1;
    word.store(times << 16 | u64::from(error.0 as u16), Ordering::Relaxed);
}

/// What such a word says: how often, and why the last time.
fn refusals_in(word: &AtomicU64) -> Option<(u64, SystemError)> {
    let word = word.load(Ordering::Relaxed);
    (word != 0).then_some((word >> 16, SystemError((word & 0xffff) as i32)))
}

impl Figures {
    fn refuse_placement(&self, error: SystemError) {
        count_refusal(&self.refused_placements, error);
    }

    fn home(&self) -> Option<Node> {
        usize::from(self.home.load(Ordering::Relaxed)).checked_sub(1).and_then(Node::new)
    }
}

fn figures_of(kind: SegmentKind) -> &'static Figures {
    // Kinds are made by `register_kind` only, so the index is in range.
    FIGURES.get(usize::from(kind.0)).unwrap_or(&FIGURES[0])
}

/// Counts advice for a segment that the kernel refused: one without transparent huge pages says
/// `EINVAL`. Under the kind's lock.
pub(super) fn refuse_advice(kind: SegmentKind, error: SystemError) {
    count_refusal(&figures_of(kind).refused_advice, error);
}

/// Segments of a kind whose placement the kernel refused or replaced by an older one, and the last
/// reason; `None` where all lie as was asked.
pub fn refused_placements(kind: SegmentKind) -> Option<(u64, SystemError)> {
    refusals_in(&figures_of(kind).refused_placements)
}

/// How often the kernel refused advice on huge pages or core dumps for a segment of a kind, and the
/// last reason; `None` where it took all.
pub fn refused_advice(kind: SegmentKind) -> Option<(u64, SystemError)> {
    refusals_in(&figures_of(kind).refused_advice)
}

/// Adds what is counted of all kinds.
pub(super) fn add_figures(usage: &mut RegionUsage) {
    for figures in &FIGURES {
        usage.away_runs += figures.away_runs.load(Ordering::Relaxed);
        usage.refused_placements += figures.refused_placements.load(Ordering::Relaxed) >> 16;
        usage.refused_advice += figures.refused_advice.load(Ordering::Relaxed) >> 16;
    }
}

/// Counts a run that is taken while the thread is not on the kind's node. One load where the kind
/// has none.
#[inline]
pub(super) fn note_taker(kind: SegmentKind) {
    let figures = figures_of(kind);
    if let Some(home) = figures.home()
        && numa::current_home().is_some_and(|current| current != home)
    {
        figures.away_runs.fetch_add(1, Ordering::Relaxed);
    }
}

static REGISTRY: Lock<Registry> = Lock::new(Registry {
    made: {
        let mut made = [None; MAX_KINDS];
        made[0] = Some(Made::new(CONTEXT_SETTINGS));
        made[1] = Some(Made::new(THREAD_SETTINGS));
        made
    },
});

static RUNS: [Lock<Runs>; MAX_KINDS] = [const { Lock::new(Runs::new()) }; MAX_KINDS];

/// The kind with these settings; made unless there is one. `None` when all 128 are in use.
pub fn register_kind(settings: KindSettings) -> Option<SegmentKind> {
    register(Made::new(settings))
}

/// As [`register_kind`], a kind of its own for each node: what threads of one used serves no other.
pub fn register_kind_apart(settings: KindSettings, apart: Option<Node>) -> Option<SegmentKind> {
    register(Made { settings, apart })
}

fn register(wanted: Made) -> Option<SegmentKind> {
    let mut registry = REGISTRY.lock();
    for (index, slot) in registry.made.iter_mut().enumerate() {
        match slot {
            Some(existing) if *existing == wanted => return Some(SegmentKind(index as u8)),
            Some(_) => {}
            None => {
                *slot = Some(wanted);
                let kind = SegmentKind(index as u8);
                if let Some(node) = home_of(&wanted.settings.placement.policy) {
                    figures_of(kind).home.store(node.number() as u16 + 1, Ordering::Relaxed);
                }
                return Some(kind);
            }
        }
    }
    None
}

/// The one node that a policy wants, if it is one.
fn home_of(policy: &Policy) -> Option<Node> {
    match policy {
        Policy::Preferred(node) => Some(*node),
        Policy::Bind(nodes) if nodes.len() == 1 => nodes.first(),
        _ => None,
    }
}

/// What is set on a kind's segments.
pub fn settings_of(kind: SegmentKind) -> KindSettings {
    let registry = REGISTRY.lock();
    let made = registry.made.get(usize::from(kind.0)).copied().flatten();
    made.map_or(THREAD_SETTINGS, |made| made.settings)
}

/// The runs of a kind, behind their lock.
pub(super) fn lock_of(kind: SegmentKind) -> &'static Lock<Runs> {
    // Kinds are made by `register_kind` only, so the index is in range.
    RUNS.get(usize::from(kind.0)).unwrap_or(&RUNS[0])
}

/// The locks of all kinds, in the order in which `fork` takes them.
pub(super) fn kind_locks() -> impl DoubleEndedIterator<Item = &'static Lock<Runs>> {
    RUNS.iter()
}

pub(super) fn registry_lock() -> &'static crate::sys::lock::RawLock {
    REGISTRY.raw()
}
