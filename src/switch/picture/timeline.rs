//! A timeline: what a tree of contexts held, from sample to sample: a band for each name directly
//! below its root, with all that is below that. A group's own timeline shows more of it.
//!
//! Sampling is the program's: on a timer, between requests, at each step of a query. A sample costs
//! a walk through the tree. Memory is bounded: when there are 512 samples every second one is
//! dropped, and from then on only each second call is kept, and so on; of more than 64 names those
//! that come later are counted together.

use core::fmt::{self, Write};
use std::time::{Duration, Instant};

use super::super::scope::out_of_contexts;
use super::svg::{self, Place};
use crate::heap::{Account, ContextName};
use crate::units::Bytes;

/// The most samples that are kept.
const MOST_SAMPLES: usize = 512;
/// The most names that are told apart.
const MOST_NAMES: usize = 64;
/// The most names that have a band of their own.
const MOST_BANDS: usize = 12;
const WIDTH: usize = 900;
const HEIGHT: usize = 320;
const LEFT: usize = 80;
const TOP: usize = 40;

/// What an account and those below it held over time.
///
/// ```
/// use heapswitch::{Account, Heap, Timeline};
///
/// let queries = Account::new("queries")?;
/// let mut timeline = Timeline::of(&queries);
/// for step in 0..3 {
///     let heap = Heap::builder().name("query").charged_to(&queries).build()?;
///     heap.run(|| timeline_step(step))?;
///     timeline.sample();
/// }
/// assert!(timeline.to_svg().starts_with("<svg"));
/// # fn timeline_step(_: u32) {}
/// # Ok::<(), heapswitch::HeapError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Timeline {
    root: Account,
    start: Instant,
    /// Every name that was met, in the order of its first sample.
    names: Vec<ContextName>,
    samples: Vec<Sample>,
    /// Each call of so many is kept.
    calls_per_sample: usize,
    calls: usize,
}

#[derive(Clone, Debug)]
struct Sample {
    at: Duration,
    /// What the account and all below it hold.
    committed_bytes: usize,
    /// What the accounts of each name hold with all below them; shorter where names came later.
    held_bytes: Vec<usize>,
    /// What those of other names hold.
    other_bytes: usize,
    /// The root's hard limit.
    limit_bytes: Option<usize>,
}

impl Timeline {
    /// Of an account with all below it, from now on. Without a sample yet.
    pub fn of(account: &Account) -> Self {
        Self {
            root: account.clone(),
            start: Instant::now(),
            names: Vec::new(),
            samples: Vec::new(),
            calls_per_sample: 1,
            calls: 0,
        }
    }

    /// Notes what the accounts hold now.
    pub fn sample(&mut self) {
        self.sample_at(self.start.elapsed());
    }

    /// As [`sample`](Self::sample), as of a time after the start: for a clock of the program's own.
    /// Times do not fall.
    pub fn sample_at(&mut self, at: Duration) {
        self.calls += 1;
        if !(self.calls - 1).is_multiple_of(self.calls_per_sample) {
            return;
        }
        out_of_contexts(|| {
            if self.samples.len() == MOST_SAMPLES {
                let mut index = 0;
                self.samples.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
                self.calls_per_sample *= 2;
            }
            let (mut held_bytes, mut other_bytes) = (vec![0; self.names.len()], 0);
            let own = (self.root.name(), self.root.last_usage().own_bytes);
            let children =
                self.root.children().map(|one| (one.name(), one.last_usage().committed_bytes));
            for (name, held) in children.chain([own]) {
                let index = self.names.iter().position(|known| *known == name);
                match index.and_then(|index| held_bytes.get_mut(index)) {
                    Some(bytes) => *bytes += held,
                    None if held == 0 => {}
                    None if self.names.len() == MOST_NAMES => other_bytes += held,
                    None => {
                        self.names.push(name);
                        held_bytes.push(held);
                    }
                }
            }
            let usage = self.root.last_usage();
            self.samples.push(Sample {
                at,
                committed_bytes: usage.committed_bytes,
                held_bytes,
                other_bytes,
                limit_bytes: usage.hard_limit_bytes,
            });
        });
    }

    /// How many samples are kept.
    pub fn samples(&self) -> usize {
        self.samples.len()
    }

