//! Faults strike the whole process: tests that inject them run alone.

use std::sync::{PoisonError, RwLock};

static FAULTS: RwLock<()> = RwLock::new(());

/// Held by a test that injects none.
pub(crate) fn none() -> impl Drop {
    FAULTS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test that injects some.
pub(crate) fn alone() -> impl Drop {
    FAULTS.write().unwrap_or_else(PoisonError::into_inner)
}
