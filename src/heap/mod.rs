//! Heaps: a strategy, the chunks it cuts up, who runs it, and what happens to what outlives it.
//!
//! ```text
//!   Heap (handle, Send, !Sync)
//!     │ owns
//!     ▼
//!   HeapCell<S> ── HeapHeader ── Account ── parent's Account ── ...
//!     │                ▲  ▲
//!     │ strategy       │  └─ foreign stack: blocks that others freed
//!     ▼                │ owner
//!   extents ◀── record in ── chunk-table entries of its runs
//! ```
//!
//! # Life of a block
//! The runner allocates and frees in the strategy, without atomics. Anybody else who frees a block
//! finds its owner by its chunk and pushes the block on the owner's foreign stack; the runner
//! takes the stack on its slow path, on entering and on closing.
//!
//! # Pinning
//! A block that is allocated pins its run; a run pins the header and the source; the header pins
//! the account. A block on a foreign stack or in a thread's batch counts as allocated.
//!
//! # Close
//! Empty runs go back at once. A run with survivors becomes an orphan: its count moves into the
//! entry's [`ChunkWord`](crate::sync::ChunkWord) and every later free counts down there. The last
//! one gives the run back, and the last run takes the header with it. See [`cell`].

pub mod abandoned;
pub mod account;
pub mod batch;
pub mod by_address;
pub mod call_sites;
pub mod callbacks;
pub mod cell;
pub mod census;
pub mod check;
pub mod counting;
pub mod decay;
pub mod fast;
pub mod foreign;
pub mod header;
pub mod kind;
pub mod lost;
pub mod moved;
pub mod pins;
#[cfg(heapswitch_asan)]
pub mod quarantine;

pub use account::{
    Account, AccountHandle, AccountId, AccountReport, AccountUsage, ContextName, LimitPolicy,
    Limits, Refusal, Subtree, accounts, process_limit, set_process_limit,
};
pub use call_sites::{CallSite, CallSites};
pub use callbacks::HeapEnd;
pub use cell::EscapeReport;
pub use header::{HeapHeader, Inline, attention};
pub use kind::HeapKind;

// What a context's heap is for. Its strategies' layer defines it; the layers above take it from
// here, and so name no strategy.
pub use crate::strategy::context::LifetimeHint;
pub(crate) use crate::strategy::sites::log::protect_fork as protect_site_logs;
pub use crate::strategy::sites::log::{SiteLog, site_logs};
pub use crate::strategy::sites::{Settings as SiteSettings, SiteSampling};
