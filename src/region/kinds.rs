//! Kinds of segments: what is set on their memory as a whole.
//!
//! A policy, a name or a protection for every heap would exceed the kernel's limit on mappings
//! (65,530 by default), so these go on segments, and heaps choose among a few kinds.

use core::ffi::CStr;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};

use super::census::visit_pages;
use super::runs::Runs;
use super::{MemorySpan, RegionUsage, is_commit_charged, segments_of};
use crate::numa::{self, Node, Placement, Policy};
use crate::pointers::forward;
use crate::sys::lock::Lock;
use crate::sys::memory::{self, Advice};
use crate::sys::{self, SystemError};
use crate::units::{CHUNK_BYTES, HUGE_PAGE_BYTES};

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
    /// The same past the first 16 MiB of the kind's memory, which is as the system is set: a large
    /// process takes fewer faults and fewer walks of page tables, and a small one stays small. Nor
    /// for the next 16 MiB, and so on, while less than half of the last are resident, and what is
    /// taken is shorter than a huge page: many small heaps are no large process.
    Grown,
}

/// How much of a kind's memory asks for no huge pages under [`HugePages::Grown`], in bytes, before
/// it is looked at. A huge page makes up to 2 MiB resident for a chunk of 64 KiB: that is to be
/// little beside the rest.
const SMALL_BYTES: usize = 16 << 20;

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

    /// Sets what the kind asks for; where the kernel refuses, the memory serves without it.
    ///
    /// # Safety
    /// The range is committed segments of the region that nobody uses yet.
    pub(super) unsafe fn prepare(self, start: NonNull<u8>, bytes: usize) {
        let settings = settings_of(self);
        // Before the advice on huge pages: from then on the kernel may bring pages.
        if let Some(error) = settings.placement.apply(start, bytes).error() {
            figures_of(self).refuse_placement(error);
        }
        let advise = |from: usize, advice| {
            // SAFETY: the range is the caller's alone, and callers start within it. A refusal only
            // loses the wish: a kernel without transparent huge pages says EINVAL.
            let advised =
                unsafe { memory::apply_advice(forward(start, from), bytes - from, advice) };
            if let Err(error) = advised {
                figures_of(self).refuse_advice(error);
            }
        };
        match settings.huge_pages {
            HugePages::System => {}
            HugePages::Never => advise(0, Advice::NoHugePages),
            HugePages::Transparent => advise(0, Advice::HugePages),
            HugePages::Grown => {
                let figures = figures_of(self);
                if let Some(small_bytes) = figures.small_bytes_of_new(start, bytes) {
                    advise(small_bytes, Advice::HugePages);
                }
            }
        }
        if !settings.is_dumped {
            advise(0, Advice::NoCoreDump);
        }
        // Many kernels have no names, and nothing depends on them: not counted.
        // SAFETY: the range is the caller's alone.
        let _ = unsafe { memory::name_mapping(start, bytes, settings.name) };
    }
}

impl SegmentKind {
    /// Whether the kind's memory is not small any more, where a run of so many chunks was taken
    /// that ends at this address. The caller holds the kind's lock.
    pub(super) fn has_grown_by(self, end: usize, chunks: u32) -> bool {
        figures_of(self).has_grown_by(end, chunks)
    }

    /// Calls it grown. The caller holds the kind's lock.
    pub(super) fn call_grown(self) {
        figures_of(self).is_small.store(false, Ordering::Relaxed);
    }

    /// Whether it asks for no huge pages yet.
    pub(super) fn is_small(self) -> bool {
        figures_of(self).is_small.load(Ordering::Relaxed)
    }

