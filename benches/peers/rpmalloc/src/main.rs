//! The workloads on rpmalloc.

use std::io::Write;

#[global_allocator]
static GLOBAL: rpmalloc::RpMalloc = rpmalloc::RpMalloc;

/// rpmalloc cannot be asked whose a block is. But its usable sizes are multiples of 16 and those of
/// the system's allocator never are, and a thread that it never served is not initialised.
fn owns(block: *const u8) -> bool {
    // SAFETY: it reads a thread-local variable.
    let is_used = unsafe { rpmalloc_sys::rpmalloc_is_thread_initialized() } != 0;
    // SAFETY: the block is allocated; were it not rpmalloc's, the aligned address below it would be
    // read, which at worst ends the program, as it should.
    let usable_bytes = unsafe { rpmalloc_sys::rpmalloc_usable_size(block.cast_mut().cast()) };
    is_used && usable_bytes > 0 && usable_bytes.is_multiple_of(16)
}

fn main() {
    // It cannot be asked for its version.
    workloads::run("rpmalloc", &workloads::locked_version("rpmalloc-sys"), "0.2.", owns);
    // All is measured and printed. The C library's destructors are left out: rpmalloc's own, which
    // unmaps its heaps, crashes after one in a hundred runs of `tree` on two threads.
    std::io::stdout().flush().expect("the output is taken");
    // SAFETY: it ends the process, whatever state that is in.
    unsafe { libc::_exit(0) };
}

#[cfg(test)]
#[path = "../../adaptor.rs"]
mod adaptor;

#[test]
fn serves_through_the_adaptor() {
    adaptor::serves(&GLOBAL, owns);
}
