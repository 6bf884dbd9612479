//! The workloads on the C library's allocator, which is what Rust programs use by default.

use std::alloc::System;
use std::ffi::CStr;

#[global_allocator]
static GLOBAL: System = System;

/// glibc's usable sizes are 8 more than a multiple of 16: what its header leaves of a block.
fn owns(block: *const u8) -> bool {
    // SAFETY: the block is allocated, and by nothing else than this program's one allocator.
    let usable_bytes = unsafe { libc::malloc_usable_size(block.cast_mut().cast()) };
    usable_bytes % 16 == 8
}

fn main() {
    // SAFETY: it returns a constant that ends in zero.
    let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    workloads::run("system", version.to_str().expect("the version is ASCII"), "2.", owns);
}