    /// The most that a sample found held, in bytes.
    pub fn peak_bytes(&self) -> usize {
        self.samples.iter().map(|sample| sample.committed_bytes).max().unwrap_or(0)
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

    /// As [`to_svg`](Self::to_svg), into what is given.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write_svg(&self, out: &mut impl Write) -> fmt::Result {
        let bands = self.bands();
        let legend_top = TOP + HEIGHT + 40;
        svg::begin(out, LEFT + WIDTH + 50, legend_top + 18 * (bands.len() + 1))?;
        let (name, peak) = (self.root.name(), self.peak_bytes());
        svg::text(
            out,
            Place { x: 10, y: 18 },
            format_args!(
                "Memory of {} and all below it: at most {}",
                if name.as_str().is_empty() { "an account" } else { name.as_str() },
                Bytes::of(peak),
            ),
        )?;
        let limit = self.samples.iter().filter_map(|sample| sample.limit_bytes).max();
        // A limit far above what was held would flatten everything.
        let limit = limit.filter(|&bytes| bytes <= peak.saturating_mul(4));
        let scale = Scale {
            bytes: peak.max(limit.unwrap_or(0)).max(1),
            time: self.samples.last().map_or(Duration::ZERO, |sample| sample.at),
        };
        self.write_axes(out, &scale)?;
        let mut below = vec![0; self.samples.len()];
        for (index, band) in bands.iter().enumerate() {
            self.write_band(out, band, &scale, &mut below)?;
            let top = legend_top + index * 18;
            writeln!(
                out,
                "<rect x=\"10\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{}\"/>",
                top - 10,
                band.color
            )?;
            svg::text(
                out,
                Place { x: 30, y: top },
                format_args!("{}: at most {}", band.title, Bytes::of(band.peak_bytes),),
            )?;
        }
        if let Some(limit) = limit {
            let y = scale.y(limit);
            writeln!(
                out,
                "<path d=\"M{LEFT} {y}h{WIDTH}\" stroke=\"#c00\" stroke-dasharray=\"6 4\">"
            )?;
            svg::tip(out, format_args!("limit: {}", Bytes::of(limit)))?;
            out.write_str("</path>\n")?;
        }
        svg::end(out)
    }

    /// What is drawn, from below: the names that held most, and the others as one.
    fn bands(&self) -> Vec<Band> {
        let mut bands: Vec<Band> = Vec::new();
        for (index, name) in self.names.iter().enumerate() {
            let hue = svg::hue(index as u64 + 1);
            let title = if name.as_str().is_empty() { "contexts" } else { name.as_str() };
            let color = format!("hsl({hue},60%,60%)");
            bands.push(self.band(title.into(), color, vec![index], false));
        }
        bands.sort_by_key(|band| core::cmp::Reverse(band.peak_bytes));
        let rest = bands.split_off(bands.len().min(MOST_BANDS));
        let has_others = self.samples.iter().any(|sample| sample.other_bytes != 0);
        if has_others || !rest.is_empty() {
            let names = rest.into_iter().flat_map(|band| band.names).collect();
            bands.push(self.band("other names".into(), "#aaa".into(), names, has_others));
        }
        bands
    }

    fn band(&self, title: String, color: String, names: Vec<usize>, has_others: bool) -> Band {
        let mut band = Band { title, color, names, has_others, peak_bytes: 0 };
        let peak = self.samples.iter().map(|sample| band.bytes_in(sample)).max();
        band.peak_bytes = peak.unwrap_or(0);
        band
    }

    /// Draws a band on what is below it, and adds it to that.
    fn write_band(
        &self,
        out: &mut impl Write,
        band: &Band,
        scale: &Scale,
        below: &mut [usize],
    ) -> fmt::Result {
        if self.samples.is_empty() {
            return Ok(());
        }
        write!(out, "<path fill=\"{}\" d=\"", band.color)?;
        let points = self.samples.iter().zip(below.iter());
        let mut letter = 'M';
        for (sample, below) in points.clone() {
            let top = below + band.bytes_in(sample);
            write!(out, "{letter}{} {}", scale.x(sample.at), scale.y(top))?;
            letter = 'L';
        }
        for (sample, below) in points.rev() {
            write!(out, "L{} {}", scale.x(sample.at), scale.y(*below))?;
        }
        out.write_str("Z\">")?;
        svg::tip(out, format_args!("{}: at most {}", band.title, Bytes::of(band.peak_bytes)))?;
        for (sample, below) in self.samples.iter().zip(below) {
            *below += band.bytes_in(sample);
        }
        out.write_str("</path>\n")
    }

    fn write_axes(&self, out: &mut impl Write, scale: &Scale) -> fmt::Result {
        for quarter in 0..=4 {
            let bytes = scale.bytes / 4 * quarter;
            let y = scale.y(bytes);
            writeln!(out, "<path d=\"M{LEFT} {y}h{WIDTH}\" stroke=\"#ddd\"/>")?;
            svg::text(out, Place { x: 10, y: y + 4 }, Bytes::of(bytes))?;
        }
        for quarter in 0..=4 {
            let at = scale.time / 4 * quarter;
            let place = Place { x: scale.x(at), y: TOP + HEIGHT + 16 };
            svg::text(out, place, format_args!("{:.1} s", at.as_secs_f64()))?;
        }
        Ok(())
    }
}

/// What is drawn as one.
struct Band {
    title: String,
    color: String,
    names: Vec<usize>,
    /// Whether it has what was not told apart.
    has_others: bool,
    peak_bytes: usize,
}

impl Band {
    fn bytes_in(&self, sample: &Sample) -> usize {
        let own = |&name: &usize| sample.held_bytes.get(name);
        let others = if self.has_others { sample.other_bytes } else { 0 };
        self.names.iter().filter_map(own).sum::<usize>() + others
    }
}

/// From bytes and times to places.
struct Scale {
    bytes: usize,
    time: Duration,
}

impl Scale {
    fn x(&self, at: Duration) -> usize {
        let whole = self.time.as_nanos().max(1);
        LEFT + (at.as_nanos().min(whole) * WIDTH as u128 / whole) as usize
    }

    fn y(&self, bytes: usize) -> usize {
        let share = bytes.min(self.bytes) as u128 * HEIGHT as u128 / self.bytes as u128;
        TOP + HEIGHT - share as usize
    }
}
