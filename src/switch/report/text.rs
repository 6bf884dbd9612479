//! Reports as text, for people: a line each, or a table.

use core::fmt::{self, Display, Formatter, Write as _};

use super::{MemoryReport, NamedUsage, Reconciliation};
use crate::heap::AccountReport;
use crate::units::Bytes;

/// An account's name within a line.
struct Name<'a>(&'a str);

impl Display for Name<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str("context");
        }
        self.0
            .chars()
            .try_for_each(|one| formatter.write_char(if one.is_control() { ' ' } else { one }))
    }
}

impl Display for AccountReport {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let name = Name(self.name.as_str());
        write!(formatter, "{name} (account {}): {}", self.id.number(), self.usage)
    }
}

/// One line of the table that [`MemoryReport`] is shown as, without its end.
impl Display for NamedUsage {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, accounts, usage } = self;
        let name = Name(name.as_str());
        let [held, peak, allocated] =
            [usage.own_bytes, usage.peak_bytes, usage.allocated_bytes].map(Bytes::of);
        let escapees = usage.escapees;
        write!(
            formatter,
            "{held:>10} {peak:>10} {allocated:>10} {escapees:>8} {accounts:>8}  {name}"
        )
    }
}

/// The process in a line, and the accounts as a table by name, those that hold most first. A column
/// is as [`by_name`](MemoryReport::by_name) sums it.
impl Display for MemoryReport {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let region = &self.process.region;
        writeln!(
            formatter,
            "heaps hold {} and held at most {}; \
             freed, and not given back yet, at most {}; records {}; \
             served by the global allocator since the start {}",
            Bytes::of(region.taken_bytes),
            Bytes::of(region.peak_bytes),
            Bytes::of(region.dirty_bytes),
            Bytes::of(self.process.metadata_bytes),
            Bytes(self.process.global_bytes),
        )?;
        let [held, peak, live] = ["held", "peak", "allocated"];
        write!(formatter, "{held:>10} {peak:>10} {live:>10}  escaped accounts  name")?;
        self.by_name().iter().try_for_each(|one| write!(formatter, "\n{one}"))
    }
}

/// What there is, by where it lies, and by how much the three ways to count differ.
impl Display for Reconciliation {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "accounts: {}, of it {} in blocks and {} free; \
             chunk table: {} held, of it {} in memory; \
             in memory besides: {} free, {} of the table, {} of records; \
             accounts and table differ by {} bytes, the region and the kernel by {}",
            Bytes::of(self.accounted_bytes),
            Bytes::of(self.data_bytes),
            Bytes::of(self.free_in_heaps_bytes),
            Bytes::of(self.census.held_bytes),
            Bytes::of(self.census.held_resident_bytes),
            Bytes::of(self.census.free_resident_bytes),
            Bytes::of(self.census.table_resident_bytes),
            Bytes::of(self.census.metadata_resident_bytes),
            self.account_difference_bytes(),
            self.kernel_difference_bytes(),
        )
    }
}
