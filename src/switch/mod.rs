//! Switching: which heap serves this thread, from moment to moment.

pub mod configuration;
pub mod handle;
pub mod heap_allocator;
pub mod in_use;
pub mod life;
pub mod route;
pub mod scope;
pub mod stack;
pub mod state;
pub mod usage;

pub use configuration::{Configuration, Settings, is_installed};
pub use handle::{Heap, HeapBuilder, HeapError};
pub use in_use::CurrentAllocatorInUse;
pub use scope::{
    Scope, SwapError, current, replace_current, swap_coroutine_local, usage_change, use_allocator,
    with_global, with_thread_local,
};
pub use usage::{ProcessUsage, flush_foreign_frees, process_usage, purge, usage_of};
