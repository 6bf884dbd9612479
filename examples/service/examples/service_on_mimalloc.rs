//! The same service on mimalloc, without contexts and limits: what the self-test compares with.

use std::process::ExitCode;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let block = std::hint::black_box(Box::new([1_u8; 100]));
    // SAFETY: any address may be asked about.
    let is_served = unsafe { libmimalloc_sys::mi_is_in_heap_region((&raw const *block).cast()) };
    assert!(is_served, "another allocator serves: the comparison would be with that");
    heapswitch_service::main(heapswitch_service::Kind::Unlimited)
}
