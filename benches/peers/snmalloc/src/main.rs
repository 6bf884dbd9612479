//! The workloads on snmalloc.

#[global_allocator]
static GLOBAL: snmalloc_rs::SnMalloc = snmalloc_rs::SnMalloc;

/// The usable size, looked up by the address, is zero for what is not snmalloc's.
fn owns(block: *const u8) -> bool {
    GLOBAL.usable_size(block).is_some_and(|bytes| bytes > 0)
}

fn main() {
    // SAFETY: malloc may be called at any time; the block is never freed.
    let foreign = unsafe { libc::malloc(100) };
    assert!(!owns(foreign.cast()), "snmalloc claims a block of the system's allocator");
    // It cannot be asked for its version; that of its package is its own.
    workloads::run("snmalloc", &workloads::locked_version("snmalloc-sys"), "0.7.", owns);
}
