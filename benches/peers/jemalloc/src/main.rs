//! The workloads on jemalloc.

use std::ffi::c_void;

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

fn main() {
    let local = 0;
    assert!(!owns(&raw const local), "jemalloc claims the stack");
    workloads::run("jemalloc", owns);
}
