//! Every lifetime hint, so that a case runs in each strategy that contexts have.

use heapswitch::LifetimeHint;

pub(crate) const HINTS: [LifetimeHint; 3] =
    [LifetimeHint::Short, LifetimeHint::Medium, LifetimeHint::Long];
