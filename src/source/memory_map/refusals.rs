//! What the system refused, counted without a lock.
#![forbid(unsafe_code)]

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::sys::SystemError;

/// A setting of a mapping, or the mapping itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Step {
    /// The mapping itself: the range was not given.
    Map,
    /// Huge pages; other pages back the range.
    HugePages,
    /// Locking; the range may be swapped.
    Lock,
    /// Prefaulting; pages come at their first touch.
    Prefault,
    /// Keeping out of core dumps; the range is dumped.
    CoreDump,
    /// The name; the range has none.
    Name,
    /// The NUMA placement; an older policy or the thread's holds.
    Placement,
    /// Collapsing into huge pages; the pages are small ones, in part at least.
    Collapse,
    /// Unmapping; the memory goes back, and the addresses stay mapped.
    Unmap,
}

impl Step {
    const ALL: [Self; 9] = [
        Self::Map,
        Self::HugePages,
        Self::Lock,
        Self::Prefault,
        Self::CoreDump,
        Self::Name,
        Self::Placement,
        Self::Collapse,
        Self::Unmap,
    ];

    fn advice(self) -> &'static str {
        match self {
            Self::Map => "lower what is asked, or raise RLIMIT_AS or vm.max_map_count",
            Self::HugePages => "set vm.nr_hugepages, or a node's own pool, or use transparent ones",
            Self::Lock => "raise RLIMIT_MEMLOCK",
            Self::Prefault => "use Linux 5.14 or later, and see that memory is free",
            Self::CoreDump => "do not ask for it on explicit huge pages",
            Self::Name => "use Linux 5.17 or later with CONFIG_ANON_VMA_NAME",
            Self::Placement => "see numactl --hardware, and allow mbind in the sandbox",
            Self::Collapse => "use Linux 6.1 or later, and see that memory is free",
            Self::Unmap => "raise vm.max_map_count, or take larger ranges",
        }
    }
}

/// How often the system refused a step, and why the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// What was asked.
    pub step: Step,
    /// The last refusal's reason.
    pub error: SystemError,
    /// How often, since the source was made.
    pub times: u64,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, error, times } = self;
        write!(
            formatter,
            "the system refused {step:?} of a mapping {times} times, the last time: {error}; {}",
            step.advice()
        )
    }
}

/// The counters, by step.
///
/// # Invariants
/// Each word is `times << 16 | error number of the last`, so that a reader sees a pair that belongs
/// together. Linux has error numbers below 4096.
#[derive(Debug)]
pub(super) struct Refusals {
    words: [AtomicU64; Step::ALL.len()],
}

impl Refusals {
    pub(super) const fn new() -> Self {
        Self { words: [const { AtomicU64::new(0) }; Step::ALL.len()] }
    }

    #[cold]
    pub(super) fn count(&self, step: Step, error: SystemError) {
        let Some(word) = self.words.get(step as usize) else { return };
        // Relaxed: figures for a reader, they order nothing.
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            Some(((old >> 16) + 1) << 16 | u64::from(error.0 as u16))
        });
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Refusal> + '_ {
        Step::ALL.into_iter().zip(&self.words).filter_map(|(step, word)| {
            let word = word.load(Ordering::Relaxed);
            let (times, error) = (word >> 16, SystemError((word & 0xffff) as i32));
            (times > 0).then_some(Refusal { step, error, times })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    #[test]
    fn counts_and_keeps_the_last_error() {
        let refusals = Refusals::new();
        refusals.count(Step::Lock, SystemError(1));
        refusals.count(Step::Lock, SystemError(12));
        let all: Vec<_> = refusals.iter().collect();
        assert_eq!(all, [Refusal { step: Step::Lock, error: SystemError(12), times: 2 }]);
        let words =
            if cfg!(target_env = "musl") { "Out of memory" } else { "Cannot allocate memory" };
        assert_eq!(
            all[0].to_string(),
            std::format!(
                "the system refused Lock of a mapping 2 times, the last time: {words} (os error \
                 12); raise RLIMIT_MEMLOCK"
            )
        );
        let error = std::io::Error::from(SystemError(12));
        assert_eq!(error.kind(), std::io::ErrorKind::OutOfMemory);
    }
}
