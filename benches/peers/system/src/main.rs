//! The workloads on the C library's allocator, which is what Rust programs use by default.

use std::alloc::System;

#[global_allocator]
static GLOBAL: System = System;

/// glibc's usable sizes are 8 more than a multiple of 16: what its header leaves of a block.
fn owns(block: *const u8) -> bool {
    // SAFETY: the block is allocated, and by nothing else than this program's one allocator.
    let usable_bytes = unsafe { libc::malloc_usable_size(block.cast_mut().cast()) };
    usable_bytes % 16 == 8
}

fn main() {
    workloads::run("system", owns);
}
