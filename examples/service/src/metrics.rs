//! The accounts as Prometheus reads them, by name: a service has a few names and many contexts.

use std::fmt::Write as _;

use heapswitch::{AccountUsage, MemoryReport};

use crate::contexts::Contexts;

type Figure = (&'static str, fn(&AccountUsage) -> u64);

/// Gauges of each name, also what an account only adds to: its share goes when it is dropped. A
/// program that has a recorder of the `metrics` facade calls `heapswitch::publish_metrics` instead.
const FIGURES: [Figure; 8] = [
    ("own_bytes", |usage| usage.own_bytes as u64),
    ("peak_bytes", |usage| usage.peak_bytes as u64),
    ("total_bytes", |usage| usage.total_bytes),
    ("overdraft_peak_bytes", |usage| usage.overdraft_peak_bytes as u64),
    ("overdrafts", |usage| usage.overdrafts),
    ("refusals", |usage| usage.refusals),
    ("escapees", |usage| usage.escapees),
    ("foreign_frees", |usage| usage.foreign_frees),
];

/// The text of `/metrics`.
pub(crate) fn text(contexts: &Contexts) -> String {
    let report = MemoryReport::now();
    let mut text = String::with_capacity(4096);
    let by_name = report.by_name();
    for (figure, value) in FIGURES {
        let samples = by_name.iter().map(|named| {
            format!("{{context=\"{}\"}} {}", escaped(named.name.as_str()), value(&named.usage))
        });
        series(&mut text, &format!("heapswitch_context_{figure}"), samples);
    }
    let accounts = by_name.iter().map(|named| {
        format!("{{context=\"{}\"}} {}", escaped(named.name.as_str()), named.accounts)
    });
    series(&mut text, "heapswitch_context_accounts", accounts);
    let process = [
        ("heapswitch_process_taken_bytes", report.process.region.taken_bytes as u64),
        ("heapswitch_process_dirty_bytes", report.process.region.dirty_bytes as u64),
        ("heapswitch_process_metadata_bytes", report.process.metadata_bytes as u64),
        ("service_requests_started", contexts.started()),
        ("service_requests_over_budget", contexts.over_budget()),
        ("service_requests_at_work", contexts.at_work() as u64),
    ];
    for (name, value) in process {
        series(&mut text, name, [format!(" {value}")].into_iter());
    }
    text
}

fn series(text: &mut String, name: &str, samples: impl Iterator<Item = String>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# TYPE {name} gauge");
    for sample in samples {
        let _ = writeln!(text, "{name}{sample}");
    }
}

/// A label's value as the format wants it.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
