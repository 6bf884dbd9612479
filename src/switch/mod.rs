//! Switching: which heap serves this thread, from moment to moment.

pub mod configuration;
pub mod handle;
pub mod heap_allocator;
pub mod in_use;
pub mod life;
pub mod lookup;
pub mod pool;
pub mod route;
pub mod scope;
pub mod stack;
pub mod state;
pub mod usage;
pub mod worker;

pub use configuration::{Configuration, Settings};
pub use handle::{Heap, HeapBuilder, HeapError};
pub use in_use::CurrentAllocatorInUse;
pub use lookup::{HeapId, owner_of, thread_heap_id, usable_size};
pub use pool::{HeapPool, PooledHeap};
pub use scope::{
    Scope, SwapError, current, replace_current, swap_coroutine_local, usage_change, use_allocator,
    with_global, with_thread_local,
};
pub use usage::{ProcessUsage, flush_foreign_frees, process_usage, purge, usage_of};
pub use worker::{ScopedWorker, Worker, WorkerBuilder, WorkerError, processors};