    /// Asks for huge pages in all the kind's memory, or no longer. Whether its settings let it, and
    /// the kernel. The caller holds the kind's lock.
    pub(super) fn wish_for_huge_pages(self, is_wished: bool) -> bool {
        let settings = settings_of(self);
        let is_asked_for = matches!(settings.huge_pages, HugePages::Transparent | HugePages::Grown);
        // There segments can be a mere reservation, which is advised when it is memory again.
        if !is_asked_for || is_commit_charged() {
            return false;
        }
        let advice = if is_wished { Advice::HugePages } else { Advice::NoHugePages };
        // Whether any was advised: what could be withdrawn is to be asked for again. A refusal is
        // not counted; where there are no huge pages it was when the memory was prepared.
        segments_of(self).fold(false, |is_advised, MemorySpan { start, bytes }| {
            let small_bytes = figures_of(self).small_bytes_of(start).min(bytes);
            // SAFETY: the range is committed memory of the region, and the advice changes no byte.
            let advised = unsafe {
                memory::apply_advice(forward(start, small_bytes), bytes - small_bytes, advice)
            };
            advised.is_ok() | is_advised
        })
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
    /// The address up to which the kind's first memory asks for no huge pages; 0 before there is
    /// any. Later memory lies at higher addresses.
    small_end: AtomicUsize,
    /// Whether nothing beyond asks for them either, yet.
    is_small: AtomicBool,
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
        small_end: AtomicUsize::new(0),
        is_small: AtomicBool::new(false),
        away_runs: AtomicU64::new(0),
        refused_placements: AtomicU64::new(0),
        refused_advice: AtomicU64::new(0),
    }
}; MAX_KINDS];

/// Counts a refusal in such a word.
fn count_refusal(word: &AtomicU64, error: SystemError) {
    // Relaxed, as all of them: figures for a reader, they order nothing. Called under the
    // frontier's lock or the kind's, so no count is lost.
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

    fn refuse_advice(&self, error: SystemError) {
        count_refusal(&self.refused_advice, error);
    }

    /// How much of a range of new memory asks for no huge pages under [`HugePages::Grown`]; `None`
    /// where nothing asks yet.
    fn small_bytes_of_new(&self, start: NonNull<u8>, bytes: usize) -> Option<usize> {
        // Relaxed, here and below: the kind's lock orders the calls.
        if self.small_end.load(Ordering::Relaxed) == 0 {
            self.small_end.store(start.addr().get() + SMALL_BYTES, Ordering::Relaxed);
            // Where commitments are charged, nobody asks when it has grown.
            self.is_small.store(!is_commit_charged(), Ordering::Relaxed);
        }
        if self.is_small.load(Ordering::Relaxed) {
            return None;
        }
        Some(self.small_bytes_of(start).min(bytes))
    }

    /// How far the first memory reaches behind an address of the kind's.
    fn small_bytes_of(&self, start: NonNull<u8>) -> usize {
        self.small_end.load(Ordering::Relaxed).saturating_sub(start.addr().get())
    }

    /// Whether more than the first memory is used, and that well: see [`HugePages::Grown`]. If it
    /// is sparse, more of the memory is the first.
    fn has_grown_by(&self, end: usize, chunks: u32) -> bool {
        if !self.is_small.load(Ordering::Relaxed) {
            return true;
        }
        let small_end = self.small_end.load(Ordering::Relaxed);
        if end <= small_end {
            return false;
        }
        let is_grown = chunks as usize >= HUGE_PAGE_BYTES / CHUNK_BYTES || is_filled(small_end);
        if is_grown {
            self.is_small.store(false, Ordering::Relaxed);
        } else {
            // Behind a gap, which is other kinds' memory, what is looked at begins anew.
            let looked_at_from = if end - small_end > SMALL_BYTES { end } else { small_end };
            self.small_end.store(looked_at_from + SMALL_BYTES, Ordering::Relaxed);
        }
        is_grown
    }

    fn home(&self) -> Option<Node> {
        usize::from(self.home.load(Ordering::Relaxed)).checked_sub(1).and_then(Node::new)
    }
}

/// Whether half or more is resident of the last of the first memory, which ends at an address. What
/// cannot be asked is taken for filled.
fn is_filled(small_end: usize) -> bool {
    let Some(start) = NonNull::new(core::ptr::without_provenance_mut(small_end - SMALL_BYTES))
    else {
        return true;
    };
    let mut resident_pages = 0;
    let seen = visit_pages(start, SMALL_BYTES, |_| resident_pages += 1);
    seen.is_none() || resident_pages * sys::page_bytes() >= SMALL_BYTES / 2
}

fn figures_of(kind: SegmentKind) -> &'static Figures {
    // Kinds are made by `register_kind` only, so the index is in range.
    FIGURES.get(usize::from(kind.0)).unwrap_or(&FIGURES[0])
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
