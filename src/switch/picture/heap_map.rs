//! The heap map: what each chunk of the region is now.
//!
//! ```text
//!   ┌──┬──┬──┬──┬──┬──┬─────────┐   a cell: one chunk of 64 KiB, in order of address
//!   │  │  │▒▒│  │//│  │  free   │   colour: the account that it is charged to
//!   │▒▒│██│▒▒│▒▒│//│▒▒│         │   pale, medium, dark: held, in memory, in blocks
//!   │██│██│██│▒▒│//│██│         │   hatched: blocks that outlive their heap
//!   └──┴──┴──┴──┴──┴──┴─────────┘
//! ```
//!
//! Which bytes are in memory the kernel says; how many are in blocks the heaps say, which are
//! counted for this where they can be: see `AccountUsage`. Costs a system call for each 2 MiB of
//! committed address space.

use core::fmt::{self, Write};

use super::super::accounts::reports;
use super::super::scope::out_of_contexts;
use super::svg::{self, Place};
use crate::heap::{AccountId, AccountReport, accounts};
use crate::region::map::for_each_chunk;
use crate::units::{Bytes, CHUNK_BYTES, SEGMENT_CHUNKS};

/// Cells in a row: 8 MiB, where a cell is a chunk.
const COLUMNS: usize = 128;
const CELL_WIDTH: usize = 8;
const CELL_HEIGHT: usize = 12;
/// A row with the line below it.
const ROW_HEIGHT: usize = CELL_HEIGHT + 1;
const LEFT: usize = 70;
const TOP: usize = 40;
/// The most cells that are drawn; beyond, a cell is several chunks.
const MOST_CELLS: usize = 16_384;
/// The most accounts in the legend.
const MOST_NAMED: usize = 24;

/// One chunk of 64 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MappedChunk {
    /// The account that it is charged to; `None` where no heap holds it.
    pub account: Option<AccountId>,
    /// The strategy that cuts it up.
    pub strategy: Option<&'static str>,
    /// The share of it that is in blocks, from 0 to 1, where its heap counted it: the bump strategy
    /// and those for longer lives count now and then, the slab when it is asked for its
    /// [`memory_usage`](crate::Heap::memory_usage), all when they are closed. Parts below a page
    /// that are free count as used.
    pub fill: Option<f32>,
    /// Bytes of it that are in memory.
    pub resident_bytes: usize,
    /// Whether it is part of a block above 32 KiB.
    pub is_whole_block: bool,
    /// Whether its heap was closed, and blocks in it, or in its run, outlive the heap.
    pub is_orphaned: bool,
    /// Whether a run of chunks that were taken together starts here.
    pub is_run_start: bool,
}

/// What each chunk of the region is: whose, cut up by which strategy, how full, orphaned or not.
///
/// ```
/// #[global_allocator]
/// static GLOBAL: heapswitch::HeapSwitch = heapswitch::HeapSwitch;
///
/// # fn main() -> Result<(), heapswitch::HeapError> {
/// use heapswitch::{Heap, HeapMap};
///
/// let heap = Heap::builder().name("request 7").build()?;
/// let text = heap.run(|| String::from("made in the heap"))?;
/// let svg = HeapMap::now().to_svg();
/// # if !heapswitch::sys::IS_PASS_THROUGH {
/// assert!(svg.contains("request 7"));
/// # }
/// # drop(text);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct HeapMap {
    chunks: Vec<MappedChunk>,
    /// By their numbers.
    accounts: Vec<AccountReport>,
}

impl HeapMap {
    /// As of now, or nearly so: what changes meanwhile is seen or not. Empty where there is no
    /// region. Where the kernel does not tell what is in memory, it ends there.
    pub fn now() -> Self {
        out_of_contexts(|| {
            // A heap that is counted notes how full its chunks are.
            reports(accounts());
            let mut chunks = Vec::new();
            for_each_chunk(|chunk| {
                let held = chunk.held;
                chunks.push(MappedChunk {
                    account: held.map(|label| AccountId::from_number(label.account)),
                    strategy: held.and_then(|label| label.strategy),
                    fill: held.and_then(|label| label.fill),
                    resident_bytes: chunk.resident_bytes,
                    is_whole_block: held.is_some_and(|label| label.is_whole_block),
                    is_orphaned: held.is_some_and(|label| label.is_orphan),
                    is_run_start: held.is_some_and(|label| label.is_first),
                });
            });
            // After the chunks, so that whose account is not found is one whose heap is gone.
            let mut accounts: Vec<_> = accounts().map(|one| one.report_figures()).collect();
            accounts.sort_by_key(|account| account.id);
            Self { chunks, accounts }
        })
    }

    /// The chunks of the region's committed segments, in order of address.
    pub fn chunks(&self) -> &[MappedChunk] {
        &self.chunks
    }

