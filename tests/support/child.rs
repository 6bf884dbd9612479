//! Child processes by `fork`: what a body does in one, and how it ended.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seconds after which a child counts as deadlocked.
const PATIENCE: u32 = 60;

/// Runs `body` in a forked child and waits; fails unless it returns true.
#[track_caller]
pub(crate) fn in_child(body: impl FnOnce() -> bool) {
    // SAFETY: the child runs only `body`, whose allocator is made for that, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: kills a child that hangs; ends one that does not.
        unsafe {
            libc::alarm(PATIENCE);
            let is_right = catch_unwind(AssertUnwindSafe(body)).unwrap_or(false);
            libc::_exit(i32::from(!is_right));
        }
    }
    let mut status = 0;
    // SAFETY: waits for the child that was made above.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child hung (14), crashed, or found something wrong (256)");
}
