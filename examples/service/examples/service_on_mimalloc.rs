//! The same service on mimalloc, without contexts and limits: what the self-test compares with.

use std::process::ExitCode;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    heapswitch_service::main(heapswitch_service::Kind::Unlimited)
}