    /// The account of this number, if it was there when the map was made.
    pub fn account(&self, id: AccountId) -> Option<&AccountReport> {
        let index = self.accounts.binary_search_by_key(&id, |account| account.id).ok()?;
        self.accounts.get(index)
    }

    /// A whole SVG document.
    pub fn to_svg(&self) -> String {
        out_of_contexts(|| {
            let mut text = String::new();
            // Writing to a string does not fail.
            let _ = self.write_svg(&mut text);
            text
        })
    }

    /// As [`to_svg`](Self::to_svg), into what is given. Allocates little.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write_svg(&self, out: &mut impl Write) -> fmt::Result {
        let chunks_per_cell = self.chunks.len().div_ceil(MOST_CELLS).next_power_of_two();
        let rows = self.chunks.len().div_ceil(chunks_per_cell * COLUMNS);
        let held = self.held();
        let legend_top = TOP + rows * ROW_HEIGHT + 24;
        let height = legend_top + 18 * (held.len().min(MOST_NAMED) + 5);
        svg::begin(out, LEFT + COLUMNS * CELL_WIDTH + 10, height)?;
        out.write_str(
            "<defs><pattern id=\"orphan\" width=\"4\" height=\"4\" \
             patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
             <rect width=\"2\" height=\"4\" fill=\"#c00\"/></pattern></defs>\n",
        )?;
        let all: usize = held.iter().map(|(_, chunks)| chunks).sum();
        svg::text(
            out,
            Place { x: 10, y: 18 },
            format_args!(
                "Heap map: {} in heaps, {} in memory, of {} committed",
                Bytes::of(all * CHUNK_BYTES),
                Bytes::of(self.chunks.iter().map(|chunk| chunk.resident_bytes).sum()),
                Bytes::of(self.chunks.len() * CHUNK_BYTES),
            ),
        )?;
        self.write_rows(out, chunks_per_cell)?;
        self.write_legend(out, &held, Place { x: 10, y: legend_top }, chunks_per_cell)?;
        svg::end(out)
    }

    /// The accounts that hold chunks and how many, those that hold most first.
    fn held(&self) -> Vec<(AccountId, usize)> {
        let mut ids: Vec<_> = self.chunks.iter().filter_map(|chunk| chunk.account).collect();
        ids.sort_unstable();
        let mut held: Vec<(AccountId, usize)> = Vec::new();
        for id in ids {
            match held.last_mut() {
                Some((last, chunks)) if *last == id => *chunks += 1,
                _ => held.push((id, 1)),
            }
        }
        held.sort_by_key(|&(_, chunks)| core::cmp::Reverse(chunks));
        held
    }

    fn write_rows(&self, out: &mut impl Write, chunks_per_cell: usize) -> fmt::Result {
        for (row, chunks) in self.chunks.chunks(chunks_per_cell * COLUMNS).enumerate() {
            let (x, y) = (LEFT, TOP + row * ROW_HEIGHT);
            let first = row * chunks_per_cell * COLUMNS;
            if first.is_multiple_of(SEGMENT_CHUNKS) {
                let label = Bytes::of(first * CHUNK_BYTES);
                svg::text(out, Place { x: 10, y: y + CELL_HEIGHT - 2 }, label)?;
            }
            let width = chunks.len().div_ceil(chunks_per_cell) * CELL_WIDTH;
            writeln!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{CELL_HEIGHT}\" \
                 fill=\"#f2f2f2\"/>"
            )?;
            let cells: Vec<_> = chunks.chunks(chunks_per_cell).map(Cell::of).collect();
            let mut column = 0;
            for same in cells.chunk_by(PartialEq::eq) {
                if let Some(cell) = same.first() {
                    let place = Place { x: x + column * CELL_WIDTH, y };
                    self.write_cells(out, cell, same.len(), place)?;
                }
                column += same.len();
            }
        }
        Ok(())
    }

    /// Draws cells in a row that look the same.
    fn write_cells(
        &self,
        out: &mut impl Write,
        cell: &Cell,
        count: usize,
        place: Place,
    ) -> fmt::Result {
        let Some(account) = cell.account else {
            return match cell.resident {
                0 => Ok(()),
                resident => bar(out, place, count, resident, "#ccc"),
            };
        };
        out.write_str("<g>")?;
        let share = |sixteenths: usize| sixteenths * 100 / 16;
        let tipped = self.name_of(account);
        let orphaned = if cell.is_orphaned { ", outlives its heap" } else { "" };
        let whole = if cell.is_whole_block { ", one block" } else { "" };
        match cell.fill {
            Some(fill) => svg::tip(
                out,
                format_args!(
                    "{tipped}: {}{whole}{orphaned}; {} % in memory, {} % in blocks",
                    cell.strategy.unwrap_or("?"),
                    share(cell.resident),
                    share(fill),
                ),
            )?,
            None => svg::tip(
                out,
                format_args!(
                    "{tipped}: {}{whole}{orphaned}; {} % in memory, blocks not counted yet",
                    cell.strategy.unwrap_or("?"),
                    share(cell.resident),
                ),
            )?,
        }
        let hue = svg::hue(account.number());
        bar(out, place, count, 16, format_args!("hsl({hue},60%,88%)"))?;
        bar(out, place, count, cell.resident, format_args!("hsl({hue},55%,70%)"))?;
        if let Some(fill) = cell.fill {
            bar(out, place, count, fill, format_args!("hsl({hue},65%,42%)"))?;
        }
        if cell.is_orphaned {
            bar(out, place, count, 16, "url(#orphan)")?;
        }
        out.write_str("</g>\n")
    }

    fn name_of(&self, id: AccountId) -> Named<'_> {
        Named { id, account: self.account(id) }
    }

    fn write_legend(
        &self,
        out: &mut impl Write,
        held: &[(AccountId, usize)],
        place: Place,
        chunks_per_cell: usize,
    ) -> fmt::Result {
        let Place { x, mut y } = place;
        svg::text(
            out,
            place,
            format_args!(
                "A cell is {}, in order of address, {} in a row. Pale: held by a heap; medium: in \
             memory; dark: in blocks, as its heap counted last.",
                Bytes::of(chunks_per_cell * CHUNK_BYTES),
                COLUMNS,
            ),
        )?;
        y += 18;
        let several = if chunks_per_cell == 1 { "" } else { " Of several chunks: the first." };
        svg::text(
            out,
            Place { x, y },
            format_args!(
                "Hatched: the heap was closed, and blocks outlive it. Grey: free, and still in \
                 memory.{several}"
            ),
        )?;
        for &(id, chunks) in held.iter().take(MOST_NAMED) {
            y += 18;
            let (hue, top) = (svg::hue(id.number()), y - 10);
            writeln!(
                out,
                "<rect x=\"{x}\" y=\"{top}\" width=\"12\" height=\"12\" \
                 fill=\"hsl({hue},65%,42%)\"/>"
            )?;
            let orphans = self.chunks.iter().filter(|c| c.account == Some(id) && c.is_orphaned);
            let bytes = Bytes::of(chunks * CHUNK_BYTES);
            let name = self.name_of(id);
            match orphans.count() {
                0 => svg::text(out, Place { x: x + 20, y }, format_args!("{name}: {bytes}"))?,
                orphaned => svg::text(
                    out,
                    Place { x: x + 20, y },
                    format_args!(
                        "{name}: {bytes}, of which {} outlive their heap",
                        Bytes::of(orphaned * CHUNK_BYTES),
                    ),
                )?,
            }
        }
        if let Some(more) = held.len().checked_sub(MOST_NAMED).filter(|&more| more != 0) {
            svg::text(out, Place { x, y: y + 18 }, format_args!("and {more} more"))?;
        }
        Ok(())
    }
}

