//! The workloads on jemalloc.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

#[global_allocator]
static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Whether one of jemalloc's arenas holds the block: `arenas.lookup` fails for what is not its own.
fn owns(block: *const u8) -> bool {
    let mut arena = u32::MAX;
    let mut arena_size = size_of::<u32>();
    let mut asked = block;
    // SAFETY: the name ends in zero, and the pointers and sizes are those of the two variables.
    let status = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"arenas.lookup".as_ptr(),
            (&raw mut arena).cast::<c_void>(),
            &raw mut arena_size,
            (&raw mut asked).cast::<c_void>(),
            size_of::<*const u8>(),
        )
    };
    status == 0 && arena != u32::MAX
}

fn version() -> &'static str {
    let mut version: *const c_char = ptr::null();
    let mut size = size_of::<*const c_char>();
    // SAFETY: the name ends in zero, and the pointer and size are those of the variable.
    let status = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"version".as_ptr(),
            (&raw mut version).cast::<c_void>(),
            &raw mut size,
            ptr::null_mut(),
            0,
        )
    };
    assert!(status == 0 && !version.is_null(), "jemalloc does not tell its version");
    // SAFETY: it is a constant of jemalloc's that ends in zero.
    let version = unsafe { CStr::from_ptr(version) };
    version.to_str().expect("the version is ASCII")
}

fn main() {
    let local = 0;
    assert!(!owns(&raw const local), "jemalloc claims the stack");
    workloads::run("jemalloc", version(), "5.", owns);
}
