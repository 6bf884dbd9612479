//! Events for `tracing`, behind the feature of that name: nothing without it.
//!
//! Emitted at safe points only, with the thread's own heap in use: a subscriber may allocate.

use super::budget::OverBudget;
use super::pressure::Pressure;
use crate::heap::{Account, EscapeReport};

/// A heap was closed.
pub(super) fn closed(account: &Account, report: &EscapeReport) {
    let _ = (account, report);
}

/// An account passed a limit.
pub(super) fn passed(pressure: &Pressure) {
    let _ = pressure;
}

/// A context was ended.
pub(super) fn over_budget(over: &OverBudget) {
    let _ = over;
}
