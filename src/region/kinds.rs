//! Kinds of segments: what is set on their memory as a whole.
//!
//! A policy, a name or a protection for every heap would exceed the kernel's limit on mappings
//! (65,530 by default), so these go on segments, and heaps choose among a few kinds.

use core::ffi::CStr;
use core::ptr::NonNull;

use super::runs::Runs;
use crate::sys::lock::Lock;
use crate::sys::memory::{self, Advice};

/// The most kinds that a process can have.
pub const MAX_KINDS: usize = 32;

/// How the kernel may back memory with huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// As the system is set.
    #[default]
    System,
    /// Never: each touched chunk would cost 2 MiB where the system says `always`.
    Never,
    /// Transparent ones wanted, also where the system says `madvise`.
    Transparent,
}

/// What is set on the segments of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindSettings {
    /// Huge pages.
    pub huge_pages: HugePages,
    /// The mappings' name in `/proc/self/maps`, where the kernel has names (Linux 5.17).
    pub name: &'static CStr,
    /// Keep the memory out of core dumps.
    pub is_dumped: bool,
}

/// One of the process's kinds of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentKind(u8);

impl SegmentKind {
    /// For contexts: never huge pages.
    pub const CONTEXT: Self = Self(0);
    /// For thread heaps: huge pages as the system is set.
    pub const THREAD: Self = Self(1);

    pub(super) const fn from_index(index: u8) -> Self {
        Self(index)
    }

    pub(super) const fn index(self) -> u8 {
        self.0
    }

    /// Sets what the kind asks for; where the kernel refuses, the memory serves without it.
    ///
    /// # Safety
    /// The range is committed segments of the region that nobody uses yet.
    pub(super) unsafe fn prepare(self, start: NonNull<u8>, bytes: usize) {
        let settings = settings_of(self);
        // SAFETY: the range is the caller's alone. Refusals only lose the wish: a kernel without
        // transparent huge pages or names says EINVAL.
        unsafe {
            let _ = match settings.huge_pages {
                HugePages::System => Ok(()),
                HugePages::Never => memory::apply_advice(start, bytes, Advice::NoHugePages),
                HugePages::Transparent => memory::apply_advice(start, bytes, Advice::HugePages),
            };
            if !settings.is_dumped {
                let _ = memory::apply_advice(start, bytes, Advice::NoCoreDump);
            }
            let _ = memory::name_mapping(start, bytes, settings.name);
        }
    }
}

struct Registry {
    settings: [Option<KindSettings>; MAX_KINDS],
}

const CONTEXT_SETTINGS: KindSettings =
    KindSettings { huge_pages: HugePages::Never, name: c"heapswitch-context", is_dumped: true };
const THREAD_SETTINGS: KindSettings =
    KindSettings { huge_pages: HugePages::System, name: c"heapswitch-thread", is_dumped: true };

static REGISTRY: Lock<Registry> = Lock::new(Registry {
    settings: {
        let mut settings = [None; MAX_KINDS];
        settings[0] = Some(CONTEXT_SETTINGS);
        settings[1] = Some(THREAD_SETTINGS);
        settings
    },
});

static RUNS: [Lock<Runs>; MAX_KINDS] = [const { Lock::new(Runs::new()) }; MAX_KINDS];

/// The kind with these settings; made unless there is one. `None` when all 32 are in use.
pub fn register_kind(settings: KindSettings) -> Option<SegmentKind> {
    let mut registry = REGISTRY.lock();
    for (index, slot) in registry.settings.iter_mut().enumerate() {
        match slot {
            Some(existing) if *existing == settings => return Some(SegmentKind(index as u8)),
            Some(_) => {}
            None => {
                *slot = Some(settings);
                return Some(SegmentKind(index as u8));
            }
        }
    }
    None
}

fn settings_of(kind: SegmentKind) -> KindSettings {
    let registry = REGISTRY.lock();
    registry.settings.get(usize::from(kind.0)).copied().flatten().unwrap_or(THREAD_SETTINGS)
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
