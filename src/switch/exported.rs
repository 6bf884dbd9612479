//! The accounts through the `metrics` facade, and so to Prometheus or whatever is installed.
//!
//! Series are by name and not by account: a service has a few names and a million contexts.

use metrics::gauge;

use super::report::{MemoryReport, figures};
use super::scope::out_of_contexts;

/// Sets the gauges `heapswitch_context_*`, labelled with the accounts' name, and
/// `heapswitch_process_*`, to what is held now. To be called when the figures are wanted: in the
/// handler of `/metrics`, or every few seconds. Names that are not there any more keep their last
/// value unless the recorder drops idle series.
///
/// Needs the feature `metrics`.
pub fn publish_metrics() {
    out_of_contexts(|| {
        let report = MemoryReport::now();
        for named in report.by_name() {
            let name = named.name.as_str().to_owned();
            for (figure, value) in figures(&named.usage) {
                let series = format!("heapswitch_context_{figure}");
                gauge!(series, "context" => name.clone()).set(value as f64);
            }
            gauge!("heapswitch_context_accounts", "context" => name).set(named.accounts as f64);
        }
        let process = &report.process;
        let of_process = [
            ("heapswitch_process_taken_bytes", process.region.taken_bytes),
            ("heapswitch_process_dirty_bytes", process.region.dirty_bytes),
            ("heapswitch_process_metadata_bytes", process.metadata_bytes),
        ];
        for (series, value) in of_process {
            gauge!(series).set(value as f64);
        }
    });
}
