//! What a process held, written to the standard error when it exits, where the settings ask for it.
//!
//! Without allocating, and in one piece, so that several processes may write to one place.

use core::fmt::Write;

use super::usage::{ProcessUsage, flush_foreign_frees, process_usage};
use crate::sys::{self, text::Text};

/// Has the figures written when the process exits. False where the system has no room for that.
pub(super) fn write_at_exit() -> bool {
    sys::at_exit(write)
}

extern "C" fn write() {
    flush_foreign_frees();
    let mut text = Text::<1024>::new();
    // What does not fit is left out.
    let _ = write_figures(&mut text, &process_usage());
    sys::write_error(text.as_bytes());
}

fn write_figures(text: &mut impl Write, usage: &ProcessUsage) -> core::fmt::Result {
    let region = &usage.region;
    writeln!(text, "heapswitch: at the end of process {}", std::process::id())?;
    writeln!(
        text,
        "  heaps          {} bytes held, {} at the peak, {} freed and not given back",
        region.taken_bytes, region.peak_bytes, region.dirty_bytes
    )?;
    writeln!(text, "  records        {} bytes", usage.metadata_bytes)?;
    writeln!(text, "  threads        {}, in {} heaps", usage.threads_started, usage.thread_heaps)?;
    writeln!(text, "  foreign frees  {}", usage.foreign_frees)?;
    writeln!(
        text,
        "  slow paths     {} allocations, {} runs taken, {} given back",
        usage.slow_allocations, region.runs_taken, region.runs_returned
    )?;
    writeln!(
        text,
        "  placement      {} segments not as asked, {} times a thread was away from its node",
        region.refused_placements, usage.moved_threads
    )?;
    writeln!(
        text,
        "  elsewhere      {} bytes in all by the global allocator, {} blocks for want of memory",
        usage.global_bytes, usage.overflow_blocks
    )
}
