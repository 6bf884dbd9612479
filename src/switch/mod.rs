//! Switching: which heap serves this thread, from moment to moment.

mod accounts;
pub(crate) mod budget;
pub(crate) mod builder;
pub(crate) mod call_sites;
pub(crate) mod carry;
pub(crate) mod closing;
pub(crate) mod configuration;
#[cfg(feature = "corosensei")]
pub(crate) mod coroutine;
#[cfg(all(test, not(any(heapswitch_pass_through, loom))))]
mod damage;
pub(crate) mod environment;
pub(crate) mod events;
#[cfg(feature = "metrics")]
pub(crate) mod exported;
pub(crate) mod future;
pub(crate) mod handle;
pub(crate) mod heap_allocator;
pub(crate) mod heap_placement;
pub(crate) mod home;
pub(crate) mod in_use;
pub(crate) mod lane;
pub(crate) mod life;
pub(crate) mod lookup;
pub(crate) mod malloc;
pub(crate) mod panics;
pub(crate) mod picture;
pub(crate) mod pin;
pub(crate) mod placed;
pub(crate) mod pool;
pub(crate) mod pressure;
pub(crate) mod purge_thread;
pub(crate) mod report;
pub(crate) mod route;
pub(crate) mod safe_point;
pub(crate) mod saved;
pub(crate) mod scope;
pub(crate) mod sources;
mod spares;
pub(crate) mod stack;
#[cfg(feature = "corosensei")]
pub(crate) mod stack_pool;
pub(crate) mod state;
pub(crate) mod statistics;
pub(crate) mod usage;
#[cfg(heapswitch_check)]
mod verify;
pub(crate) mod worker;

pub use budget::{Consumer, ContextError, OverBudget, checkpoint};
pub use builder::HeapBuilder;
pub use call_sites::{ContextSites, LiveSites, on_escape};
pub use carry::in_child;
pub use configuration::{Configuration, Settings, is_installed};
#[cfg(feature = "corosensei")]
pub use coroutine::{
    Coroutine, CoroutineHeap, CoroutineResult, ResumeError, SendCoroutine, Yielder,
};
#[cfg(feature = "metrics")]
pub use exported::publish_metrics;
pub use future::{FutureExt, InHeap};
pub use handle::{Heap, HeapError};
pub use heap_placement::HeapPlacement;
pub use home::{rehome_thread, thread_home};
pub use in_use::CurrentAllocatorInUse;
pub use lookup::{HeapId, owner_of, thread_heap_id, usable_size};
pub use panics::run_panic_hook_outside;
pub use picture::{HeapMap, MappedChunk, Timeline};
pub use pin::{PinnedThread, pin_thread};
pub use placed::{ResidenceError, residence_of};
pub use pool::{HeapPool, PooledHeap};
pub use pressure::{PassedLimit, Pressure, PressureWatch};
pub use purge_thread::start_purge_thread;
pub use report::{MemoryReport, NamedUsage, Reconciliation, reconcile};
pub use saved::{ContextMark, SavedContext};
pub use scope::{
    Scope, SwapError, copy_out, current, replace_current, swap_coroutine_local, usage_change,
    use_allocator, with_global, with_outer, with_thread_local,
};
#[cfg(feature = "corosensei")]
pub use stack_pool::{CoroutineStack, StackPool};
pub use usage::{ProcessUsage, collect, flush_foreign_frees, process_usage, purge, usage_of};
pub use worker::{ScopedWorker, Worker, WorkerBuilder, WorkerError, processors, worker_nodes};
