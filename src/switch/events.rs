//! Events for `tracing`, behind the feature of that name: nothing without it.
//!
//! Emitted at safe points only, with the thread's own heap in use: a subscriber may allocate. A
//! panic in one is caught. It should close no heap: it is told of that as well, and so on without
//! end. All have the target `heapswitch`.

use super::budget::OverBudget;
use super::pressure::Pressure;
#[cfg(feature = "tracing")]
use super::scope::out_of_contexts;
#[cfg(feature = "tracing")]
use crate::heap::callbacks::call_guarded;
use crate::heap::{Account, EscapeReport};

/// Whether anybody hears them.
pub(super) const ARE_WANTED: bool = cfg!(feature = "tracing");

/// Calls the program's subscriber, whose panics would leave a heap half closed.
#[cfg(feature = "tracing")]
fn emit(event: impl FnOnce()) {
    out_of_contexts(|| call_guarded(event));
}

/// A heap was closed.
#[cfg(feature = "tracing")]
pub(super) fn closed(account: &Account, report: &EscapeReport) {
    let (name, id) = (account.name(), account.id().number());
    emit(|| {
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
    emit(|| {
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
    emit(|| {
        tracing::warn!(
            target: "heapswitch",
            context = pressure.account.name.as_str(),
            id = pressure.account.id.number(),
            limit = ?pressure.limit,
            committed_bytes = usage.committed_bytes,
            "an account passed a limit"
        );
    });
}

/// A context was ended.
#[cfg(feature = "tracing")]
pub(super) fn over_budget(over: &OverBudget) {
    emit(|| {
        tracing::warn!(
            target: "heapswitch",
            context = over.context.as_str(),
            account = over.name.as_str(),
            used_bytes = over.used_bytes,
            limit_bytes = over.limit_bytes,
            "a context over its budget was ended"
        );
    });
}

#[cfg(not(feature = "tracing"))]
pub(super) fn closed(_: &Account, _: &EscapeReport) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn escaped(_: &Account, _: &EscapeReport) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn passed(_: &Pressure) {}

#[cfg(not(feature = "tracing"))]
pub(super) fn over_budget(_: &OverBudget) {}
