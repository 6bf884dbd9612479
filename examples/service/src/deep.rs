//! Deep recursion: each level holds memory while the next one runs.
//!
//! A budget says nothing about the stack, which no allocator sees: what overflows it ends the
//! process. So the depth has a bound of its own, and within it the budget counts.

use std::hint::black_box;

use heapswitch::{ContextError, checkpoint};

/// Levels that fit on a worker's stack of 2 MiB in any build.
pub(crate) const MOST_LEVELS: usize = 1000;

/// Goes down so many levels, each holding so many bytes; how many bytes that were together.
///
/// # Errors
/// The checkpoint's, of any level.
pub(crate) fn descend(levels: usize, level_bytes: usize) -> Result<usize, ContextError> {
    checkpoint()?;
    if levels == 0 {
        return Ok(0);
    }
    let held = black_box(vec![levels as u8; level_bytes]);
    let below = descend(levels - 1, level_bytes)?;
    // Held until here.
    Ok(below + black_box(held).len())
}
