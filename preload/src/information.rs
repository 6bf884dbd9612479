//! What glibc tells of its allocator, and lets be set, beside `malloc`.

use core::ffi::c_int;
use core::mem::MaybeUninit;

use heapswitch::__private::malloc::usage_by_length;
use heapswitch::process_usage;

use crate::report::write_report;

/// Gives free memory back to the kernel, also what threads that sleep hold; 1 if there was any.
/// `pad` is of no use here: what a heap keeps for its next blocks is at most 256 KiB a thread, and
/// goes too.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(_pad: usize) -> c_int {
    c_int::from(heapswitch::purge() != 0)
}

/// glibc's knobs. Those that are hints about its own arenas, thresholds and caches are taken and
/// mean nothing here (1); what would have to do something (`M_PERTURB`, `M_CHECK_ACTION`), or is
/// unknown, is refused (0).
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(parameter: c_int, _value: c_int) -> c_int {
    /// The limit of glibc's fast bins.
    const M_MXFAST: c_int = 1;
    let is_hint = matches!(
        parameter,
        M_MXFAST
            | libc::M_TRIM_THRESHOLD
            | libc::M_TOP_PAD
            | libc::M_MMAP_THRESHOLD
            | libc::M_MMAP_MAX
            | libc::M_ARENA_TEST
            | libc::M_ARENA_MAX
    );
    c_int::from(is_hint)
}

/// What is held, in glibc's terms: `arena` and `uordblks` are bytes in chunks that heaps hold (free
/// blocks within included, which only each thread knows), `hblks` blocks that have chunks of their
/// own, `fordblks` free bytes that are still resident, `usmblks` the most that was held.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> libc::mallinfo2 {
    let usage = process_usage();
    let large = usage_by_length().find(|length| length.block_bytes.is_none());
    // SAFETY: the structure consists of numbers.
    let mut information: libc::mallinfo2 = unsafe { MaybeUninit::zeroed().assume_init() };
    information.arena = usage.region.taken_bytes + usage.region.dirty_bytes;
    information.hblks = large.map_or(0, |length| length.held_runs as usize);
    information.uordblks = usage.region.taken_bytes;
    information.fordblks = usage.region.dirty_bytes;
    information.usmblks = usage.region.peak_bytes;
    information
}

/// As [`mallinfo2`], in numbers of 32 bits, as which more is given as the most there is.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> libc::mallinfo {
    let wide = mallinfo2();
    let narrow = |number: usize| c_int::try_from(number).unwrap_or(c_int::MAX);
    // SAFETY: the structure consists of numbers.
    let mut information: libc::mallinfo = unsafe { MaybeUninit::zeroed().assume_init() };
    information.arena = narrow(wide.arena);
    information.hblks = narrow(wide.hblks);
    information.uordblks = narrow(wide.uordblks);
    information.fordblks = narrow(wide.fordblks);
    information.usmblks = narrow(wide.usmblks);
    information
}

/// Writes the figures of `HEAPSWITCH_REPORT` to the standard error.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    write_report(2);
}
