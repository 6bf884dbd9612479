//! What a panic allocates before it unwinds.
#![forbid(unsafe_code)]

use std::panic::{set_hook, take_hook};

use super::scope::{out_of_contexts, out_of_contexts_quietly};

/// Has the program's panic hook run with the thread's own heap in use, whatever context panics: the
/// standard library's, or the one that was set before. To be called once, early in `main`.
///
/// A hook that prints a backtrace, as the standard library's does where `RUST_BACKTRACE` says so,
/// keeps the program's symbols for the next one: tens of megabytes, which otherwise stay in the
/// heap of whoever panicked first, charged to the accounts above, as long as the process lives.
/// The payload is still the context's. A backtrace that the program captures itself keeps them as
/// well: print it within [`with_thread_local`](crate::with_thread_local).
///
/// ```
/// use heapswitch::{Heap, HeapSwitch, run_panic_hook_outside};
///
/// #[global_allocator]
/// static GLOBAL: HeapSwitch = HeapSwitch;
///
/// # fn main() -> Result<(), heapswitch::HeapError> {
/// run_panic_hook_outside();
/// let heap = Heap::new()?;
/// let run = std::panic::AssertUnwindSafe(|| heap.run(|| panic!("in the context")));
/// drop(std::panic::catch_unwind(run));
/// assert_eq!(heap.close().blocks, 0);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// As [`take_hook`]: on a thread that panics.
pub fn run_panic_hook_outside() {
    out_of_contexts(|| {
        let hook = take_hook();
        // Quietly: a callback that panics in a hook ends the process, and the code that panics may
        // still hold what a callback waits for.
        set_hook(Box::new(move |panic| out_of_contexts_quietly(|| hook(panic))));
    });
}
