//! Call sites as a program gets them: a copy of what a heap's log said at one moment.
//!
//! Made outside the allocator, in the thread's own heap. Addresses become names only when they are
//! written: see `switch::call_sites`.

use crate::strategy::sites::SiteSampling;
use crate::strategy::sites::log::SiteLog;

/// One place in the program, and its blocks that are allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallSite {
    /// Blocks that were recorded.
    pub recorded_blocks: u64,
    /// Their bytes, as long as the blocks are.
    pub recorded_bytes: u64,
    /// The blocks that those stand for: the same where every one is recorded, else an estimate.
    pub blocks: u64,
    /// The bytes of those.
    pub bytes: u64,
    /// Where the program was: addresses within the instructions that called, innermost first. At
    /// most 58; what called those is missing.
    pub frames: Vec<usize>,
}

/// Places in the program where blocks were asked for that are allocated, those with most bytes
/// first.
///
/// Written with `{}`, it is a short report: the ten largest places, each with the function that
/// asked and up to five that led there, the standard library's and this one's left out; with
/// `{:#}`, all of it. Functions have names and lines with
/// the feature `symbols` (and lines where the program has debug information), else addresses within
/// the files that they were loaded from, as `addr2line` takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallSites {
    pub(crate) sites: Vec<CallSite>,
    pub(crate) sampling: SiteSampling,
    pub(crate) missed: u64,
}

impl CallSites {
    /// What a log says.
    pub(crate) fn of(log: &SiteLog) -> Self {
        let mut sites = Vec::new();
        log.for_each(|site| {
            sites.push(CallSite {
                recorded_blocks: site.blocks,
                recorded_bytes: site.bytes,
                blocks: site.estimated_blocks,
                bytes: site.estimated_bytes,
                frames: site.frames.to_vec(),
            });
        });
        sites.sort_unstable_by_key(|site| core::cmp::Reverse(site.bytes));
        Self { sites, sampling: log.sampling(), missed: log.missed() }
    }

    /// Each place.
    pub fn iter(&self) -> core::slice::Iter<'_, CallSite> {
        self.sites.iter()
    }

    /// How many places.
    pub fn len(&self) -> usize {
        self.sites.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// Which blocks were recorded.
    pub fn sampling(&self) -> SiteSampling {
        self.sampling
    }

    /// Blocks that were to be recorded since the heap was made and were not, for want of memory.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// The blocks of all places, as estimated from those recorded.
    pub fn blocks(&self) -> u64 {
        self.sites.iter().map(|site| site.blocks).sum()
    }

    /// The bytes of all places, as estimated from those recorded.
    pub fn bytes(&self) -> u64 {
        self.sites.iter().map(|site| site.bytes).sum()
    }
}

impl<'a> IntoIterator for &'a CallSites {
    type Item = &'a CallSite;
    type IntoIter = core::slice::Iter<'a, CallSite>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
