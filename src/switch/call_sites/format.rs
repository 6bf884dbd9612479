//! Call sites as text.
//!
//! ```text
//! 3 KiB in 12 blocks, from 2 call sites:
//!   2.5 KiB in 10 blocks: service::cache::remember (src/cache.rs:41)
//!       service::handle (src/main.rs:88)
//!       service::main (src/main.rs:12)
//!   512 B in 2 blocks: service::log (src/main.rs:30)
//! ```

use core::fmt::{self, Display, Formatter};

use super::super::scope::out_of_contexts;
use super::symbols::{Frame, Symbols};
use super::told_frames;
use crate::heap::{CallSite, CallSites, SiteSampling};
use crate::units::Bytes;

/// Sites in a short report.
const MOST_SITES: usize = 10;
/// Callers of each in a short report.
const MOST_CALLERS: usize = 5;

impl Display for CallSites {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return formatter.write_str("no call sites\n");
        }
        let places = if self.len() == 1 { "call site" } else { "call sites" };
        write!(formatter, "{}, from {} {places}", Amount::of_all(self), self.len())?;
        match self.sampling {
            SiteSampling::All => {}
            SiteSampling::EveryNth(every) => {
                write!(formatter, " (estimated from every {every}th block)")?;
            }
            SiteSampling::EveryBytes(mean) => {
                write!(formatter, " (estimated from one in {})", Bytes(mean as u64))?;
            }
        }
        formatter.write_str(":\n")?;
        let is_whole = formatter.alternate();
        let (sites, callers) =
            if is_whole { (usize::MAX, usize::MAX) } else { (MOST_SITES, MOST_CALLERS) };
        let mut symbols = out_of_contexts(Symbols::new);
        for site in self.iter().take(sites) {
            let frames = out_of_contexts(|| match symbols.frames_of(site) {
                frames if is_whole => frames,
                frames => told_frames(frames),
            });
            write_site(formatter, site, &frames, callers)?;
        }
        if let Some(rest) = self.sites.get(sites..).filter(|rest| !rest.is_empty()) {
            let amount = Amount {
                bytes: rest.iter().map(|site| site.bytes).sum(),
                blocks: rest.iter().map(|site| site.blocks).sum(),
            };
            writeln!(formatter, "  {amount}: {} more call sites", rest.len())?;
        }
        if self.missed != 0 {
            writeln!(
                formatter,
                "  {} blocks more were not recorded, for want of memory",
                self.missed
            )?;
        }
        Ok(())
    }
}

fn write_site(
    formatter: &mut Formatter<'_>,
    site: &CallSite,
    frames: &[Frame],
    most_callers: usize,
) -> fmt::Result {
    let amount = Amount { bytes: site.bytes, blocks: site.blocks };
    match frames.split_first() {
        None => writeln!(formatter, "  {amount}: an unknown place"),
        Some((place, callers)) => {
            writeln!(formatter, "  {amount}: {place}")?;
            for caller in callers.iter().take(most_callers) {
                writeln!(formatter, "      {caller}")?;
            }
            match callers.len().saturating_sub(most_callers) {
                0 => Ok(()),
                more => writeln!(formatter, "      and {more} more"),
            }
        }
    }
}

/// So many bytes in so many blocks.
struct Amount {
    bytes: u64,
    blocks: u64,
}

impl Amount {
    fn of_all(sites: &CallSites) -> Self {
        Self { bytes: sites.bytes(), blocks: sites.blocks() }
    }
}

impl Display for Amount {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let blocks = if self.blocks == 1 { "block" } else { "blocks" };
        write!(formatter, "{} in {} {blocks}", Bytes(self.bytes), self.blocks)
    }
}

impl Display for Frame {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.function)?;
        match &self.place {
            Some((file, line)) => write!(formatter, " ({file}:{line})"),
            None => Ok(()),
        }
    }
}
