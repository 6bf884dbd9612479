//! The table of a trace, in Markdown.

use std::fmt::Write;

use heapswitch::adapt::trace::Trace;

use crate::replay::{Replayed, peak_of_requests};

/// Time for each event; what was taken from the source at most; the least memory in which nothing
/// is refused; what part of that is never in what the program asked for; what part of it is so by
/// rounding alone, when the program has most, the rest being records, holes and what waits; and how
/// many requests were refused.
pub(crate) fn render(name: &str, trace: &Trace, results: &[Replayed]) -> String {
    let (events, needed) = (trace.events.len(), peak_of_requests(trace));
    let mut text = format!(
        "## {name}\n\n{events} events; at most {} blocks and {:.1} KiB live at once\n\n\
         | strategy | ns an event | peak KiB | least KiB | lost | by rounding | refused |\n\
         |---|---|---|---|---|---|---|\n",
        trace.slots,
        kib(needed),
    );
    for result in results {
        let nanoseconds = result.time.as_nanos() as f64 / events.max(1) as f64;
        let (least, lost) = match result.least_bytes {
            None => ("-".to_owned(), "- | -".to_owned()),
            Some(least) => {
                let part = |bytes: usize| format!("{:.0} %", 100.0 * bytes as f64 / least as f64);
                let lost = [least.saturating_sub(needed), result.rounded_bytes].map(part);
                (format!("{:.0}", kib(least)), lost.join(" | "))
            }
        };
        let (name, peak, refused) = (result.name, kib(result.peak_bytes), result.refused);
        writeln!(text, "| {name} | {nanoseconds:.1} | {peak:.0} | {least} | {lost} | {refused} |")
            .expect("a string takes everything");
    }
    text.push('\n');
    text
}

fn kib(bytes: usize) -> f64 {
    bytes as f64 / 1024.0
}
