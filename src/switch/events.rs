//! Events for `tracing`, behind the feature of that name: nothing without it.
//!
//! Emitted at safe points only, with the thread's own heap in use: a subscriber may allocate.
//! All have the target `heapswitch`.

use super::budget::OverBudget;
use super::pressure::Pressure;
use crate::heap::{Account, EscapeReport};

/// Whether anybody hears them.
pub(super) const ARE_WANTED: bool = cfg!(feature = "tracing");

/// A heap was closed.
#[cfg(feature = "tracing")]
pub(super) fn closed(account: &Account, report: &EscapeReport) {
    let (name, id) = (account.name(), account.id().number());
    super::scope::out_of_contexts(|| {
        tracing::debug!(
            target: "heapswitch",
            context = name.as_str(),
            id,
            closed_children = report.closed_children,
            deferred_children = report.deferred_children,
            panicked_callbacks = report.panicked_callbacks,
            "a heap was closed"
        );
    });
}

/// A heap was closed or reset, and blocks outlive it.
#[cfg(feature = "tracing")]
pub(super) fn escaped(account: &Account, report: &EscapeReport) {
    let (name, id) = (account.name(), account.id().number());
    super::scope::out_of_contexts(|| {
        tracing::info!(
            target: "heapswitch",
            context = name.as_str(),
            id,
            blocks = report.blocks,
            bytes = report.bytes,
            kept_bytes = report.kept_bytes,
            "blocks outlive their heap"
        );
    });
}

/// An account passed a limit.
#[cfg(feature = "tracing")]
pub(super) fn passed(pressure: &Pressure) {
    let usage = &pressure.account.usage;
    tracing::warn!(
        target: "heapswitch",
        context = pressure.account.name.as_str(),
        id = pressure.account.id.number(),
        limit = ?pressure.limit,
        committed_bytes = usage.committed_bytes,
        "an account passed a limit"
    );
}

/// A context was ended.
#[cfg(feature = "tracing")]
pub(super) fn over_budget(over: &OverBudget) {
    tracing::warn!(
        target: "heapswitch",
        context = over.context.as_str(),
        account = over.name.as_str(),
        used_bytes = over.used_bytes,
        limit_bytes = over.limit_bytes,
        "a context over its budget was ended"
    );
}

#[cfg(not(feature = "tracing"))]
pub(super) fn closed(_: &Account, _: &EscapeReport) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn escaped(_: &Account, _: &EscapeReport) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn passed(_: &Pressure) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn over_budget(_: &OverBudget) {}