/// A bar from the bottom of some cells, so many sixteenths high.
fn bar(
    out: &mut impl Write,
    place: Place,
    count: usize,
    sixteenths: usize,
    fill: impl fmt::Display,
) -> fmt::Result {
    let height = (CELL_HEIGHT * sixteenths).div_ceil(16);
    let (x, y) = (place.x, place.y + CELL_HEIGHT - height);
    let width = count * CELL_WIDTH;
    writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"/>"
    )
}

/// What is drawn of a chunk, or of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    account: Option<AccountId>,
    strategy: Option<&'static str>,
    /// In sixteenths.
    resident: usize,
    fill: Option<usize>,
    is_whole_block: bool,
    is_orphaned: bool,
}

impl Cell {
    /// Of several it shows the first that is held, and the mean of what they have.
    fn of(chunks: &[MappedChunk]) -> Self {
        let count = chunks.len().max(1);
        let held = || chunks.iter().filter(|chunk| chunk.account.is_some());
        let first = held().next().copied().unwrap_or_default();
        let resident_bytes: usize = chunks.iter().map(|chunk| chunk.resident_bytes).sum();
        let filled: f32 = held().filter_map(|chunk| chunk.fill).sum();
        let is_counted = held().any(|chunk| chunk.fill.is_some());
        Self {
            account: first.account,
            strategy: first.strategy,
            resident: (resident_bytes * 16).div_ceil(count * CHUNK_BYTES),
            fill: is_counted.then_some((filled * 16.0 / count as f32).ceil() as usize),
            is_whole_block: first.is_whole_block,
            is_orphaned: held().any(|chunk| chunk.is_orphaned),
        }
    }
}

/// An account in words.
struct Named<'a> {
    id: AccountId,
    account: Option<&'a AccountReport>,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.account.map_or("", |account| account.name.as_str());
        let name = if name.is_empty() { "context" } else { name };
        write!(formatter, "{name} (account {})", self.id.number())
    }
}
