//! The table of a trace, in Markdown.

use std::fmt::Write;

use heapswitch::adapt::trace::Trace;

use crate::replay::{Replayed, peak_of_requests};

/// Time for each event, peak of what was taken from the source, what part of that peak no request
/// needed, and how many requests were refused.
pub(crate) fn render(name: &str, trace: &Trace, results: &[Replayed]) -> String {
    let (events, needed) = (trace.events.len(), peak_of_requests(trace));
    let mut text = format!(
        "## {name}\n\n{events} events; at most {} blocks and {:.1} KiB live at once\n\n\
         | strategy | ns an event | peak KiB | unused at the peak | refused |\n\
         |---|---|---|---|---|\n",
        trace.slots,
        kib(needed),
    );
    for result in results {
        let nanoseconds = result.time.as_nanos() as f64 / events.max(1) as f64;
        // What is refused is not needed, and would count as saved.
        let unused = if result.refused == 0 {
            let part = 1.0 - needed as f64 / result.peak_bytes.max(1) as f64;
            format!("{:.0} %", 100.0 * part)
        } else {
            "-".to_owned()
        };
        let (peak, refused) = (kib(result.peak_bytes), result.refused);
        writeln!(text, "| {} | {nanoseconds:.1} | {peak:.0} | {unused} | {refused} |", result.name)
            .expect("a string takes everything");
    }
    text.push('\n');
    text
}

fn kib(bytes: usize) -> f64 {
    bytes as f64 / 1024.0
}
