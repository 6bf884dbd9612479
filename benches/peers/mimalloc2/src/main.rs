//! The workloads on mimalloc 2.x.

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn owns(block: *const u8) -> bool {
    // SAFETY: any address may be asked about.
    unsafe { libmimalloc_sys::mi_is_in_heap_region(block.cast()) }
}

fn main() {
    // SAFETY: it only returns a constant: two digits each of minor and patch below the major.
    let version = unsafe { libmimalloc_sys::mi_version() };
    let version = format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100);
    // SAFETY: malloc may be called at any time; the block is never freed.
    let foreign = unsafe { libc::malloc(100) };
    assert!(!owns(foreign.cast()), "mimalloc claims a block of the system's allocator");
    workloads::run("mimalloc2", &version, "2.", owns);
}

#[cfg(test)]
#[path = "../../adaptor.rs"]
mod adaptor;

#[test]
fn serves_through_the_adaptor() {
    adaptor::serves(&GLOBAL, owns);
}
